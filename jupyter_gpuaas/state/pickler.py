"""One pickle of some names: the C pickler, with rules for what it gets wrong or refuses, and large memory out of band.

Both sides begin with the same memo of *anchors*: objects that exist in every process and must be met again as
themselves, the namespace first of all. So a function's globals are the namespace it is restored into, at the cost of
one opcode. A function or class that the namespace binds to its own name is pickled as a reference to that name.
"""

from __future__ import annotations

import builtins
import io
import os
import pickle
import sys
import types
from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, cast

from .lost import said
from .rules.definitions import of_namespace, reduce_definition
from .rules.registry import Context, NotRestorable, Restoring, _restoring
from .sharing import by_memo, by_search, no_collection
from .subclasses import Reduce, reduce_for

#: Beyond this much pickle, going through its memo costs more than making it.
LARGE_BYTES = 512 * 1024


class TooLarge(Exception):
    """The pickle would exceed the limit that its caller set."""


class Pickled:
    """One pickle.

    Attributes
    ----------
    buffers
        Memory that was left out of the stream, in order; borrowed, so it changes with the objects.
    """

    def __init__(
        self,
        values: tuple[Any, ...],
        stream: memoryview,
        buffers: list[memoryview],
        context: Context,
        memo: Any,
        known: list[Any],
    ) -> None:
        self._values = values
        self.stream = stream
        self.buffers = buffers
        self.context = context
        self._memo = memo
        self._anchors = {id(obj) for obj in known} | {id(values)}

    def shareable(self) -> list[int]:
        """Ids of the objects in it that another pickle may hold too; valid while the objects live. To be asked once."""
        if self.stream.nbytes > LARGE_BYTES:
            self.release()
            return by_search(self._values, self.context.reduced, self.context.by_value, self._anchors)
        self.context.reduced.clear()  # what is in it would seem to be held by somebody
        ids = by_memo(self._memo, self.context.memo, self.context.by_value, self._anchors)
        self.release()
        return ids

    def release(self) -> None:
        """Let go of all objects in it but the values: what the next pickle finds held by two must be held by two."""
        self._memo = None


def anchors(namespace: dict[str, Any]) -> list[Any]:
    """Objects that are the same in every process, in an order that the format fixes: only ever append."""
    return [
        namespace,
        builtins.__dict__,
        os.environ,
        sys.modules,
        sys.path,
        sys.argv,
        sys.stdin,
        sys.stdout,
        sys.stderr,
    ]


def dump(
    values: tuple[Any, ...],
    context: Context,
    *,
    own: frozenset[str] = frozenset(),
    limit_bytes: int = sys.maxsize,
    stream_bytes: int = sys.maxsize,
) -> Pickled:
    """Pickle values together.

    Parameters
    ----------
    own
        Names whose definitions go by value; those of other names go by reference.

    Raises
    ------
    NotRestorable
        Something in it cannot come back, and why.
    TooLarge
        Stream and buffers together exceed ``limit_bytes``, or the stream alone ``stream_bytes``.
    """
    known = _distinct([*anchors(context.namespace), *context.known])
    sink = _Sink(limit_bytes, stream_bytes)
    sink.write(_primer(len(known)))
    pickler = _Pickler(sink, protocol=5, buffer_callback=sink.keep)
    pickler.begin(context, own)
    pickler.memo = {id(obj): (index, obj) for index, obj in enumerate(known)}
    try:
        with no_collection():
            pickler.dump(values)
    except (NotRestorable, TooLarge, MemoryError, KeyboardInterrupt):
        raise
    except RecursionError:
        raise NotRestorable("is nested too deeply for pickle") from None
    except BaseException as error:  # a __reduce__ of the user's may raise anything, SystemExit too
        # A rule's own NotRestorable may come wrapped by it.
        raise NotRestorable(f"cannot be pickled: {said(error)}") from error
    return Pickled(values, sink.getbuffer(), sink.views, context, pickler.memo, known)


def load(stream: Any, buffers: Sequence[Any]) -> Any:
    """Unpickle within a restore (see ``under``); the buffers are used in place, not copied."""
    unpickler = _Unpickler(io.BytesIO(stream), buffers=buffers)
    restoring = _restoring.get()
    unpickler.known = [*anchors(restoring.namespace), *restoring.known]
    with no_collection():
        unpickler.load()
        return unpickler.load()


def _primer(count: int) -> bytes:
    """A pickle that puts the anchors into the memo of whoever loads it, and stands before every stream.

    An unpickler keeps its memo from one load to the next. (Its attribute ``memo`` cannot be set to a dict: CPython
    fills the old memo and throws it away.)
    """
    fetch = b"".join(_integer(n) + pickle.BINPERSID + pickle.MEMOIZE + pickle.POP for n in range(count))
    return pickle.PROTO + b"\5" + fetch + pickle.NONE + pickle.STOP


def _integer(number: int) -> bytes:
    return pickle.BININT1 + bytes([number]) if number < 256 else pickle.BININT + number.to_bytes(4, "little")


@contextmanager
def under(restoring: Restoring) -> Any:
    """Rebuilding callables that run inside find this restore."""
    token = _restoring.set(restoring)
    try:
        yield restoring
    finally:
        _restoring.reset(token)


def _distinct(known: list[Any]) -> list[Any]:
    """The anchors, each at its place; a second appearance of one object is replaced, as a memo holds it once."""
    seen: set[int] = set()
    distinct = []
    for obj in known:
        distinct.append(obj if id(obj) not in seen else _Vacant())
        seen.add(id(obj))
    return distinct


class _Vacant:
    """Keeps the place of an anchor."""


class _Sink(io.BytesIO):
    """A file that refuses to grow beyond a limit, by itself and together with the buffers beside it."""

    def __init__(self, limit_bytes: int, stream_bytes: int) -> None:
        super().__init__()
        self.left = limit_bytes
        self._stream_left = stream_bytes
        self.views: list[memoryview] = []

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self._take(size)
        self._stream_left -= size
        if self._stream_left < 0:
            raise TooLarge
        return super().write(data)

    def keep(self, buffer: pickle.PickleBuffer) -> bool:
        """The pickler's buffer callback; true sends the buffer in band."""
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous
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


class _Unpickler(pickle.Unpickler):
    """Python's own, which knows the anchors."""

    known: list[Any]

    def persistent_load(self, pid: Any) -> Any:
        return self.known[pid]


class _Pickler(pickle.Pickler):
    """The C pickler; asks here for all that is not one of Python's plain containers and scalars."""

    def begin(self, context: Context, own: frozenset[str]) -> None:
        self.context = context
        self.own = context.own = own
        self.rule_for = context.rule_for
        #: Types whose objects go Python's own way; there may be a million of one.
        self.plain: set[type] = set()
        #: And those whose objects may go another.
        self.by_base: dict[type, Reduce] = {}

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        if kind in self.plain:
            return NotImplemented
        if (by_base := self.by_base.get(kind)) is not None:
            reduced = by_base(obj)
        elif kind is types.FunctionType or issubclass(kind, type):
            reduced = reduce_definition(obj, self.context, self.own)
            if isinstance(reduced, tuple) and reduced[0] is not of_namespace:
                self.context.by_value.add(id(obj))
            elif reduced is None:
                reduced = _by_dill(obj)
        elif (rule := self.rule_for(kind)) is not None:
            reduced = rule(obj, self.context)
        elif kind in _dill_kinds():
            reduced = _by_dill(obj)
        elif kind is types.BuiltinFunctionType:
            self.context.builtins.append(obj)
            return NotImplemented
        elif (by_base := reduce_for(kind)) is not None:
            self.by_base[kind] = by_base
            reduced = by_base(obj)
        else:
            self.plain.add(kind)
            return NotImplemented
        if isinstance(reduced, tuple):
            self.context.reduced.append(reduced)
        return reduced


class _Recorder:
    """Stands for a pickler before one of dill's save functions, to learn how dill would reduce an object."""

    __module__ = "dill"  # how dill knows its own pickler
    _session = _byref = _recurse = _strictio = False
    _fmode = 0
    _main = types.ModuleType("__main__")
    proto = 5
    bin = True

    def __init__(self) -> None:
        self.reduced: Any = None
        self.memo: dict[int, Any] = {}
        self._postproc: dict[int, Any] = {}
        self._id_to_obj: dict[int, Any] = {}

    def save_reduce(self, func: Any, args: Any, state: Any = None, *rest: Any, obj: Any = None, **more: Any) -> None:
        self.reduced = (func, args) if state is None and not rest else (func, args, state, *rest)


def _by_dill(obj: Any) -> Any:
    import dill

    recorder = _Recorder()
    save = dill.Pickler.dispatch.get(type(obj))
    if save is None:
        return NotImplemented
    save(recorder, obj)
    if recorder.reduced is None or recorder._postproc:
        return NotImplemented
    return recorder.reduced


_dill_types: frozenset[type] | None = None


def _dill_kinds() -> frozenset[type]:
    """Types that dill knows and plain pickle does not."""
    global _dill_types
    if _dill_types is None:
        import dill

        plain = {type(None), bool, int, float, bytes, str, tuple, list, dict, set, frozenset, bytearray, type}
        plain |= {types.FunctionType, types.ModuleType, pickle.PickleBuffer, types.BuiltinFunctionType}
        # Which reduces itself; dill writes one to its pickler piece by piece.
        plain.add(type(Generic[TypeVar("T")]))  # type: ignore[index]
        _dill_types = frozenset(cast("dict[type, Any]", dill.Pickler.dispatch)) - plain
    return _dill_types
