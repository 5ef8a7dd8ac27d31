"""Co-variables of small namespaces made of Python's own objects: what the checkpointer knows, by the plainest means."""

from __future__ import annotations

import gc
import types
from collections.abc import Iterator, Mapping
from typing import Any

from jupyter_gpuaas.state.touched import Known, known_of

_SHARED = (type(None), bool, int, float, str, bytes, types.BuiltinFunctionType, types.ModuleType, types.CodeType)


def names_of(namespace: Mapping[str, Any]) -> list[str]:
    return [name for name in namespace if not name.startswith("__")]


def everything_known(namespace: dict[str, Any]) -> list[Known]:
    """The namespace by co-variables; definitions that it binds to their own name are referred to, not held."""
    owned = owned_in(namespace)
    reached: dict[str, dict[int, Any]] = {}
    references: dict[str, set[str]] = {}
    for name in names_of(namespace):
        reached[name], references[name] = _reach(namespace, name, owned)
    groups: list[set[str]] = []
    for name in reached:
        joined = [group for group in groups if any(reached[name].keys() & reached[other].keys() for other in group)]
        groups = [group for group in groups if group not in joined] + [{name}.union(*joined)]
    return [
        known_of(
            group,
            (obj for name in group for obj in reached[name].values() for obj in _codes(obj)),
            references={ref for name in group for ref in references[name]},
            escapes={"finalizer" for name in group for obj in reached[name].values() if _finalizes(obj)},
        )
        for group in groups
    ]


def owned_in(namespace: Mapping[str, Any]) -> dict[int, str]:
    """Ids of definitions that the namespace binds to their own names."""
    return {
        id(value): name
        for name in names_of(namespace)
        if isinstance(value := namespace[name], (types.FunctionType, type)) and value.__name__ == name
    }


def _finalizes(obj: Any) -> bool:
    return isinstance(obj, type) and obj.__module__ == "__main__" and hasattr(obj, "__del__")


def _codes(obj: Any) -> Iterator[types.CodeType]:
    if isinstance(obj, types.FunctionType):
        yield obj.__code__
    elif isinstance(obj, types.GeneratorType):
        yield obj.gi_code


def _reach(namespace: dict[str, Any], name: str, owned: Mapping[int, str]) -> tuple[dict[int, Any], set[str]]:
    seen: dict[int, Any] = {}
    references: set[str] = set()
    waiting = [namespace[name]]
    while waiting:
        obj = waiting.pop()
        if obj is namespace or obj is namespace.get("__builtins__") or isinstance(obj, _SHARED) or id(obj) in seen:
            continue
        if isinstance(obj, type) and obj.__module__ != "__main__":
            continue
        if owned.get(id(obj), name) != name:
            references.add(owned[id(obj)])
            continue
        if isinstance(obj, tuple) and not obj:
            continue
        seen[id(obj)] = obj
        waiting += gc.get_referents(obj)
    return seen, references


def digest(value: Any, namespace: dict[str, Any], name: str = "") -> object:
    """Of the deep state of a name's value: equal only if nothing in it changed, places of shared objects included."""
    seen: dict[int, int] = {}
    owned = owned_in(namespace)

    def of(obj: Any) -> object:
        if isinstance(obj, (type(None), bool, int, float, str, bytes)):
            return type(obj).__name__, obj
        if id(obj) in seen:
            return "again", seen[id(obj)]
        if owned.get(id(obj), name) != name:
            return "refers", owned[id(obj)]
        seen[id(obj)] = len(seen)
        if obj is namespace:
            return "namespace"
        if isinstance(obj, (list, tuple)):
            return type(obj).__name__, tuple(of(item) for item in obj)
        if isinstance(obj, (set, frozenset)):
            return "set", tuple(sorted(map(repr, obj)))
        if isinstance(obj, dict):
            return "dict", tuple((of(key), of(item)) for key, item in obj.items())
        if isinstance(obj, types.FunctionType):
            cells = tuple(of(cell.cell_contents) for cell in obj.__closure__ or ())
            return "function", obj.__code__, cells, of(obj.__defaults__), of(obj.__kwdefaults__), of(obj.__dict__)
        if isinstance(obj, types.MethodType):
            return "method", of(obj.__self__), of(obj.__func__)
        if isinstance(obj, types.GeneratorType):
            frame = obj.gi_frame
            return "generator", (of(dict(frame.f_locals)), frame.f_lasti) if frame else None
        if isinstance(obj, type):
            if obj.__module__ != "__main__":
                return "type", obj.__qualname__
            own = {key: item for key, item in vars(obj).items() if not key.startswith("__") or key == "__doc__"}
            return "class", of(own)
        if hasattr(obj, "__dict__"):
            return "instance", of(type(obj)), of(vars(obj))
        return type(obj).__name__, repr(obj) if not hasattr(obj, "__reduce_ex__") else str(type(obj))

    return of(value)
