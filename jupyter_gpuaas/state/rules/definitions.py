"""Functions and classes: by import where they come from a module, by name where the notebook binds them, else by value.

A function made anew runs in the namespace that it is restored into. Its cells are objects of their own, so two
closures go on sharing one.
"""

from __future__ import annotations

import functools
import gc
import importlib
import sys
import types
from typing import Any

from .classes import reduce_class, reduce_marker
from .compiled import reduce_compiled
from .registry import Context, restoring, rule


def reduce_definition(obj: Any, context: Context, own: frozenset[str]) -> Any:
    """Reduce value of a function or class; None where dill shall decide."""
    if is_importable(obj):
        context.modules.add(obj.__module__)
        return NotImplemented
    name = obj.__name__
    if context.namespace.get(name) is obj and name not in own:
        context.references.add(name)
        return of_namespace, (name,)
    if isinstance(obj, types.FunctionType):
        return _reduce_function(obj, context)
    if obj in _BUILTIN_TYPES:
        return builtin_type, (_BUILTIN_TYPES[obj],)
    if obj.__module__ not in ("__main__", context.namespace.get("__name__")) and obj.__module__ in sys.modules:
        source = getattr(sys.modules[obj.__module__], "__file__", None)
        if source is None and not hasattr(obj, "__dict__"):
            return None
    if "__del__" in vars(obj):
        context.escaped("finalizer")
    return reduce_class(obj)


def is_importable(obj: Any) -> bool:
    """Whether an import of the module and a look along the qualified name give this very object."""
    module = getattr(obj, "__module__", None)
    if not isinstance(module, str) or module == "__main__":
        return False
    found = sys.modules.get(module) or _imported(module)
    if found is None or not is_everywhere(found):
        return False
    for part in obj.__qualname__.split("."):
        found = getattr(found, part, None)
        if found is None:
            return False
    return found is obj


@functools.cache
def _imported(module: str) -> Any:
    """A part of a loaded package that nobody imported yet, though something says that it is from there."""
    if module.partition(".")[0] not in sys.modules:
        return None
    try:
        return importlib.import_module(module)
    except Exception:
        return None


def is_everywhere(module: Any) -> bool:
    """Whether an import in another process gives this module; one that the notebook made has no spec."""
    return getattr(module, "__spec__", None) is not None or getattr(module, "__name__", "") == "__main__"


def _reduce_function(function: types.FunctionType, context: Context) -> Any:
    if function.__dict__ and (compiled := reduce_compiled(function, context)) is not None:
        return compiled
    scope: Any = function.__globals__
    if scope is context.namespace:
        context.codes.append(function.__code__)
    else:
        module = sys.modules.get(scope.get("__name__", ""))
        if module is not None and module.__dict__ is scope and is_everywhere(module):
            context.modules.add(module.__name__)
            scope = ModuleScope(module.__name__)
        elif (home := _module_of(scope, context)) is not None:
            scope = MadeScope(home)
    state = (
        function.__defaults__,
        function.__kwdefaults__,
        function.__dict__ or None,
        function.__annotations__ or None,
        function.__doc__,
        function.__module__,
        getattr(function, "__type_params__", None) or None,
    )
    made = (function.__code__, scope, function.__name__, function.__qualname__, function.__closure__)
    return make_function, made, state, None, None, fill_function


class ModuleScope:
    """Stands for the dictionary of an imported module."""

    def __init__(self, module: str) -> None:
        self.module = module

    def __reduce__(self) -> Any:
        return module_scope, (self.module,)


def module_scope(module: str) -> dict[str, Any]:
    """The globals of functions that belong to a module."""
    return importlib.import_module(module).__dict__


class MadeScope:
    """Stands for the dictionary of a module that the notebook made."""

    def __init__(self, module: types.ModuleType) -> None:
        self.module = module

    def __reduce__(self) -> Any:
        return vars, (self.module,)


def _module_of(scope: dict[str, Any], context: Context) -> types.ModuleType | None:
    """The module whose dictionary this is, whoever has it."""
    if "__name__" not in scope:
        return None
    known = context.memo.setdefault("made modules", {})
    if id(scope) not in known:
        held = [sys.modules.get(scope["__name__"]), context.namespace.get(scope["__name__"])]
        holders = (one for some in (held, gc.get_referrers(scope)) for one in some)
        known[id(scope)] = next(
            (one for one in holders if isinstance(one, types.ModuleType) and one.__dict__ is scope), None
        )
    found: types.ModuleType | None = known[id(scope)]
    return found


def make_function(code: Any, scope: dict[str, Any], name: str, qualname: str, closure: Any) -> types.FunctionType:
    """A function without its defaults and attributes, which may refer to it."""
    function = types.FunctionType(code, scope, name, None, closure)
    function.__qualname__ = qualname
    return function


def fill_function(function: types.FunctionType, state: tuple[Any, ...]) -> None:
    defaults, kwdefaults, attributes, annotations, doc, module, parameters = state
    function.__defaults__, function.__kwdefaults__ = defaults, kwdefaults
    function.__dict__.update(attributes or {})
    function.__annotations__ = annotations or {}
    function.__doc__, function.__module__ = doc, module
    if parameters:
        function.__type_params__ = parameters  # type: ignore[attr-defined]


@rule("builtins.cell", exact=True)
def reduce_cell(cell: Any, context: Context) -> Any:
    try:
        content = (cell.cell_contents,)
    except ValueError:
        return types.CellType, ()
    return types.CellType, (), content, None, None, fill_cell


def fill_cell(cell: Any, content: tuple[Any]) -> None:
    cell.cell_contents = content[0]


@rule("dataclasses._MISSING_TYPE", "dataclasses._KW_ONLY_TYPE", "dataclasses._FIELD_BASE")
@rule("dataclasses._HAS_DEFAULT_FACTORY_CLASS", "typing.TypeVar")
def reduce_mark(obj: Any, context: Context) -> Any:
    name = getattr(obj, "__name__", "")
    if name and name not in context.own and context.namespace.get(name) is obj:
        context.references.add(name)
        return of_namespace, (name,)
    return reduce_marker(obj)


def of_namespace(name: str) -> Any:
    """A definition of the notebook, restored before whatever refers to it."""
    return restoring().namespace[name]


#: Types that the interpreter makes and no module binds.
_BUILTIN_TYPES: dict[type, str] = {
    found: name
    for name, found in vars(types).items()
    if isinstance(found, type) and getattr(sys.modules.get(found.__module__), found.__qualname__, None) is not found
}


def builtin_type(name: str) -> Any:
    return getattr(types, name)
