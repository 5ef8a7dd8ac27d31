"""Iterators: at their position, over the container that they were over, so that they see its later changes.

Most of Python's own say in their ``__reduce__`` what they iterate and how far they are. Where that is not all (the
dict behind a dict's iterator, the half-read group of a ``groupby``), the collector's list of what an object refers to
tells the rest: it is the one way to look into them.
"""

from __future__ import annotations

import gc
import itertools
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .registry import Context, NotRestorable, restoring, rule


def referents(obj: Any) -> list[Any]:
    """What an object written in C holds, in the order in which it names them; its type, which some name, left out."""
    return [held for held in gc.get_referents(obj) if held is not type(obj)]


# -- over a sequence: an index, which pickle cuts to a length that the sequence may not have yet -----------------


@rule("builtins.list_iterator", "builtins.list_reverseiterator", "builtins.iterator", "builtins.reversed", exact=True)
def reduce_indexed(iterator: Any, context: Context) -> Any:
    made = iterator.__reduce__()
    if len(made) < 3:
        return made
    return made[0], made[1], made[2], None, None, set_index


def set_index(iterator: Any, index: int) -> None:
    iterator.__setstate__(index)
    # A list that holds its own iterator is not filled yet, and the index was cut to its length: once more at the end.
    restoring().finally_.append(lambda: iterator.__setstate__(index))


@rule("_collections._deque_iterator", "_collections._deque_reverse_iterator", exact=True)
def reduce_deque_iterator(iterator: Any, context: Context) -> Any:
    kind, (deque, index) = iterator.__reduce__()[:2]
    return deque_iterator, (kind, deque, index, len(deque))


def deque_iterator(kind: Any, deque: Any, index: int, length: int) -> Any:
    _complete(deque, length)
    return kind(deque, index)


def _complete(container: Any, length: int) -> None:
    if len(container) != length:
        raise NotRestorable("is an iterator over something that holds the iterator itself")


# -- over a dict or set --------------------------------------------------------------------------------------------


@rule(
    *("builtins.dict_keyiterator", "builtins.dict_valueiterator", "builtins.dict_itemiterator"),
    *("builtins.dict_reversekeyiterator", "builtins.dict_reversevalueiterator", "builtins.dict_reverseitemiterator"),
    "builtins.odict_iterator",
    exact=True,
)
def reduce_dict_iterator(iterator: Any, context: Context) -> Any:
    rest = _rest(iterator)
    over = next((held for held in referents(iterator) if isinstance(held, dict)), None)
    if over is None:
        return exhausted, (type(iterator).__name__,)
    ways = [how for how in _WAYS if type(_WAYS[how](over)) is type(iterator) and _at_end(over, how, rest)]
    if not ways:
        raise NotRestorable("is an iterator over a dict whose keys have changed since it began")
    if rest and len({how.rpartition(" ")[2] for how in ways}) > 1:  # All of an OrderedDict are of one type.
        raise NotRestorable("is an iterator over a dict, and whether of its keys or values cannot be told")
    return dict_iterator, (over, ways[0], len(over) - len(rest), len(over))


#: How an iterator over a dict is made.
_WAYS: dict[str, Callable[[Any], Iterator[Any]]] = {
    "keys": iter,
    "values": lambda over: iter(over.values()),
    "items": lambda over: iter(over.items()),
    "reversed keys": reversed,
    "reversed values": lambda over: reversed(over.values()),
    "reversed items": lambda over: reversed(over.items()),
}


def _rest(iterator: Any) -> list[Any]:
    """What it will still give, without moving it."""
    try:
        return list(iterator.__reduce__()[1][0])
    except RuntimeError as error:
        raise NotRestorable(f"is an iterator that has ended with: {error}") from None


def _at_end(over: Any, how: str, rest: list[Any]) -> bool:
    """Whether these are what a new iterator gives last."""
    given = list(_WAYS[how](over))
    last = given[len(given) - len(rest) :] if len(rest) <= len(given) else None
    return last is not None and all(map(_same, last, rest))


def _same(one: Any, other: Any) -> bool:
    if type(one) is tuple and type(other) is tuple:  # an item, made anew each time
        return len(one) == len(other) and all(map(_is, one, other))
    return one is other


def _is(one: Any, other: Any) -> bool:
    return one is other


def dict_iterator(over: Any, how: str, given: int, length: int) -> Iterator[Any]:
    _complete(over, length)
    iterator: Iterator[Any] = _WAYS[how](over)
    consume(iterator, given)
    return iterator


def exhausted(kind: str) -> Iterator[Any]:
    """An iterator of this kind, at its end."""
    if kind == "odict_iterator":
        from collections import OrderedDict

        iterator: Iterator[Any] = iter(OrderedDict())
    else:
        iterator = next(made for way in _WAYS.values() if type(made := way({})).__name__ == kind)
    consume(iterator, 1)
    return iterator


@rule("builtins.set_iterator", exact=True)
def reduce_set_iterator(iterator: Any, context: Context) -> Any:
    rest = _rest(iterator)
    over = next((held for held in referents(iterator) if isinstance(held, (set, frozenset))), None)
    if over is None:
        return set_iterator, (set(), 0)
    if len(rest) == len(over):
        return set_iterator, (over, len(over))
    # Another process has the elements in another order: what is left is known, a place in the set is not.
    context.rebuilt("an iterator over what the set's iterator had not given yet; it does not see changes of the set")
    return iter, (rest,)


def set_iterator(over: Any, length: int) -> Iterator[Any]:
    _complete(over, length)
    iterator: Iterator[Any] = iter(over)
    if not over:
        consume(iterator, 1)
    return iterator


def consume(iterator: Iterable[Any], count: int) -> None:
    next(itertools.islice(iterator, count, count), None)


# -- itertools -----------------------------------------------------------------------------------------------------


@rule(
    *("itertools.accumulate", "itertools.chain", "itertools.combinations", "itertools.combinations_with_replacement"),
    *("itertools.compress", "itertools.count", "itertools.cycle", "itertools.dropwhile", "itertools.filterfalse"),
    *("itertools.islice", "itertools.permutations", "itertools.product", "itertools.repeat", "itertools.starmap"),
    *("itertools.takewhile", "itertools.zip_longest", "itertools._tee", "itertools._tee_dataobject"),
    "itertools._grouper",
    exact=True,
)
def reduce_itertool(iterator: Any, context: Context) -> Any:
    if sys.hexversion < 0x30C0000:
        return NotImplemented
    with warnings.catch_warnings():
        # Python 3.12 announces that 3.14 will not tell any more. There they are refused, and said to be.
        warnings.simplefilter("ignore", DeprecationWarning)
        return iterator.__reduce__()


@rule("itertools.groupby", exact=True)
def reduce_groupby(groups: Any, context: Context) -> Any:
    held = referents(groups)
    if len(held) != 3:
        return reduce_itertool(groups, context)
    # Its own __reduce__ forgets that it is within a group whose latest element has been read.
    return groupby, tuple(held)


def groupby(source: Any, key: Any, target: Any) -> Any:
    groups: Any = itertools.groupby(source, key)
    groups.__setstate__((target, None, target))
    next(itertools._grouper(groups, target), None)  # type: ignore[attr-defined]  # takes the None out again
    return groups


@rule("itertools.pairwise", exact=True)
def reduce_pairwise(pairs: Any, context: Context) -> Any:
    held = referents(pairs)
    if sys.hexversion >= 0x30C0000 and len(held) > 1:
        held.pop()  # the tuple that it gives again and again
    if not held:
        return itertools.pairwise, ((),)
    source, *first = held
    return pairwise, (source, first)


def pairwise(source: Any, first: list[Any]) -> Any:
    return itertools.pairwise(itertools.chain(first, source) if first else source)


# -- others --------------------------------------------------------------------------------------------------------


@rule("_sre.SRE_Scanner", exact=True)
def reduce_scanner(scanner: Any, context: Context) -> Any:
    raise NotRestorable("is a search that is under way (re.finditer); make a list of it")


@rule("_csv.reader", exact=True)
def reduce_csv_reader(reader: Any, context: Context) -> Any:
    source = next((held for held in referents(reader) if hasattr(held, "__next__")), None)
    if source is None:
        raise NotRestorable("is a csv reader whose source cannot be found")
    if reader.line_num:
        context.rebuilt("a csv reader that goes on at the next line; its line_num counts from zero again")
    return csv_reader, (source, _dialect(reader.dialect))


@rule("_csv.writer", exact=True)
def reduce_csv_writer(writer: Any, context: Context) -> Any:
    sink = next((held.__self__ for held in referents(writer) if getattr(held, "__name__", "") == "write"), None)
    if sink is None:
        raise NotRestorable("is a csv writer whose file cannot be found")
    return csv_writer, (sink, _dialect(writer.dialect))


_DIALECT = "delimiter doublequote escapechar lineterminator quotechar quoting skipinitialspace strict".split()


def _dialect(dialect: Any) -> dict[str, Any]:
    return {name: getattr(dialect, name) for name in _DIALECT}


def csv_reader(source: Any, dialect: dict[str, Any]) -> Any:
    import csv

    return csv.reader(source, **dialect)


def csv_writer(sink: Any, dialect: dict[str, Any]) -> Any:
    import csv

    return csv.writer(sink, **dialect)


@rule("numpy.flatiter", exact=True)
def reduce_flatiter(iterator: Any, context: Context) -> Any:
    return flatiter, (iterator.base, iterator.index)


def flatiter(base: Any, given: int) -> Any:
    iterator = base.flat
    consume(iterator, given)
    return iterator
