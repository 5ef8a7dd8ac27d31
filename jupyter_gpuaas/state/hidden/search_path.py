"""``sys.path`` and ``sys.argv``, as far as the notebook has changed them."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from .world import Hidden, Kind, remark


class SearchPath(Kind):
    """Kept whole, together with the baseline: where that is another, only what the notebook added or took moves."""

    kind = "sys.path"

    def __init__(self) -> None:
        self._baseline = list(sys.path)
        self._arguments = list(sys.argv)

    def mark(self, world: Hidden) -> None:
        self._baseline = list(sys.path)
        self._arguments = list(sys.argv)

    def look(self, world: Hidden) -> Any:
        arguments = None if sys.argv == self._arguments else [str(argument) for argument in sys.argv]
        if sys.path == self._baseline:
            return {"path": None, "baseline": None, "argv": arguments}
        return {"path": [str(entry) for entry in sys.path], "baseline": list(self._baseline), "argv": arguments}

    def put_back(self, value: Any, world: Hidden) -> None:
        if value["path"] is not None:
            value = {**value, "path": [world.here(entry) for entry in value["path"]]}
        if value["path"] is None:
            wanted = list(self._baseline)
        elif value["baseline"] == self._baseline:
            wanted = list(value["path"])
        else:
            wanted = _moved(value["path"], value["baseline"], self._baseline)
        if sys.path != wanted:
            sys.path[:] = wanted
            importlib.invalidate_caches()
        sys.argv[:] = self._arguments if value["argv"] is None else value["argv"]
        for entry in wanted:
            if entry and entry not in self._baseline and not os.path.exists(entry):
                remark(f"sys.path has {entry}, which does not exist here")


def _moved(path: list[str], baseline: list[str], here: list[str]) -> list[str]:
    """This process's baseline with the same entries added and removed; each added one follows what it followed."""
    moved = [entry for entry in here if entry in path or entry not in baseline]
    at = 0
    for entry in path:
        if entry in baseline:
            at = moved.index(entry, at) + 1 if entry in moved[at:] else at
        elif entry not in moved:
            moved.insert(at, entry)
            at += 1
    return moved
