"""After a restore: names that are lost are made again, where the recorded cells and the user allow it."""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ..errors import CheckpointError
from ..model import Replay
from ..store.manifest import Verdict
from .recipes import CellRecord, Recipe, Refusal, recipe
from .replay import Load, ReplayFailed, replay

#: How the user lets cells with effects run again; callers who ask in another way replace it in notes.
WORD = "restore with replay='all'"

_VERBS = {
    "network": "uses the network",
    "subprocess": "runs programs",
    "input": "asks for input",
    "random without known state": "draws random numbers from a state that is not known",
    "time": "asks for the time",
}


def make_again(
    lost: Mapping[str, str],
    cells: Sequence[CellRecord],
    stored: Collection[str],
    namespace: dict[str, Any],
    load: Load,
    *,
    how: Replay,
    running: Callable[[CellRecord], None],
) -> dict[str, Verdict]:
    """Replay what may be, and say for each lost name what became of it.

    Parameters
    ----------
    lost
        Name -> why.
    stored
        Names that were restored.
    """
    allowed = how == "all"
    sizes = dict.fromkeys(stored, 0)
    verdicts: dict[str, Verdict] = {}
    recipes: dict[str, Recipe] = {}
    for name in lost:
        found = recipe({name}, cells, sizes, allowed=allowed)
        if isinstance(found, Refusal):
            verdicts[name] = Verdict("lost", _add(lost[name], _needed(name, found, cells, sizes)))
        else:
            recipes[name] = found
    for names in _together(recipes):
        found = recipe(names, cells, sizes, allowed=allowed)
        try:
            if isinstance(found, Refusal):
                raise ReplayFailed(found.why)
            replay(found, namespace, load, allowed=allowed, running=running)
        except (ReplayFailed, CheckpointError, MemoryError) as error:
            for name in names:
                why = str(error) or "memory was short"
                verdicts[name] = Verdict("lost", _add(lost[name], f"and cannot be made again: {why}"))
        else:
            told = f"made again by running {_cells([step.cell.number for step in found.steps])}"
            verdicts |= {name: Verdict("replayed", told) for name in names}
    return verdicts


def _together(recipes: Mapping[str, Recipe]) -> list[set[str]]:
    """Names whose recipes have a cell in common: it may have made objects that they share."""
    sets: list[tuple[set[str], set[int]]] = []
    for name, found in recipes.items():
        names, numbers = {name}, {step.cell.number for step in found.steps}
        for other in [other for other in sets if other[1] & numbers]:
            sets.remove(other)
            names |= other[0]
            numbers |= other[1]
        sets.append((names, numbers))
    return [names for names, _ in sets]


def _needed(name: str, refusal: Refusal, cells: Sequence[CellRecord], sizes: Mapping[str, int]) -> str:
    """What it would take, to follow why it is lost."""
    whole = recipe({name}, cells, sizes, allowed=True) if refusal.cells else None
    if not isinstance(whole, Recipe):
        return "" if refusal.why.endswith("no recorded cell made") else f"and cannot be made again: {refusal.why}"
    numbers = [step.cell.number for step in whole.steps]
    harmful = {step.cell.number: _sentence(step.cell.effects) for step in whole.steps if step.cell.effects}
    if len(numbers) == 1:
        told = f"which {harmful[numbers[0]]}"
    else:
        told = "of which " + ", ".join(f"cell {number} {what}" for number, what in harmful.items())
    return f"can be made again by running {_cells(numbers)}, {told}: {WORD}"


def _sentence(effects: Sequence[str]) -> str:
    """What a cell does, to follow "cell 3"."""
    said = []
    for effect in effects:
        unknown, _, what = effect.partition("unknown: ")
        said.append(f"{what}, of which nothing is known," if not unknown and what else _VERBS.get(effect, effect))
    return " and ".join(said).rstrip(",")


def _cells(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"cell {numbers[0]}"
    if len(numbers) > 12:
        return f"{len(numbers)} cells from {numbers[0]} to {numbers[-1]}"
    return f"cells {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def _add(reason: str, more: str) -> str:
    for earlier in ("; can be made again by", "; and cannot be made again"):  # of a name that was lost before
        reason = reason.partition(earlier)[0]
    return f"{reason}; {more}" if more else reason


def definitions_of(namespace: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Functions and classes of the notebook and modules that are bound under their own names."""
    found: dict[str, Any] = {}
    for name in names:
        value = namespace.get(name)
        if isinstance(value, types.ModuleType):
            found[name] = value
        elif isinstance(value, (types.FunctionType, type)) and value.__name__ == name:
            found[name] = value
    return found
