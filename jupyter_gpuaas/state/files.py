"""Digests of files, alike on both sides."""

from __future__ import annotations

from pathlib import Path

import xxhash

BLOCK_BYTES = 4 * 1024**2


def digest_file(path: Path) -> str:
    """Digest of a file's content."""
    whole = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            whole.update(block)
    return whole.hexdigest()


def digest_bytes(content: bytes) -> str:
    """Digest of the content of a file that has been read."""
    return xxhash.xxh3_128_hexdigest(content)
