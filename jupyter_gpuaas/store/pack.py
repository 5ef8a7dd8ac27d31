"""The bytes of packs and of their indexes (`docs/checkpoint-format.md`); no files here.

A pack is a header and then entries, each a head and its payload. It is only ever appended to, so that after a crash
all entries but the last are whole, and a scan from the front finds them. The index beside it spares the scan. It is
appended to once the pack's bytes are durable, so what it names is there even after a power cut.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import xxhash

from .base import CHUNK_BYTES, DIGEST_BYTES
from .codec import CODECS, RAW, Encoded

VERSION = 1

_HEADER = struct.Struct("<8sII")  # magic, version, reserved
_PACK_MAGIC = b"GPUPACK\n"
_INDEX_MAGIC = b"GPUINDX\n"
HEADER_BYTES = _HEADER.size

_HEAD = struct.Struct(f"<4sB3xII{DIGEST_BYTES}s")  # magic, codec, stored bytes, raw bytes, digest
_HEAD_MAGIC = b"CHNK"
_CHECK = struct.Struct("<Q")
HEAD_BYTES = _HEAD.size + _CHECK.size

_BATCH = struct.Struct("<4sIQQ")  # magic, entries, from and up to which byte of the pack
_BATCH_MAGIC = b"INDX"
_ITEM = struct.Struct(f"<{DIGEST_BYTES}sQIIB3x")  # digest, offset of the payload, stored bytes, raw bytes, codec

#: What one read of a scan takes when payloads are small, and when they are large and skipped.
_NEAR_BYTES = 1024**2
_FAR_BYTES = 4096

PACK_HEADER = _HEADER.pack(_PACK_MAGIC, VERSION, 0)
INDEX_HEADER = _HEADER.pack(_INDEX_MAGIC, VERSION, 0)


class Place(NamedTuple):
    """Where a chunk lies."""

    pack: str
    #: Of the payload, in the pack.
    offset: int
    stored_bytes: int
    raw_bytes: int
    codec: int

    @property
    def end(self) -> int:
        return self.offset + self.stored_bytes


Entry = tuple[bytes, Place]


def head(entry: Encoded) -> bytes:
    """The bytes in front of a payload."""
    fields = _HEAD.pack(_HEAD_MAGIC, entry.codec, len(entry.payload), entry.raw_bytes, entry.digest)
    return fields + _CHECK.pack(xxhash.xxh3_64_intdigest(fields))


def scan(pack: str, read: Callable[[int, int], bytes], start: int, size: int) -> Iterator[Entry]:
    """Walk the entries of a pack.

    Ends without an error at the first bytes that are no whole entry: a torn end, or damage, behind which nothing
    can be found without an index.

    Parameters
    ----------
    read
        ``read(offset, most)`` gives bytes of the pack.
    start
        Where an entry begins; 0 for the front.
    size
        Of the pack, in bytes.
    """
    if start < HEADER_BYTES:
        if not is_pack(read(0, HEADER_BYTES)):
            return
        start = HEADER_BYTES
    window, base, most = b"", start, _FAR_BYTES
    while start + HEAD_BYTES <= size:
        if not base <= start <= base + len(window) - HEAD_BYTES:
            window, base = read(start, min(most, size - start)), start
        found = _parse_head(window[start - base : start - base + HEAD_BYTES])
        if found is None:
            return
        codec, stored, raw, digest = found
        place = Place(pack, start + HEAD_BYTES, stored, raw, codec)
        if place.end > size:
            return
        yield digest, place
        start = place.end
        most = _FAR_BYTES if stored > _NEAR_BYTES // 16 else _NEAR_BYTES


def is_pack(header: bytes) -> bool:
    return header == PACK_HEADER


def index_batch(entries: Sequence[Entry], covered_from: int, covered_to: int) -> bytes:
    """The bytes that an index gets for entries that fill a stretch of its pack."""
    fields = _BATCH.pack(_BATCH_MAGIC, len(entries), covered_from, covered_to)
    items = b"".join(_ITEM.pack(digest, at.offset, at.stored_bytes, at.raw_bytes, at.codec) for digest, at in entries)
    return fields + items + _CHECK.pack(xxhash.xxh3_64_intdigest(fields + items))


def read_index(pack: str, data: bytes, pack_bytes: int, *, covered: int = 0) -> tuple[list[Entry], int, int]:
    """Read an index as far as it is good.

    Parameters
    ----------
    data
        The index, from its front or (with ``covered``) from a batch that begins at that byte of the pack.
    pack_bytes
        Size of the pack; a batch that reaches behind it is not believed.

    Returns
    -------
    The entries, the byte of the pack up to which they reach, and how many bytes of ``data`` were good.
    """
    entries: list[Entry] = []
    at = 0
    if not covered:
        if data[:HEADER_BYTES] != INDEX_HEADER:
            return [], 0, 0
        at, covered = HEADER_BYTES, HEADER_BYTES
    while at + _BATCH.size <= len(data):
        magic, count, begin, end = _BATCH.unpack_from(data, at)
        items = at + _BATCH.size
        check = items + count * _ITEM.size
        if (
            magic != _BATCH_MAGIC
            or begin != covered
            or not begin <= end <= pack_bytes
            or check + _CHECK.size > len(data)
        ):
            break
        if _CHECK.unpack_from(data, check)[0] != xxhash.xxh3_64_intdigest(data[at:check]):
            break
        batch = [_item(pack, data, items + n * _ITEM.size) for n in range(count)]
        if not all(_plausible(place, begin, end) for _, place in batch):
            break
        entries += batch
        at, covered = check + _CHECK.size, end
    return entries, covered, at


def _item(pack: str, data: bytes, at: int) -> Entry:
    digest, offset, stored, raw, codec = _ITEM.unpack_from(data, at)
    return digest, Place(pack, offset, stored, raw, codec)


def _plausible(at: Place, begin: int, end: int) -> bool:
    return begin + HEAD_BYTES <= at.offset and at.end <= end and _possible(at.codec, at.stored_bytes, at.raw_bytes)


def _parse_head(data: bytes) -> tuple[int, int, int, bytes] | None:
    if len(data) < HEAD_BYTES:
        return None
    fields = data[: _HEAD.size]
    if _CHECK.unpack_from(data, _HEAD.size)[0] != xxhash.xxh3_64_intdigest(fields):
        return None
    magic, codec, stored, raw, digest = _HEAD.unpack(fields)
    if magic != _HEAD_MAGIC or not _possible(codec, stored, raw):
        return None
    return codec, stored, raw, digest


def _possible(codec: int, stored: int, raw: int) -> bool:
    return codec in CODECS and stored <= raw <= CHUNK_BYTES and (codec != RAW or stored == raw)
