"""Local modules of a cell: the Python files that are in the notebook's folder and that the cell imports."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from jupyter_gpuaas.state.bundle import FileHead
from jupyter_gpuaas.state.files import digest_bytes


class LocalModule(msgspec.Struct, frozen=True):
    """One source file; ``path`` is relative to the notebook's folder."""

    name: str
    path: str
    #: Folder below the notebook's in which it is found, ``.`` for this one itself.
    folder: str


class LocalModules:
    """Finds local modules and what they import themselves.

    Parameters
    ----------
    root
        The notebook's folder. What the import system would find elsewhere first is not local.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._imports: dict[Path, tuple[tuple[int, int], frozenset[str]]] = {}

    def used(self, names: Iterable[str]) -> list[LocalModule]:
        """The local files behind these module names, what is imported first first."""
        ordered: dict[str, LocalModule] = {}
        visiting: set[str] = set()

        def visit(name: str) -> None:
            for module in self._files(name):
                if module.path in ordered or module.path in visiting:
                    continue
                visiting.add(module.path)
                package = module.name if module.path.endswith("__init__.py") else module.name.rpartition(".")[0]
                for other in self._imported(self._root / module.path, package):
                    visit(other)
                ordered[module.path] = module

        for name in sorted(names):
            visit(name)
        return list(ordered.values())

    def _folders(self) -> Iterator[Path]:
        for entry in ["", *sys.path]:
            folder = Path(entry or os.getcwd()).resolve()
            if folder.is_relative_to(self._root) and not _is_library(folder):
                yield folder

    def _files(self, name: str) -> list[LocalModule]:
        """The file of a module and those of the packages around it; none if it is not local."""
        parts = [part for part in name.split(".") if part]
        if not parts or parts[0] in sys.stdlib_module_names:
            return []
        for folder in self._folders():
            found: list[LocalModule] = []
            place = folder
            for index, part in enumerate(parts):
                place = place / part
                full = ".".join(parts[: index + 1])
                if (place / "__init__.py").is_file():
                    found.append(self._module(full, place / "__init__.py", folder))
                elif place.with_suffix(".py").is_file():
                    found.append(self._module(full, place.with_suffix(".py"), folder))
                    break
                elif not place.is_dir():
                    break  # `from module import name` asks for module.name too.
            if found:
                return found
        return []

    def _module(self, name: str, file: Path, folder: Path) -> LocalModule:
        inside = folder.relative_to(self._root)
        return LocalModule(name, file.relative_to(self._root).as_posix(), inside.as_posix())

    def _imported(self, file: Path, package: str) -> frozenset[str]:
        status = file.stat()
        state = (status.st_mtime_ns, status.st_size)
        known = self._imports.get(file)
        if known is None or known[0] != state:
            known = (state, _imports(file, package))
            self._imports[file] = known
        return known[1]


def describe(root: Path, module: LocalModule) -> tuple[FileHead, bytes]:
    """A module's file as it is now."""
    file = root / module.path
    content = file.read_bytes()
    digest = digest_bytes(content)
    return FileHead(module.path, len(content), file.stat().st_mtime_ns, digest, os.access(file, os.X_OK)), content


def _imports(file: Path, package: str) -> frozenset[str]:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return frozenset()  # The remote session will say what is wrong with it.
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
    return frozenset(names)


def _is_library(folder: Path) -> bool:
    return "site-packages" in folder.parts or "dist-packages" in folder.parts or (folder / "pyvenv.cfg").exists()
