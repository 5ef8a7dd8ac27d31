"""Co-variables: names that reach a common object or common memory, and so are captured together."""

from __future__ import annotations

import bisect
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from .memory import Place

#: A group with more shareable objects than this is searched instead of indexed object by object.
LARGE = 20_000


class Union:
    """Disjoint sets of numbers, merged one pair at a time."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def find(self, number: int) -> int:
        parent = self._parent
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    def merge(self, one: int, other: int) -> None:
        self._parent[self.find(one)] = self.find(other)

    def sets(self) -> list[list[int]]:
        """All sets, each in ascending order, in the order of their first members."""
        found: dict[int, list[int]] = {}
        for number in range(len(self._parent)):
            found.setdefault(self.find(number), []).append(number)
        return list(found.values())


class Ids:
    """The ids of a group's shareable objects; holds no object alive.

    They stay true as long as the group is untouched, since its objects live as long as it does.
    """

    def __init__(self, ids: list[int]) -> None:
        self.count = len(ids)
        self.few: frozenset[int] = frozenset()
        self.many: Any = None
        if len(ids) <= LARGE:
            self.few = frozenset(ids)
        elif (numpy := sys.modules.get("numpy")) is not None:
            self.many = numpy.fromiter(ids, numpy.uint64, len(ids))  # a list is gone through twice by `array`
            self.many.sort()
        else:
            self.many = array("Q", sorted(ids))

    @classmethod
    def joined(cls, parts: Iterable[Ids]) -> Ids:
        """Those of several groups that have become one."""
        return cls(list({key for part in parts for key in part}))

    def __iter__(self) -> Iterator[int]:
        return iter(self.few if self.many is None else self.many.tolist())

    def meets(self, other: Ids) -> bool:
        """Whether the two have an object in common."""
        small, large = (self, other) if self.count <= other.count else (other, self)
        if large.many is None:
            return not small.few.isdisjoint(large.few)
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(large.many, numpy.ndarray):
            wanted = small.many if small.many is not None else numpy.fromiter(small.few, numpy.uint64, small.count)
            found = numpy.searchsorted(large.many, wanted)
            found[found == large.count] = 0
            return bool((large.many[found] == wanted).any())
        return any(_holds(large.many, wanted) for wanted in small)


def _holds(ordered: Any, wanted: int) -> bool:
    place = bisect.bisect_left(ordered, wanted)
    return place < len(ordered) and ordered[place] == wanted


def connected(looked: Sequence[Ids], known: Sequence[Ids], places: Sequence[Iterable[Place]]) -> list[list[int]]:
    """Which things share objects or memory: sets of numbers, ``looked`` first, ``known`` behind.

    Parameters
    ----------
    known
        Do not share objects among each other.
    places
        For each of both, first address and size of its regions.
    """
    union = Union(len(looked) + len(known))
    owner: dict[int, int] = {}
    for number, ids in enumerate(looked):
        for key in ids.few:
            other = owner.setdefault(key, number)
            if other != number:
                union.merge(number, other)
        if ids.many is not None:
            for other, others in enumerate(looked):
                if other != number and ids.meets(others):
                    union.merge(number, other)
    everything = Ids(list(owner))
    for place, ids in enumerate(known, len(looked)):
        if ids.meets(everything):
            for number, others in enumerate(looked):
                if ids.meets(others):
                    union.merge(number, place)
        for number, others in enumerate(looked):
            if others.many is not None and ids.meets(others):
                union.merge(number, place)
    spans = sorted((low, size, number) for number, regions in enumerate(places) for low, size in regions)
    end, last = -1, 0
    for low, size, number in spans:
        if low < end:
            union.merge(number, last)
        if low + size > end:
            end, last = low + size, number
    return union.sets()


def circles(references: Sequence[set[int]]) -> list[list[int]]:
    """Sets of numbers that refer to each other in a circle, or alone; each after all that it refers to."""
    index: dict[int, int] = {}
    lowest: dict[int, int] = {}
    path: list[int] = []
    on_path: set[int] = set()
    found: list[list[int]] = []
    for root in range(len(references)):
        if root in index:
            continue
        # Tarjan's algorithm with a stack of its own: a notebook may chain more definitions than Python recurses.
        work = [(root, iter(sorted(references[root])))]
        index[root] = lowest[root] = len(index)
        path.append(root)
        on_path.add(root)
        while work:
            number, others = work[-1]
            for other in others:
                if other not in index:
                    index[other] = lowest[other] = len(index)
                    path.append(other)
                    on_path.add(other)
                    work.append((other, iter(sorted(references[other]))))
                    break
                if other in on_path:
                    lowest[number] = min(lowest[number], index[other])
            else:
                work.pop()
                if work:
                    lowest[work[-1][0]] = min(lowest[work[-1][0]], lowest[number])
                if lowest[number] == index[number]:
                    circle = []
                    while True:
                        member = path.pop()
                        on_path.discard(member)
                        circle.append(member)
                        if member == number:
                            break
                    found.append(sorted(circle))
    return found
