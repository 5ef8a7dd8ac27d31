"""What every store can do, and the words that stores share.

A store holds *chunks* (bytes, addressed by their BLAKE3 digest) and *manifests* (signed bytes under an id that name
chunks). Writing a manifest is the commit of a checkpoint: before it, its chunks are garbage; after it, they stay until
no manifest names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import msgspec

Buffer = bytes | bytearray | memoryview

#: Bytes of a chunk, except the last of a blob, which may be shorter.
CHUNK_BYTES = 1024**2
DIGEST_BYTES = 32


Objection = Callable[[Iterable[str]], None]


def no_objection(ids: Iterable[str]) -> None:
    """Nothing stands against a commit."""


class Written(msgspec.Struct):
    """What a ``put`` did."""

    chunks: int = 0
    #: Bytes of chunks that the store did not have, before compression.
    new_bytes: int = 0
    #: Bytes that went to the medium for them, headers included.
    stored_bytes: int = 0


class Usage(msgspec.Struct):
    """What a store holds."""

    manifests: int = 0
    chunks: int = 0
    stored_bytes: int = 0


class Freed(msgspec.Struct):
    """What a collection gave back."""

    chunks: int = 0
    stored_bytes: int = 0


class Store(Protocol):
    """One place for checkpoints. Methods block, may be called from any thread, and raise ``StoreError``s only."""

    def missing(self, digests: Iterable[bytes]) -> set[bytes]:
        """Which of these chunks are not here."""

    def put(self, chunks: Iterable[tuple[bytes, Buffer]]) -> Written:
        """Take chunks under digests that the caller computed; those that are here already are passed over.

        They are durable when the next ``commit`` returns. Raises ``QuotaReached`` when the store is full; what was
        committed before stays as it is.
        """

    def fetch(self, wanted: Sequence[tuple[bytes, memoryview]]) -> None:
        """Read chunks into memory of exactly their length, each verified by its digest before this returns.

        Raises ``ChunkMissing`` or ``ChunkCorrupt``; the memory's content is then undefined.
        """

    def commit(self, manifest_id: str, manifest: bytes, *, unless: Objection = no_objection) -> None:
        """Make all chunks put so far durable, then the manifest; afterwards the checkpoint exists, crash or not.

        Parameters
        ----------
        unless
            Called with the ids of all manifests when only this one is left to be written. What it raises ends the
            attempt: nothing is committed, and what was put for it is garbage.
        """

    def manifest(self, manifest_id: str) -> bytes:
        """A manifest's bytes as they were committed. Raises ``NoSuchCheckpoint``, or ``TooLarge`` where it is none."""

    def manifests(self) -> list[str]:
        """Ids of all manifests, oldest commit first."""

    def rewrite(self, manifest_id: str, manifest: bytes) -> None:
        """Put a manifest in the place of the one that is there, which needs the same chunks; their order stays.

        Raises ``NoSuchCheckpoint``.
        """

    def forget(self, manifest_id: str) -> None:
        """Remove a manifest; its chunks are collected by ``collect``. Raises ``NoSuchCheckpoint``."""

    def collect(self, references: Callable[[bytes], Iterable[bytes]]) -> Freed:
        """Remove chunks that no manifest needs.

        Parameters
        ----------
        references
            Called with a manifest's bytes; gives the digests of all chunks that it needs. When it raises, nothing
            is removed.
        """

    def usage(self) -> Usage: ...

    def close(self) -> None:
        """Release files and connections; what was committed stays."""
