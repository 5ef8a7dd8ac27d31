"""Local modules of a shipped cell inside the session: found by the import system, and read again when they changed."""

from __future__ import annotations

import ast
import importlib
import importlib.util
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
        if files:
            importlib.invalidate_caches()
        changed = {path for path, digest in files.items() if self._digests.get(path, digest) != digest}
        self._digests.update(files)
        if not changed:
            return
        loaded = _by_file()
        # A module that took something from a changed one by `from x import y` must be read again too.
        names = {module.__name__ for path in changed if (module := loaded.get(path)) is not None}
        for path in files:
            module = loaded.get(path)
            if module is not None and (module.__name__ in names or _uses(module, path, names)):
                names.add(module.__name__)
                importlib.reload(module)


def _uses(module: ModuleType, path: Path, changed: set[str]) -> bool:
    """Whether the module's source imports one of these modules, or something from it."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            if node.level:
                base = importlib.util.resolve_name(base, module.__package__)
            names = {base, *(f"{base}.{alias.name}" for alias in node.names)}
        else:
            continue
        if not names.isdisjoint(changed):
            return True
    return False


def _by_file() -> dict[Path, ModuleType]:
    return {path: module for module in list(sys.modules.values()) if (path := _source(module)) is not None}


def _source(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if isinstance(file, str) and file.endswith(".py") else None
