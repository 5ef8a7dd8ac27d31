"""Which variables a cell may have changed, decided from its code alone.

A cell is seen as its code, the code inside it, and the code of the functions and classes that it reaches, as far as
the notebook made them; a name that any of these mentions counts as touched, and so does all that shares objects with
it. Where code may reach variables without naming them (see ``escapes``), everything counts.

What is assumed
---------------
- Code of installed libraries reaches only objects that it was given: in this cell, or earlier and then the caller says
  ``retained`` or ``escapes``. So does code of the user's modules once they are imported.
- ``getattr`` is not asked for names such as ``__globals__`` that are put together at run time.
- What runs by itself is said by the caller: ``background`` for threads, tasks and callbacks that ran; an escape of
  ``ALWAYS`` for groups with a ``__del__``, for functions that IPython calls around each cell, for formatters and for
  other hooks. Garbage may be collected during any cell: a class with ``__del__`` whose names are gone stays ``Known``,
  without names, for as long as the class lives.
- Names that were bound or deleted are found by the caller, by identity; so are IPython's own (``In``, ``Out``, ``_``).
- The shell's AST transformers and the magics of ``names`` are what IPython ships.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from types import CodeType
from typing import Any

import msgspec

from .code_facts import CodeFacts, facts, merged
from .escapes import MODULES, by_member, by_value, is_of_the_user, module_name
from .magics_read import without_magics

#: Kinds of escapes of groups that any cell may change, whatever it does.
ALWAYS = frozenset({"finalizer", "hook"})

__all__ = ["ALWAYS", "CodeFacts", "Known", "Touch", "facts", "known_of", "touched"]


class Known(msgspec.Struct, frozen=True):
    """What is known of one co-variable since it was last looked at; see ``known_of``."""

    names: frozenset[str]
    #: Names that its code reads, deletes or binds as globals.
    reads: frozenset[str] = frozenset()
    #: Of these, the ones that it binds or deletes.
    binds: frozenset[str] = frozenset()
    #: Names that it refers to instead of holding their objects; it is stored otherwise once they stand for others.
    references: frozenset[str] = frozenset()
    #: Outside registries that know it, e.g. ``{"pyplot"}``.
    escapes: frozenset[str] = frozenset()
    #: Something outside the namespace holds part of it.
    retained: bool = False
    #: Why nothing can be said of what its code does, or ``""``; so of what could not be looked into.
    opaque: str = "could not be looked into"


class Touch(msgspec.Struct, frozen=True):
    """The decision.

    Attributes
    ----------
    names
        All members of each co-variable that may have changed, and what the cell bound; ``None``: look at everything.
    why
        For the story of a checkpoint: why everything, or ``""``.
    """

    names: frozenset[str] | None
    why: str = ""


def known_of(
    names: Iterable[str],
    codes: Iterable[CodeType] = (),
    *,
    references: Iterable[str] = (),
    objects: Iterable[Any] = (),
    escapes: Iterable[str] = (),
    retained: bool = False,
) -> Known:
    """Describe one co-variable.

    Parameters
    ----------
    codes
        All code of the notebook in it: of functions, methods, properties, generators, coroutines, lambdas.
    references
        Names of the namespace that its pickle refers to.
    objects
        Built-in functions and classes, frames and the like in it, as far as the caller met them.
    """
    all_facts = merged(facts(code) for code in codes)
    opaque = all_facts.opaque or _members(all_facts, {}) or next(filter(None, map(by_value, objects)), "")
    return Known(
        names=frozenset(names),
        reads=all_facts.names,
        binds=all_facts.binds,
        references=frozenset(references),
        escapes=frozenset(escapes),
        retained=retained,
        opaque=opaque,
    )


def touched(
    source_or_code: str | CodeType | Sequence[str | CodeType],
    known: Iterable[Known],
    namespace: Mapping[str, Any] | Collection[str],
    *,
    background: bool,
) -> Touch:
    """Names that the cell, or any of the cells that ran since the last look, may have changed.

    Parameters
    ----------
    source_or_code
        What ran, ended or not: Python as the shell compiled it (``transform_cell`` has turned magics into calls), or
        its code. Text that is no Python never ran.
    known
        The co-variables as they were before the cell.
    namespace
        The names after the cell; given the variables too, it also sees what names stand for, such as ``e = eval``.
    background
        Code of the user may have run beside the cell since the last look.
    """
    if background:
        return _everything("something runs in the background")
    cells = [source_or_code] if isinstance(source_or_code, (str, CodeType)) else source_or_code
    found = merged(_facts_of_cell(cell) for cell in cells)
    groups = tuple(known)
    special = [group for group in groups if group.escapes or group.retained or group.references]
    always = [group for group in special if not ALWAYS.isdisjoint(group.escapes)]
    if not (found.names or found.calls or found.opaque or found.imports or always):
        return Touch(frozenset())
    members = {name: group for group in groups for name in group.names}
    values: Mapping[str, Any] = namespace if isinstance(namespace, Mapping) else {}
    bound = namespace if isinstance(namespace, (Mapping, Set)) else frozenset(namespace)
    # Binding a name frees what it stood for, which may have a destructor.
    runs = found.calls or bool(always) or not found.binds.isdisjoint(members)
    if why := _why_everything(found, values, always, runs):
        return _everything(why)

    waiting = list(found.names if runs else found.own)
    for group in always:
        waiting += group.names | group.reads | group.references
    if runs:
        waiting += [name for group in special if group.escapes or group.retained for name in group.names]
    referring = _referring(special)
    waiting += [name for bind in found.binds for group in referring.get(bind, ()) for name in group.names]
    reached: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in reached or not (name in members or name in bound):
            continue
        reached.add(name)
        if runs and name in values and (why := _value(name, values, found)):
            return _everything(why)
        reached_group = members.get(name)
        if reached_group is None:
            if name not in found.binds and not _is_of_the_shell(name):
                return _everything(f"nothing is known of {name} yet")
            continue
        waiting += reached_group.names
        if runs:
            if why := _why_group(name, reached_group, values):
                return _everything(why)
            waiting += reached_group.reads | reached_group.references
            waiting += [other for bind in reached_group.binds for g in referring.get(bind, ()) for other in g.names]
    return Touch(frozenset(reached))


def _why_everything(found: CodeFacts, values: Mapping[str, Any], always: Iterable[Known], runs: bool) -> str:
    if not runs:
        return found.opaque_here or _imports(found.own_imports)
    by_itself = next((f"runs by itself and {group.opaque}" for group in always if group.opaque), "")
    return found.opaque or by_itself or _imports(found.imports) or _members(found, values)


def _why_group(name: str, group: Known, values: Mapping[str, Any]) -> str:
    if group.opaque:
        return f"{name}: {group.opaque}"
    for read in group.reads:
        if read in values and (module := module_name(values[read])) in MODULES and module != read:
            return f"{name} uses {module} as {read}"  # Under its own name, facts have judged its use.
    return ""


def _referring(groups: Iterable[Known]) -> dict[str, list[Known]]:
    found: dict[str, list[Known]] = {}
    for group in groups:
        for name in group.references:
            found.setdefault(name, []).append(group)
    return found


def _everything(why: str) -> Touch:
    return Touch(None, why)


def _facts_of_cell(cell: str | CodeType) -> CodeFacts:
    return _facts_of_source(cell) if isinstance(cell, str) else facts(cell)


@functools.lru_cache(maxsize=256)  # a capture asks twice, and cells are run again
def _facts_of_source(cell: str) -> CodeFacts:
    try:
        tree = ast.parse(cell)
    except SyntaxError:
        looks_like_magic = any(line.lstrip()[:1] in {"%", "!", "?"} for line in cell.splitlines())
        return CodeFacts(calls=True, opaque="a magic that is not Python yet") if looks_like_magic else CodeFacts()
    except (ValueError, MemoryError, RecursionError):  # null bytes; nested too deeply
        return CodeFacts(calls=True, opaque="cannot be parsed")
    bodies, opaque = without_magics(tree) if "get_ipython" in cell else ([tree], "")
    found = [CodeFacts(calls=True, opaque=opaque)] if opaque else []
    return merged([*found, *(facts(code) for body in bodies for code in _compiled(body))])


_FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def _compiled(tree: ast.Module) -> list[CodeType]:
    try:
        return [compile(tree, "<cell>", "exec", _FLAGS, dont_inherit=True)]
    except SyntaxError:
        pass
    # The shell compiles one statement after the other and has run those before, e.g. before a `return` or a `break`.
    codes = []
    for statement in tree.body:
        try:
            codes.append(compile(ast.Module([statement], []), "<cell>", "exec", _FLAGS, dont_inherit=True))
        except SyntaxError:
            break
    return codes


def _imports(modules: Iterable[str]) -> str:
    return next((f"imports {module}, a module of the user's" for module in modules if is_of_the_user(module)), "")


def _members(found: CodeFacts, values: Mapping[str, Any]) -> str:
    """What the cell does with modules that lead everywhere; by value where it is known, as names say little."""
    for name, attribute in found.members:
        module = module_name(values[name]) if name in values else name
        if module in MODULES and (why := by_member(module, attribute or None)):
            return why
    return ""


def _value(name: str, values: Mapping[str, Any], found: CodeFacts) -> str:
    value = values[name]
    if (module := module_name(value)) in MODULES:
        # Under its own name, its use was seen where it is used.
        # Where the cell or a function mentions it, its use was judged there.
        return "" if name == module or name in found.names else f"uses {module} as {name}"
    return by_value(value, values)


def _is_of_the_shell(name: str) -> bool:
    return name in _SHELL or name.startswith("__") or (name[:1] == "_" and name.lstrip("_i").isdigit())


_SHELL = frozenset({"In", "Out", "_", "_i", "_ii", "_iii", "_ih", "_oh", "_dh", "exit", "quit", "open", "get_ipython"})
