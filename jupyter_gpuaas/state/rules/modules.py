"""Modules: by import, the notebook's own by its namespace, and modules that the notebook made by their content."""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

from .definitions import is_everywhere
from .registry import Context, restoring, rule


@rule("builtins.module")
def reduce_module(module: types.ModuleType, context: Context) -> Any:
    if module.__dict__ is context.namespace:
        return main_module, ()
    if sys.modules.get(str(module.__name__)) is module and is_everywhere(module):
        context.modules.add(module.__name__)
        return importlib.import_module, (module.__name__,)
    context.rebuilt("a module made by the notebook, from its content")
    registered = [name for name, known in list(sys.modules.items()) if known is module]
    content = {name: value for name, value in vars(module).items() if name not in ("__builtins__", "__loader__")}
    return types.ModuleType, (module.__name__,), (content, registered), None, None, fill_module


def fill_module(module: Any, state: tuple[dict[str, Any], list[str]]) -> None:
    content, registered = state
    module.__dict__.update(content)
    for name in registered:
        sys.modules[name] = module


def main_module() -> Any:
    """The module whose variables are the restored namespace, where there is one."""
    namespace = restoring().namespace
    main = sys.modules["__main__"]
    if main.__dict__ is namespace:
        return main
    made = types.ModuleType("__main__")
    made.__dict__.update(namespace)
    return made
