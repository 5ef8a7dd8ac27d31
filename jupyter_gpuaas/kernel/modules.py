"""Local modules of a shipped cell inside the session: found by the import system, and read again when they changed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType


class LocalModules:
    """What this process has imported from files that came with cells."""

    def __init__(self) -> None:
        self._digests: dict[Path, str] = {}

    def add_paths(self, root: Path, paths: Sequence[str]) -> None:
        """Let modules be found in these folders below the working folder."""
        for path in paths:
            folder = str((root / path).resolve())
            if folder not in sys.path and not (path == "." and "" in sys.path):
                sys.path.insert(0, folder)

    def renew(self, files: Mapping[Path, str]) -> None:
        """Import changed modules again, in place, so that who holds the module sees the change.

        Parameters
        ----------
        files
            Source file -> digest, what is imported first first.
        """
        importlib.invalidate_caches()
        loaded = _by_file()
        changed = {path for path, digest in files.items() if self._digests.get(path, digest) != digest}
        self._digests.update(files)
        if not changed:
            return
        # A module that took something from a changed one by `from x import y` must be read again too.
        for path in files:
            module = loaded.get(path)
            if module is not None and (path in changed or _uses(module, changed)):
                changed.add(path)
                importlib.reload(module)


def _uses(module: ModuleType, changed: set[Path]) -> bool:
    names = {getattr(value, "__module__", None) or getattr(value, "__name__", None) for value in vars(module).values()}
    sources = {_source(sys.modules.get(name)) for name in names if isinstance(name, str)}
    return not changed.isdisjoint(source for source in sources if source is not None and source != _source(module))


def _by_file() -> dict[Path, ModuleType]:
    return {path: module for module in list(sys.modules.values()) if (path := _source(module)) is not None}


def _source(module: ModuleType | None) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if isinstance(file, str) and file.endswith(".py") else None
