"""Pickling of notebook objects: large memory out of band, definitions of the notebook by name or by value.

The C pickler does the work wherever it can; dill, which is much slower, only where functions or classes of the
notebook must go by value. A function or class that the notebook binds to its own name is pickled as a reference to
that name, and the name itself is sent once: so instances that arrive later belong to the class that is already there.
"""

from __future__ import annotations

import enum
import functools
import gc
import importlib
import io
import pickle
import sys
import types
import warnings
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, cast

from jupyter_gpuaas.state.device.storage import reduce_storage
from jupyter_gpuaas.state.rules.classes import reduce_class, reduce_enum, reduce_marker

MAIN = "__main__"

#: Objects of this process that other objects refer to as handles; see `held`.
HELD: dict[str, Any] = {}


class Refused(pickle.PicklingError):
    """An object that cannot leave its process, with the reason."""


class NotHeld(LookupError):
    """A handle whose object is gone."""


class TooLarge(Exception):
    """The pickle would exceed the limit that its caller set."""


class _NeedsDill(Exception):
    """Something must go by value that the C pickler cannot do."""


@dataclass
class Trace:
    """What was met while pickling."""

    #: Names of the notebook that the pickle refers to.
    references: set[str] = field(default_factory=set)
    #: Code that went by value and runs in the notebook's namespace.
    codes: list[types.CodeType] = field(default_factory=list)
    #: Modules that must be importable at the other end.
    modules: set[str] = field(default_factory=set)
    #: Handles of remote objects (class attribute ``__gpuaas_handle__``).
    handles: list[Any] = field(default_factory=list)
    #: Arrays that are not contiguous: id -> (first address, address behind the last).
    strided: dict[int, tuple[int, int]] = field(default_factory=dict)


@dataclass
class Pickled:
    """One pickle with its out-of-band buffers."""

    stream: bytes
    buffers: list[memoryview]
    trace: Trace
    #: The pickler's memo: holds all that was met, so that ids stay unique as long as this lives.
    _memo: Any

    def shareable(self) -> list[int]:
        """Ids of the objects in it that another pickle may hold too."""
        collects = gc.isenabled()
        gc.disable()  # A million tuples are made and dropped again, none of them garbage.
        try:
            memo = self._memo if isinstance(self._memo, dict) else self._memo.copy()
            return [key for key, (_, obj) in memo.items() if not isinstance(obj, _UNSHARED)]
        finally:
            if collects:
                gc.enable()


def dump(
    values: tuple[Any, ...],
    *,
    own: Collection[str] = (),
    lonely: Collection[int] = (),
    limit_bytes: int = sys.maxsize,
) -> Pickled:
    """Pickle values together.

    Parameters
    ----------
    own
        Names of the notebook whose definitions go by value; all others go by reference.
    lonely
        Ids of strided arrays that share their memory with nothing in this pickle and so may be copied.

    Raises
    ------
    Refused
        Something in it cannot leave this process.
    TooLarge
        Stream and buffers together exceed ``limit_bytes``.
    """
    rules = (frozenset(own), frozenset(lonely), frozenset(map(id, values)))
    try:
        try:
            return _dump(_FastPickler, values, rules, limit_bytes)
        except (Refused, TooLarge):
            raise
        except Exception:  # dill decides, and its message is the one that counts.
            with warnings.catch_warnings():
                # dill warns where it writes something that nobody will be able to read.
                warnings.simplefilter("error", _dill_warning())
                return _dump(_dill_pickler(), values, rules, limit_bytes)
    except (Refused, TooLarge):
        raise
    except RecursionError as error:
        raise Refused("is nested too deeply") from error
    except MemoryError:
        raise
    except Exception as error:
        raise Refused(f"cannot be pickled: {str(error) or type(error).__name__}") from error


def load(stream: Any, buffers: list[Any]) -> Any:
    """Unpickle; the buffers are used in place, not copied."""
    return pickle.loads(stream, buffers=buffers)


def held(handle: str) -> Any:
    """The object that a handle stands for."""
    try:
        return HELD[handle]
    except KeyError:
        raise NotHeld("the session no longer holds this remote variable; its kernel has been restarted") from None


def main_attribute(name: str) -> Any:
    """A definition of the notebook; sent before whatever refers to it."""
    return getattr(sys.modules[MAIN], name)


class _Sink(io.BytesIO):
    """A file that refuses to grow beyond a limit, together with the buffers beside it."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__()
        self.left = limit_bytes
        self.views: list[memoryview] = []

    def write(self, data: Any) -> int:
        self._take(memoryview(data).nbytes)
        return super().write(data)

    def keep(self, buffer: pickle.PickleBuffer) -> bool:
        """The pickler's buffer callback; true sends the buffer in band."""
        try:
            view = buffer.raw()
        except BufferError:  # Not contiguous.
            return True
        if not view.nbytes:
            return True
        self._take(view.nbytes)
        self.views.append(view)
        return False

    def _take(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise TooLarge


def _dump(
    pickler_type: Any,
    values: tuple[Any, ...],
    rules: tuple[frozenset[str], frozenset[int], frozenset[int]],
    limit_bytes: int,
) -> Pickled:
    sink = _Sink(limit_bytes)
    pickler = pickler_type(sink, protocol=5, buffer_callback=sink.keep)
    pickler.prepare(Trace(), *rules)
    pickler.dump(values)
    return Pickled(sink.getvalue(), sink.views, pickler.trace, pickler.memo)


class _Rules:
    """The rules that both picklers follow, as a mixin."""

    dill = False

    def prepare(self, trace: Trace, own: frozenset[str], lonely: frozenset[int], top: frozenset[int]) -> None:
        self.trace = trace
        self.own = own
        self.lonely = lonely
        self.top = top

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind is types.FunctionType or issubclass(kind, type):
            return self._definition(obj)
        if isinstance(obj, types.ModuleType):
            if sys.modules.get(obj.__name__) is not obj or (not obj.__spec__ and obj.__name__ != MAIN):
                raise Refused(f"is a module ({obj.__name__}) that cannot be imported by its name")
            self.trace.modules.add(obj.__name__)
            return importlib.import_module, (obj.__name__,)
        if kind in _process_bound():
            raise Refused(_reason(obj, is_value=id(obj) in self.top))
        if getattr(kind, "__gpuaas_handle__", False):
            self.trace.handles.append(obj)
            return held, (obj.handle,)
        if kind.__module__ == "numpy" and kind.__name__ == "ndarray":
            return self._array(obj)
        if kind.__module__ in ("dataclasses", "typing"):
            return self._marker(obj)
        if kind.__module__.startswith("torch"):
            return reduce_storage(obj)
        if isinstance(obj, io.IOBase) and not isinstance(obj, (io.BytesIO, io.StringIO)):
            raise Refused(_reason(obj, is_value=id(obj) in self.top))
        return NotImplemented

    def _definition(self, obj: Any) -> Any:
        main = sys.modules[MAIN].__dict__
        of_notebook = obj.__module__ == MAIN or getattr(obj, "__globals__", None) is main
        if not of_notebook:
            if obj.__module__:
                self.trace.modules.add(obj.__module__)
            return NotImplemented
        name = obj.__name__
        if main.get(name) is obj and name not in self.own:
            self.trace.references.add(name)
            return main_attribute, (name,)
        if isinstance(obj, types.FunctionType) and not self.dill:
            raise _NeedsDill
        if isinstance(obj, types.FunctionType) and obj.__globals__ is main:
            self.trace.codes.append(obj.__code__)
        if isinstance(obj, enum.EnumMeta):
            taken_apart = reduce_enum(cast("type[enum.Enum]", obj), MAIN)
            if taken_apart is None:
                raise Refused(f"is or needs the Enum {name}, which has a __new__ of its own")
            return taken_apart
        if isinstance(obj, type):
            return reduce_class(obj)
        return NotImplemented

    def _marker(self, obj: Any) -> Any:
        name = getattr(obj, "__name__", "")
        if name not in self.own and sys.modules[MAIN].__dict__.get(name) is obj:
            self.trace.references.add(name)
            return main_attribute, (name,)
        return reduce_marker(obj)

    def _array(self, array: Any) -> Any:
        if array.dtype.hasobject or not array.nbytes:
            return NotImplemented
        if array.flags.c_contiguous or array.flags.f_contiguous:
            return NotImplemented
        numpy = sys.modules["numpy"]
        if id(array) in self.lonely:
            return numpy.ascontiguousarray(array).__reduce_ex__(5)
        memory = _memory(array)
        if memory is None:
            return NotImplemented
        span, low = memory
        self.trace.strided[id(array)] = (low, low + span.nbytes)
        offset = array.__array_interface__["data"][0] - low
        return strided_array, (pickle.PickleBuffer(span), array.dtype, array.shape, array.strides, offset)


class _FastPickler(_Rules, pickle.Pickler):
    pass


@functools.cache
def _dill_pickler() -> Any:
    """The dill pickler with our rules; dill is imported only when it is needed."""
    import dill

    class DillPickler(_Rules, dill.Pickler):  # type: ignore[misc]
        dill = True

        def __init__(self, file: Any, **options: Any) -> None:
            # Globals of the notebook are never copied: what a function reads is sent under its own name.
            super().__init__(file, byref=False, recurse=False, **options)

    return DillPickler


def _dill_warning() -> type[Warning]:
    from dill import PicklingWarning

    return cast("type[Warning]", PicklingWarning)


def strided_array(buffer: Any, dtype: Any, shape: Any, strides: Any, offset: int) -> Any:
    """Rebuild a view that is not contiguous on top of received memory."""
    numpy = importlib.import_module("numpy")
    return numpy.ndarray(shape, dtype, buffer=buffer, offset=offset, strides=strides)


def _memory(array: Any) -> tuple[Any, int] | None:
    """The bytes that a strided array reaches, as a flat array, and their first address."""
    numpy = sys.modules["numpy"]
    root = array
    while type(root.base) is numpy.ndarray:
        root = root.base
    if not (root.flags.c_contiguous or root.flags.f_contiguous) or root.dtype.hasobject:
        return None
    flat = root.reshape(-1, order="A").view(numpy.uint8)
    start = root.__array_interface__["data"][0]
    low = high = array.__array_interface__["data"][0]
    for length, stride in zip(array.shape, array.strides, strict=True):
        if stride < 0:
            low += stride * (length - 1)
        else:
            high += stride * (length - 1)
    high += array.itemsize
    if low < start or high > start + flat.nbytes:
        return None
    return flat[low - start : high - start], low


@functools.cache
def _process_bound() -> frozenset[type]:
    """Types whose objects mean something only in the process that made them."""
    import socket
    import subprocess
    import threading

    return frozenset(
        {
            types.GeneratorType,
            types.CoroutineType,
            types.AsyncGeneratorType,
            types.FrameType,
            socket.socket,
            subprocess.Popen,
            threading.Thread,
            type(threading.Lock()),
            type(threading.RLock()),
        }
    )


def _reason(obj: Any, *, is_value: bool) -> str:
    kind = type(obj)
    verb = "is" if is_value else "holds"
    if isinstance(obj, io.IOBase):
        return f"{verb} an open file ({getattr(obj, 'name', kind.__name__)}); open it in the remote cell instead"
    if kind is types.GeneratorType:
        return f"{verb} a generator, whose place in its code cannot be sent; send a list, or make it in the remote cell"
    return f"{verb} a {kind.__name__} object, which belongs to this process; make it in the remote cell instead"


def _unshared() -> tuple[type, ...]:
    """Types whose objects may be in two pickles without anybody noticing that they became two."""
    import datetime
    import decimal
    import fractions
    import pathlib
    import re
    import uuid

    return (
        *(str, bytes, int, float, complex, bool, range, slice, tuple, frozenset, type, type(None)),
        *(types.FunctionType, types.BuiltinFunctionType, types.ModuleType, types.CodeType),
        *(types.MethodType, types.MethodDescriptorType, types.GetSetDescriptorType),
        *(datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo, decimal.Decimal),
        *(fractions.Fraction, uuid.UUID, pathlib.PurePath, re.Pattern, enum.Enum),
        _DtypeLike,
    )


class _DtypeMeta(type):
    def __instancecheck__(cls, obj: Any) -> bool:
        kind = type(obj)
        return (
            kind.__module__ in ("numpy.dtypes", "numpy", "torch")
            and kind.__name__.lower().endswith(("dtype", "device"))
        ) or (kind.__module__ == "numpy" and hasattr(kind, "itemsize") and kind.__name__ != "ndarray")


class _DtypeLike(metaclass=_DtypeMeta):
    """numpy's and torch's dtypes, devices and scalars: immutable, and shared by nearly everything."""


_UNSHARED = _unshared()
