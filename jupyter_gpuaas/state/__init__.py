"""The state of a Python namespace, with its device memory: captured into checkpoints and restored from them."""

from .checkpointer import Checkpoint, Checkpointer, Diff, Pending, RestoreResult
from .lost import NameLost
from .rules.registry import NotRestorable

__all__ = ["Checkpoint", "Checkpointer", "Diff", "NameLost", "NotRestorable", "Pending", "RestoreResult"]
