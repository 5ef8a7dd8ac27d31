"""Pickling of what is shipped: the rules of checkpoints, and a few that only a journey between processes needs.

What belongs to this process is refused, whether or not it could be made anew elsewhere; a remote variable goes as its
handle; of memory only what is reached goes along, not all of an array because of a small view of it.
"""

from __future__ import annotations

import functools
import io
import mmap
import pickle
import sys
import types
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from . import pickler
from .memory import Layout, lay_out
from .pickler import Pickled
from .rules.arrays import reduce_array, reduce_owner
from .rules.registry import Context, NotRestorable, Rule, find_rule

#: Objects of this process that other objects refer to as handles; see `held`.
HELD: dict[str, Any] = {}


class NotHeld(LookupError):
    """A handle whose object is gone."""


def held(handle: str) -> Any:
    """The object that a handle stands for."""
    try:
        return HELD[handle]
    except KeyError:
        raise NotHeld("the session no longer holds this remote variable; its kernel has been restarted") from None


class Shipping(Context):
    """What is known while values are pickled to be shipped.

    Parameters
    ----------
    bases
        Ids of arrays in this pickle that views in it are views of.
    alone
        Ids of arrays with gaps whose memory nothing else in this pickle reaches; their elements are sent without it.
    known
        Objects that the receiver has.
    """

    def __init__(
        self,
        namespace: dict[str, Any],
        values: Iterable[Any],
        *,
        bases: Collection[int] = (),
        alone: Collection[int] = (),
        known: Sequence[Any] = (),
    ) -> None:
        super().__init__(namespace)
        self.known = list(known)
        self.bases = frozenset(bases) | frozenset(map(id, known))
        self.alone = frozenset(alone)
        #: Handles of remote objects (class attribute ``__gpuaas_handle__``).
        self.handles: list[Any] = []
        #: Ids of arrays that own their memory.
        self.owning: set[int] = set()
        #: Bases of views that went without them.
        self.left_out: dict[int, Any] = {}
        #: Arrays with gaps: id -> first address, size.
        self.gaps: dict[int, tuple[int, int]] = {}
        self.top = frozenset(map(id, values))

    def rule_for(self, kind: type) -> Rule | None:
        try:
            return _rules[kind]
        except KeyError:
            return _rules.setdefault(kind, _rule_for(kind))


def dump(
    values: tuple[Any, ...],
    namespace: dict[str, Any],
    *,
    own: Collection[str] = (),
    known: Sequence[Any] = (),
    limit_bytes: int = sys.maxsize,
) -> Pickled:
    """Pickle values together, each view by itself; `dump_whole` is what can be sent.

    Parameters
    ----------
    namespace
        The notebook's.
    own
        Names of the notebook whose definitions go by value; all others go by reference.
    known
        Objects that the receiver has.

    Raises
    ------
    NotRestorable
        Something in it cannot leave this process.
    TooLarge
        Stream and buffers together exceed ``limit_bytes``.
    """
    context = Shipping(namespace, values, known=known)
    return pickler.dump(values, context, own=frozenset(own), limit_bytes=limit_bytes)


def dump_whole(
    values: tuple[Any, ...],
    namespace: dict[str, Any],
    *,
    own: Collection[str] = (),
    known: Sequence[Any] = (),
    pickled: Pickled | None = None,
) -> tuple[Pickled, Layout]:
    """Pickle values as they are sent: views as views of their bases where these go along, no memory in gaps.

    Parameters
    ----------
    pickled
        What `dump` made of exactly these values, if somebody has it already.
    """
    if pickled is None:
        pickled = dump(values, namespace, own=own, known=known)
    layout = lay_out(pickled.buffers, pickled.context.owners)
    assert isinstance(pickled.context, Shipping)
    bases = pickled.context.left_out.keys() & pickled.context.owning
    alone = _alone(pickled.context, layout)
    if bases or alone:
        context = Shipping(namespace, values, bases=bases, alone=alone, known=known)
        pickled = pickler.dump(values, context, own=frozenset(own))
        layout = lay_out(pickled.buffers, context.owners)
    return pickled, layout


def _alone(context: Shipping, layout: Layout) -> set[int]:
    if not context.gaps:
        return set()
    members = [0] * len(layout.places)
    for span in layout.spans:
        members[span.region] += 1
    single = {place for place, count in zip(layout.places, members, strict=True) if count == 1}
    return {key for key, place in context.gaps.items() if place in single}


# -- rules of the journey ------------------------------------------------------------------------

_rules: dict[type, Rule | None] = {}


def _rule_for(kind: type) -> Rule | None:
    if getattr(kind, "__gpuaas_handle__", False):
        return _reduce_handle
    is_file = issubclass(kind, io.IOBase) and not issubclass(kind, (io.BytesIO, io.StringIO))
    if kind in _process_bound() or is_file:
        return _refuse
    if any(base.__module__ == "numpy" and base.__qualname__ == "ndarray" for base in kind.__mro__):
        return _reduce_array
    return find_rule(kind)


def _reduce_handle(handle: Any, context: Any) -> Any:
    context.handles.append(handle)
    return held, (handle.handle,)


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
            mmap.mmap,
            socket.socket,
            subprocess.Popen,
            threading.Thread,
            type(threading.Lock()),
            type(threading.RLock()),
        }
    )


def _refuse(obj: Any, context: Any) -> Any:
    kind = type(obj)
    verb = "is" if id(obj) in context.top else "holds"
    if isinstance(obj, io.IOBase):
        raise NotRestorable(
            f"{verb} an open file ({getattr(obj, 'name', kind.__name__)}); open it in the remote cell instead"
        )
    if kind is types.GeneratorType:
        raise NotRestorable(
            f"{verb} a generator, whose place in its code cannot be sent; send a list, or make it in the remote cell"
        )
    raise NotRestorable(
        f"{verb} a {kind.__name__} object, which belongs to this process; make it in the remote cell instead"
    )


def _reduce_array(array: Any, context: Any) -> Any:
    """A view goes with its base if that goes along anyway, else as an array of its own."""
    numpy = sys.modules["numpy"]
    kind, base, key = type(array), array.base, id(array)
    if base is None:
        context.owning.add(key)
    if kind is numpy.memmap:
        kind, array = numpy.ndarray, array.view(numpy.ndarray)  # by its content: the file belongs to this machine
    elif kind is not numpy.ndarray and (kind.__module__.startswith("numpy.ma") or "__reduce__" in vars(kind)):
        return reduce_array(array, context)
    if base is None or id(base) in context.bases or array.dtype.hasobject or not array.nbytes or not _is_memory(base):
        return reduce_array(array, context)
    context.left_out[id(base)] = base
    if key in context.alone:
        return reduce_owner(numpy.ascontiguousarray(array), kind, numpy, context)
    if array.flags.c_contiguous or array.flags.f_contiguous:
        return reduce_owner(array, kind, numpy, context)
    memory = _memory(array, numpy)
    if memory is None:
        return reduce_array(array, context)
    span, low = memory
    context.gaps[key] = (low, span.nbytes)
    offset = array.__array_interface__["data"][0] - low
    subclass = None if kind is numpy.ndarray else kind
    made = (pickle.PickleBuffer(span), array.dtype, array.shape, array.strides, offset, array.flags.writeable, subclass)
    return array_with_gaps, made


def _is_memory(base: Any) -> bool:
    """Whether an array on this is a view of plain memory; tensors look after theirs themselves."""
    if hasattr(base, "untyped_storage"):
        return False
    try:
        memoryview(base)
    except (TypeError, ValueError):
        return hasattr(base, "__array_interface__")
    return True


def _memory(array: Any, numpy: Any) -> tuple[Any, int] | None:
    """The bytes that an array with gaps reaches, as a flat array, and their first address."""
    root = array
    while isinstance(root.base, numpy.ndarray):
        root = root.base
    if not (root.flags.c_contiguous or root.flags.f_contiguous) or root.dtype.hasobject:
        return None
    flat = root.view(numpy.ndarray).reshape(-1, order="A").view(numpy.uint8)
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


def array_with_gaps(
    buffer: Any, dtype: Any, shape: Any, strides: Any, offset: int, writeable: bool, subclass: Any
) -> Any:
    """Rebuild a view on top of received memory."""
    import numpy

    memory = buffer.reshape(-1, order="A").view("u1") if isinstance(buffer, numpy.ndarray) else buffer
    flat = numpy.frombuffer(memory, numpy.uint8)
    array = numpy.ndarray(shape, dtype, buffer=flat, offset=offset, strides=strides)
    if not writeable:
        array.flags.writeable = False
    return array if subclass is None else array.view(subclass)
