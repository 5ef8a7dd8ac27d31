"""Storages of torch in host memory, as memory to receive into."""

from __future__ import annotations

import importlib
import sys
from typing import Any


def empty_storage(size: int) -> Any:
    """A storage in host memory, allocated by torch, its content undefined."""
    torch = importlib.import_module("torch")
    return torch.empty(size, dtype=torch.uint8).untyped_storage()


def storage_bytes(storage: Any) -> memoryview:
    """The memory of a storage in host memory."""
    torch = sys.modules["torch"]
    return memoryview(torch.empty(0, dtype=torch.uint8).set_(storage).numpy())
