"""Enum classes by value: their members are made by the metaclass, so they cannot be rebuilt as other classes are."""

from __future__ import annotations

import enum
import types
from typing import Any


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
