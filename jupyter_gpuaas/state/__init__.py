"""The state of a Python namespace, with its device memory: captured into checkpoints and restored from them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpointer import Checkpoint, Checkpointer, Diff, Pending, RestoreResult
    from .lost import NameLost
    from .recipes import CellRecord
    from .rules.registry import NotRestorable

__all__ = ["CellRecord", "Checkpoint", "Checkpointer", "Diff", "NameLost", "NotRestorable", "Pending", "RestoreResult"]

_HOMES = {"CellRecord": "recipes", "NameLost": "lost", "NotRestorable": "rules.registry"}


def __getattr__(name: str) -> Any:
    """Import the library when it is asked for: a kernel that starts needs only small parts of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'checkpointer')}"), name)
