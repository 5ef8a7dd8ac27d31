"""What a kernel that waits for its session does ahead: what that needs for its first checkpoint, or to come here.

None of it is a package that the user's code might import: how those are imported is the session's matter, by its
environment.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any


def steps_ahead(namespace: dict[str, Any]) -> Iterator[None]:
    """Each takes some tens of milliseconds at most. What is left out is done when it is needed."""
    importlib.import_module(".checkpoints", __package__)
    yield
    importlib.import_module(".standby", __package__)
    importlib.import_module("dill")
    yield
    from ..state.rules.registry import find_rule

    find_rule(object)  # imports all rules
    yield
    from ..state.hidden import mark_baseline

    mark_baseline(namespace)  # what has not changed until the session comes is not looked at again
    yield
