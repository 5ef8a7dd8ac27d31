"""How the bytes of one chunk lie in a pack: as they are, or compressed where that pays."""

from __future__ import annotations

import threading
from typing import NamedTuple

import zstandard
from blake3 import blake3

from .base import CHUNK_BYTES, Buffer

RAW = 0
ZSTD = 1
CODECS = (RAW, ZSTD)

#: Smaller chunks gain less than the call costs.
_SMALLEST_BYTES = 512
#: Two samples of this size, a third and two thirds into a chunk, tell whether the whole would shrink.
_SAMPLE_BYTES = 4096
#: Compressing costs more time than writing (docs/benchmarks.md), so it must at least halve what is written.
_WORTH_IT = 0.5

_local = threading.local()  # zstandard's contexts are not for several threads at once


class Encoded(NamedTuple):
    """One chunk, ready to be written."""

    digest: bytes
    codec: int
    raw_bytes: int
    payload: Buffer


def encode(digest: bytes, data: Buffer) -> Encoded:
    """Choose a codec for a chunk. The payload of a raw one is the caller's own memory."""
    size = len(data)
    if size >= _SMALLEST_BYTES and _shrinks(data, size):
        packed = _compressor().compress(data)
        if len(packed) < size:
            return Encoded(digest, ZSTD, size, packed)
    return Encoded(digest, RAW, size, data)


def decode(codec: int, payload: Buffer, raw_bytes: int) -> Buffer | None:
    """Give a chunk's bytes, or None when the payload is not ``raw_bytes`` long once unpacked."""
    if codec == RAW:
        return payload if len(payload) == raw_bytes else None
    try:
        # The decompressor allocates what the frame announces, so that is compared first.
        if raw_bytes > CHUNK_BYTES or zstandard.frame_content_size(payload) != raw_bytes:
            return None
        return _decompressor().decompress(payload, max_output_size=CHUNK_BYTES)
    except zstandard.ZstdError:
        return None


def matches(digest: bytes, data: Buffer) -> bool:
    return blake3(data).digest() == digest


def _shrinks(data: Buffer, size: int) -> bool:
    if size <= 2 * _SAMPLE_BYTES:
        return True
    view = memoryview(data)
    for start in (size // 3, 2 * size // 3):
        sample = view[start : start + _SAMPLE_BYTES]
        if len(_compressor().compress(sample)) > _WORTH_IT * len(sample):
            return False
    return True


def _compressor() -> zstandard.ZstdCompressor:
    if not hasattr(_local, "compressor"):
        _local.compressor = zstandard.ZstdCompressor(level=1, write_content_size=True, write_checksum=False)
    found: zstandard.ZstdCompressor = _local.compressor
    return found


def _decompressor() -> zstandard.ZstdDecompressor:
    if not hasattr(_local, "decompressor"):
        _local.decompressor = zstandard.ZstdDecompressor(max_window_size=8 * CHUNK_BYTES)
    found: zstandard.ZstdDecompressor = _local.decompressor
    return found
