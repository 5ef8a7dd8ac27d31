"""numpy arrays: an owner keeps its memory, a view is a view of its base, whatever lies between.

Memory goes out of band. An array that owns its memory is reduced to that memory; one that does not is reduced to its
base and where it begins in it, so that both share memory again, base and all, when they are back.
"""

from __future__ import annotations

import ctypes
import importlib
import pickle
import sys
from typing import Any

from .registry import Context, NotRestorable, restoring, rule


@rule("numpy.ndarray")
def reduce_array(array: Any, context: Context) -> Any:
    numpy = sys.modules["numpy"]
    kind = type(array)
    if kind is not numpy.ndarray and "__reduce__" in vars(kind) and kind is not _masked():
        return NotImplemented  # they know how
    base = array.base
    if type(base) is Within or (type(base).__name__ == "DummyArray" and type(base).__module__.startswith("numpy.lib")):
        base = base.base  # ours, or that of numpy.lib.stride_tricks
    base = _beneath_cython(base)
    if base is None:
        return reduce_owner(array, kind, numpy, context)
    offset = _offset(array, base, numpy)
    if offset is None:
        # Memory of a library of its own (a capsule, an Arrow buffer): regions keep what overlaps together.
        if array.dtype.hasobject or _is_dense(array):
            return reduce_owner(array, kind, numpy, context)
        low, high = _low(array)
        reached = numpy.frombuffer((ctypes.c_char * (high - low)).from_address(low), numpy.uint8)
        base, offset = pickle.PickleBuffer(reached), array.__array_interface__["data"][0] - low
    elif array.dtype.kind == "T":
        raise NotRestorable("is a view of an array of variable-width strings")
    view = (base, array.dtype, array.shape, array.strides, offset, array.flags.writeable)
    if kind is numpy.ndarray:
        return view_of, view
    return subclass_view, (kind, view), array.__dict__ or None, None, None, fill_attributes


@rule("numpy.dtype")
def reduce_dtype(dtype: Any, context: Context) -> Any:
    """numpy's own dtypes are one object each; pickle would make a new one, and with it another pickle the next time."""
    numpy = sys.modules["numpy"]
    if dtype.isbuiltin == 1 and dtype.metadata is None and dtype.kind not in "OSUVMm":
        return numpy.dtype, (dtype.str,)
    return NotImplemented


@rule("numpy.void", "numpy.record", exact=True)
def reduce_record(record: Any, context: Context) -> Any:
    """One record of a structured array is a view of it."""
    base = record.base
    if not isinstance(base, sys.modules["numpy"].ndarray):
        return NotImplemented
    return record_of, (base, record.dtype, record.__array_interface__["data"][0] - _low(base)[0])


def record_of(base: Any, dtype: Any, offset: int) -> Any:
    return view_of(base, dtype, (1,), (dtype.itemsize,), offset, base.flags.writeable)[0]


def _masked() -> Any:
    """Masked arrays would write their data out, so that views of it, and what it is a view of, would be copies."""
    core = sys.modules.get("numpy.ma.core")
    return getattr(core, "MaskedArray", None)


def _beneath_cython(base: Any) -> Any:
    """What lies below the views of Cython, which cannot be pickled; their types are one for each of its modules."""
    names = ("memoryview", "_memoryviewslice")
    view: Any = base.obj if type(base) is memoryview else base
    while type(view).__name__ in names and type(view) is not memoryview:
        base = view = view.base
    return base


def reduce_owner(array: Any, kind: type, numpy: Any, context: Context) -> Any:
    plain = array if kind is numpy.ndarray else array.view(numpy.ndarray)
    state = (array.__dict__,) if getattr(array, "__dict__", None) else ()
    subclass = None if kind is numpy.ndarray else kind
    # Axes in the order in which memory runs through them: () for C, reversed for Fortran, any other after a transpose.
    axes = () if array.flags.c_contiguous else tuple(sorted(range(array.ndim), key=lambda axis: -array.strides[axis]))
    run = plain.transpose(axes) if axes else plain
    if not run.flags.c_contiguous:
        raise NotRestorable("is an array that owns memory with gaps in it")
    writeable = array.flags.writeable
    if array.dtype.hasobject or array.dtype.kind == "T":
        # Filled after it is made: an array of objects may hold itself.
        empty = (None, array.dtype, array.shape, axes, True, subclass)
        return owner, empty, (run.ravel().tolist(), axes, writeable, *state), None, None, fill_objects
    memory: pickle.PickleBuffer | None = None
    if array.nbytes:
        memory = pickle.PickleBuffer(run.reshape(-1).view(numpy.uint8))
        if run is plain or array.flags.f_contiguous:
            order = "C" if run is plain else "F"
            context.owns(array.__array_interface__["data"][0], ("ndarray", array.dtype.str, array.shape, order))
    made = (memory, array.dtype, array.shape, axes, writeable, subclass)
    return owner, made, *state, *((None, None, fill_attributes) if state else ())


def _offset(array: Any, base: Any, numpy: Any) -> int | None:
    """Bytes from the beginning of the base's memory to the first element; None where that has no meaning."""
    start = array.__array_interface__["data"][0]
    if isinstance(base, numpy.ndarray):
        return int(start - _low(base)[0])
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(base, torch.Tensor):
        return int(start - base.untyped_storage().data_ptr())
    try:
        whole = memoryview(base)
    except TypeError:
        return None
    if not whole.contiguous or not whole.nbytes:
        return None
    return int(start - numpy.frombuffer(whole, numpy.uint8).__array_interface__["data"][0])


def _is_dense(array: Any) -> bool:
    return bool(array.flags.c_contiguous or array.flags.f_contiguous) and not array.dtype.hasobject


def _low(array: Any) -> tuple[int, int]:
    """First address that an array reaches, and the one behind its last."""
    low = high = array.__array_interface__["data"][0]
    if array.size:
        for length, stride in zip(array.shape, array.strides, strict=True):
            if stride < 0:
                low += stride * (length - 1)
            else:
                high += stride * (length - 1)
        high += array.itemsize
    return low, high


# -- rebuilding --------------------------------------------------------------------------------------------


def owner(memory: Any, dtype: Any, shape: Any, axes: Any, writeable: bool, subclass: Any) -> Any:
    """An array on memory of its own; where the restore made the memory as this very array, that."""
    numpy = importlib.import_module("numpy")
    if isinstance(memory, memoryview) and isinstance(memory.obj, numpy.ndarray) and memory.nbytes == memory.obj.nbytes:
        memory = memory.obj  # the unpickler wraps what was read-only
    if isinstance(memory, numpy.ndarray) and memory.dtype == dtype and memory.shape == tuple(shape):
        array = memory
    else:
        run = tuple(shape[axis] for axis in axes) if axes else shape
        array = numpy.empty(run, dtype) if memory is None else numpy.ndarray(run, dtype, buffer=memory)
        if axes:
            array = array.transpose(numpy.argsort(axes))
    if subclass is not None:
        array = array.view(subclass)
    if not writeable:
        # Not before the views are there, which may be writeable.
        restoring().finally_.append(lambda: array.setflags(write=False))
    return array


def view_of(base: Any, dtype: Any, shape: Any, strides: Any, offset: int, writeable: bool) -> Any:
    """A view of an array, a tensor, or anything with the buffer protocol."""
    numpy = importlib.import_module("numpy")
    buffer = base
    if isinstance(base, numpy.ndarray):
        if dtype.hasobject:
            return numpy.asarray(Within(base, shape, strides, offset, writeable))
        if not (base.flags.c_contiguous or base.flags.f_contiguous):
            # A view of a view: numpy keeps the one between where it is of a subclass.
            offset += _low(base)[0] - base.__array_interface__["data"][0]
            part = Within(base, shape, strides, offset, writeable, f"|V{dtype.itemsize}")
            return numpy.asarray(part).view(dtype)
        order = "C" if base.flags.c_contiguous else "F"
        buffer = base.view(numpy.ndarray).reshape(-1, order=order).view(numpy.uint8)
    elif hasattr(base, "untyped_storage"):
        whole = None if base.requires_grad else base.numpy()
        if whole is not None and (whole.dtype, whole.shape, whole.strides) == (dtype, tuple(shape), tuple(strides)):
            if offset == base.storage_offset() * base.element_size():
                return whole
        torch = sys.modules["torch"]
        buffer = torch.empty(0, dtype=torch.uint8, device="cpu").set_(base.detach().untyped_storage()).numpy()
    # numpy follows the chain of bases down to the owner, so the base of this is the base it had.
    array = numpy.ndarray(shape, dtype, buffer=buffer, offset=offset, strides=strides)
    if array.flags.writeable and not writeable:
        array.flags.writeable = False
    return array


class Within:
    """Lets numpy make a view at any place of an array that it makes no buffer of: with objects, or with gaps."""

    def __init__(
        self, base: Any, shape: Any, strides: Any, offset: int, writeable: bool, typestr: str | None = None
    ) -> None:
        self.base = base
        first = base.__array_interface__
        if typestr is not None:
            first = {"version": first["version"], "typestr": typestr, "data": first["data"]}
        self.__array_interface__ = {
            **first,
            "data": (first["data"][0] + offset, not writeable),
            "shape": tuple(shape),
            "strides": tuple(strides),
        }


def subclass_view(subclass: Any, view: tuple[Any, ...]) -> Any:
    return view_of(*view).view(subclass)


def fill_attributes(array: Any, attributes: dict[str, Any]) -> None:
    """Set a subclass's attributes; its ``__setstate__`` would take them for numpy's own state."""
    array.__dict__.update(attributes)


def fill_objects(array: Any, state: tuple[Any, ...]) -> None:
    """Put the objects of an array in, in the order of memory."""
    items, axes, writeable, *attributes = state
    run = array.transpose(axes) if axes else array
    flat = run.reshape(-1)
    if array.dtype == object:
        for index, item in enumerate(items):
            flat[index] = item
    else:
        flat[:] = items
    for mapping in attributes:
        array.__dict__.update(mapping)
    array.flags.writeable = writeable
