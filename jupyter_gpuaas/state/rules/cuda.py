"""What else belongs to a GPU: arrays of cupy and numba, streams, events, graphs."""

from __future__ import annotations

import importlib
from typing import Any

from ..device.arrays import reduce_cupy, reduce_numba_array
from .registry import Context, NotRestorable, restoring, rule

rule("cupy.ndarray", "cupy._core.core.ndarray", "cupy._core.core._ndarray_base")(reduce_cupy)
rule("numba.cuda.cudadrv.devicearray.DeviceNDArrayBase")(reduce_numba_array)


@rule("torch.Stream", "torch.cuda.streams.Stream")
def reduce_stream(stream: Any, context: Context) -> Any:
    if getattr(stream, "cuda_stream", None) == 0:
        return default_stream, (str(stream.device),)
    context.rebuilt("a new stream, with nothing queued")
    return stream_of, (type(stream), str(stream.device), int(getattr(stream, "priority", 0)))


def default_stream(stored: str) -> Any:
    """The stream on which a device works where none is named."""
    torch = importlib.import_module("torch")
    return torch.cuda.default_stream(torch.device(_device_of(stored)))


def stream_of(kind: Any, stored: str, priority: int = 0) -> Any:
    return kind(device=importlib.import_module("torch").device(_device_of(stored)), priority=priority)


def _device_of(stored: str) -> str:
    device = restoring().device(stored)
    if device == "cpu":
        raise NotRestorable(f"is a stream of {stored}, which is mapped to the CPU")
    return device


@rule("torch.Event", "torch.cuda.streams.Event")
def reduce_event(event: Any, context: Context) -> Any:
    context.rebuilt("a new event, not recorded")
    return event_of, (type(event),)


def event_of(kind: Any) -> Any:
    return kind(enable_timing=True)  # events do not tell whether they take times; one that does serves for both


@rule("torch.cuda.graphs.CUDAGraph", "torch._C._CUDAGraph", "torch.cuda.memory.MemPool", "torch._C._MemPool")
@rule("cupy.cuda.graph.Graph", "cupy.cuda.memory.MemoryPointer", "cupy.cuda.memory.BaseMemory")
def reduce_graph(obj: Any, context: Context) -> Any:
    raise NotRestorable(f"is a {type(obj).__name__}, which is made of addresses on its device; make it again")


@rule("cupy.cuda.stream.Stream", "cupy.cuda.stream.ExternalStream", "cupy.cuda.stream.Event")
def reduce_cupy_stream(obj: Any, context: Context) -> Any:
    context.rebuilt(f"a new {type(obj).__name__.lower()} of cupy")
    null = getattr(obj, "null", False)
    return cupy_stream_of, (type(obj), null)


def cupy_stream_of(kind: Any, null: bool) -> Any:
    return kind(null=True) if null else kind()
