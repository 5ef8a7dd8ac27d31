"""Context variables with their value; decimal's context, the current one as the current one."""

from __future__ import annotations

import contextvars
import decimal
import importlib
import sys
from typing import Any

from .registry import Context, NotRestorable, rule


@rule("_contextvars.ContextVar", exact=True)
def reduce_variable(variable: Any, context: Context) -> Any:
    home = _home(variable)
    if home is not None:
        return of_module, home
    context.escaped("contextvars")
    try:
        default: tuple[Any, ...] = (contextvars.Context().run(variable.get),)
    except LookupError:
        default = ()
    here = contextvars.copy_context()
    value = (here[variable],) if variable in here else ()
    if value:
        context.rebuilt("a context variable, set to the value that it had where the cells run")
    return make_variable, (variable.name, default), value or None, None, None, set_variable


def _home(variable: Any) -> tuple[str, str] | None:
    """Module and name of a variable that belongs to an imported module."""
    for name, module in list(sys.modules.items()):
        if getattr(module, "__spec__", None) is None or name == "__main__":
            continue
        for key, value in list(getattr(module, "__dict__", {}).items()):
            if value is variable:
                return name, key
    return None


def of_module(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def make_variable(name: str, default: tuple[Any, ...]) -> Any:
    return contextvars.ContextVar(name, default=default[0]) if default else contextvars.ContextVar(name)


def set_variable(variable: Any, value: tuple[Any]) -> None:
    variable.set(value[0])


@rule("_contextvars.Context", exact=True)
def reduce_context(values: Any, context: Context) -> Any:
    return contextvars.Context, (), list(values.items()), None, None, fill_context


def fill_context(values: Any, items: list[tuple[Any, Any]]) -> None:
    for variable, value in items:
        values.run(variable.set, value)


@rule("_contextvars.Token", exact=True)
def reduce_token(token: Any, context: Context) -> Any:
    raise NotRestorable(f"is the token of a change of the context variable {token.var.name!r}")


@rule("decimal.Context")
def reduce_decimal(numbers: Any, context: Context) -> Any:
    for name in ("DefaultContext", "BasicContext", "ExtendedContext"):
        if numbers is getattr(decimal, name):
            return of_module, ("decimal", name)
    if numbers is decimal.getcontext():
        context.escaped("decimal")
        return current_decimal, numbers.__reduce__()[1]
    return NotImplemented


def current_decimal(*made: Any) -> Any:
    numbers = decimal.Context(*made)
    decimal.setcontext(numbers)
    return numbers
