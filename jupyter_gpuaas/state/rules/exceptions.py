"""Exceptions: with their causes, made without running the user's ``__init__`` on arguments that it never had.

Pickle calls the class with ``args``, which is what the class gave to ``Exception``, not what it was called with.
Tracebacks hold the frames of the code that ran, and go.
"""

from __future__ import annotations

import builtins
from typing import Any

from .registry import Context, rule


@rule("builtins.BaseException")
def reduce_exception(error: Any, context: Context) -> Any:
    if error.__traceback__ is not None:
        context.rebuilt("an exception without its traceback")
    made = error.__reduce_ex__(5)
    if isinstance(made, str) or len(made) > 3:
        return made
    function, args, *state = made
    kind = type(error)
    base = next(base for base in kind.__mro__ if getattr(builtins, base.__name__, None) is base)
    own = set().union(*(vars(cls) for cls in kind.__mro__[: kind.__mro__.index(base)]))
    if function is kind and own & {"__init__", "__new__"} and not own & {"__reduce__", "__reduce_ex__"}:
        function, args = make_exception, (kind, base, args)
    attributes = state[0] if state else None
    name = error.name if isinstance(error, (NameError, AttributeError)) else None
    links = (error.__cause__, error.__context__, error.__suppress_context__, name)
    if attributes is None and links == (None, None, False, None):
        return function, args
    return function, args, (attributes, *links), None, None, fill_exception


def make_exception(kind: Any, base: Any, args: tuple[Any, ...]) -> Any:
    error = base.__new__(kind, *args)
    base.__init__(error, *args)
    return error


def fill_exception(error: Any, state: tuple[Any, ...]) -> None:
    attributes, cause, context, suppress, name = state
    if attributes is not None:
        error.__setstate__(attributes)
    error.__cause__, error.__context__, error.__suppress_context__ = cause, context, suppress
    if name is not None:
        error.name = name
