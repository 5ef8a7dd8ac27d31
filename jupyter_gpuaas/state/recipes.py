"""Which recorded cells give lost variables again, from which stored ones, and whether they may run again."""

from __future__ import annotations

import ast
import builtins
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache

import msgspec

from .names import analyse

_BUILTINS = frozenset(dir(builtins)) | {"__name__", "__doc__", "__builtins__", "__annotations__", "display"}


class CellRecord(msgspec.Struct, frozen=True):
    """One cell that ran, to its end or not.

    Variables that came otherwise (shipped, restored, from a start-up file) are the writes of a record too, without
    source and with that as its effect: what no record wrote is taken for not having been there.
    """

    #: Rises with each cell of the session, and is never used twice.
    number: int
    #: Python, as the shell compiled it.
    source: str
    reads: tuple[str, ...]
    #: Names that it bound, deleted or changed, all members of their co-variables included.
    writes: tuple[str, ...]
    seconds: float
    #: Visible side effects in words; see ``effects.effects``.
    effects: tuple[str, ...] = ()
    #: What it ran under; see ``replay.settings``. Empty: not known.
    settings: str = ""


class Step(msgspec.Struct, frozen=True):
    """One cell of a recipe.

    Attributes
    ----------
    inputs
        Stored variables that are bound before it: at this cell they were what they are in the checkpoint.
    shared
        Names that it made, each with the stored variables that may have got a part of it by other cells.
    """

    cell: CellRecord
    inputs: tuple[str, ...]
    shared: tuple[tuple[str, tuple[str, ...]], ...] = ()


class Recipe(msgspec.Struct, frozen=True):
    """How to make ``lost`` again.

    Attributes
    ----------
    remade
        Stored names of which the cells make a second copy, as they are in the checkpoint; it is not to be kept.
    """

    lost: tuple[str, ...]
    steps: tuple[Step, ...]
    remade: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(sorted({name for step in self.steps for name in step.inputs}))

    @property
    def seconds(self) -> float:
        """What the cells took when they ran."""
        return sum(step.cell.seconds for step in self.steps)


class Refusal(msgspec.Struct, frozen=True):
    """Why there is no recipe.

    Attributes
    ----------
    cells
        Numbers of the cells whose effects are in the way; a user's word lets them run. Empty: nothing can be done.
    """

    why: str
    cells: tuple[int, ...] = ()


def recipe(
    lost: Collection[str], cells: Sequence[CellRecord], stored: Mapping[str, int], *, allowed: bool = False
) -> Recipe | Refusal:
    """Cells to run again for names that are not in the checkpoint.

    Parameters
    ----------
    cells
        All of the session until the checkpoint, in the order in which they ran.
    stored
        Names in the checkpoint and their bytes, as of the last cell.
    allowed
        The user has said that cells with effects may run again.
    """
    history = _History(cells)
    try:
        numbers, inputs = history.closure(lost, stored)
    except _Missing as missing:
        return Refusal(str(missing))
    if not allowed and (harmful := [number for number in numbers if history.cells[number].effects]):
        told = "; ".join(f"cell {number} {_sentence(history.cells[number].effects)}" for number in harmful)
        return Refusal(f"{_list(lost)} could be computed again, but {told}", tuple(harmful))
    last = {name for number in numbers for name in history.cells[number].writes if history.writer(name) in numbers}
    remade = last & set(stored) - set(lost)
    others = set(stored) - set(lost) - remade
    steps = tuple(
        Step(history.cells[number], tuple(sorted(inputs[number])), history.shared(number, others)) for number in numbers
    )
    return Recipe(tuple(sorted(lost)), steps, tuple(sorted(remade)))


class _Missing(Exception):
    """Some version of a name that is needed can be had from nowhere."""


class _History:
    """Versions: a name is what the last cell before a moment made of it."""

    def __init__(self, cells: Sequence[CellRecord]) -> None:
        self._ordered = ordered = sorted(cells, key=lambda cell: cell.number)
        self.cells = {cell.number: cell for cell in ordered}
        if len(self.cells) != len(ordered):
            raise ValueError("two recorded cells have one number")
        self._writers: dict[str, list[int]] = {}
        for cell in ordered:
            for name in cell.writes:
                self._writers.setdefault(name, []).append(cell.number)

    def writer(self, name: str, before: int | None = None) -> int | None:
        """The cell that made what the name is at the beginning of a cell, or at the end."""
        numbers = self._writers.get(name, [])
        place = len(numbers) if before is None else bisect_left(numbers, before)
        return numbers[place - 1] if place else None

    def _was_there(self, name: str, number: int, stored: Collection[str]) -> bool:
        """Whether a name that no earlier cell made was there all the same, rather than bound by the cell itself."""
        if name in _BUILTINS or (name not in stored and name not in self._writers):
            return False  # Named in code that did not run.
        return name not in _assigned(self.cells[number].source)

    def shared(self, number: int, stored: Collection[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Names that a cell made, each with the stored variables that may have got a part of it by another cell."""
        later = [cell for cell in self._ordered if cell.number > number]
        found = [(name, self._reached(name, later) & set(stored)) for name in self.cells[number].writes]
        return tuple((name, tuple(sorted(holders))) for name, holders in found if holders)

    def _reached(self, name: str, later: Iterable[CellRecord]) -> set[str]:
        """Names that may hold, in the end, what a name held before some cells."""
        holding = {name}
        for cell in later:
            if holding.isdisjoint(cell.reads):
                holding.difference_update(_bound(cell.source))
            else:
                holding.update(cell.writes)
            if not holding:
                break
        return holding

    def closure(self, lost: Iterable[str], stored: Collection[str]) -> tuple[list[int], dict[int, set[str]]]:
        """Numbers of the cells to run, in order, and for each the stored names that it gets.

        Raises
        ------
        _Missing
        """
        missing = set(lost)
        available = set(stored) - missing
        numbers: set[int] = set()
        inputs: dict[int, set[str]] = {}
        waiting: list[int] = []

        changed: set[tuple[str, int]] = set()

        def make(name: str, writer: int | None, reader: int | None) -> None:
            if writer is None:
                for_whom = f"cell {reader} needs {name}, which" if reader is not None else f"{name}"
                raise _Missing(f"{for_whom} no recorded cell made")
            # What a cell changed in place, perhaps by another name, was made by one before.
            while writer is not None and (name, writer) not in changed:
                changed.add((name, writer))
                cell = self.cells[writer]
                if not cell.source and cell.effects:
                    raise _Missing(f"{name} {', '.join(cell.effects)}, so that it has no cells that made it")
                if writer not in numbers:
                    numbers.add(writer)
                    waiting.append(writer)
                if name in _bound(self.cells[writer].source):
                    break
                writer = self.writer(name, writer)

        for name in sorted(missing):
            make(name, self.writer(name), None)
        while waiting:
            number = waiting.pop()
            inputs[number] = set()
            for name in self.cells[number].reads:
                writer = self.writer(name, number)
                if writer == self.writer(name) and name in available:
                    inputs[number].add(name)
                elif writer is not None or self._was_there(name, number, stored):
                    make(name, writer, number)
        return sorted(numbers), inputs


def _assigned(source: str) -> Collection[str]:
    try:
        return analyse(source).assigns
    except SyntaxError:
        return ()


@lru_cache(maxsize=4096)
def _bound(source: str) -> Collection[str]:
    """Names that a cell binds whatever happens, if it runs to its end."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return ()
    found: set[str] = set()
    for node in body:
        match node:
            case ast.Assign(targets=targets):
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name), value=value) if value is not None:
                found.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                found |= {alias.asname or alias.name.partition(".")[0] for alias in aliases}
            case ast.Delete(targets=targets):
                found -= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def _sentence(effects: tuple[str, ...]) -> str:
    """``("writes files", "network")`` -> what it does, to follow "cell 3"."""
    return "had effects: " + ", ".join(effects)


def _list(names: Collection[str]) -> str:
    return ", ".join(sorted(names))
