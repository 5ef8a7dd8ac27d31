"""Chunks kept in memory in front of a store that is far away, until they are needed where they belong."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import xxhash

from ..wire.memory import allocate
from .base import CHUNK_BYTES, Buffer, Freed, Objection, Store, Usage, Written, no_objection

#: Memory is taken from the system in pieces of this size, and given back when all of a piece is free.
SLAB_BYTES = 16 * 1024**2
#: What is asked of the far store in one go.
_BATCH_BYTES = 128 * 1024**2
#: More than this is copied by two threads.
_ALONE_BYTES = 4 * 1024**2
#: Small chunks begin at multiples of this.
_ALIGNED = 64


class ChunkCache:
    """Reads from ``far``, and from memory what was brought here before by ``keep``.

    It belongs to whoever reads; what it is given to write goes to ``far`` alone.

    Parameters
    ----------
    most_bytes
        How much memory it may take.
    """

    def __init__(self, far: Store, *, most_bytes: int, slab_bytes: int = SLAB_BYTES) -> None:
        self.far = far
        self.most_bytes = most_bytes
        #: Fast digest (xxh3) of every chunk that was met, by its digest.
        self.fast: dict[bytes, bytes] = {}
        #: All that has come from the far store.
        self.brought_bytes = 0
        self._slots = slab_bytes // CHUNK_BYTES
        self._lock = threading.Lock()
        self._kept: dict[bytes, tuple[_Slot, memoryview]] = {}
        self._manifests: dict[str, bytes] = {}
        #: Slabs that have free slots, and how many slabs there are.
        self._open: list[_Slab] = []
        self._slabs = 0
        #: The slot that small chunks are packed into.
        self._small: _Slot | None = None
        self._uses: dict[bytes, int] | None = None

    @property
    def held_bytes(self) -> int:
        """Memory that it takes."""
        return self._slabs * self._slots * CHUNK_BYTES

    def has(self, digest: bytes) -> bool:
        """Whether a chunk is here."""
        return digest in self._kept

    def keep(self, chunks: Iterable[tuple[bytes, int]]) -> int:
        """Bring chunks here (digest, length) that are not, in this order, as far as there is room.

        Returns
        -------
        Bytes that were brought.
        """
        brought = 0
        batch: dict[bytes, tuple[_Slot, memoryview]] = {}
        size = 0
        try:
            for digest, length in chunks:
                if digest in self._kept or digest in batch:
                    continue
                place = self._allocate(length)
                if place is None:
                    break
                batch[digest] = place
                size += length
                if size >= _BATCH_BYTES:
                    self._bring(batch)
                    brought, size, batch = brought + size, 0, {}
            if batch:
                self._bring(batch)
                brought, batch = brought + size, {}
        finally:
            for slot, _ in batch.values():
                self._free(slot)
        return brought

    def came(self, digest: bytes, memory: memoryview) -> None:
        """A chunk has come from afar; for ``far`` to tell as soon as that is so, from any thread."""
        self.fast[digest] = xxhash.xxh3_128_digest(memory)

    def keep_only(self, needed: Collection[bytes]) -> None:
        """Let go of all other chunks."""
        for digest in [digest for digest in self._kept if digest not in needed]:
            self._let_go(digest)

    def give_up(self, uses: Mapping[bytes, int]) -> None:
        """From now on, let go of a chunk when it was fetched so often; others stay."""
        self._uses = dict(uses)

    def clear(self) -> None:
        """Let go of everything."""
        self.keep_only(())
        self._manifests.clear()
        self.fast.clear()
        self._uses = None

    # -- the protocol ------------------------------------------------------------------------------------------

    def missing(self, digests: Iterable[bytes]) -> set[bytes]:
        absent = {digest for digest in digests if digest not in self._kept}
        return self.far.missing(absent) if absent else absent

    def fetch(self, wanted: Sequence[tuple[bytes, memoryview]]) -> None:
        here: list[tuple[memoryview, memoryview]] = []
        far: list[tuple[bytes, memoryview]] = []
        for digest, memory in wanted:
            found = self._kept.get(digest)
            if found is not None and len(found[1]) == memory.nbytes:
                here.append((found[1], memory))
            else:
                far.append((digest, memory))
        if far:
            self.far.fetch(far)
            self.brought_bytes += sum(memory.nbytes for _, memory in far)
            self._note(far)
        if sum(len(source) for source, _ in here) > _ALONE_BYTES:
            with ThreadPoolExecutor(2, "gpuaas-copy") as pool:
                list(pool.map(_copy_all, (here[0::2], here[1::2])))
        else:
            _copy_all(here)
        here.clear()  # so that nothing but the cache holds the memory
        if self._uses is not None:
            for digest in {digest for digest, _ in wanted}:
                left = self._uses.get(digest, 0) - 1
                if left >= 0:
                    self._uses[digest] = left
                if left == 0 and digest in self._kept:
                    self._let_go(digest)

    def manifest(self, manifest_id: str) -> bytes:
        if manifest_id not in self._manifests:  # only the last one is asked for again
            self._manifests = {manifest_id: self.far.manifest(manifest_id)}
        return self._manifests[manifest_id]

    def put(self, chunks: Iterable[tuple[bytes, Buffer]]) -> Written:
        return self.far.put(chunks)

    def commit(self, manifest_id: str, manifest: bytes, *, unless: Objection = no_objection) -> None:
        self.far.commit(manifest_id, manifest, unless=unless)

    def manifests(self) -> list[str]:
        return self.far.manifests()

    def rewrite(self, manifest_id: str, manifest: bytes) -> None:
        self._manifests.pop(manifest_id, None)
        self.far.rewrite(manifest_id, manifest)

    def forget(self, manifest_id: str) -> None:
        self._manifests.pop(manifest_id, None)
        self.far.forget(manifest_id)

    def collect(self, references: Callable[[bytes], Iterable[bytes]]) -> Freed:
        return self.far.collect(references)

    def usage(self) -> Usage:
        """Of the far store."""
        return self.far.usage()

    def close(self) -> None:
        self.clear()
        self.far.close()

    def _note(self, chunks: Iterable[tuple[bytes, memoryview]]) -> None:
        for digest, memory in chunks:
            if digest not in self.fast:
                self.came(digest, memory)

    # -- memory ------------------------------------------------------------------------------------------------

    def _bring(self, batch: dict[bytes, tuple[_Slot, memoryview]]) -> None:
        self.far.fetch([(digest, memory) for digest, (_, memory) in batch.items()])
        self._note((digest, memory) for digest, (_, memory) in batch.items())
        with self._lock:
            self._kept |= batch
            self.brought_bytes += sum(len(memory) for _, memory in batch.values())

    def _allocate(self, length: int) -> tuple[_Slot, memoryview] | None:
        """A place for a chunk; None when there is no room."""
        with self._lock:
            if length > CHUNK_BYTES // 2:
                slot = self._slot()
            else:
                slot = self._small
                if slot is None or CHUNK_BYTES - slot.used < length:
                    slot = self._small = self._slot()
            if slot is None:
                return None
            start = slot.used
            slot.used += -(-max(1, length) // _ALIGNED) * _ALIGNED
            slot.chunks += 1
            return slot, slot.memory[start : start + length]

    def _slot(self) -> _Slot | None:
        if not self._open:
            if self.held_bytes + self._slots * CHUNK_BYTES > self.most_bytes:
                return None
            self._open.append(_Slab(self._slots))
            self._slabs += 1
        slab = self._open[-1]
        slot = _Slot(slab, slab.free.pop())
        if not slab.free:
            self._open.pop()
        return slot

    def _let_go(self, digest: bytes) -> None:
        slot, _ = self._kept.pop(digest)
        self._free(slot)

    def _free(self, slot: _Slot) -> None:
        with self._lock:
            slot.chunks -= 1
            if slot.chunks:
                return
            if slot is self._small:
                self._small = None
            slab = slot.slab
            if not slab.free:
                self._open.append(slab)
            slab.free.append(slot.number)
            if len(slab.free) == self._slots:
                # Its memory goes with the last view of it.
                self._open.remove(slab)
                self._slabs -= 1


class _Slab:
    """One piece of memory from the system."""

    def __init__(self, slots: int) -> None:
        self.memory = allocate(slots * CHUNK_BYTES)
        self.free = list(range(slots))[::-1]


class _Slot:
    """Room for one large chunk, or for several small ones."""

    def __init__(self, slab: _Slab, number: int) -> None:
        self.slab = slab
        self.number = number
        self.memory = slab.memory[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
        self.used = 0
        self.chunks = 0


def _copy_all(pairs: Sequence[tuple[memoryview, memoryview]]) -> None:
    for source, target in pairs:
        size = len(source)
        if size < 4096:
            target.cast("B")[:] = source
            continue
        # Not by assigning slices: that keeps the interpreter's lock, and this lets two threads copy.
        kind = ctypes.c_char * size
        ctypes.memmove(kind.from_buffer(target), kind.from_buffer(source), size)
