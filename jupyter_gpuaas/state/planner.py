"""Copy a variable, or compute it again where it is restored: the cheapest choice as a minimum cut.

Source — variable (seconds to copy) — each cell that its computation needs (no limit) — sink (seconds to run). A cut
separates what is copied from what is computed: a variable on the source's side is computed, and so are its cells, which
are paid for once. Variables that the computation starts from are there in either way.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping, Sequence

import msgspec

from .recipes import CellRecord, _History, _Missing


class Plan(msgspec.Struct, frozen=True):
    """What is done with each variable.

    Attributes
    ----------
    lost
        Names that can be neither copied nor computed.
    seconds
        What copying and computing together are expected to take.
    """

    copy: tuple[str, ...]
    recompute: tuple[str, ...]
    lost: tuple[str, ...]
    cells: tuple[int, ...]
    seconds: float


def plan(
    names: Mapping[str, int | None],
    cells: Sequence[CellRecord],
    *,
    bytes_per_s: float,
    groups: Sequence[Collection[str]] = (),
    recompute: bool = False,
    allowed: bool = False,
) -> Plan:
    """Choose for each name.

    Parameters
    ----------
    names
        Name -> bytes to copy, ``None`` where it cannot be stored.
    bytes_per_s
        Of the link between here and where it is restored, as measured.
    groups
        Co-variables: their names go one way together.
    recompute
        Whether what can be stored may be computed again instead; if not, only what cannot be stored is.
    allowed
        The user has said that cells with effects may run again.
    """
    history = _History(cells)
    group_of = {name: frozenset(group) for group in groups for name in group}
    unstorable = {name for name, size in names.items() if size is None}
    unstorable |= {member for name in unstorable for member in group_of.get(name, ())}
    needs: dict[frozenset[str], list[int] | None] = {}
    for name in names:
        group = group_of.get(name, frozenset({name}))
        if group not in needs:
            needs[group] = _needed(history, group, set(names) - group, allowed)
    lost = _never(needs, names, unstorable, history)
    computed = _cheapest(needs, names, unstorable - lost, lost, history, bytes_per_s, recompute)
    numbers = sorted({number for group in computed for number in needs[group] or ()})
    again = {name for group in computed for name in group}
    copied = set(names) - again - lost
    seconds = sum((names[name] or 0) / bytes_per_s for name in copied)
    seconds += sum(history.cells[number].seconds for number in numbers)
    return Plan(tuple(sorted(copied)), tuple(sorted(again)), tuple(sorted(lost)), tuple(numbers), seconds)


def _needed(history: _History, group: frozenset[str], others: set[str], allowed: bool) -> list[int] | None:
    try:
        numbers, _ = history.closure(group, others)
    except _Missing:
        return None
    if not allowed and any(history.cells[number].effects for number in numbers):
        return None
    return numbers


def _never(
    needs: Mapping[frozenset[str], list[int] | None],
    names: Mapping[str, int | None],
    unstorable: set[str],
    history: _History,
) -> set[str]:
    """Names that cannot be had, and those that could be computed only from these."""
    lost = {name for group, numbers in needs.items() if numbers is None for name in group if name in unstorable}
    while True:
        more = set()
        for group, numbers in needs.items():
            if numbers is not None and group & unstorable and not group <= lost:
                inputs = {name for number in numbers for name in history.cells[number].reads}
                # Conservative: an older version of a lost name might do, and is not looked for.
                if inputs & lost:
                    more |= set(group)
        if not more:
            return lost & set(names)
        lost |= more


def _cheapest(
    needs: Mapping[frozenset[str], list[int] | None],
    names: Mapping[str, int | None],
    must: set[str],
    lost: set[str],
    history: _History,
    bytes_per_s: float,
    recompute: bool,
) -> list[frozenset[str]]:
    groups = [group for group in needs if not group & lost]
    forced = [group for group in groups if group & must]
    if not recompute:
        return forced
    network = _Network()
    for group in groups:
        numbers = needs[group]
        if numbers is None:
            continue
        if any(name in lost for number in numbers for name in history.cells[number].reads):
            continue
        size = sum(names[name] or 0 for name in group if name in names)
        network.add("source", group, math.inf if group in forced else size / bytes_per_s)
        for number in numbers:
            network.add(group, number, math.inf)
            network.capacity.setdefault(number, {})["sink"] = history.cells[number].seconds
    computed = network.side_of_source()
    return [group for group in groups if group in computed]


class _Network:
    """A flow network, by Edmonds and Karp."""

    def __init__(self) -> None:
        self.capacity: dict[object, dict[object, float]] = {"source": {}, "sink": {}}

    def add(self, start: object, end: object, capacity: float) -> None:
        self.capacity.setdefault(start, {})[end] = capacity
        self.capacity.setdefault(end, {})

    def side_of_source(self) -> set[object]:
        """Vertices on the source's side of a minimum cut."""
        while True:
            before = self._search()
            if "sink" not in before:
                return set(before)
            path: list[tuple[object, object]] = []
            vertex: object = "sink"
            while vertex != "source":
                path.append((before[vertex], vertex))
                vertex = before[vertex]
            flow = min(self.capacity[start][stop] for start, stop in path)
            for start, stop in path:
                self.capacity[start][stop] -= flow
                self.capacity[stop][start] = self.capacity[stop].get(start, 0.0) + flow

    def _search(self) -> dict[object, object]:
        """Vertices that more flow can reach -> from where."""
        before: dict[object, object] = {"source": "source"}
        waiting: deque[object] = deque(["source"])
        while waiting:
            start = waiting.popleft()
            for stop, capacity in self.capacity[start].items():
                if capacity > 1e-12 and stop not in before:
                    before[stop] = start
                    waiting.append(stop)
        return before
