"""Whether what was made again has a copy of something of which the namespace has the original.

Such an iterator over a second copy of a list would go on over what the notebook's list was, whatever becomes of it.
"""

from __future__ import annotations

import builtins
import gc
import sys
import types
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

_HARMLESS_TWICE = (
    *(type(None), bool, int, float, complex, str, bytes, types.BuiltinFunctionType, types.ModuleType, types.CodeType),
    *(range, type(Ellipsis)),
)
#: They cannot change themselves, but what they hold may.
_TRANSPARENT = (tuple, frozenset, types.MappingProxyType)


def reach(values: Iterable[Any], namespace: Mapping[str, Any], *, most: int = 2**62) -> dict[Hashable, Any]:
    """What can change among all that the values hold: by address, kept alive so that addresses stay what they are.

    Raises OverflowError when there is more to look into than ``most`` objects.
    """
    found: dict[Hashable, Any] = {}
    seen = {id(namespace), id(builtins.__dict__), id(sys.modules)}
    kept = []
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, _HARMLESS_TWICE) or _is_of_a_library(value):
            continue
        seen.add(id(value))
        kept.append(value)
        if len(kept) > most:
            raise OverflowError
        if _is_like(value):
            continue
        if type(value) not in _TRANSPARENT:
            found[id(value)] = value
        if (memory := _memory(value)) is not None:
            found[memory] = value
        waiting += _parts(value)
    found["kept alive"] = kept
    return found


def shared(one: Mapping[Hashable, Any], other: Mapping[Hashable, Any]) -> set[Hashable]:
    """Addresses that both have."""
    return (one.keys() & other.keys()) - {"kept alive"}


def may_be(one: Any, other: Any) -> bool:
    """Whether one object may be what another is where it was made: both are of one kind and look the same."""
    if type(one) is not type(other):
        return False
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(one, numpy.ndarray):
        return bool(one.shape == other.shape and one.dtype == other.dtype and _equal(one, other))
    return not isinstance(one, (list, dict, set, bytearray)) or len(one) == len(other)


def _equal(one: Any, other: Any) -> bool:
    return bool(one.dtype.hasobject or one.tobytes() == other.tobytes())


def _is_of_a_library(value: Any) -> bool:
    if isinstance(value, type):
        return value.__module__ != "__main__"
    return type(value) is dict and "__builtins__" in value and "__name__" in value  # the globals of a module


def _is_like(value: Any) -> bool:
    """Whether a second copy cannot be told from the first: a function without anything that can change."""
    return (
        isinstance(value, types.FunctionType)
        and not value.__closure__
        and not value.__dict__
        and not any(not isinstance(item, _HARMLESS_TWICE) for item in value.__defaults__ or ())
        and not value.__kwdefaults__
    )


def _parts(value: Any) -> list[Any]:
    if isinstance(value, types.FunctionType):
        return [value.__closure__, value.__defaults__, value.__kwdefaults__, value.__dict__]
    parts = gc.get_referents(value)
    if isinstance(value, memoryview):
        parts.append(value.obj)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray):  # tells the collector of nothing that it holds
        parts.append(value.base)
        if value.dtype.hasobject:
            parts += list(value.flat)
    return parts


def _memory(value: Any) -> Hashable | None:
    """Where a tensor's storage lies: tensors of one storage are objects of their own."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor):
        return None
    try:
        return "storage", str(value.device), value.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse ones have no storage of their own
        return None
