"""A store in memory: for tests, and as the near side of a cache."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from ..errors import ChunkCorrupt, ChunkMissing, QuotaReached
from .base import Buffer, Freed, Objection, Usage, Written, no_objection
from .codec import matches
from .manifests import check_manifest, no_such


class MemoryStore:
    """Chunks and manifests in dictionaries; ``quota_bytes`` of 0 means no limit."""

    def __init__(self, *, quota_bytes: int = 0) -> None:
        self._quota_bytes = quota_bytes
        self._lock = threading.RLock()
        self._chunks: dict[bytes, bytes] = {}
        self._manifests: dict[str, bytes] = {}

    def missing(self, digests: Iterable[bytes]) -> set[bytes]:
        with self._lock:
            return {digest for digest in digests if digest not in self._chunks}

    def put(self, chunks: Iterable[tuple[bytes, Buffer]]) -> Written:
        done = Written()
        new: dict[bytes, bytes] = {}
        with self._lock:
            held = self._stored_bytes() if self._quota_bytes else 0
            for digest, data in chunks:
                if digest in self._chunks or digest in new:
                    continue
                new[digest] = bytes(data)
                done.new_bytes += len(new[digest])
                if self._quota_bytes and held + done.new_bytes > self._quota_bytes:
                    raise QuotaReached(
                        f"the checkpoint store may hold {self._quota_bytes} bytes.",
                        hint="Forget checkpoints and collect, or raise the quota.",
                    )
            self._chunks |= new
        done.chunks, done.stored_bytes = len(new), done.new_bytes
        return done

    def fetch(self, wanted: Sequence[tuple[bytes, memoryview]]) -> None:
        for digest, memory in wanted:
            with self._lock:
                data = self._chunks.get(digest)
            if data is None:
                raise ChunkMissing(f"chunk {digest.hex()} is not in the store.")
            flat = memory.cast("B")
            if len(flat) != len(data) or not matches(digest, data):
                raise ChunkCorrupt(f"chunk {digest.hex()} is damaged.")
            flat[:] = data

    def commit(self, manifest_id: str, manifest: bytes, *, unless: Objection = no_objection) -> None:
        check_manifest(manifest_id, manifest)
        with self._lock:
            unless(list(self._manifests))
            self._manifests.pop(manifest_id, None)
            self._manifests[manifest_id] = bytes(manifest)

    def manifest(self, manifest_id: str) -> bytes:
        with self._lock:
            if manifest_id not in self._manifests:
                raise no_such(manifest_id)
            return self._manifests[manifest_id]

    def manifests(self) -> list[str]:
        with self._lock:
            return list(self._manifests)

    def rewrite(self, manifest_id: str, manifest: bytes) -> None:
        with self._lock:
            if manifest_id not in self._manifests:
                raise no_such(manifest_id)
            self._manifests[manifest_id] = bytes(manifest)

    def forget(self, manifest_id: str) -> None:
        with self._lock:
            if self._manifests.pop(manifest_id, None) is None:
                raise no_such(manifest_id)

    def collect(self, references: Callable[[bytes], Iterable[bytes]]) -> Freed:
        with self._lock:
            needed: set[bytes] = set()
            for manifest in self._manifests.values():
                needed.update(references(manifest))
            gone = self._chunks.keys() - needed
            freed = Freed(len(gone), sum(len(self._chunks[digest]) for digest in gone))
            self._chunks = {digest: data for digest, data in self._chunks.items() if digest in needed}
            return freed

    def usage(self) -> Usage:
        with self._lock:
            return Usage(len(self._manifests), len(self._chunks), self._stored_bytes())

    def close(self) -> None:
        """Nothing is held outside of this object."""

    def _stored_bytes(self) -> int:
        return sum(map(len, self._chunks.values())) + sum(map(len, self._manifests.values()))
