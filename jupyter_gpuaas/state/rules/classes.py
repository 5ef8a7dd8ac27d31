"""Classes by value: made empty first and filled then, so that a class may hold itself, its instances and its friends.

Nothing that the notebook wrote runs when a class is made again: its metaclass did its work when the cell ran, and so
did ``__init_subclass__`` and ``__set_name__``; what they left is in the classes and in the variables.
"""

from __future__ import annotations

import _abc  # type: ignore[import-not-found]
import abc
import dataclasses
import importlib
import types
import typing
import weakref
from functools import partial
from typing import Any

from .registry import restoring

#: Of a class's dictionary, what the making of the class puts there itself, and what copyreg does when it pickles one.
_MADE = frozenset({"__module__", "__qualname__", "__doc__", "__slots__", "__slotnames__", "_abc_impl"})
#: Metaclasses of these do nothing but fill the class, which is done from what they filled it with.
_FILLING = frozenset({"builtins", "abc", "enum", "typing", "typing_extensions"})
_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_SENTINELS = ("MISSING", "KW_ONLY", "_FIELD", "_FIELD_CLASSVAR", "_FIELD_INITVAR", "_HAS_DEFAULT_FACTORY")
#: In the content of a class: the classes that were registered with it, and the hook for its subclasses.
_REGISTERED, _HOOK = "_abc_impl", "__init_subclass__"

#: Metaclasses that were made here.
_metaclasses: weakref.WeakSet[type] = weakref.WeakSet()


def reduce_class(cls: type) -> tuple[Any, ...]:
    """Reduce value of a class."""
    own = dict(type.__getattribute__(cls, "__dict__"))
    space = {key: own[key] for key in ("__module__", "__doc__", "__slots__") if key in own}
    space["__qualname__"] = type.__dict__["__qualname__"].__get__(cls)
    state = {key: value for key, value in own.items() if key not in _MADE and not _is_slot(value, cls)}
    if _REGISTERED in own and (registered := [found for ref in _abc._get_dump(cls)[0] if (found := ref()) is not None]):
        state[_REGISTERED] = registered
    if issubclass(cls, typing.Generic) and "__orig_bases__" in own:
        space["__orig_bases__"] = state.pop("__orig_bases__")  # Generic refuses to be inherited from without
    return empty_class, (type(cls), cls.__name__, cls.__bases__, space), state, None, None, fill_class


def _is_slot(value: Any, cls: type) -> bool:
    return type(value) in _DESCRIPTORS and value.__objclass__ is cls


def empty_class(metaclass: Any, name: str, bases: tuple[type, ...], space: dict[str, Any]) -> Any:
    """Make the class without its content."""
    maker = next(base for base in metaclass.__mro__ if base not in _metaclasses)
    space = dict(space)
    if maker.__module__ in _FILLING:
        made = type.__new__(metaclass, name, bases, space)
        if issubclass(metaclass, abc.ABCMeta):
            _abc._abc_init(made)
    else:
        made = maker.__new__(metaclass, name, bases, space)
        maker.__init__(made, name, bases, space)
    if issubclass(made, type):
        _metaclasses.add(made)
    return made


def fill_class(cls: type, state: dict[str, Any]) -> None:
    """Give the class its content."""
    for key, value in state.items():
        if key == _REGISTERED:
            for registered in value:
                _abc._abc_register(cls, registered)
        elif key == _HOOK:
            # Not before all classes are made, as it has seen them.
            restoring().finally_.append(partial(type.__setattr__, cls, _HOOK, value))
        else:
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
