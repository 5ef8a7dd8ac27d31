"""What of a group's memory has changed since last time, chunk by chunk.

By fast digests of all chunks, on all cores; or, where the system can tell which pages were written (see `pages`), of
those chunks only that were. Either way it is the digests that say what changed. Watched pages cost whoever writes
to them first, so memory is watched only once it was found to change little, and no more once it changes much.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import xxhash

from ..store.base import CHUNK_BYTES
from ..wire.memory import allocate
from . import pages
from .device.copies import digests_of, stage_together
from .device.memory import DeviceMemory
from .memory import Chunked, ChunkRef, Staged, length_of
from .pages import PAGE_BYTES, Unwatched

#: Smaller regions are digested faster than they are asked about.
WATCHED_BYTES = 4 * 1024**2
#: Memory that changes much is a region of whose bytes, or of a sample of whose chunks, more than one in so many did.
_MUCH = 8
_SAMPLE = 16
#: Multiples of this, less their whole part, lie evenly between 0 and 1, and never in steps.
_GOLDEN = 0.6180339887
#: After memory that was watched has changed much, it has to stay as it is this many times more before it is watched.
_MOST_PATIENCE = 64
#: Chunks that one thread digests at a time, and how many there must be for threads to be worth their start.
_RUN = 4
_THREADED = 16
#: Chunks whose copies lie in one piece of memory.
_TOGETHER = 16
_THREADS = max(2, min(4, os.cpu_count() or 1))

_digest = xxhash.xxh3_128_digest
_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


class Looker:
    """Looks at the memory of one capture; to be closed, as its threads have nothing to do afterwards.

    Parameters
    ----------
    watch
        Whether to believe the system about which pages were written: nothing of the user's may run meanwhile.
    """

    def __init__(self, *, watch: bool = False) -> None:
        self._wanted = watch
        self._asked = False
        self._pages: pages.Pages | None = None
        self._private: pages.Private | None = None
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Looker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def look(self, content: memoryview, before: Chunked | None, owner: Any = None, low: int = 0) -> Chunked:
        """The chunks of some bytes now: the very ``before`` if nothing differs.

        Chunks that are as before keep their ref; a new ref borrows the memory.

        Parameters
        ----------
        low
            Address of the memory, for content that may be watched.
        """
        if before is None or before.size != content.nbytes:
            return _compared(content, before, self._digests(content), owner)
        known = self._written(content, before, low) if low else None
        if known is not None:
            numbers, mark, edges = known
            fast = list(before.fast)
            for number, digest in zip(numbers, self._digests(content, numbers), strict=True):
                fast[number] = digest
        else:
            mark, edges = self._begin(content, before, low)
            fast = self._digests(content)
        found = _compared(content, before, fast, owner)
        found.mark, found.edges = mark, edges
        found.patience, found.penalty = before.patience, before.penalty
        return found

    def changed(self, content: memoryview, before: Chunked) -> float:
        """About which share of it is not as before; nothing is remembered of this look."""
        if before.size != content.nbytes:
            return 1.0
        changed, looked = self._sample(content, before)
        return changed / max(1, looked)

    # -- digests -----------------------------------------------------------------------------------------------

    def _digests(self, content: memoryview, numbers: Iterable[int] | None = None) -> list[bytes]:
        """Of some chunks, or of all."""
        starts = [number * CHUNK_BYTES for number in numbers] if numbers is not None else None
        if starts is None:
            starts = list(range(0, content.nbytes, CHUNK_BYTES))
        if len(starts) < _THREADED:
            return [_digest(content[start : start + CHUNK_BYTES]) for start in starts]

        def run(first: int) -> list[bytes]:
            return [_digest(content[start : start + CHUNK_BYTES]) for start in starts[first : first + _RUN]]

        return [digest for found in self._map(run, range(0, len(starts), _RUN)) for digest in found]

    def _map(self, work: Callable[[_Given], _Made], items: Iterable[_Given]) -> Iterable[_Made]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS, "gpuaas-look")
        return self._pool.map(work, items)

    # -- pages -------------------------------------------------------------------------------------------------

    def _watch(self) -> pages.Pages | None:
        if not self._asked:
            self._asked = True
            self._pages = pages.pages() if self._wanted and pages.is_exact() else None
        return self._pages

    def _written(self, content: memoryview, before: Chunked, low: int) -> tuple[list[int], int, bytes] | None:
        """Numbers of the chunks that were written to since, and what to ask with next; None where nobody can tell."""
        watch = self._watch() if before.mark else None
        if watch is None:
            return None
        first, last = _whole_pages(low, content.nbytes)
        try:
            ranges, mark = watch.take(first, last, before.mark)
            if sum(end - start for start, end in ranges) > content.nbytes // _MUCH:
                watch.leave(first, last)
                before.mark, before.patience = 0, before.penalty
                before.penalty = min(2 * before.penalty, _MOST_PATIENCE)
                return None
        except Unwatched:
            before.mark = 0
            return None
        numbers = {
            number
            for start, end in ranges
            for number in range((start - low) // CHUNK_BYTES, -(-(end - low) // CHUNK_BYTES))
        }
        edges = _edges(content, first - low, last - low)
        if edges[:16] != before.edges[:16]:
            numbers.add(0)
        if edges[16:] != before.edges[16:]:
            numbers.add((content.nbytes - 1) // CHUNK_BYTES)
        return sorted(numbers), mark, edges

    def _begin(self, content: memoryview, before: Chunked, low: int) -> tuple[int, bytes]:
        """Watch memory from now on, if that promises to pay; the mark, 0 for none."""
        if not low or content.nbytes < WATCHED_BYTES or (watch := self._watch()) is None:
            # Not asked, so what it stands for is still so: pages that were written count as written until they are.
            return before.mark, before.edges
        if self._changes_much(content, before):
            return 0, b""
        if before.patience:
            before.patience -= 1
            return 0, b""
        first, last = _whole_pages(low, content.nbytes)
        try:
            if self._private is None:
                self._private = pages.Private()
            if not self._private.covers(first, last):
                return 0, b""
            mark = watch.watch(first, last)
        except (Unwatched, OSError):
            return 0, b""
        return mark, _edges(content, first - low, last - low)

    def _changes_much(self, content: memoryview, before: Chunked) -> bool:
        changed, looked = self._sample(content, before)
        return changed > max(1, looked // _MUCH)

    def _sample(self, content: memoryview, before: Chunked) -> tuple[int, int]:
        """Of some chunks, spread over all, how many have changed, and how many there are."""
        step = max(1, min(_SAMPLE, len(before.fast) // _MUCH))
        starts = range(0, len(before.fast), step)
        # Not at even distances: the rows of an array, of which a cell changes some part of each, lie so.
        last = len(before.fast) - 1
        numbers = [min(start + int(step * (count * _GOLDEN % 1)), last) for count, start in enumerate(starts)]
        changed = sum(
            before.fast[number] != digest
            for number, digest in zip(numbers, self._digests(content, numbers), strict=True)
        )
        return changed, len(numbers)


def _compared(content: memoryview, before: Chunked | None, fast: list[bytes], owner: Any) -> Chunked:
    size = content.nbytes
    if before is not None and before.size == size and before.fast == fast:
        return before
    old_fast, old_refs = (before.fast, before.refs) if before is not None else ([], [])
    refs: list[ChunkRef] = []
    for number, now in enumerate(fast):
        start = number * CHUNK_BYTES
        length = min(CHUNK_BYTES, size - start)
        if number < len(old_fast) and old_fast[number] == now and length_of(before, number) == length:
            refs.append(old_refs[number])
        else:
            refs.append(ChunkRef(content[start : start + length], owner))
    return Chunked(size, fast, refs)


def _whole_pages(low: int, size: int) -> tuple[int, int]:
    """The pages that hold nothing but this memory."""
    return -(-low // PAGE_BYTES) * PAGE_BYTES, (low + size) // PAGE_BYTES * PAGE_BYTES


def _edges(content: memoryview, first: int, last: int) -> bytes:
    """Digests of what lies before and behind the whole pages."""
    return _digest(content[:first]) + _digest(content[last:])


def look_at_devices(memories: Sequence[DeviceMemory], befores: Sequence[Chunked | None]) -> list[Chunked]:
    """Compare memories of devices to what they were; what differs is copied at once, on the device where it has room.

    The very ``before`` where nothing differs.
    """
    found: list[Chunked] = []
    fetched: list[tuple[DeviceMemory, list[tuple[int, int]], list[ChunkRef]]] = []
    for memory, before, fast in zip(memories, befores, digests_of(memories, CHUNK_BYTES), strict=True):
        size = memory.nbytes
        known = before if before is not None and before.size == size else None
        if known is not None and known.fast == fast:
            found.append(known)
            continue
        refs: list[ChunkRef] = []
        spans: list[tuple[int, int]] = []
        new: list[ChunkRef] = []
        for number, now in enumerate(fast):
            if known is not None and known.fast[number] == now:
                refs.append(known.refs[number])
                continue
            start = number * CHUNK_BYTES
            spans.append((start, min(CHUNK_BYTES, size - start)))
            new.append(ChunkRef(None))
            refs.append(new[-1])
        fetched.append((memory, spans, new))
        found.append(Chunked(size, fast, refs))
    copies = stage_together([(memory, spans) for memory, spans, _ in fetched])
    for (memory, spans, new), copied in zip(fetched, copies, strict=True):
        if copied is not None:
            staged, at = copied
            for ref, (_, length) in zip(new, spans, strict=True):
                ref.owner = Staged(staged, at, length)
                at += length
        else:
            targets = _room(spans)
            memory.read(spans, targets)
            for ref, target in zip(new, targets, strict=True):
                ref.memory = target
    return found


def _room(spans: list[tuple[int, int]]) -> list[memoryview]:
    """Memory for copies, several in one piece, which is then of huge pages where the system has them."""
    targets: list[memoryview] = []
    for first in range(0, len(spans), _TOGETHER):
        lengths = [length for _, length in spans[first : first + _TOGETHER]]
        piece = allocate(sum(lengths))
        at = 0
        for length in lengths:
            targets.append(piece[at : at + length])
            at += length
    return targets
