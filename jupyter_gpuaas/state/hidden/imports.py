"""Modules that the notebook's cells import for what the import does, without keeping them under a name.

Whatever the namespace needs is imported by unpickling. Here are the names that import statements of cells gave, in
order, so that ``import readline`` or a plugin that registers itself happens again; and what was loaded below the
packages that the namespace binds, as ``scipy.stats`` works once anybody has imported it.
"""

from __future__ import annotations

import ast
import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any

from .world import Hidden, Kind, Losses


class Imports(Kind):
    kind = "imports"

    def __init__(self) -> None:
        self._seen: dict[str, None] = {}
        #: What was there before the notebook.
        self._before = frozenset(sys.modules)
        #: Of the last look: how many modules there were, the packages in the namespace, what was visible below them.
        self._below: tuple[int, set[str], list[str]] = (0, set(), [])

    def mark(self, world: Hidden) -> None:
        self._seen = {}
        self._before = frozenset(sys.modules)

    def look(self, world: Hidden) -> Any:
        if world.mentions("import"):
            for name in imported(world.tree):
                spec = getattr(sys.modules.get(name), "__spec__", None)
                if spec is not None and name != "__main__":
                    self._seen[name] = None
        return list(dict.fromkeys([*self._seen, *self._visible(world)]))

    def _visible(self, world: Hidden) -> list[str]:
        """Modules that were loaded since the start and are attributes below a package that the namespace binds."""
        packages = {
            str(vars(value).get("__name__"))
            for value in list(world.namespace.values())
            if type(value) is types.ModuleType and "__path__" in vars(value)
        }
        count = len(sys.modules)
        if self._below[:2] != (count, packages):
            below = [f"{name}." for name in packages]
            found = [
                name
                for name, module in list(sys.modules.items())
                if name not in self._before and name.startswith(tuple(below)) and _is_visible(name, module)
            ]
            self._below = count, packages, found
        return self._below[2]

    def put_back(self, value: Any, world: Hidden) -> None:
        self._seen = dict.fromkeys(value)
        losses = Losses()
        for name in value:
            if name not in sys.modules:
                try:
                    importlib.import_module(name)
                except Exception as error:
                    losses.add(f"module {name} cannot be imported here: {type(error).__name__}: {error}")
        losses.told()


def _is_visible(name: str, module: Any) -> bool:
    """Whether it is an attribute of its package, by a path without private parts and by its own name."""
    package, _, last = name.rpartition(".")
    if "._" in name or type(module) is not types.ModuleType:
        return False
    spec = vars(module).get("__spec__")
    parent = sys.modules.get(package)
    return getattr(spec, "name", None) == name and getattr(parent, "__dict__", {}).get(last) is module


def imported(tree: ast.Module) -> Iterator[str]:
    """Names of modules that the code imports when it runs, not when what it defines is called."""
    waiting: list[ast.AST] = list(reversed(tree.body))
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            if not node.level and node.module:
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _name(node.func) in ("import_module", "__import__"):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value
        waiting.extend(reversed(list(ast.iter_child_nodes(node))))


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
