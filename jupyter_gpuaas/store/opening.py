"""Which store an address means."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .base import Store
from .folder import FolderStore
from .memory import MemoryStore
from .remote import FsspecStore


def open_store(
    address: str | os.PathLike[str], *, quota_bytes: int = 0, options: Mapping[str, Any] | None = None
) -> Store:
    """Open a folder by its path, anything else by its URL (``s3://bucket/prefix``), and memory by ``memory:``.

    Parameters
    ----------
    options
        Of fsspec for the URL.
    """
    text = os.fspath(address)
    if text == "memory:":
        return MemoryStore(quota_bytes=quota_bytes)
    if "://" in text:
        return FsspecStore(text, options=options, quota_bytes=quota_bytes)
    return FolderStore(Path(text).expanduser(), quota_bytes=quota_bytes)
