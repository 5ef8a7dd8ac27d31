"""Storages of torch tensors as out-of-band buffers, so that views of one storage stay views of it."""

from __future__ import annotations

import importlib
import pickle
import sys
from typing import Any


def reduce_storage(obj: Any) -> Any:
    """Reduce value for a torch storage; NotImplemented for anything else."""
    torch = sys.modules.get("torch")
    if torch is None or "numpy" not in sys.modules:
        return NotImplemented
    if isinstance(obj, torch.storage.TypedStorage):
        return typed_storage, (obj._untyped_storage, obj.dtype)
    if isinstance(obj, torch.UntypedStorage) and obj.device.type in ("cpu", "cuda"):
        here = obj if obj.device.type == "cpu" else obj.cpu()
        if not here.nbytes():
            return NotImplemented
        raw = torch.tensor([], dtype=torch.uint8).set_(here).numpy()
        return untyped_storage, (pickle.PickleBuffer(raw), str(obj.device))
    return NotImplemented


def typed_storage(untyped: Any, dtype: Any) -> Any:
    """Rebuild the thin wrapper that torch puts around a storage."""
    storage = importlib.import_module("torch.storage")
    return storage.TypedStorage(wrap_storage=untyped, dtype=dtype, _internal=True)


def untyped_storage(buffer: Any, device: str) -> Any:
    """Rebuild a storage on top of received memory, or on its device."""
    torch = importlib.import_module("torch")
    raw = torch.frombuffer(buffer, dtype=torch.uint8).untyped_storage()
    return raw if device == "cpu" else raw.to(device=torch.device(device))


def empty_storage(size: int) -> Any:
    """A storage in host memory, allocated by torch, its content undefined."""
    torch = importlib.import_module("torch")
    return torch.empty(size, dtype=torch.uint8).untyped_storage()


def storage_bytes(storage: Any) -> memoryview:
    """The memory of a storage in host memory."""
    torch = sys.modules["torch"]
    return memoryview(torch.empty(0, dtype=torch.uint8).set_(storage).numpy())
