"""Modules that the notebook's cells import for what the import does, without keeping them under a name.

Whatever the namespace needs is imported by unpickling. Here are the names that import statements of cells gave, in
order, so that ``import readline`` or a plugin that registers itself happens again.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from typing import Any

from .world import Hidden, Kind, Losses


class Imports(Kind):
    kind = "imports"

    def __init__(self) -> None:
        self._seen: dict[str, None] = {}

    def mark(self, world: Hidden) -> None:
        self._seen = {}

    def look(self, world: Hidden) -> Any:
        if world.mentions("import"):
            for name in imported(world.tree):
                spec = getattr(sys.modules.get(name), "__spec__", None)
                if spec is not None and name != "__main__":
                    self._seen[name] = None
        return list(self._seen)

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
