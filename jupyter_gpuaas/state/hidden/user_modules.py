"""Variables of the user's own modules, which no name of the namespace holds: ``settings.mode = "fast"``.

An import in another process gives the module as its file makes it. Kept is what its variables and the attributes of its
classes are now: numbers, texts, containers and arrays, where they are not as the source says in so many words. Other
objects are kept once they changed after they were first seen: a copy would take the place of what the module's code may
know otherwise, so what is as the import makes it stays that, and the user is told. Functions and classes come with the
import, and what the notebook defined and put there is a patch. Loggers have a kind of their own.
"""

from __future__ import annotations

import ast
import contextlib
import enum
import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import xxhash

from ..pickler import dump
from ..retained import is_users_module
from ..rules.definitions import is_importable
from ..rules.registry import Context, NotRestorable
from .stores import Place
from .world import Hidden, Kind, Losses, Unkept, keep, kept, remark

_MISSING = object()
_SCALARS = (type(None), bool, int, float, complex, str, bytes)
_PLAIN = (*_SCALARS, list, tuple, dict, set, frozenset)
#: Of a module or class, what says what it is, and what Python keeps there for itself.
_OF_IMPORT = frozenset({"_abc_impl"})
_DESCRIPTORS = (
    *(types.FunctionType, staticmethod, classmethod, property, types.MemberDescriptorType, types.GetSetDescriptorType),
    *(types.ModuleType, types.BuiltinFunctionType),
)
#: Where containers and arrays are from that are kept as they are.
_OF_DATA = frozenset({"collections", "numpy", "pandas", "polars", "torch", "array"})
#: Syntax that runs nobody's code.
_IDLE = (ast.Module, ast.Expr, ast.Pass, ast.Constant, ast.Assign, ast.Name, ast.expr_context)


class UserModules(Kind):
    kind = "modules"

    def __init__(self) -> None:
        self._before: frozenset[str] | None = None
        self._loaded = 0
        self._users: list[str] = []
        #: By module: what its source says that its variables are.
        self._written: dict[str, dict[tuple[str, str], Any]] = {}
        #: By place: what is known of other objects from when they were first seen.
        self._first: dict[Place, tuple[int, str]] = {}
        #: Modules that have been looked at.
        self._seen: set[str] = set()
        #: Places that were kept once, by this process or by the one before.
        self._kept: set[Place] = set()
        self._value: dict[str, Any] = {}
        #: Objects other than modules that the notebook put among them, by the name of the module.
        self._stand_ins: dict[str, Any] = {}

    def mark(self, world: Hidden) -> None:
        self._before = frozenset(sys.modules)
        self._loaded = 0
        self._written.clear()
        self._first.clear()
        self._seen.clear()
        self._kept.clear()
        self._value = {}
        self._stand_ins = {}

    # -- finding -----------------------------------------------------------------------------------------------

    def look(self, world: Hidden) -> Any:
        modules = self._modules(world)
        if not world.full and world.cell is not None and self._value and _is_idle(world.tree):
            return self._value
        if world.full or world.mentions("modules"):
            self._stand_ins = _stand_ins(world)
        if not modules and not self._stand_ins:
            return None
        places: dict[Place, Any] = {}
        made_by_import: list[Place] = []
        for name in modules:
            for place, value in _variables(name):
                if _are_same(self._said_of(name).get(place[1:], _MISSING), value):
                    continue
                if self._is_as_imported(place, value, world):
                    made_by_import.append(place)
                    continue
                stored = value if isinstance(value, _SCALARS) else keep(value, world)
                if isinstance(stored, Unkept):
                    stored = Unkept(f"{stored.reason}; it is what the import makes of it")
                self._kept.add(place)
                places[place] = stored
        self._seen.update(modules)
        self._value = {"modules": modules, "places": places, "as imported": made_by_import}
        self._value["stand-ins"] = self._stand_ins
        return self._value

    def _is_as_imported(self, place: Place, value: Any, world: Hidden) -> bool:
        kind = type(value)
        if place in self._kept or kind in _PLAIN or kind.__module__.partition(".")[0] in _OF_DATA:
            return False
        if place[0] in self._seen and place not in self._first:
            return False  # it was put there later
        now = id(value), _digest(value, world)
        return self._first.setdefault(place, now) == now

    def _modules(self, world: Hidden) -> list[str]:
        """The user's modules that were loaded since the start; where nobody said when that was, those with a name."""
        if self._before is None:
            return _reached(world.namespace)
        if len(sys.modules) != self._loaded:
            self._loaded = len(sys.modules)
            self._users = [
                name
                for name, module in list(sys.modules.items())
                if name not in self._before and is_users_module(name, module) and _is_imported(name, module)
            ]
        return [name for name in self._users if name in sys.modules]

    def _said_of(self, name: str) -> dict[tuple[str, str], Any]:
        said = self._written.get(name)
        if said is None:
            said = self._written[name] = dict(_literals(sys.modules[name]))
        return said

    # -- restoring ---------------------------------------------------------------------------------------------

    def put_back(self, value: Any, world: Hidden) -> None:
        losses = Losses()
        for name in self._stand_ins.keys() - value["stand-ins"].keys():
            sys.modules.pop(name, None)
        for name, stored in value["stand-ins"].items():
            try:
                sys.modules[name] = kept(stored, world.namespace)
            except NotRestorable as error:
                losses.add(f"what stood for module {name} {error}")
        self._stand_ins = dict(value["stand-ins"])
        for name in value["modules"]:
            try:
                importlib.import_module(name)
            except Exception as error:
                losses.add(f"variables of module {name} are not there, as it cannot be imported here: {error}")
                continue
            self._set_back(name, value, losses)
        places = value["places"]
        self._kept.update(places)
        self._value = {}
        for place in list(places):
            stored = places.pop(place)  # from here on, who else holds it has it from elsewhere
            owner = _owner(place)
            if owner is None:
                if place[0] in sys.modules:
                    losses.add(f"{_told(place)} cannot be set, as {place[1]} is not there")
                continue
            try:
                if sys.getrefcount(stored) > 2 or not _filled(vars(owner).get(place[2]), stored):
                    setattr(owner, place[2], kept(stored, world.namespace))
            except NotRestorable as error:
                losses.add(f"{_told(place)} {error}")
            except Exception as error:
                losses.add(f"{_told(place)} cannot be set: {error}")
        if value["as imported"]:
            remark(f"as their import makes them: {', '.join(map(_told, value['as imported']))}")
        losses.told()

    def _set_back(self, name: str, value: Any, losses: Losses) -> None:
        """What was as the source says, and what was not there, in a process that went on since."""
        said = self._said_of(name)
        spared = {*value["places"], *value["as imported"]}
        for place, now in list(_variables(name)):
            written = said.get(place[1:], _MISSING)
            if place in spared or _are_same(written, now):
                continue
            owner = _owner(place)
            with contextlib.suppress(AttributeError, TypeError):
                if written is _MISSING:
                    delattr(owner, place[2])
                else:
                    setattr(owner, place[2], _copy(written))


def _stand_ins(world: Hidden) -> dict[str, Any]:
    return {
        name: keep(value, world)
        for name, value in _entries()
        if not isinstance(value, types.ModuleType) and id(value) in world.bound and value is not None
    }


def _entries() -> list[tuple[str, Any]]:
    """What ``sys.modules`` holds, which need not be modules."""
    return list(sys.modules.items())


def _is_idle(tree: ast.Module) -> bool:
    return bool(tree.body) and all(isinstance(node, _IDLE) for node in ast.walk(tree))


def _reached(namespace: dict[str, Any]) -> list[str]:
    """The user's modules that the namespace binds or has functions and classes of, and those that these bind."""
    waiting = list(namespace.values())
    found: dict[str, None] = {}
    while waiting:
        value = waiting.pop()
        if type(value) is types.ModuleType:
            name = str(vars(value).get("__name__"))
        elif isinstance(value, (type, types.FunctionType)):
            name = str(value.__module__)
        else:
            name = str(type(value).__module__)
        module = sys.modules.get(name)
        if name in found or module is None or getattr(module, "__dict__", None) is namespace:
            continue
        if is_users_module(name, module) and _is_imported(name, module):
            found[name] = None
            waiting += [value for value in vars(module).values() if type(value) in (types.ModuleType, type)]
    return sorted(found)


def _is_imported(name: str, module: Any) -> bool:
    """Whether an import gives it; what the notebook made by hand has no file."""
    return getattr(vars(module).get("__spec__"), "name", None) == name and bool(vars(module).get("__file__"))


def _variables(name: str) -> Iterator[tuple[Place, Any]]:
    """Variables of a module and of its classes, with their places."""
    owners: list[tuple[str, Any]] = [("", sys.modules[name])]
    while owners:
        path, owner = owners.pop()
        for key, value in list(vars(owner).items()):
            if isinstance(value, type) and value.__module__ == name and is_importable(value):
                if value.__qualname__ == (f"{path}.{key}" if path else key) and not issubclass(value, enum.Enum):
                    owners.append((value.__qualname__, value))
            elif not (key.startswith("__") or key in _OF_IMPORT or _comes_with_import(value)):
                if not (path and hasattr(type(value), "__get__")):
                    yield (name, path, key), value


def _comes_with_import(value: Any) -> bool:
    kind = type(value)
    if isinstance(value, _DESCRIPTORS) or kind.__module__ in ("logging", "typing"):
        return True
    if isinstance(value, type) or kind.__name__ == "_lru_cache_wrapper":
        return is_importable(value)
    return bool(kind.__module__ == "__future__")


def _digest(value: Any, world: Hidden) -> str:
    """What it holds, in short; empty where that cannot be told."""
    try:
        pickled = dump((value,), Context(world.namespace))
    except NotRestorable:
        return ""
    summed = xxhash.xxh3_128(pickled.stream)
    for buffer in pickled.buffers:
        summed.update(buffer)
    digest: str = summed.hexdigest()
    return digest


def _owner(place: Place) -> Any:
    found: Any = sys.modules.get(place[0])
    for part in place[1].split(".") if place[1] else ():
        found = getattr(found, part, None)
    return found


def _filled(now: Any, stored: Any) -> bool:
    """Give the content to the container that the import made, which functions and classes of the module may hold."""
    if type(now) is not type(stored) or type(now) not in (list, dict, set):
        return False
    if not _are_same(now, stored):
        now.clear()
        (now.extend if type(now) is list else now.update)(stored)
    return True


def _told(place: Place) -> str:
    return ".".join(part for part in place if part)


def _literals(module: Any) -> Iterator[tuple[tuple[str, str], Any]]:
    """What the module's source gives to variables in so many words, where it does so once."""
    try:
        with open(module.__file__, "rb") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    bodies: list[tuple[str, list[ast.stmt]]] = [("", tree.body)]
    while bodies:
        path, body = bodies.pop()
        bound = [name for statement in body for name in _bound_by(statement)]
        for statement in body:
            if isinstance(statement, ast.ClassDef):
                bodies.append((f"{path}.{statement.name}" if path else statement.name, statement.body))
            value = statement.value if isinstance(statement, (ast.Assign, ast.AnnAssign)) else None
            if value is None:
                continue
            for name in _bound_by(statement):
                with contextlib.suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                    if bound.count(name) == 1:
                        yield (path, name), ast.literal_eval(value)


def _bound_by(statement: ast.stmt) -> list[str]:
    """Names that it binds, any number of times."""
    if isinstance(statement, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return [statement.name]
    return [
        node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)
    ]


def _are_same(written: Any, value: Any) -> bool:
    """Whether a value is what the source says, in types too."""
    if type(written) is not type(value) or type(value) not in _PLAIN:
        return False
    if isinstance(written, (list, tuple)):
        return len(written) == len(value) and all(map(_are_same, written, value))
    if isinstance(written, dict):
        return list(written) == list(value) and all(map(_are_same, written.values(), value.values()))
    return repr(written) == repr(value) if isinstance(written, (float, complex)) else bool(written == value)


def _copy(written: Any) -> Any:
    if type(written) in (list, tuple):
        return type(written)(map(_copy, written))
    if type(written) is dict:
        return {key: _copy(value) for key, value in written.items()}
    return set(written) if type(written) is set else written
