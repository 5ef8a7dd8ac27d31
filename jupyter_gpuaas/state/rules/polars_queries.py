"""polars: frames and series keep themselves; queries with Python functions in them are told apart."""

from __future__ import annotations

from typing import Any

from .registry import Context, NotRestorable, rule

#: How polars marks a Python function in a serialized plan or expression; after it comes a pickle by cloudpickle.
_FUNCTION_MARKS = (b"PLPYFN", b"PLPYUDF", b"cloudpickle")


@rule("polars.lazyframe.frame.LazyFrame", "polars.expr.expr.Expr")
def reduce_query(query: Any, context: Context) -> Any:
    """By polars, unless there is a Python function in it: polars would copy the variables that it reads."""
    reduced = query.__reduce_ex__(5)
    if any(mark in part for part in reduced if isinstance(part, bytes) for mark in _FUNCTION_MARKS):
        raise NotRestorable("is a polars query with a Python function in it, which polars would cut from the notebook")
    return reduced
