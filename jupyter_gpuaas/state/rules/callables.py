"""Things that are called: cached functions, methods of objects that a module owns; and what has a method for state."""

from __future__ import annotations

import functools
import importlib
import sys
import types
from typing import Any

from .definitions import is_importable
from .iterators import referents
from .registry import Context, rule


@rule("functools._lru_cache_wrapper", exact=True)
def reduce_cached(function: Any, context: Context) -> Any:
    if is_importable(function):
        context.modules.add(function.__module__)
        return function.__qualname__
    if function.cache_info().currsize:
        context.rebuilt("a function with an empty cache (functools.lru_cache)")
    parameters = function.cache_parameters()
    attributes = {name: value for name, value in vars(function).items() if name != "cache_parameters"}
    return make_cached, (function.__wrapped__, parameters["maxsize"], parameters["typed"]), attributes


def make_cached(function: Any, maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


@rule("functools.KeyWrapper", exact=True)
def reduce_key(key: Any, context: Context) -> Any:
    # The comparison, then what is compared, if this is not the factory itself.
    return make_key, tuple(referents(key))


def make_key(compare: Any, *compared: Any) -> Any:
    factory: Any = functools.cmp_to_key(compare)
    return factory(*compared) if compared else factory


@rule("builtins.method", exact=True)
def reduce_method(method: Any, context: Context) -> Any:
    return _of_module(method, context) or (types.MethodType, (method.__func__, method.__self__))


@rule("builtins.builtin_function_or_method", exact=True)
def reduce_builtin(function: Any, context: Context) -> Any:
    owner = function.__self__
    if owner is None or isinstance(owner, (types.ModuleType, type)):
        return NotImplemented
    return _of_module(function, context) or NotImplemented


def _of_module(method: Any, context: Context) -> Any:
    """Reduce value of a method that a module offers as its function, such as ``random.choice``.

    Its object belongs to the module; a copy would draw numbers of its own.
    """
    home = type(method.__self__).__module__
    name = getattr(method, "__name__", "")
    offered = getattr(sys.modules.get(home), name, None)
    if home in ("builtins", "__main__") or type(offered) is not type(method) or offered != method:
        return None
    context.modules.add(home)
    return attribute_of, (home, name)


def attribute_of(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


@rule("random.SystemRandom")
def reduce_system_random(generator: Any, context: Context) -> Any:
    return type(generator), (), dict(vars(generator)), None, None, set_attributes


def set_attributes(obj: Any, attributes: dict[str, Any]) -> None:
    """Set them past a ``__setstate__`` that means something else."""
    obj.__dict__.update(attributes)


@rule("_struct.Struct", exact=True)
def reduce_struct(struct: Any, context: Context) -> Any:
    return attribute_called, ("struct", "Struct", struct.format)


def attribute_called(module: str, name: str, *args: Any) -> Any:
    return attribute_of(module, name)(*args)
