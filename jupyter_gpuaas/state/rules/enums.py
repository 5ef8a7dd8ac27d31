"""Members of the notebook's enums: found by name in a class that is there, made with a class that is not.

A member is made empty, past ``__new__`` and ``__init__`` of the user's, and gets what they gave to it: they may have
turned what was written into something else, and the cell may have set attributes since.
"""

from __future__ import annotations

import copyreg
import enum
from typing import Any

from .definitions import is_importable
from .registry import Context, NotRestorable, rule

#: Of a type's flags: made by a class statement (``Py_TPFLAGS_HEAPTYPE``).
_BY_STATEMENT = 1 << 9


@rule("enum.Enum")
def reduce_member(member: enum.Enum, context: Context) -> Any:
    cls = type(member)
    if is_importable(cls):
        return NotImplemented
    if context.namespace.get(cls.__name__) is cls and cls.__name__ not in context.own:
        name = member._name_
        if cls._member_map_.get(name) is member:
            return member_of, (cls, name)
        return NotImplemented  # a union of flags, which the class makes of its value
    slots = {name: getattr(member, name) for name in copyreg._slotnames(cls) if hasattr(member, name)}  # type: ignore[attr-defined]
    made = (cls, *_root_arguments(member))
    return empty_member, made, (dict(vars(member)), slots), None, None, fill_member


def _root(cls: type) -> Any:
    """The type that gives the members their memory: ``object``, ``int``, ``str`` …."""
    while cls.__flags__ & _BY_STATEMENT:
        cls = cls.__base__  # type: ignore[assignment]
    return cls


def _root_arguments(member: enum.Enum) -> tuple[Any, ...]:
    root = _root(type(member))
    if root is object:
        return ()
    if not hasattr(root, "__getnewargs__"):
        raise NotRestorable(f"is or needs the Enum {type(member).__name__}, whose members are of {root.__qualname__}")
    arguments: tuple[Any, ...] = root.__getnewargs__(member)
    return arguments


def member_of(cls: type[enum.Enum], name: str) -> Any:
    return cls._member_map_[name]


def empty_member(cls: type[enum.Enum], *arguments: Any) -> Any:
    return _root(cls).__new__(cls, *arguments)


def fill_member(member: Any, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    attributes, slots = state
    member.__dict__.update(attributes)
    for name, value in slots.items():
        object.__setattr__(member, name, value)
