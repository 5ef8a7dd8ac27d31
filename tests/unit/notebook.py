"""A namespace that is the process's ``__main__``, as a notebook's is."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def as_main(space: types.ModuleType) -> Iterator[dict[str, Any]]:
    """Make a module the process's ``__main__`` for a while."""
    before = sys.modules["__main__"]
    sys.modules["__main__"] = space
    try:
        yield space.__dict__
    finally:
        sys.modules["__main__"] = before


def notebook(source: str = "") -> types.ModuleType:
    """A fresh notebook in which this cell has run."""
    module = types.ModuleType("__main__")
    with as_main(module):
        exec(source, module.__dict__)
    return module
