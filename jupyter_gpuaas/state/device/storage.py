"""Storages of torch in host memory, as memory to receive into."""

from __future__ import annotations

import ctypes
import importlib
import mmap
from typing import Any

#: Of memory from this size on.
_LARGE_BYTES = 4 * 1024**2


def empty_storage(size: int) -> Any:
    """A storage in host memory, allocated by torch, its content undefined."""
    torch = importlib.import_module("torch")
    storage = torch.empty(size, dtype=torch.uint8, device="cpu").untyped_storage()
    if size >= _LARGE_BYTES:
        _huge_pages(storage.data_ptr(), size)
    return storage


def _huge_pages(address: int, size: int) -> None:
    """Ask for huge pages, as numpy does for its arrays: filling fresh memory is several times as fast with them."""
    start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (address + size) // mmap.PAGESIZE * mmap.PAGESIZE - start
    advise, advice = getattr(ctypes.CDLL(None), "madvise", None), getattr(mmap, "MADV_HUGEPAGE", None)
    if advise is not None and advice is not None:
        advise(ctypes.c_void_p(start), ctypes.c_size_t(length), ctypes.c_int(advice))  # only slower if it fails


def storage_bytes(storage: Any) -> memoryview:
    """The memory of a storage in host memory.

    Not by way of numpy: torch never again resizes a storage that numpy has seen.
    """
    memory: Any = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    memory.owner = storage
    return memoryview(memory).cast("B")
