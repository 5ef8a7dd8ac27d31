"""Which attributes of modules and classes a cell's code says that it sets: by name, and by what it reaches."""

from __future__ import annotations

import ast
import dis
import itertools
import sys
import types
from collections.abc import Iterator
from typing import Any

from .world import Hidden, of_notebook

#: Words in a cell that may mean that something is set without an assignment.
_WORDS = ("setattr", "delattr", "patch", "register", "__dict__", "vars(")
_STORES = ("STORE_ATTR", "DELETE_ATTR")
MISSING = object()
_NOISE = ("CACHE", "EXTENDED_ARG", "PRECALL")
_facts: dict[types.CodeType, tuple[bool, list[tuple[str, ...]]]] = {}

#: A place: module, path to the owner below it, attribute.
Place = tuple[str, str, str]


class Stores:
    """What one cell may have set.

    Attributes
    ----------
    said
        Places that an assignment or deletion names.
    suspects
        Modules and classes that the code mentions, where it may have set something without naming it.
    """

    def __init__(self) -> None:
        self.said: set[Place] = set()
        self.suspects: dict[int, Any] = {}


def find_stores(world: Hidden) -> Stores:
    """What the world's cell may have set, directly or by functions of the notebook that it calls."""
    found = Stores()
    if not world.cell:
        return found
    chains: list[tuple[str, ...]] = []
    sets = any(word in world.cell for word in _WORDS)
    for node in ast.walk(world.tree):
        if isinstance(node, ast.Attribute):
            chain = chain_of(node)
            if chain is None:
                continue
            if isinstance(node.ctx, ast.Load):
                chains.append(chain)
            else:
                sets = sets or chain[0] != "self"
                _say(found, chain, world.namespace)
                chains.append(chain[:-1])
        elif isinstance(node, ast.Name):
            chains.append((node.id,))
        elif isinstance(node, ast.Call) and _called(node) in ("setattr", "delattr") and len(node.args) > 1:
            owner, name = node.args[:2]
            chain = chain_of(owner)
            if chain is not None and isinstance(name, ast.Constant) and isinstance(name.value, str):
                _say(found, (*chain, name.value), world.namespace)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            chains += [(f"import {node.module}", alias.name) for alias in node.names]
    sets = _reach(world.namespace, chains, sets)
    if sets:
        by_type = world.mentions("type(", "__class__")
        for chain in dict.fromkeys(chains):
            for mentioned in _owners(chain, world.namespace):
                found.suspects[id(mentioned)] = mentioned
            if by_type and chain[0] in world.namespace:
                kind = type(world.namespace[chain[0]])
                found.suspects[id(kind)] = kind
    return found


def _reach(namespace: dict[str, Any], chains: list[tuple[str, ...]], sets: bool) -> bool:
    """Add what functions and classes of the notebook mention that the code calls; whether any of it sets something."""
    waiting = [namespace.get(chain[0]) for chain in chains]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        for code in _codes(value, namespace):
            code_sets, code_chains = facts(code)
            sets = sets or code_sets
            chains += code_chains
            waiting += [namespace[chain[0]] for chain in code_chains if chain[0] in namespace]
    return sets


def _codes(value: Any, namespace: dict[str, Any]) -> Iterator[types.CodeType]:
    """Code of the notebook that calling or using the value may run."""
    if type(value) is types.MethodType:
        value = value.__func__
    if type(value) is types.FunctionType:
        if value.__globals__ is namespace:
            yield value.__code__
        return
    kind = value if issubclass(type(value), type) else type(value)
    if of_notebook(kind, namespace):
        for part in vars(kind).values():
            part = getattr(part, "__func__", part)
            if type(part) is types.FunctionType:
                yield part.__code__


def facts(code: types.CodeType) -> tuple[bool, list[tuple[str, ...]]]:
    """Whether code sets attributes of something that is not its own ``self``, and what global names it looks along."""
    known = _facts.get(code)
    if known is None:
        steps = [step for step in dis.get_instructions(code) if step.opname not in _NOISE]
        sets = any(word.strip("(") in name for word in _WORDS for name in code.co_names)
        for before, step in itertools.pairwise(steps):
            if step.opname in _STORES:
                sets = sets or not (before.opname.startswith("LOAD_FAST") and "self" in str(before.argval))
        chains = _chains_of(steps)
        for inner in code.co_consts:
            if isinstance(inner, types.CodeType):
                inner_sets, inner_chains = facts(inner)
                sets = sets or inner_sets
                chains = chains + inner_chains
        if len(_facts) > 10_000:
            _facts.clear()
        known = _facts[code] = sets, chains
    return known


def _chains_of(steps: list[dis.Instruction]) -> list[tuple[str, ...]]:
    """Global names with the attributes looked up on them."""
    chains: list[tuple[str, ...]] = []
    growing = False
    for step in steps:
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            chains.append((str(step.argval),))
            growing = True
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD") and growing:
            chains.append((*chains[-1], str(step.argval)))
        elif step.opname == "IMPORT_NAME":
            chains.append((f"import {step.argval}",))
            growing = True
        else:
            growing = False
    return chains


def chain_of(node: ast.expr) -> tuple[str, ...] | None:
    """``np.linalg.norm`` as its parts."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return (node.id, *reversed(parts))


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _say(found: Stores, chain: tuple[str, ...], namespace: dict[str, Any]) -> None:
    root = namespace.get(chain[0], MISSING)
    start = place_of(root)
    if start is None:
        return
    module, path = start
    owner = root
    for part in chain[1:-1]:
        owner = attribute_of(owner, part)
        if owner is MISSING:
            return
        further = place_of(owner)
        if further is not None:
            module, path = further
        else:
            path = f"{path}.{part}" if path else part
    found.said.add((module, path, chain[-1]))


def _owners(chain: tuple[str, ...], namespace: dict[str, Any]) -> Iterator[Any]:
    """Modules and library classes along the chain."""
    if chain[0].startswith("import "):
        owner: Any = sys.modules.get(chain[0].removeprefix("import "), MISSING)
    else:
        owner = namespace.get(chain[0], MISSING)
    for part in (*chain[1:], ""):
        if owner is MISSING:
            return
        if place_of(owner) is not None:
            yield owner
        if not part:
            return
        owner = attribute_of(owner, part)


def attribute_of(owner: Any, name: str) -> Any:
    """The attribute without running code of a property or of a module's ``__getattr__``."""
    if issubclass(type(owner), types.ModuleType):
        return vars(owner).get(name, MISSING)
    if issubclass(type(owner), type):
        for base in type.__getattribute__(owner, "__mro__"):
            if name in vars(base):
                return vars(base)[name]
        return MISSING
    own = getattr(type(owner), "__dict__", {}).get("__dict__")
    return vars(owner).get(name, MISSING) if own is not None else MISSING


def place_of(owner: Any) -> tuple[str, str] | None:
    """Module and path of an imported module or a class that can be imported; None for anything else."""
    kind = type(owner)
    if issubclass(kind, types.ModuleType):
        name = str(vars(owner).get("__name__"))
        known = name != "__main__" and sys.modules.get(name) is owner
        return (name, "") if known and vars(owner).get("__spec__") is not None else None
    if not issubclass(kind, type):
        return None
    name = str(type.__getattribute__(owner, "__module__"))
    if name == "__main__" or name not in sys.modules:
        return None
    path = str(type.__getattribute__(owner, "__qualname__"))
    found: Any = sys.modules[name]
    for part in path.split("."):
        found = attribute_of(found, part)
        if found is MISSING:
            return None
    return (name, path) if found is owner else None
