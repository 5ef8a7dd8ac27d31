"""Which names are packed in one pickle, because they share objects or memory, and such groups to bundles and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from jupyter_gpuaas.state.arrival import region_memory
from jupyter_gpuaas.state.bundle import Chunks, Group, GroupHead, Region
from jupyter_gpuaas.state.device.memory import CONTENTS, HostContent, memories
from jupyter_gpuaas.state.groups import Ids, circles, connected
from jupyter_gpuaas.state.memory import Place, lay_out
from jupyter_gpuaas.state.owners import buffers_of, bytes_of
from jupyter_gpuaas.state.pickler import Pickled, load, under
from jupyter_gpuaas.state.pickling import Shipping, dump, dump_whole
from jupyter_gpuaas.state.rules.registry import Restoring
from jupyter_gpuaas.wire.memory import allocate


class Unit(msgspec.Struct):
    """Names that were pickled together, and what another pickle may share with them."""

    names: tuple[str, ...]
    values: tuple[Any, ...]
    pickled: Pickled
    ids: Ids
    places: list[Place]

    @property
    def context(self) -> Shipping:
        """What was met while pickling."""
        context = self.pickled.context
        assert isinstance(context, Shipping)
        return context


def look(names: Sequence[str], values: Sequence[Any], namespace: dict[str, Any], **options: Any) -> Unit:
    """Pickle names together to see what they hold; options and errors are those of `pickling.dump`."""
    pickled = dump(tuple(values), namespace, own=names, **options)
    places = lay_out(pickled.buffers, {}).places
    return Unit(tuple(names), tuple(values), pickled, Ids(pickled.shareable()), places)


def sharing(units: Sequence[Unit], others: Sequence[tuple[Ids, Iterable[Place]]]) -> list[int]:
    """Which of the others share with any of the units, as far as was known when they were looked at."""
    ids, places = [ids for ids, _ in others], [list(places) for _, places in others]
    sets = connected([unit.ids for unit in units], ids, [*(unit.places for unit in units), *places])
    count = len(units)
    return [
        number - count
        for members in sets
        if any(member < count for member in members)
        for number in members
        if number >= count
    ]


def together(units: Sequence[Unit], namespace: dict[str, Any], *, known: Sequence[Any] = ()) -> list[Unit]:
    """Pickle together what shares objects or memory or refers to each other; each after those that it refers to."""
    order = {name: place for place, name in enumerate(name for unit in units for name in unit.names)}
    units = list(units)
    while True:
        sets = connected([unit.ids for unit in units], [], [unit.places for unit in units])
        ordered = circles(_references(units))
        joint = [members for members in sets if len(members) > 1] or [circle for circle in ordered if len(circle) > 1]
        if not joint:
            return [units[number] for (number,) in ordered]
        made = {}
        for members in joint:
            pairs = [pair for member in members for pair in zip(units[member].names, units[member].values, strict=True)]
            pairs.sort(key=lambda pair: order[pair[0]])
            made[members[0]] = look([name for name, _ in pairs], [value for _, value in pairs], namespace, known=known)
        gone = {member for members in joint for member in members}
        units = [made.get(number, unit) for number, unit in enumerate(units) if number in made or number not in gone]


def _references(units: Sequence[Unit]) -> list[set[int]]:
    number_of = {name: number for number, unit in enumerate(units) for name in unit.names}
    return [
        {number_of[name] for name in unit.context.references if name in number_of} - {number}
        for number, unit in enumerate(units)
    ]


def pack(unit: Unit, namespace: dict[str, Any], *, known: Mapping[str, Any] | None = None) -> Group:
    """A unit as it is sent.

    Parameters
    ----------
    known
        Names whose objects the receiver has; the unit was made with these objects.

    Raises
    ------
    NotRestorable
        Something cannot leave this process.
    """
    return _pack(unit.names, unit.values, namespace, unit.pickled, known or {})


def pack_group(names: Sequence[str], values: Sequence[Any], namespace: dict[str, Any]) -> Group:
    """Pack names together; errors as for `pack`."""
    return _pack(tuple(names), tuple(values), namespace, None, {})


def _pack(
    names: tuple[str, ...],
    values: tuple[Any, ...],
    namespace: dict[str, Any],
    pickled: Pickled | None,
    known: Mapping[str, Any],
) -> Group:
    pickled, layout = dump_whole(values, namespace, own=names, known=list(known.values()), pickled=pickled)
    context = pickled.context
    assert isinstance(context, Shipping)
    regions = [Region(content, maker) for content, maker in zip(layout.contents, layout.makers, strict=True)]
    for memory in memories(context):
        copy = allocate(memory.nbytes)
        memory.read([(0, memory.nbytes)], [copy])
        regions.append(Region(copy, ("device",)))
    return Group(
        names,
        pickled.stream,
        regions,
        layout.spans,
        frozenset(context.references) - set(names),
        bool(context.handles),
        keeps=(values, layout.views),
        known=tuple(known),
    )


def unpack_group(
    group: GroupHead, buffers: Sequence[Any], namespace: dict[str, Any], *, held: Chunks | None = None
) -> dict[str, Any]:
    """The values of a group by name; they use the received memory in place.

    Parameters
    ----------
    namespace
        Has the names that the group refers to, and those whose objects it knows.
    held
        Where to find chunks that were left out.

    Raises
    ------
    NotThere
        One of them is not among those held.
    """
    memory = [region_memory(region, buffers, held or {}) for region in group.regions]
    restoring = Restoring(namespace)
    restoring.known = [namespace[name] for name in group.known]
    restoring.memo[CONTENTS] = [
        HostContent(bytes_of(owner))
        for owner, region in zip(memory, group.regions, strict=True)
        if region.maker == ("device",)
    ]
    with under(restoring):
        values = load(buffers[group.stream], buffers_of(group.spans, memory))
        for finish in restoring.finally_:
            finish()
    return dict(zip(group.names, values, strict=True))
