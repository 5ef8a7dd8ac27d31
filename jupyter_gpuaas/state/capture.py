"""One capture: look at the names that may have changed, group them, and say which bytes are new.

``Tracker.look`` is the part that the next cell waits for. It gives a ``Draft``, whose new chunks borrow the objects'
memory; ``Draft.detach`` copies them, after which the objects may change. ``write`` brings a draft into a store, in any
thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from ..store.blob import chunk_digests
from ..store.manifest import Blob, GroupEntry, GroupRecord, Region, Span, Verdict
from ..store.seal import NAME_CHARS
from .device.memory import memories
from .groups import Ids, circles, connected
from .looking import Looker, look_at_devices
from .lost import Lost, clear, told
from .memory import Chunked, ChunkRef, CopyPool, Layout, Place, lay_out
from .pickler import LARGE_BYTES, Pickled, dump
from .retained import held_by_modules
from .rules.registry import Context, NotRestorable
from .sharing import held_directly, no_collection
from .touched import Known, known_of

#: Names that every namespace has of its own.
NOT_STATE = frozenset(
    "__builtins__ __builtin__ __name__ __doc__ __package__ __loader__ __spec__ __file__ __cached__".split()
)
_NO_IDS = Ids([])
#: Device, first address and size of a region.
_Where = tuple[str, int, int]


class Group:
    """A co-variable as it was last looked at. Holds none of its objects alive."""

    def __init__(self, names: tuple[str, ...], values: Sequence[Any]) -> None:
        self.names = names
        self.bindings = {name: id(value) for name, value in zip(names, values, strict=True)}
        self.ids = _NO_IDS
        self.places: tuple[Place, ...] = ()
        self.stream: Chunked | None = None
        self.regions: list[Chunked] = []
        #: Of each region, what to allocate for it and where; those of devices come last.
        self.makers: list[tuple[Any, ...]] = []
        self.devices: list[str] = []
        self.spans: tuple[Span, ...] = ()
        self.references: frozenset[str] = frozenset()
        #: What its code may do to other names.
        self.known = Known(frozenset(names))
        self.modules: frozenset[str] = frozenset()
        self.verdict = Verdict("stored")
        #: Where its record lies; none until it was written.
        self.entry: GroupEntry | None = None

    @property
    def nbytes(self) -> int:
        return (self.stream.size if self.stream else 0) + sum(region.size for region in self.regions)

    @property
    def device_bytes(self) -> int:
        return sum(region.size for region, device in zip(self.regions, self.devices, strict=True) if device != "cpu")

    def refs(self) -> Iterable[ChunkRef]:
        """All chunks."""
        for chunked in (self.stream, *self.regions):
            if chunked is not None:
                yield from chunked.refs


class Draft(msgspec.Struct):
    """What a capture found. Groups that have not changed are those of the capture before, entry and all."""

    groups: list[Group]
    changed: list[Group]
    looked_bytes: int = 0
    copied_bytes: int = 0
    #: Memory of the host that the copies take until they are written.
    waiting_bytes: int = 0

    def detach(self, pool: CopyPool, stop: Callable[[], None] = lambda: None) -> None:
        """Copy what is new, so that the objects may change. ``stop`` is called often and may raise."""
        for group in self.changed:
            for ref in group.refs():
                if ref.is_borrowed:
                    self.waiting_bytes += pool.copy(ref)
                    stop()
            for region, device in zip(group.regions, group.devices, strict=True):
                if device != "cpu":  # copied when it was looked at
                    new = [ref for ref in region.refs if not ref.digest]
                    self.copied_bytes += sum(ref.nbytes for ref in new if ref.is_staged)
                    self.waiting_bytes += sum(ref.nbytes for ref in new if not ref.is_staged)
        self.copied_bytes += self.waiting_bytes

    def written_digests(self) -> set[bytes]:
        """Of all chunks that are taken for written."""
        found = {ref.digest for group in self.groups for ref in group.refs() if ref.digest}
        for group in self.groups:
            if group.entry is not None:
                found.update(chunk_digests(group.entry.record))
        return found


class _Unit(msgspec.Struct):
    """Names that were pickled together."""

    names: tuple[str, ...]
    values: tuple[Any, ...]
    pickled: Pickled | None
    ids: Ids
    layout: Layout | None
    lost: str = ""


class Tracker:
    """What is known of one namespace from its last capture."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        self.namespace = namespace
        self.groups: list[Group] = []
        self._extra: dict[str, Any] = {}
        self._beside: dict[str, tuple[Any, Group]] = {}
        # A write that fails in another thread must not take away what a look is comparing with.
        self._lock = threading.RLock()
        #: What is known comes from a restore: enough to tell what has changed, not what a cell may have touched.
        self.restored = False

    def forget(self) -> None:
        """Look at everything next time, and take nothing for written. From any thread."""
        with self._lock:
            self.groups, self._extra, self._beside = [], {}, {}

    def look(
        self,
        touched: frozenset[str] | None = None,
        extra: Mapping[str, Any] | None = None,
        *,
        skip: frozenset[str] = NOT_STATE,
    ) -> Draft:
        """Find out what has changed. When it is interrupted, everything counts as changed the next time.

        Parameters
        ----------
        touched
            Names that may have; None for all. Names that were bound anew or deleted are found in any case.
        skip
            Names that belong to the interpreter, not to the user.
        extra
            Values that are captured beside the namespace under names of their own. One that is the very object of the
            last time is plain and has not changed.
        """
        with self._lock:
            try:
                with no_collection():  # of many names much is kept, and none of it is garbage
                    return self._look(touched, dict(extra or {}), skip)
            except BaseException:
                self.forget()
                raise

    def add(self, draft: Draft, values: Mapping[str, Any]) -> None:
        """Take along plain values that are only known after the look; the very object of the last time is unchanged."""
        with self._lock:
            kept, self._beside = self._beside, {}
            for name, value in values.items():
                before = kept.get(name)
                if before is not None and before[0] is value:
                    group = before[1]
                else:
                    group, _ = self._compare(self._dump((name,), {name: value}), {}, {}, _NO_IDS, Looker())
                    draft.changed.append(group)
                    draft.looked_bytes += group.nbytes
                draft.groups.append(group)
                self._beside[name] = value, group

    def _look(self, touched: frozenset[str] | None, extra: dict[str, Any], skip: frozenset[str]) -> Draft:
        values = _named(self.namespace, skip)
        values.update(extra)
        touched = None if self.restored else touched
        fresh = frozenset(name for name, value in extra.items() if self._extra.get(name) is not value)
        self._extra = extra
        stale = self._stale(values, touched, fresh)
        units = [self._dump(names, values) for names in self._units(stale, values)]
        units = [part for unit in units for part in self._parts(unit, values)]
        units, kept = self._merge(units, values)
        groups: list[Group] = []
        changed: list[Group] = []
        looked = 0
        before = {name: group for group in self.groups for name in group.names}
        names = {name for unit in units for name in unit.names}
        held = held_by_modules(self.namespace) if names - extra.keys() else frozenset()
        held_ids = None if held is None else Ids(list(held))
        known = {
            (device, *place): region
            for group in self.groups
            for place, region, device in zip(group.places, group.regions, group.devices, strict=True)
        }
        # Who says what was touched knows that nothing else runs, which could write unseen between two looks.
        with Looker(watch=touched is not None) as looker:
            for unit in units:
                group, differs = self._compare(unit, before, known, held_ids, looker)
                looked += group.nbytes
                groups.append(group)
                if differs:
                    changed.append(group)
        self.groups, self.restored = kept + groups, False
        return Draft(list(self.groups), changed, looked)

    # -- which -------------------------------------------------------------------------------------------------

    def _stale(self, values: Mapping[str, Any], touched: frozenset[str] | None, always: frozenset[str]) -> set[str]:
        """Names to look at: new ones, and all of each group in which something may have changed."""
        if touched is None:
            return set(values)
        known = {name for group in self.groups for name in group.names}
        stale = set(values) - known
        rebound = {
            name
            for group in self.groups
            for name, bound in group.bindings.items()
            if name not in values or id(values[name]) != bound
        }
        for group in self.groups:
            names = frozenset(group.names)
            if names & (touched | rebound | always) or group.references & rebound:
                stale |= names & set(values)
        return stale

    def _units(self, stale: set[str], values: Mapping[str, Any]) -> list[tuple[str, ...]]:
        """What to pickle together at first: groups whose names are bound as they were, what obviously shares, and else
        name by name.
        """
        units: list[tuple[str, ...]] = []
        grouped: set[str] = set()
        for group in self.groups:
            whole = all(name in values and id(values[name]) == bound for name, bound in group.bindings.items())
            if whole and group.names[0] in stale and len(group.names) > 1:
                units.append(group.names)
                grouped |= set(group.names)
        single = {name: value for name, value in values.items() if name in stale and name not in grouped}
        for names in held_directly(single):
            units.append(tuple(name for name in single if name in names))
            grouped |= names
        return units + [(name,) for name in single if name not in grouped]

    # -- pickling ----------------------------------------------------------------------------------------------

    def _dump(self, names: tuple[str, ...], values: Mapping[str, Any], parts: Sequence[_Unit] = ()) -> _Unit:
        """Pickle names together; ``parts`` are units that were just made of the same names."""
        context = Context(self.namespace)
        members = tuple(values[name] for name in names)
        for value in members:
            if type(value) is Lost:
                return _Unit(names, members, None, _NO_IDS, None, told(value)[1])
        try:
            pickled = dump(members, context, own=frozenset(names))
        except NotRestorable as error:
            return _Unit(names, members, None, _NO_IDS, None, clear(str(error)))
        layout = lay_out(pickled.buffers, context.owners)
        # What the parts hold was found at a price.
        if parts and pickled.stream.nbytes > LARGE_BYTES:
            pickled.release()
            ids = Ids.joined(part.ids for part in parts)
        else:
            ids = Ids(pickled.shareable())
        return _Unit(names, members, pickled, ids, layout)

    def _parts(self, unit: _Unit, values: Mapping[str, Any]) -> list[_Unit]:
        """The unit, or its names one by one where they cannot be pickled together."""
        if unit.pickled is not None or len(unit.names) == 1:
            return [unit]
        return [self._dump((name,), values) for name in unit.names]

    def _merge(self, units: list[_Unit], values: Mapping[str, Any]) -> tuple[list[_Unit], list[Group]]:
        """Pickle together what shares objects or memory; returns those, and the groups that need no look."""
        looked = {name for unit in units for name in unit.names}
        kept = [
            group
            for group in self.groups
            if not looked & set(group.names) and all(name in values for name in group.names)
        ]
        while True:
            places = [unit.layout.places if unit.layout else [] for unit in units]
            sets = connected(
                [unit.ids for unit in units],
                [group.ids for group in kept],
                [*places, *(group.places for group in kept)],
            )
            met = [number for members in sets if len(members) > 1 for number in members if number >= len(units)]
            if met:
                # What is known of them may be of objects that are gone, whose addresses others have now: look, as
                # only ids of objects that live at the same time can be compared.
                close = [kept[number - len(units)] for number in met]
                kept = [group for group in kept if group not in close]
                for group in close:
                    units += self._parts(self._dump(group.names, values), values)
                continue
            joint = [members for members in sets if len(members) > 1] or self._circles(units)
            if not joint:
                return units, kept
            gone: set[int] = set()
            made: list[_Unit] = []
            order = {name: place for place, name in enumerate(values)}
            for members in joint:
                names = [name for number in members for name in units[number].names]
                parts = [units[number] for number in members]
                unit = self._dump(tuple(sorted(names, key=order.__getitem__)), values, parts)
                gone |= set(members)
                made.append(unit)
            units = [unit for number, unit in enumerate(units) if number not in gone] + made

    def _circles(self, units: list[_Unit]) -> list[list[int]]:
        """Units whose definitions refer to each other, so that none could be restored first."""
        number_of = {name: number for number, unit in enumerate(units) for name in unit.names}
        references = [
            {number_of[name] for name in unit.pickled.context.references if name in number_of} - {number}
            if unit.pickled
            else set()
            for number, unit in enumerate(units)
        ]
        if not any(references):
            return []
        return [circle for circle in circles(references) if len(circle) > 1]

    # -- comparing ---------------------------------------------------------------------------------------------

    def _compare(
        self,
        unit: _Unit,
        before: Mapping[str, Group],
        known: Mapping[_Where, Chunked],
        held: Ids | None,
        looker: Looker,
    ) -> tuple[Group, bool]:
        """The unit as a group, and whether it is another than before; ``held`` by the user's modules.

        Parameters
        ----------
        known
            Regions of the groups before, wherever they belong now.
        """
        group = Group(unit.names, unit.values)
        old = before.get(unit.names[0])
        if unit.pickled is None or unit.layout is None:
            group.verdict = Verdict("lost", unit.lost)
            return group, old is None or old.verdict != group.verdict
        pickled, context = unit.pickled, unit.pickled.context
        group.ids = unit.ids
        group.places = tuple(unit.layout.places)
        group.makers, group.spans = list(unit.layout.makers), unit.layout.spans
        group.references = frozenset(context.references) - set(unit.names)
        group.known = known_of(
            unit.names,
            context.codes,
            references=group.references,
            objects=context.builtins,
            escapes=context.escapes,
            retained=held is None or unit.ids.meets(held),
        )
        group.modules = frozenset(module.partition(".")[0] for module in context.modules)
        if context.rebuilds:
            group.verdict = Verdict("rebuilt", clear("; ".join(context.rebuilds)))
        # The stream is bytes of our own, so it needs no copy.
        group.stream = looker.look(pickled.stream, old.stream if old else None)
        for place, content in zip(unit.layout.places, unit.layout.contents, strict=True):
            group.devices.append("cpu")
            was = known.get(("cpu", *place))
            group.regions.append(looker.look(content, was, (unit.layout.views, unit.values), place[0]))
        there = memories(context)
        group.regions += look_at_devices(there, [known.get((m.device, m.address, m.nbytes)) for m in there])
        group.makers += [("device",)] * len(there)
        group.devices += [memory.device for memory in there]
        group.places = (*group.places, *((memory.address, memory.nbytes) for memory in there))
        same = (
            old is not None
            and (old.names, old.verdict, old.spans, old.makers, old.devices, old.references)
            == (group.names, group.verdict, group.spans, group.makers, group.devices, group.references)
            and old.stream is group.stream
            and len(old.regions) == len(group.regions)
            and all(was is now for was, now in zip(old.regions, group.regions, strict=True))
        )
        if same and old is not None:
            group.entry = old.entry
        return group, not same


def _named(namespace: dict[str, Any], skip: frozenset[str]) -> dict[str, Any]:
    """What is captured; a key that no manifest can hold is there under a name that says what it is, as lost."""
    values: dict[str, Any] = {}
    for key, value in list(namespace.items()):  # a list, as threads may bind names meanwhile
        if isinstance(key, str) and _is_storable(key):
            name = str.__str__(key)  # it may be of a subclass
            if name not in skip:
                values[name] = value
        else:
            shown = f"({clear(repr(key))[:200]})" if isinstance(key, (str, int, tuple)) else f"({type(key).__name__})"
            values[shown] = Lost(shown, "is bound to a key that cannot be stored")
    return values


def _is_storable(key: str) -> bool:
    if not 0 < len(key) <= NAME_CHARS or key.startswith("<"):  # so hidden state is called
        return False
    if key.isascii():
        return True
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def record(group: Group) -> GroupRecord:
    """The group as it is kept; its chunks have been written."""
    assert group.stream is not None
    regions = tuple(
        Region(_blob(chunked), device, maker)
        for chunked, device, maker in zip(group.regions, group.devices, group.makers, strict=True)
    )
    return GroupRecord(group.names, _blob(group.stream), regions, group.spans, tuple(sorted(group.references)))


def _blob(chunked: Chunked) -> Blob:
    return Blob(chunked.size, b"".join(ref.digest for ref in chunked.refs))
