"""A near store in front of a far one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from ..errors import NoSuchCheckpoint, StoreError
from .base import DIGEST_BYTES, Buffer, Freed, Objection, Store, Usage, Written, no_objection

#: The one manifest of the near store: the digests of what it is to keep, the most recently used last.
_KEPT = "cache"
#: What is given to both stores in one go.
_BATCH_BYTES = 16 * 1024**2
#: How much of its bound the near store is brought back to.
_AFTER = 0.7


class CachedStore:
    """Checkpoints in ``far``; chunks that were used lately are also in ``near``, from which they are read.

    What is committed is durable in ``far``. ``near`` belongs to this object alone, and what goes wrong there costs
    time only.

    Parameters
    ----------
    near_bytes
        How large the near store may become; 0 for no limit. What was not used for longest goes first.
    """

    def __init__(self, near: Store, far: Store, *, near_bytes: int = 0) -> None:
        self.near = near
        self.far = far
        self._near_bytes = near_bytes
        self._lock = threading.Lock()
        #: Digest -> bytes, the most recently used last.
        self._used: dict[bytes, int] = {}
        self._held_bytes = 0
        try:
            kept = near.manifest(_KEPT)
            for digest in _digests(kept):
                self._used[digest] = 0
            self._held_bytes = near.usage().stored_bytes
        except NoSuchCheckpoint:
            pass

    def missing(self, digests: Iterable[bytes]) -> set[bytes]:
        return self.far.missing(digests)

    def put(self, chunks: Iterable[tuple[bytes, Buffer]]) -> Written:
        done = Written()
        for batch in _batches(chunks):
            written = self.far.put(batch)
            done.chunks += written.chunks
            done.new_bytes += written.new_bytes
            done.stored_bytes += written.stored_bytes
            self._keep(batch)
        return done

    def fetch(self, wanted: Sequence[tuple[bytes, memoryview]]) -> None:
        absent = {digest for digest, _ in wanted}
        try:
            absent = self.near.missing(absent)
            self.near.fetch([pair for pair in wanted if pair[0] not in absent])
        except StoreError:
            absent = {digest for digest, _ in wanted}
        far = [pair for pair in wanted if pair[0] in absent]
        if far:
            self.far.fetch(far)
        with self._lock:
            for digest, memory in wanted:
                if digest in self._used:
                    self._used[digest] = self._used.pop(digest) or memory.nbytes
        for batch in _batches(far):
            self._keep(batch)

    def commit(self, manifest_id: str, manifest: bytes, *, unless: Objection = no_objection) -> None:
        self.far.commit(manifest_id, manifest, unless=unless)
        with self._lock:
            self._settle()

    def manifest(self, manifest_id: str) -> bytes:
        return self.far.manifest(manifest_id)

    def manifests(self) -> list[str]:
        return self.far.manifests()

    def rewrite(self, manifest_id: str, manifest: bytes) -> None:
        self.far.rewrite(manifest_id, manifest)

    def forget(self, manifest_id: str) -> None:
        self.far.forget(manifest_id)

    def collect(self, references: Callable[[bytes], Iterable[bytes]]) -> Freed:
        return self.far.collect(references)

    def usage(self) -> Usage:
        """Of the far store."""
        return self.far.usage()

    def close(self) -> None:
        with self._lock:
            self._settle()
        self.near.close()
        self.far.close()

    def _keep(self, batch: list[tuple[bytes, Buffer]]) -> None:
        try:
            self.near.put(batch)
        except StoreError:
            return
        with self._lock:
            for digest, data in batch:
                size = memoryview(data).nbytes
                self._held_bytes += 0 if self._used.pop(digest, None) else size
                self._used[digest] = size
            if self._near_bytes and self._held_bytes > self._near_bytes:
                self._evict()

    def _evict(self) -> None:
        """Let go of what was not used for longest."""
        room = int(self._near_bytes * _AFTER)
        kept: dict[bytes, int] = {}
        for digest, size in reversed(self._used.items()):
            room -= size
            if room < 0:
                break
            kept[digest] = size
        self._used = dict(reversed(kept.items()))
        self._settle()
        try:
            self.near.collect(_digests)
            self._held_bytes = self.near.usage().stored_bytes
        except StoreError:
            return

    def _settle(self) -> None:
        try:
            self.near.commit(_KEPT, b"".join(self._used))
        except StoreError:
            return


def _digests(manifest: bytes) -> Iterator[bytes]:
    return (manifest[at : at + DIGEST_BYTES] for at in range(0, len(manifest), DIGEST_BYTES))


def _batches(chunks: Iterable[tuple[bytes, Buffer]]) -> Iterator[list[tuple[bytes, Buffer]]]:
    batch: list[tuple[bytes, Buffer]] = []
    size = 0
    for digest, data in chunks:
        batch.append((digest, data))
        size += memoryview(data).nbytes
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
