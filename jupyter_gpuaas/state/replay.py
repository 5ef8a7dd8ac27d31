"""Variables that could not be stored, made again by running the cells that made them.

The cells run in the very dictionary of the namespace, as functions that they define keep it as their globals, while
what it held is put aside; then that comes back, with only the lost names added. What the cells start from are copies
of the checkpoint, so that nothing that lives is changed. Random states are as before. What cells show is thrown away.
An effect that a recorded cell was not known to have is refused before it happens, as far as Python tells.
"""

from __future__ import annotations

import contextlib
import decimal
import io
import random
import sys
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from typing import Any

from .doubles import may_be, reach, shared
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


def settings() -> str:
    """Settings of the process on which results depend without a cell's naming them; to be compared only."""
    context = decimal.getcontext()
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    of_numpy = "" if numpy is None else {**numpy.geterr(), **numpy.get_printoptions()}
    of_torch = ("torch.float32", "cpu", True)
    if torch is not None and hasattr(torch, "get_default_device"):
        of_torch = (str(torch.get_default_dtype()), str(torch.get_default_device()), torch.is_grad_enabled())
    return f"{context.prec} {context.rounding} {of_torch} {of_numpy}"


def _ran_under(recorded: str) -> bool:
    """Whether settings are as they were; those of numpy may not have been there yet."""
    now = settings()
    return not recorded or recorded == now or (recorded.endswith(") ") and now.startswith(recorded))


def _not_told(cell: CellRecord) -> None:
    pass


def replay(
    recipe: Recipe,
    namespace: dict[str, Any],
    load: Load,
    *,
    allowed: bool = False,
    running: Callable[[CellRecord], None] = _not_told,
) -> None:
    """Add the lost names to a namespace in which nothing else runs.

    Parameters
    ----------
    load
        Called before a cell with what it starts from, so that no cell sees what another did to its copy.
    allowed
        The user has said that cells with effects may run again.
    running
        Called before each cell; may raise to give up, and then nothing has changed.

    Raises
    ------
    ReplayFailed
    """
    aside = dict(namespace)
    hidden = {name: value for name, value in aside.items() if name.startswith("__") and name.endswith("__")}
    hidden.setdefault("__name__", "__main__")
    # What can change of objects that the namespace has under this name, or may have under some others.
    copies: list[tuple[str, dict[Hashable, Any]]] = []
    parts: list[tuple[str, tuple[str, ...], dict[Hashable, Any]]] = []
    with _random_states(), _in_place_of(namespace, aside):
        namespace.clear()
        namespace.update(hidden)
        for step in recipe.steps:
            running(step.cell)
            if not _ran_under(step.cell.settings):
                raise ReplayFailed(f"cell {step.cell.number} ran under other settings of numpy, torch or decimal")
            if step.inputs:
                inputs = load(step.inputs, aside)
                copies += ((name, reach([value], namespace)) for name, value in inputs.items())
                namespace.update(inputs)
            _run(step.cell, namespace, allowed)
            parts += (
                (name, holders, reach([namespace[name]], namespace))
                for name, holders in step.shared
                if name in namespace
            )
        if missing := [name for name in recipe.lost if name not in namespace]:
            raise ReplayFailed(f"running cells again did not make {', '.join(missing)}")
        lost = {name: namespace[name] for name in recipe.lost}
        remade = [name for name in recipe.remade if name in namespace]
        copies += ((name, reach([namespace[name]], namespace)) for name in remade)
        _refuse_doubles(lost, copies, aside, namespace)
        _refuse_parts(lost, parts, aside, namespace)
    namespace.update(lost)


def _refuse_doubles(
    lost: Mapping[str, Any],
    copies: list[tuple[str, dict[Hashable, Any]]],
    aside: Mapping[str, Any],
    namespace: Mapping[str, Any],
) -> None:
    """Refuse what holds a copy of something of which the namespace has the original.

    Such as an instance of a class that one of the cells defined again: it would not be one of the namespace's class.
    """
    live: dict[Hashable, Any] | None = None
    for name, value in lost.items():
        own = reach([value], namespace)
        for other, copy in copies:
            if doubles := shared(own, copy):
                live = reach(aside.values(), namespace) if live is None else live
                if doubles - live.keys():
                    raise ReplayFailed(
                        f"{name}, made again, would have its own copy of {other}, not the {other} of the notebook"
                    )


def _refuse_parts(
    lost: Mapping[str, Any],
    parts: list[tuple[str, tuple[str, ...], dict[Hashable, Any]]],
    aside: Mapping[str, Any],
    namespace: Mapping[str, Any],
) -> None:
    """Refuse what has an object in it that other cells may have given to a variable of the namespace, too."""
    for name, value in lost.items():
        own = reach([value], namespace)
        for _, holders, part in parts:
            for address in shared(own, part):
                for holder in holders:
                    live = reach([aside[holder]], namespace) if holder in aside else {}
                    if any(may_be(part[address], other) for key, other in live.items() if isinstance(key, int)):
                        raise ReplayFailed(f"{name}, made again, may have its own copy of what {holder} has a part of")


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
    except (Exception, SystemExit) as error:
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
