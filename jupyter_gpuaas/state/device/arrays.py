"""Arrays of cupy, and of others that show device memory by ``__cuda_array_interface__``.

Whichever library comes first at restore owns the memory; the others wrap its address, so that what shared device
memory shares it again.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from ..rules.registry import Context, NotRestorable, restoring
from .copies import CupyMemory, HostMemory, TorchMemory
from .memory import Place, make, out_of_band


def reduce_cupy(array: Any, context: Context) -> Any:
    """A view of its allocation, of which it may be a part."""
    cupy = sys.modules["cupy"]
    pointer = array.data
    low, high = cupy.byte_bounds(array) if hasattr(cupy, "byte_bounds") else _bounds(array)
    if not array.size:
        return empty_cupy, (array.shape, array.dtype, f"cuda:{pointer.device_id}")
    start, size = int(pointer.mem.ptr), int(pointer.mem.size)
    if not (start <= low and high <= start + size):
        start, size = low, high - low  # memory of another library, of which cupy knows no more than this
    whole = cupy.cuda.MemoryPointer(pointer.mem, start - int(pointer.mem.ptr))
    memory = CupyMemory(whole, size)
    place = out_of_band(memory, context)
    kind = None if type(array) is cupy.ndarray else type(array)
    return cupy_view, (place, memory.device, array.dtype, array.shape, array.strides, pointer.ptr - start, kind)


def cupy_view(place: Place, device: str, dtype: Any, shape: Any, strides: Any, offset: int, kind: Any) -> Any:
    owner, memory = make(place, device, _allocate, _wrap)
    offset += place.offset
    if memory.device == "cpu":
        restoring().remark("an array of cupy is one of numpy, as its device is mapped to the CPU")
        return importlib.import_module("numpy").ndarray(
            shape, dtype, buffer=_view(memory), offset=offset, strides=strides
        )
    cupy = importlib.import_module("cupy")
    number = int(memory.device.partition(":")[2] or 0)
    if isinstance(memory, CupyMemory):
        pointer = memory.pointer
    else:
        pointer = cupy.cuda.MemoryPointer(cupy.cuda.UnownedMemory(memory.address, memory.nbytes, owner, number), 0)
    with cupy.cuda.Device(number):
        array = cupy.ndarray(shape, dtype, memptr=pointer + offset, strides=strides)
    return array if kind is None else array.view(kind)


def empty_cupy(shape: Any, dtype: Any, device: str) -> Any:
    now = restoring().device(device)
    if now == "cpu":
        return importlib.import_module("numpy").empty(shape, dtype)
    cupy = importlib.import_module("cupy")
    with cupy.cuda.Device(int(now.partition(":")[2] or 0)):
        return cupy.empty(shape, dtype)


def reduce_numba_array(array: Any, context: Context) -> Any:
    """numba's own device array, by way of a tensor on the same memory."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        raise NotRestorable("is an array on a device, which is kept only where torch is loaded; copy_to_host() it")
    return numba_array, (torch.as_tensor(array, device="cuda"),)


def numba_array(tensor: Any) -> Any:
    if not tensor.is_cuda:
        restoring().remark("an array of numba on a device is one of numpy, as its device is mapped to the CPU")
        return tensor.numpy()
    return importlib.import_module("numba.cuda").as_cuda_array(tensor)


def _allocate(device: str, nbytes: int) -> Any:
    if device == "cpu":
        return bytearray(nbytes)
    cupy = importlib.import_module("cupy")
    with cupy.cuda.Device(int(device.partition(":")[2] or 0)):
        return cupy.cuda.alloc(nbytes), nbytes


def _wrap(owner: Any) -> Any:
    return HostMemory(owner) if isinstance(owner, bytearray) else CupyMemory(*owner)


def _view(memory: Any) -> Any:
    """Host memory of either kind as a buffer."""
    return memory.torch_bytes().numpy() if isinstance(memory, TorchMemory) else memory.view


def _bounds(array: Any) -> tuple[int, int]:
    low = high = int(array.data.ptr)
    for length, stride in zip(array.shape, array.strides, strict=True):
        if stride < 0:
            low += stride * (length - 1)
        else:
            high += stride * (length - 1)
    return low, high + array.itemsize
