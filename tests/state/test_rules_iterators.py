"""Iterators and generators: at their position, over the same container."""

from __future__ import annotations

import itertools
import operator
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jupyter_gpuaas.state.rules.registry import NotRestorable

from .roundtrip import cell, roundtrip


def items() -> list[int]:
    return list(range(7))


def pairs() -> dict[str, int]:
    return {"a": 1, "b": 2, "c": 3}


MAKERS: dict[str, Callable[[], Iterator[Any]]] = {
    "list": lambda: iter(items()),
    "reversed list": lambda: reversed(items()),
    "tuple": lambda: iter(tuple(items())),
    "ascii": lambda: iter("abc"),
    "str": lambda: iter("aé中d"),
    "bytes": lambda: iter(b"abc"),
    "bytearray": lambda: iter(bytearray(b"abc")),
    "range": lambda: iter(range(2, 30, 3)),
    "reversed range": lambda: reversed(range(9)),
    "long range": lambda: iter(range(10**30, 10**30 + 5)),
    "dict": lambda: iter(pairs()),
    "dict values": lambda: iter(pairs().values()),
    "dict items": lambda: iter(pairs().items()),
    "reversed dict": lambda: reversed(pairs()),
    "reversed dict values": lambda: reversed(pairs().values()),
    "reversed dict items": lambda: reversed(pairs().items()),
    "ordered dict": lambda: iter(OrderedDict(pairs())),
    "ordered dict items": lambda: iter(OrderedDict(pairs()).items()),
    "reversed ordered dict": lambda: reversed(OrderedDict(pairs())),
    "set": lambda: iter({1, 2, 3}),
    "deque": lambda: iter(deque(items())),
    "reversed deque": lambda: reversed(deque(items())),
    "array": lambda: iter(array("i", items())),
    "reversed str": lambda: reversed("abc"),
    "callable": lambda: iter([3, 2, 1].pop, 3),
    "enumerate": lambda: enumerate(items(), 5),
    "zip": lambda: zip(items(), "abcd", strict=False),
    "map": lambda: map(operator.neg, items()),
    "filter": lambda: filter(None, items()),
    "count": lambda: itertools.count(3, 2),
    "count of floats": lambda: itertools.count(0.5),
    "cycle": lambda: itertools.cycle("abc"),
    "cycle of an iterator": lambda: itertools.cycle(iter([1, 2, 3])),
    "repeat": lambda: itertools.repeat(1, 5),
    "repeat for ever": lambda: itertools.repeat(1),
    "accumulate": lambda: itertools.accumulate(items()),
    "accumulate from": lambda: itertools.accumulate(items(), operator.mul, initial=2),
    "accumulate None": lambda: itertools.accumulate([None, None, 1], lambda _, new: new),
    "chain": lambda: itertools.chain(items(), "abc"),
    "chain from iterable": lambda: itertools.chain.from_iterable(["ab", "cd"]),
    "compress": lambda: itertools.compress("abcdef", [1, 0, 1, 0, 1, 1]),
    "dropwhile": lambda: itertools.dropwhile(lambda item: item < 3, items()),
    "takewhile": lambda: itertools.takewhile(lambda item: item < 3, items()),
    "filterfalse": lambda: itertools.filterfalse(lambda item: item % 2, items()),
    "islice": lambda: itertools.islice(items(), 1, 6, 2),
    "islice for ever": lambda: itertools.islice(itertools.count(), 2, None, 3),
    "starmap": lambda: itertools.starmap(pow, [(1, 2), (3, 4), (5, 2)]),
    "zip_longest": lambda: itertools.zip_longest("ab", items(), fillvalue="-"),
    "product": lambda: itertools.product("ab", repeat=3),
    "permutations": lambda: itertools.permutations("abc", 2),
    "combinations": lambda: itertools.combinations("abcd", 2),
    "combinations with replacement": lambda: itertools.combinations_with_replacement("abc", 2),
    "pairwise": lambda: itertools.pairwise("abcdef"),
    "groupby": lambda: map(operator.itemgetter(0), itertools.groupby("aabbccd")),
    "groupby, groups half read": lambda: map(lambda group: next(group[1]), itertools.groupby("aaabbccd")),
    "tee": lambda: itertools.tee(range(130))[1],
}


def advance(iterator: Iterator[Any], count: int) -> list[Any]:
    return [next(iterator, "end") for _ in range(count)]


@pytest.mark.parametrize("name", MAKERS)
def test_iterator_goes_on_wherever_it_is(name: str) -> None:
    for given in range(14):
        iterator = MAKERS[name]()
        advance(iterator, given)
        namespace = cell("")
        namespace["iterator"] = iterator
        new, _, _ = roundtrip(namespace)
        assert advance(new["iterator"], 140) == advance(iterator, 140), given


def test_iterators_see_later_changes_of_their_container() -> None:
    new, context, _ = roundtrip(
        cell(
            """
import itertools
from collections import deque
xs = [1, 2, 3]; it = iter(xs); next(it); nested = enumerate(it)
d = dict(a=1, b=2); keys = iter(d); next(keys); values = iter(d.values()); odd = reversed(d.items()); next(odd)
q = deque([1, 2]); over = iter(q); next(over)
own = [0, 1, 2]; mine = iter(own); next(mine); next(mine); own.append(mine)
one, two = itertools.tee(xs); next(one); next(one)
z = zip(*[iter(range(6))] * 2); next(z)
gb = itertools.groupby("aaab"); key, group = next(gb); next(group)
"""
        )
    )
    new["xs"].append(4)
    assert next(new["nested"]) == (0, 2) and list(new["it"]) == [3, 4]
    new["d"]["b"] = 20
    assert list(new["values"]) == [1, 20] and list(new["keys"]) == ["b"] and list(new["odd"]) == [("a", 1)]
    new["q"].append(3)
    with pytest.raises(RuntimeError, match="mutated"):
        next(new["over"])
    assert next(new["mine"]) == 2 and next(new["mine"]) is new["mine"]
    assert list(new["one"]) == [3, 4] and list(new["two"]) == [1, 2, 3, 4]
    assert next(new["z"]) == (2, 3)
    assert list(new["group"]) == ["a", "a"] and next(new["gb"])[0] == "b"
    assert not context.rebuilds


def test_dict_iterator_whose_dict_grew_is_refused() -> None:
    with pytest.raises(NotRestorable, match="dict"):
        roundtrip(cell("d = {1: 2}; it = iter(d); d[2] = 3"))


def test_generators_that_have_not_begun_or_have_ended() -> None:
    made = cell(
        """
def outer(k):
    def f(a, /, b, *rest, c=3, **more):
        for value in (a, b, rest, c, more, k): yield value
        return 7
    return f
g = outer(9)(1, 2, 3, 4, c=5, d=6)
def counting(n):
    while n: n -= 1; yield (lambda: n)()
cells = counting(3)
done = counting(1); list(done)
xs = [1, 2, 3]
fresh = (x * 2 for x in xs); half = (x * 2 for x in xs if x != 2); next(half)
async def co(x): return x + 1
waiting = co(1)
over = co(1); over.close()
async def many(n):
    for i in range(n): yield i
later = many(2)
"""
    )
    new, _, _ = roundtrip(made)
    made["waiting"].close()
    assert list(new["g"]) == [1, 2, (3, 4), 5, {"d": 6}, 9]
    assert new["g"].__qualname__ == "outer.<locals>.f"
    assert list(new["cells"]) == [2, 1, 0] and list(new["done"]) == []
    new["xs"].append(4)
    assert list(new["fresh"]) == [2, 4, 6, 8] and list(new["half"]) == [6, 8]
    with pytest.raises(StopIteration, match="2"):
        new["waiting"].send(None)
    with pytest.raises(RuntimeError, match="already"):
        new["over"].send(None)
    with pytest.raises(StopIteration, match="0"):
        new["later"].__anext__().send(None)


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    yield 1\n    yield 2\nx = f(); next(x)",
        "x = ((a, b) for a in range(3) for b in range(3)); next(x)",
        "x = (lambda: a for a in range(3)); y = next(x)",
        "import re\nx = re.finditer('a', 'aaa'); next(x)",
    ],
)
def test_half_way_is_refused(source: str) -> None:
    with pytest.raises(NotRestorable, match=r"half way|under way"):
        roundtrip(cell(source))


def test_csv_goes_on() -> None:
    new, _, _ = roundtrip(
        cell(
            """
import csv, io
source = iter(["a;b", "c;d"]); rows = csv.reader(source, delimiter=";"); next(rows)
sink = io.StringIO(); out = csv.writer(sink, delimiter=";"); out.writerow([1])
"""
        )
    )
    new["out"].writerow([2, 3])
    assert list(new["rows"]) == [["c", "d"]] and new["sink"].getvalue() == "1\r\n2;3\r\n"
