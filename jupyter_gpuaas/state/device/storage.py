"""Storages of torch in host memory, as memory to receive into."""

from __future__ import annotations

import ctypes
import importlib
from typing import Any


def empty_storage(size: int) -> Any:
    """A storage in host memory, allocated by torch, its content undefined."""
    torch = importlib.import_module("torch")
    return torch.empty(size, dtype=torch.uint8).untyped_storage()


def storage_bytes(storage: Any) -> memoryview:
    """The memory of a storage in host memory.

    Not by way of numpy: torch never again resizes a storage that numpy has seen.
    """
    memory: Any = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    memory.owner = storage
    return memoryview(memory).cast("B")
