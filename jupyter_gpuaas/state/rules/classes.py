"""Classes by value: made empty first and filled then, so that a class may hold itself, its instances and its friends.

Enums are the exception: their members are made by the metaclass, so they are made anew in one go.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import types
import typing
from typing import Any

#: Of a class's dictionary, what the making of the class puts there itself.
_MADE = frozenset({"__dict__", "__weakref__", "__module__", "__qualname__", "__doc__", "__slots__", "_abc_impl"})
_SENTINELS = ("MISSING", "KW_ONLY", "_FIELD", "_FIELD_CLASSVAR", "_FIELD_INITVAR", "_HAS_DEFAULT_FACTORY")


def reduce_class(cls: type) -> tuple[Any, ...]:
    """Reduce value of a class that is not an enum."""
    if typing.is_typeddict(cls):
        return typed_dict, (cls.__name__, dict(cls.__annotations__), getattr(cls, "__total__", True), cls.__module__)
    own = dict(vars(cls))
    slots = own.get("__slots__", ())
    made = _MADE | set((slots,) if isinstance(slots, str) else slots)
    space = {key: own[key] for key in ("__module__", "__qualname__", "__doc__", "__slots__") if key in own}
    state = {key: value for key, value in own.items() if key not in made}
    # Generic wants to be inherited from as it was written, with its type variables.
    bases = own.get("__orig_bases__", cls.__bases__) if issubclass(cls, typing.Generic) else cls.__bases__
    return empty_class, (type(cls), cls.__name__, bases, space), state, None, None, fill_class


def empty_class(metaclass: Any, name: str, bases: tuple[type, ...], space: dict[str, Any]) -> Any:
    """Make the class without its content."""
    return types.new_class(name, bases, {"metaclass": metaclass}, lambda made: made.update(space))


def typed_dict(name: str, fields: dict[str, Any], total: bool, module: str) -> Any:
    """Make a TypedDict anew."""
    made: Any = typing.TypedDict(name, fields, total=total)  # type: ignore[misc]
    made.__module__ = module
    return made


def fill_class(cls: type, state: dict[str, Any]) -> None:
    """Give the class its content."""
    for key, value in state.items():
        type.__setattr__(cls, key, value)


def reduce_marker(obj: Any) -> Any:
    """Reduce value of what is compared by identity or known by its name only; NotImplemented for all else."""
    kind = type(obj)
    if kind.__module__ == "dataclasses":
        for name in _SENTINELS:
            if obj is getattr(dataclasses, name, None):
                return sentinel, (name,)
    if kind is typing.TypeVar:
        return type_variable, (
            obj.__name__,
            obj.__constraints__,
            obj.__bound__,
            obj.__covariant__,
            obj.__contravariant__,
        )
    return NotImplemented


def sentinel(name: str) -> Any:
    """One of the marks that dataclasses puts into fields."""
    return getattr(importlib.import_module("dataclasses"), name)


def type_variable(name: str, constraints: tuple[Any, ...], bound: Any, covariant: bool, contravariant: bool) -> Any:
    """Make a type variable anew."""
    return typing.TypeVar(name, *constraints, bound=bound, covariant=covariant, contravariant=contravariant)


def reduce_enum(cls: type[enum.Enum], module: str) -> tuple[Any, ...] | None:
    """Reduce value of an enum class that was defined in this module; None if it cannot be taken apart."""
    made = cls.__dict__.get("__new_member__")
    if getattr(made, "__module__", None) == module:
        return None  # Its own __new__ turned what was written into values; that cannot be undone.
    members = [(name, member.value) for name, member in cls.__members__.items()]
    methods = {
        name: value
        for name, value in cls.__dict__.items()
        if getattr(_function(value), "__module__", None) == module and name not in ("_generate_next_value_", "__new__")
    }
    return enum_class, (cls.__name__, cls.__qualname__, module, cls.__bases__, members, methods, cls.__doc__)


def enum_class(
    name: str,
    qualname: str,
    module: str,
    bases: tuple[type, ...],
    members: list[tuple[str, Any]],
    methods: dict[str, Any],
    doc: str | None,
) -> Any:
    """Make the class anew."""

    def fill(space: Any) -> None:
        space["__module__"], space["__qualname__"], space["__doc__"] = module, qualname, doc
        for key, value in [*methods.items(), *members]:
            space[key] = value

    return types.new_class(name, bases, exec_body=fill)


def _function(value: Any) -> Any:
    if isinstance(value, property):
        return value.fget
    return getattr(value, "__func__", value) if not isinstance(value, enum.Enum) else None
