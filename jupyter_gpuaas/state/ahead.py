"""Memory that is filled before a restore, so that the restore has only to make objects of it.

Large regions are allocated as what will own them (an array, a storage of torch), and their chunks come straight there:
nothing is held twice, and nothing is copied when the restore comes. A newer checkpoint overwrites what has changed.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from ..store.base import CHUNK_BYTES
from ..store.blob import chunk_digests, destinations
from ..store.chunkcache import ChunkCache
from ..store.manifest import GroupRecord, Region
from .owners import allocate

#: Smaller regions are kept as chunks, many of which share a piece of memory.
LEAST_BYTES = CHUNK_BYTES
#: What is asked of the cache in one go: at the end of each, one of those who fetch waits for the others.
_BATCH_BYTES = 256 * 1024**2
#: For so much at a time, memory is taken in one go, in which nothing else of Python's runs.
_TOUCHED_BYTES = 16 * 1024**2

#: Names of the group, and the number of the region in it.
Of = tuple[tuple[str, ...], int]
_Content = tuple[Any, int, bytes]


class _Filled:
    """Memory of one region."""

    def __init__(self, region: Region) -> None:
        self.owner, self.memory = allocate(region.content.size, region.maker)
        self.key = (region.maker, region.content.size)
        #: What each chunk of it is; None for what is not there.
        self.digests: list[bytes | None] = [None] * len(chunk_digests(region.content))

    def touch(self) -> None:
        """Have the memory, which the system gives only to who writes to it: that takes longer than to fill it."""
        if all(digest is None for digest in self.digests):
            for start in range(0, len(self.memory), _TOUCHED_BYTES):
                piece = self.memory[start : start + _TOUCHED_BYTES : mmap.PAGESIZE]
                piece[:] = bytes(len(piece))

    def at(self, number: int) -> memoryview:
        return self.memory[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]


class Ahead:
    """What is there before a restore.

    Parameters
    ----------
    cache
        Where chunks come from, and where the others are.
    """

    def __init__(self, cache: ChunkCache) -> None:
        self.cache = cache
        self._filled: dict[Of, _Filled] = {}
        self._ready: dict[_Content, list[_Filled]] = {}

    @property
    def held_bytes(self) -> int:
        """Memory that it takes."""
        return sum(filled.key[1] for filled in self._filled.values())

    def prepare(self, records: Sequence[GroupRecord], most_bytes: int, without: Collection[Of] = frozenset()) -> None:
        """Bring the large regions of these groups here, the largest first, and let go of what is of no use for them.

        Parameters
        ----------
        most_bytes
            How much memory may be taken for it. The others come when they are restored.
        without
            Regions for which there is to be memory, but whose content of now is not wanted.

        Raises
        ------
        StoreError, TransportError
            What has come stays and need not come again, but for some of it that was asked for last.
        """
        self._ready.clear()
        regions = {
            (record.names, number): region
            for record in records
            for number, region in enumerate(record.regions)
            if is_large(region)
        }
        filled = self._matched(regions)
        self._filled.clear()  # before anything is allocated
        taken = 0
        for of, region in sorted(regions.items(), key=lambda item: -item[1].content.size):
            taken += region.content.size
            if taken > most_bytes:
                break
            try:
                self._filled[of] = filled.pop(of) if of in filled else _Filled(region)
            except MemoryError:
                raise
            except Exception:
                continue  # the restore finds the same, and says so
        filled.clear()
        wanted = {of: regions[of] for of in self._filled if of not in without}
        self._fill(wanted)
        for of in self._filled.keys() - wanted.keys():
            self._filled[of].touch()
        for of, region in wanted.items():
            self._ready.setdefault(_content(region), []).append(self._filled[of])

    def take(self, region: Region) -> tuple[Any, memoryview] | None:
        """The owner of a region's memory and the memory, filled, if it is there; from then on it is the caller's."""
        ready = self._ready.get(_content(region))
        if not ready:
            return None
        found = ready.pop()
        self._filled = {of: filled for of, filled in self._filled.items() if filled is not found}
        return found.owner, found.memory

    def clear(self) -> None:
        """Let go of everything."""
        self._filled.clear()
        self._ready.clear()

    def _matched(self, regions: dict[Of, Region]) -> dict[Of, _Filled]:
        """For each region the memory that has most of it: that of the same content, else that of the same name."""
        contents: dict[_Content, list[Of]] = {}
        for of, filled in self._filled.items():
            if None not in filled.digests:
                contents.setdefault((*filled.key, b"".join(filter(None, filled.digests))), []).append(of)
        found: dict[Of, _Filled] = {}
        for of, region in regions.items():
            same = contents.get(_content(region))
            if same:
                # Its own, where two have the same content.
                found[of] = self._filled.pop(same.pop(same.index(of) if of in same else -1))
        for of, region in regions.items():
            here = self._filled.get(of)
            if of not in found and here is not None and here.key == (region.maker, region.content.size):
                found[of] = self._filled.pop(of)
        return found

    def _fill(self, regions: dict[Of, Region]) -> None:
        lacking: list[tuple[_Filled, int, bytes, memoryview]] = []
        for of, region in regions.items():
            filled = self._filled[of]
            for number, (digest, memory) in enumerate(destinations(region.content, filled.memory)):
                if filled.digests[number] != digest:
                    filled.digests[number] = None
                    lacking.append((filled, number, digest, memory))
        if not lacking:
            return
        wanted = {digest for _, _, digest, _ in lacking}
        where: dict[bytes, memoryview] = {}
        for filled in self._filled.values():
            for number, known in enumerate(filled.digests):
                if known is not None and known in wanted:
                    where[known] = filled.at(number)
        for batch in _batches(lacking):
            first: dict[bytes, memoryview] = {}
            for _, _, digest, memory in batch:
                if digest not in where:
                    first.setdefault(digest, memory)
            self.cache.fetch(list(first.items()))
            where |= first
            for filled, number, digest, memory in batch:
                source = where[digest]
                if source is not memory:
                    memory[:] = source
                filled.digests[number] = digest


def is_large(region: Region) -> bool:
    """Whether a region is brought where it belongs, and not kept as chunks."""
    return region.content.size >= LEAST_BYTES


def _content(region: Region) -> _Content:
    return (region.maker, region.content.size, region.content.digests)


def _batches(
    lacking: Iterable[tuple[_Filled, int, bytes, memoryview]],
) -> Iterable[list[tuple[_Filled, int, bytes, memoryview]]]:
    batch = []
    size = 0
    for item in lacking:
        batch.append(item)
        size += len(item[3])
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
