"""Storages of torch: each saved once, whatever views there are of it."""

from __future__ import annotations

import importlib
import pickle
import sys
import warnings
from typing import Any

from ..rules.registry import Context, restoring
from .copies import HostMemory, TorchMemory
from .memory import Place, make, out_of_band
from .storage import storage_bytes


def canonical(storage: Any, context: Context) -> Any:
    """The one Python object that stands for a storage in this pickle, kept alive as long as the pickle."""
    known = context.memo.setdefault("torch storages", {})
    return known.setdefault(storage._cdata, storage)


def reduce_untyped(storage: Any, context: Context) -> Any:
    one = canonical(storage, context)
    if one is not storage:
        return same, (one,)
    torch = sys.modules["torch"]
    size, device = storage.nbytes(), str(storage.device)
    if device == "meta" or not size:
        return empty_storage, (size, device)
    if device != "cpu":
        return device_storage, (out_of_band(TorchMemory(storage), context), size, device)
    if storage.filename:
        context.rebuilt(f"tensor memory of its own, no longer mapped to {storage.filename}")
    elif storage.is_shared():
        context.rebuilt("tensor memory of its own, no longer shared with other processes")
    if torch.cuda.is_initialized() and _bytes_of(torch, storage).is_pinned():
        context.rebuilt("memory that was pinned, and is not any more: pin_memory() it again")
    if storage.resizable():
        context.owns(storage.data_ptr(), ("storage", size))
    return host_storage, (pickle.PickleBuffer(storage_bytes(storage)), size, storage.resizable())


def same(storage: Any) -> Any:
    return storage


def empty_storage(size: int, device: str) -> Any:
    torch = importlib.import_module("torch")
    return torch.UntypedStorage(size, device=restoring().device(device))


def host_storage(memory: Any, size: int, resizable: bool) -> Any:
    """A storage on restored host memory, which a numpy array may have too; or on the device that the CPU is mapped to.

    Parameters
    ----------
    memory
        A storage that the restore made for it alone, an array, or any writeable buffer.
    resizable
        It is torch's own memory rather than that of another library.
    """
    torch = importlib.import_module("torch")
    storage = memory if isinstance(memory, torch.UntypedStorage) else _on_buffer(torch, memory)
    if storage.nbytes() != size:
        raise ValueError(f"{storage.nbytes()} bytes of memory for a storage of {size}")
    device = restoring().device("cpu")
    if device == "cpu":
        return storage
    if not resizable:
        restoring().remark(
            f"a tensor on memory of another library stays on the CPU, though the CPU is mapped to {device}"
        )
        return storage
    moved = torch.UntypedStorage(size, device=device)
    TorchMemory(moved).write([(0, size)], [_bytes_of(torch, storage).numpy()])
    return moved


def device_storage(place: Place, size: int, device: str) -> Any:
    """A storage on the memory of a device, after the device map."""
    torch = importlib.import_module("torch")
    owner, memory = make(place, device, lambda where, n: torch.UntypedStorage(n, device=where), TorchMemory)
    if isinstance(owner, torch.UntypedStorage) and not place.offset and owner.nbytes() == size:
        return owner
    # A part of another storage, or memory of cupy: torch has no storage within another, but DLPack gives one.
    if isinstance(memory, HostMemory):
        return _on_buffer(torch, memory.view[place.offset : place.offset + size])
    whole = memory.torch_bytes() if isinstance(memory, TorchMemory) else _of_cupy(torch, memory)
    part = whole[place.offset : place.offset + size]
    return torch.from_dlpack(part).untyped_storage() if part.is_cuda else _on_buffer(torch, part.numpy())


def _of_cupy(torch: Any, memory: Any) -> Any:
    cupy = importlib.import_module("cupy")
    return torch.as_tensor(cupy.ndarray(memory.nbytes, cupy.uint8, memory.pointer), device=memory.device)


def _on_buffer(torch: Any, memory: Any) -> Any:
    if hasattr(memory, "__array_interface__"):
        memory = memory.reshape(-1, order="A").view("u1")
    with warnings.catch_warnings():
        # An array that is read-only for numpy shares its memory with a tensor all the same.
        warnings.simplefilter("ignore", UserWarning)
        return torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()


def _bytes_of(torch: Any, storage: Any) -> Any:
    """As a tensor, whatever device is the default one."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def reduce_typed(storage: Any, context: Context) -> Any:
    return typed_storage, (canonical(storage._untyped_storage, context), storage.dtype)


def typed_storage(untyped: Any, dtype: Any) -> Any:
    """The thin wrapper that torch puts around a storage."""
    return importlib.import_module("torch.storage").TypedStorage(wrap_storage=untyped, dtype=dtype, _internal=True)
