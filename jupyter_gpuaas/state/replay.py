"""Variables that could not be stored, made again by running the cells that made them.

The cells run in the very dictionary of the namespace, as functions that they define keep it as their globals, while
what it held is put aside; then that comes back, with only the lost names added. What the cells start from are copies
of the checkpoint, so that nothing that lives is changed. Random states are as before. What cells show is thrown away.
An effect that a recorded cell was not known to have is refused before it happens, as far as Python tells.
"""

from __future__ import annotations

import contextlib
import gc
import io
import random
import sys
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from .effect_tables import INPUT, NETWORK, PROCESS, SUBPROCESS, THREADS, WRITES
from .effects import Definition, definitions, effects
from .planner import Plan, plan
from .recipes import CellRecord, Recipe, Refusal, Step, recipe
from .watch import EffectRefused, EffectWatch

__all__ = [
    "CellRecord",
    "Definition",
    "EffectRefused",
    "EffectWatch",
    "Load",
    "Plan",
    "Recipe",
    "Refusal",
    "ReplayFailed",
    "Step",
    "definitions",
    "effects",
    "plan",
    "recipe",
    "replay",
]

#: Gives copies of stored variables, restored for this one use, from their names and what the namespace holds.
#: Functions, classes and modules that it binds under their own names are given as they are there, and the copies refer
#: to these.
Load = Callable[[Collection[str], Mapping[str, Any]], Mapping[str, Any]]

_REFUSED = (WRITES, NETWORK, SUBPROCESS, INPUT, PROCESS, THREADS)


class ReplayFailed(Exception):
    """The variables did not come out; the message says why, for a report. The namespace is as before."""


def replay(recipe: Recipe, namespace: dict[str, Any], load: Load, *, allowed: bool = False) -> None:
    """Add the lost names to a namespace in which nothing else runs.

    Parameters
    ----------
    load
        Called before a cell with what it starts from, so that no cell sees what another did to its copy.
    allowed
        The user has said that cells with effects may run again.

    Raises
    ------
    ReplayFailed
    """
    aside = dict(namespace)
    hidden = {name: value for name, value in aside.items() if name.startswith("__") and name.endswith("__")}
    with _random_states(), _in_place_of(namespace, aside):
        namespace.clear()
        namespace.update(hidden)
        given: list[tuple[str, Any]] = []
        for step in recipe.steps:
            if step.inputs:
                inputs = load(step.inputs, aside)
                given += inputs.items()
                namespace.update(inputs)
            _run(step.cell, namespace, allowed)
        if missing := [name for name in recipe.lost if name not in namespace]:
            raise ReplayFailed(f"running cells again did not make {', '.join(missing)}")
        lost = {name: namespace[name] for name in recipe.lost}
        given += [(name, namespace[name]) for name in recipe.remade if name in namespace]
    _refuse_doubles(lost, given, aside, namespace)
    namespace.update(lost)


@contextlib.contextmanager
def _in_place_of(namespace: dict[str, Any], aside: Mapping[str, Any]) -> Iterator[None]:
    try:
        yield
    finally:
        namespace.clear()
        namespace.update(aside)


def _run(cell: CellRecord, namespace: dict[str, Any], allowed: bool) -> None:
    try:
        code = compile(cell.source, f"<cell {cell.number}, again>", "exec", dont_inherit=True)
    except SyntaxError as error:
        raise ReplayFailed(f"cell {cell.number} cannot run again: {error}") from error
    shown = io.StringIO()
    watch = EffectWatch(() if allowed else _REFUSED)
    try:
        with watch, contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
            exec(code, namespace)
    except EffectRefused as refused:
        raise ReplayFailed(f"cell {cell.number}, run again, was about to have an effect: {refused}") from refused
    except Exception as error:
        raise ReplayFailed(f"cell {cell.number}, run again, raised {type(error).__name__}: {error}") from error
    if not allowed and (done := set(watch.seen) & set(_REFUSED)):  # It caught the refusal and went on.
        raise ReplayFailed(f"cell {cell.number}, run again, was about to have an effect: {', '.join(sorted(done))}")


@contextlib.contextmanager
def _random_states() -> Iterator[None]:
    """The process's generators of random numbers are afterwards where they were."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    state = random.getstate()
    of_numpy = numpy.random.get_state() if numpy is not None else None
    of_torch = torch.get_rng_state() if torch is not None else None
    try:
        yield
    finally:
        random.setstate(state)
        if numpy is not None and of_numpy is not None:
            numpy.random.set_state(of_numpy)
        if torch is not None and of_torch is not None:
            torch.set_rng_state(of_torch)


_HARMLESS_TWICE = (
    *(type(None), bool, int, float, complex, str, bytes, types.BuiltinFunctionType, types.ModuleType, types.CodeType),
    *(range, type(Ellipsis)),
)


def _refuse_doubles(
    lost: Mapping[str, Any], others: Sequence[tuple[str, Any]], aside: Mapping[str, Any], namespace: dict[str, Any]
) -> None:
    """Refuse what holds a second copy of an object that the namespace has under a name.

    Such as an instance of a class that one of the cells defined again: it would not be one of the namespace's class.
    """
    own = {id(value) for value in lost.values()}
    doubles = {
        id(value): name for name, value in others if name in aside and value is not aside[name] and id(value) not in own
    }
    seen = {id(namespace)}
    waiting = [(name, value) for name, value in lost.items()]
    while waiting:
        name, value = waiting.pop()
        if id(value) in seen or isinstance(value, _HARMLESS_TWICE):
            continue
        seen.add(id(value))
        if id(value) in doubles and not _is_like(value):
            raise ReplayFailed(
                f"{name}, made again, would have a {doubles[id(value)]} of its own, "
                f"not the {doubles[id(value)]} of the notebook"
            )
        if isinstance(value, type) and value.__module__ != "__main__":
            continue
        waiting += [(name, part) for part in gc.get_referents(value)]


def _is_like(value: Any) -> bool:
    """Whether a second copy cannot be told from the first: a function without anything that can change."""
    return (
        isinstance(value, types.FunctionType)
        and not value.__closure__
        and not value.__dict__
        and not any(not isinstance(item, _HARMLESS_TWICE) for item in value.__defaults__ or ())
        and not value.__kwdefaults__
    )
