"""Filters of the warnings module."""

from __future__ import annotations

import importlib
import re
import warnings
from typing import Any, cast

from .world import Hidden, Kind, made_by_notebook, remark


class WarningFilters(Kind):
    kind = "warnings"

    def look(self, world: Hidden) -> Any:
        return [
            f"{action} {category.__name__}"
            if made_by_notebook(category, world.namespace)
            else (action, _text(message), _where(category), _text(module), line)
            for action, message, category, module, line in cast("list[Any]", warnings.filters)
        ]

    def put_back(self, value: Any, world: Hidden) -> None:
        made: list[Any] = []
        for entry in value:
            if isinstance(entry, str):
                remark(f"the warnings filter {entry!r} is of a class of the notebook and was not set again")
                continue
            action, message, where, module, line = entry
            category = _found(where)
            if category is None:
                remark(f"the warnings filter for {'.'.join(where)} was not set again: it cannot be imported")
                continue
            made.append((action, _pattern(message), category, _pattern(module), line))
        filters = cast("list[Any]", warnings.filters)
        filters[:] = made
        mutated = getattr(warnings, "_filters_mutated", None) or getattr(warnings, "_filters_mutated_lock_held", None)
        if mutated is not None:
            mutated()


def _text(pattern: Any) -> Any:
    """A compiled pattern as text and flags; filters that come from the command line are plain text."""
    return (pattern.pattern, pattern.flags) if hasattr(pattern, "pattern") else pattern


def _pattern(text: Any) -> Any:
    return re.compile(*text) if isinstance(text, tuple) else text


def _where(category: Any) -> tuple[str, str]:
    return category.__module__, category.__qualname__


def _found(where: tuple[str, str]) -> Any:
    try:
        found: Any = importlib.import_module(where[0])
        for part in where[1].split("."):
            found = getattr(found, part)
    except Exception:
        return None
    return found if isinstance(found, type) and issubclass(found, Warning) else None
