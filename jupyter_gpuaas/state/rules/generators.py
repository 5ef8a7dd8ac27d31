"""Generators and coroutines: one that has not begun is called again, one that has ended has ended.

What runs half way has its place in the frame, which cannot be stored. The exception is the generator expression with
one loop: all that it knows is its iterator, so it goes on with that.
"""

from __future__ import annotations

import dis
import sys
import types
from collections.abc import Iterator
from typing import Any

from .iterators import referents
from .registry import Context, NotRestorable, rule


@rule("builtins.generator", exact=True)
def reduce_generator(generator: Any, context: Context) -> Any:
    return _reduce(generator, "gi", "generator", context)


@rule("builtins.coroutine", exact=True)
def reduce_coroutine(coroutine: Any, context: Context) -> Any:
    return _reduce(coroutine, "cr", "coroutine", context)


@rule("builtins.async_generator", exact=True)
def reduce_async_generator(generator: Any, context: Context) -> Any:
    return _reduce(generator, "ag", "generator (asynchronous)", context)


def _reduce(running: Any, prefix: str, kind: str, context: Context) -> Any:
    frame, code = getattr(running, f"{prefix}_frame"), getattr(running, f"{prefix}_code")
    named = running.__name__, running.__qualname__
    if frame is None:
        return ended, (prefix, *named)
    if getattr(running, f"{prefix}_running"):
        raise NotRestorable(f"is a {kind} that is running")
    if not _is_new(frame, code):
        if not _is_one_loop(code):
            hint = "; replay its cell, or keep a list of its items" if prefix == "gi" else ""
            raise NotRestorable(f"is a {kind} that is half way through{hint}")
        context.rebuilt("a generator expression that goes on with the next item")
    return begun, (_function(running, frame, code, kind), *_arguments(frame, code), *named)


def _is_new(frame: Any, code: types.CodeType) -> bool:
    """Whether its code has not begun: it stands where Python made the generator of the call."""
    if sys.hexversion < 0x30B0000:
        return bool(frame.f_lasti == -1)
    return bool(frame.f_lasti < 0 or code.co_code[frame.f_lasti] == dis.opmap["RETURN_GENERATOR"])


def _is_one_loop(code: types.CodeType) -> bool:
    """Whether this is a generator expression with one loop, whose variables nobody else holds."""
    if code.co_name != "<genexpr>" or code.co_cellvars or code.co_flags & 0x200:  # CO_ASYNC_GENERATOR
        return False
    names = [instruction.opname for instruction in dis.get_instructions(code)]
    loops = [name for name in names if name.startswith("FOR_ITER")]
    return len(loops) == 1 and names.count("YIELD_VALUE") == 1 and not {"SEND", "YIELD_FROM"} & set(names)


def _function(running: Any, frame: Any, code: types.CodeType, kind: str) -> types.FunctionType:
    """The function that was called; since Python 3.11 its frame holds it, ahead of the arguments."""
    for held in referents(running):
        if isinstance(held, types.FunctionType) and held.__code__ is code:
            return held
    if code.co_freevars:
        raise NotRestorable(f"is a {kind} of a function with a closure")
    return types.FunctionType(code, frame.f_globals)


def _arguments(frame: Any, code: types.CodeType) -> tuple[list[Any], dict[str, Any]]:
    """What it was called with, by position and by name."""
    values = dict(frame.f_locals)
    plain = [values[name] for name in code.co_varnames[: code.co_argcount]]
    end = code.co_argcount + code.co_kwonlyargcount
    named = {name: values[name] for name in code.co_varnames[code.co_argcount : end]}
    if code.co_flags & 0x04:  # CO_VARARGS
        plain += values[code.co_varnames[end]]
        end += 1
    if code.co_flags & 0x08:  # CO_VARKEYWORDS
        named |= values[code.co_varnames[end]]
    return plain, named


def begun(function: Any, plain: list[Any], named: dict[str, Any], name: str, qualname: str) -> Any:
    """Call a generator function or coroutine function; that runs none of its code."""
    running = function(*plain, **named)
    running.__name__, running.__qualname__ = name, qualname
    return running


def ended(prefix: str, name: str, qualname: str) -> Any:
    running: Any
    if prefix == "gi":
        running = iter(_no_item())
        running.close()
    elif prefix == "cr":
        running = _nothing()
        running.close()
    else:
        running = _no_items()
        try:
            running.aclose().send(None)
        except StopIteration:
            pass
    running.__name__, running.__qualname__ = name, qualname
    return running


async def _nothing() -> None:
    """Be awaited by nobody."""


def _no_item() -> Iterator[None]:
    yield from ()


async def _no_items() -> Any:
    for item in list[Any]():
        yield item
