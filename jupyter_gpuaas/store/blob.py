"""Blobs: runs of bytes kept as chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from blake3 import blake3

from .base import CHUNK_BYTES, DIGEST_BYTES, Buffer, Store
from .defects import BadBlob, TooLarge
from .manifest import Blob

#: A group's record, and its stream read in one piece, are not larger.
RECORD_BYTES = 64 * 1024**2
#: Small blobs are read together up to this much.
TOGETHER_BYTES = 8 * 1024**2


def blob(data: Buffer) -> tuple[Blob, list[tuple[bytes, memoryview]]]:
    """Cut bytes into chunks; these are views of ``data``, which must not change until they are put."""
    view = memoryview(data).cast("B")
    chunks = []
    for start in range(0, len(view), CHUNK_BYTES):
        part = view[start : start + CHUNK_BYTES]
        chunks.append((blake3(part).digest(), part))
    return Blob(len(view), b"".join(digest for digest, _ in chunks)), chunks


def chunk_digests(content: Blob) -> list[bytes]:
    """The digests of a blob's chunks, in order."""
    digests = content.digests
    return [digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]


def chunk_sizes(content: Blob) -> Iterator[tuple[bytes, int]]:
    """The digest and length of each chunk of a blob, in order."""
    for number, digest in enumerate(chunk_digests(content)):
        yield digest, min(CHUNK_BYTES, content.size - number * CHUNK_BYTES)


def destinations(content: Blob, memory: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """What ``Store.fetch`` wants to bring a blob into memory of its size."""
    for number, digest in enumerate(chunk_digests(content)):
        yield digest, memory[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]


def read_blob(store: Store, content: Blob, *, most: int = RECORD_BYTES) -> bytearray:
    """Read a blob into memory of its own.

    Raises ``BadBlob`` or, when it is larger than ``most`` bytes, ``TooLarge``, before any memory is taken; and what
    ``Store.fetch`` raises.
    """
    check_blob(content, "blob", most=most)
    data = bytearray(content.size)
    store.fetch(list(destinations(content, memoryview(data))))
    return data


def read_blobs(store: Store, contents: Sequence[Blob], *, most: int = RECORD_BYTES) -> Iterator[bytearray]:
    """Read many, as ``read_blob`` does, with few calls of the store: each may be a journey."""
    at = 0
    while at < len(contents):
        batch: list[bytearray] = []
        wanted: list[tuple[bytes, memoryview]] = []
        size = 0
        while at < len(contents) and (not batch or size + contents[at].size <= TOGETHER_BYTES):
            check_blob(contents[at], "blob", most=most)
            batch.append(bytearray(contents[at].size))
            wanted.extend(destinations(contents[at], memoryview(batch[-1])))
            size += contents[at].size
            at += 1
        store.fetch(wanted)
        yield from batch


def check_blob(content: Blob, what: str, *, most: int | None = None) -> None:
    """Refuse a blob whose size does not go with its digests, or that is too large."""
    digests = -(-content.size // CHUNK_BYTES)
    if content.size < 0 or len(content.digests) != digests * DIGEST_BYTES:
        raise BadBlob(f"{what}: {content.size} bytes do not go with {len(content.digests)} bytes of digests.")
    if most is not None and content.size > most:
        raise TooLarge(f"{what}: {content.size} bytes are more than {most}.")
