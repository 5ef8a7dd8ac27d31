"""Which objects of a pickle another pickle may hold too, by their ids.

An id says something only as long as its object lives. What a rule made for the pickler is gone with it, and its address
may be another object's a moment later; so such objects are left out.
"""

from __future__ import annotations

import enum
import gc
import itertools
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from sys import getrefcount
from typing import Any

from .rules.definitions import ModuleScope

Memo = dict[int, tuple[int, Any]]

#: Types whose objects may be in two pickles without anybody noticing that they became two.
_UNSHARED = (
    *(str, bytes, int, float, complex, bool, range, slice, type, type(None), type(Ellipsis), type(NotImplemented)),
    *(types.FunctionType, types.BuiltinFunctionType, types.CodeType, types.MethodType, types.ModuleType),
    *(types.MethodDescriptorType, types.WrapperDescriptorType, types.GetSetDescriptorType),
    *(types.MemberDescriptorType, types.GenericAlias, enum.Enum, ModuleScope),
)
_UNSHARED_NAMES = frozenset(
    "datetime.date datetime.time datetime.datetime datetime.timedelta datetime.timezone zoneinfo.ZoneInfo "
    "decimal.Decimal fractions.Fraction uuid.UUID re.Pattern pathlib.PosixPath pathlib.PurePosixPath "
    "typing._GenericAlias typing._UnionGenericAlias typing._CallableGenericAlias typing._LiteralGenericAlias "
    "torch.dtype torch.device torch.Size torch.layout torch.memory_format pickle.PickleBuffer".split()
)
_NOBODYS = frozenset({id(()), id(frozenset())})
_kinds: dict[type, bool] = {}
_CONTAINERS = (dict, list, tuple, set, frozenset)
#: Of containers, from which number of items on it pays to look at their types first.
_LARGE = 1000
#: And from which on it takes long to pickle.
_VERY_LARGE = 20_000


def by_memo(proxy: Any, kept: dict[Any, Any], by_value: Collection[int], anchors: Collection[int]) -> list[int]:
    """Shareable ids from a pickler's memo; exact, a microsecond or two an object.

    Parameters
    ----------
    kept
        What rules keep for the length of the pickle.
    """
    with no_collection():
        memo: Memo = proxy.copy()
        kinds = {type(obj) for _, obj in memo.values()}
        unshared = _unshared_of(kinds)
        found = {key for key, (_, obj) in memo.items() if type(obj) not in unshared or key in by_value}
        return list(found - _temporary(memo, kept) - _NOBODYS - _of_classes(kinds) - set(anchors))


def by_search(values: Iterable[Any], reduced: list[Any], by_value: Iterable[int], anchors: Iterable[int]) -> list[int]:
    """Shareable ids by following references, for a million objects; finds what was pickled, and may find more.

    Parameters
    ----------
    reduced
        What rules gave to the pickler, as references through their objects may be hidden from the collector.
    """
    with no_collection():
        seen = set(anchors) | _NOBODYS
        system = set(seen)
        frontier = [*values, *_parts(reduced)]
        frontier = _new(frontier, seen)
        while frontier:
            frontier = _new(gc.get_referents(*filter(_leads_on, frontier)), seen)
        seen -= system
        seen.update(by_value)
        return list(seen)


def _leads_on(obj: Any) -> bool:
    """Whether anything in it may be shareable; told at once of a large container of numbers or texts."""
    kind = type(obj)
    if kind not in _CONTAINERS or len(obj) < _LARGE:
        return True
    kinds = set(map(type, obj))
    if kind is dict:
        kinds.update(map(type, obj.values()))
    return len(_unshared_of(kinds)) < len(kinds)


def held_directly(values: Mapping[str, Any]) -> list[set[str]]:
    """Names that certainly share, a very large container and what it holds: known early, it is not pickled twice."""
    large = {name for name, value in values.items() if type(value) in _CONTAINERS and len(value) >= _VERY_LARGE}
    if not large:
        return []
    others: dict[int, set[str]] = {}
    for name, value in values.items():
        if name not in large and not _is_unshared(type(value)):
            others.setdefault(id(value), set()).add(name)
    kinds = {type(values[name]) for names in others.values() for name in names}
    found: list[set[str]] = []
    for name in large:
        holder = values[name]
        items = holder.values() if type(holder) is dict else holder
        if kinds.isdisjoint(map(type, items)):
            continue
        names = {name}.union(*map(others.__getitem__, filter(others.__contains__, map(id, items))))
        for met in [each for each in found if not each.isdisjoint(names)]:
            found.remove(met)
            names |= met
        if len(names) > 1:
            found.append(names)
    return found


def _new(objects: list[Any], seen: set[int]) -> list[Any]:
    """Those that are shareable and were not met before."""
    kinds = set(map(type, objects))
    shared = kinds - _unshared_of(kinds)
    seen |= _of_classes(kinds)
    if not shared:
        return []
    # Not a line of Python for each object: there may be millions.
    if len(shared) < len(kinds):
        objects = list(itertools.compress(objects, map(shared.__contains__, map(type, objects))))
    fresh = dict(zip(map(id, objects), objects, strict=True))
    for key in fresh.keys() & seen:
        del fresh[key]
    seen.update(fresh)
    return list(fresh.values())


def _parts(reduced: list[Any]) -> list[Any]:
    """What is in reduce values, without the containers that were made for them."""
    found: list[Any] = []
    todo = list(reduced)
    reduced.clear()
    while todo:
        part = todo.pop()
        # Held by this name and as an argument.
        if type(part) in (tuple, list, dict) and getrefcount(part) == 2:
            todo.extend(part.values() if type(part) is dict else part)
        else:
            found.append(part)
    return found


def _temporary(memo: Memo, kept: dict[Any, Any]) -> set[int]:
    """Ids of what only the memo, or what rules keep for one pickle, holds: it is gone with them."""
    # Held by the memo, by the pair in its copy, by the name in this loop, and as an argument.
    todo = [obj for _, obj in memo.values() if getrefcount(obj) == 4]
    left: dict[int, int] = {}
    gone = {id(obj) for obj in todo}
    todo.append(kept)
    while todo:
        for obj in gc.get_referents(todo.pop()):
            key = id(obj)
            if key not in gone:
                # Held by the list of referents, by the name in this loop, and as an argument; and by the memo.
                others = 5 if key in memo else 3
                left[key] = left.get(key, getrefcount(obj) - others) - 1
                if left[key] == 0:
                    gone.add(key)
                    todo.append(obj)
    return gone


def _of_classes(kinds: Iterable[type]) -> set[int]:
    """Ids of what belongs to a library's class and is pickled with its objects: pandas keeps a list so."""
    lists = (getattr(kind, "_metadata", None) for kind in kinds if kind.__module__.partition(".")[0] == "pandas")
    return {id(found) for found in lists if found is not None}


def _unshared_of(kinds: Iterable[type]) -> set[type]:
    return {kind for kind in kinds if _is_unshared(kind)}


def _is_unshared(kind: type) -> bool:
    """Whether objects of this type are immutable, or are met again by their name."""
    try:
        return _kinds[kind]
    except KeyError:
        pass
    name = f"{kind.__module__}.{kind.__qualname__}"
    found = kind in _UNSHARED or issubclass(kind, (type, enum.Enum)) or name in _UNSHARED_NAMES
    # numpy's dtypes and scalars
    found = found or kind.__module__ == "numpy.dtypes"
    found = found or (kind.__module__ == "numpy" and hasattr(kind, "itemsize") and not hasattr(kind, "setflags"))
    _kinds[kind] = found
    return found


@contextmanager
def no_collection() -> Iterator[None]:
    """No collection of garbage inside: a million objects are made there, and none of them is garbage."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
