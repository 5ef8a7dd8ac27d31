"""Memory for regions that come back, each allocated as what will own it: an array, a storage of torch, or bytes."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from typing import Any

from ..store.manifest import Span


def allocate(size: int, maker: Sequence[Any]) -> tuple[Any, memoryview]:
    """The object that owns the memory of a region, and that memory as bytes; for makers see ``Region.maker``."""
    kind, *arguments = maker
    owner: Any
    if kind == "ndarray":
        numpy = importlib.import_module("numpy")
        dtype, shape, order = arguments
        owner = numpy.empty(shape, numpy.dtype(dtype), order)
        if owner.nbytes == size:
            return owner, bytes_of(owner)
    if kind == "storage":
        from .device.storage import empty_storage

        owner = empty_storage(size)
        return owner, bytes_of(owner)
    owner = memoryview(_fresh(size))
    return owner, owner


def _fresh(size: int) -> Any:
    """Memory that is not zeroed before it is filled, where numpy is there to give it."""
    try:
        numpy = importlib.import_module("numpy")
    except ImportError:
        return bytearray(size)
    return numpy.empty(size, numpy.uint8)


def bytes_of(owner: Any) -> memoryview:
    """The memory of an owner."""
    if isinstance(owner, (memoryview, bytes, bytearray)):
        return memoryview(owner).cast("B")
    if hasattr(owner, "data_ptr"):
        from .device.storage import storage_bytes

        return storage_bytes(owner)
    order = "C" if owner.flags.c_contiguous else "F"
    return memoryview(owner.reshape(-1, order=order).view("u1"))


def buffers_of(spans: Iterable[Span], owners: Sequence[Any]) -> list[Any]:
    """What an unpickler wants as out-of-band buffers: owners themselves where a buffer is all of one, else views."""
    buffers = []
    for span in spans:
        owner = owners[span.region]
        memory = bytes_of(owner)
        if not isinstance(owner, memoryview) and (span.offset, span.length) == (0, memory.nbytes):
            buffers.append(owner)
            continue
        view = memory[span.offset : span.offset + span.length]
        buffers.append(view.toreadonly() if span.readonly else view)
    return buffers
