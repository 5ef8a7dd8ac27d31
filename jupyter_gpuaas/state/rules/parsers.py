"""argparse: its mark for what is suppressed is a string that is known by identity."""

from __future__ import annotations

import argparse
from typing import Any

from .registry import Context, rule


@rule("argparse.Action", "argparse._ActionsContainer")
def reduce_parser(parser: Any, context: Context) -> Any:
    return bare, (type(parser),), dict(vars(parser)), None, None, fill_parser


def bare(kind: Any) -> Any:
    return kind.__new__(kind)


def fill_parser(parser: Any, state: dict[str, Any]) -> None:
    for name, value in state.items():
        is_mark = isinstance(value, str) and value == argparse.SUPPRESS
        parser.__dict__[name] = argparse.SUPPRESS if is_mark else value
