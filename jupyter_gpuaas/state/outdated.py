"""Which memory has changed so much since its last capture that it is not worth sending as it was then.

A move sends the newest checkpoint while the session's user works. What he changes all the time, such as the weights of
a training, would be sent for nothing. A sample of its chunks tells that within milliseconds.
"""

from __future__ import annotations

from ..model import Part
from ..store.base import CHUNK_BYTES, DIGEST_BYTES
from .ahead import LEAST_BYTES
from .capture import Group, Tracker
from .device.memory import DeviceMemory, memories
from .looking import Looker
from .memory import Chunked, lay_out
from .pickler import LARGE_BYTES, dump
from .rules.registry import Context
from .sharing import no_collection

#: A region of which more has changed is better sent once, when its session stands still.
MOST_CHANGED = 0.75
#: So many regions are asked about, the largest ones: each costs the next cell a moment.
MOST_REGIONS = 64


def outdated(tracker: Tracker, touched: frozenset[str] | None) -> list[Part]:
    """Large regions most of whose chunks are others by now, of what was written of the last capture.

    Parameters
    ----------
    touched
        Names that may have changed since the last capture; None for all.
    """
    large = [
        (group, number)
        for group in tracker.groups
        if touched is None or not touched.isdisjoint(group.names)
        # Who has much else in its pickle, then or by now, is not pickled for this.
        if group.entry is not None and group.stream is not None and group.stream.size <= LARGE_BYTES
        for number, region in enumerate(group.regions)
        if region.size >= LEAST_BYTES
    ]
    large.sort(key=lambda each: -each[0].regions[each[1]].size)
    asked: dict[int, tuple[Group, list[int]]] = {}
    for group, number in large[:MOST_REGIONS]:
        asked.setdefault(id(group), (group, []))[1].append(number)
    found: list[Part] = []
    with Looker() as looker, no_collection():
        for group, numbers in asked.values():
            assert group.entry is not None
            try:
                changed = _changed(tracker, group, numbers, looker)
            except Exception:  # an object that cannot be looked at now: its memory is sent, and perhaps again
                continue
            record = group.entry.record.digests[:DIGEST_BYTES].hex()
            found += (Part(record=record, region=number, nbytes=group.regions[number].size) for number in changed)
    return found


def _changed(tracker: Tracker, group: Group, numbers: list[int], looker: Looker) -> list[int]:
    """Numbers of those regions of which most has changed."""
    context = Context(tracker.namespace)
    values = tuple(tracker.namespace[name] for name in group.names)
    pickled = dump(values, context, own=frozenset(group.names), stream_bytes=LARGE_BYTES)
    layout = lay_out(pickled.buffers, context.owners)
    there = memories(context)
    now: list[memoryview | DeviceMemory] = [*layout.contents, *there]
    places = [*(("cpu", *place) for place in layout.places), *((m.device, m.address, m.nbytes) for m in there)]
    at = dict(zip(places, now, strict=True))
    # A group may have more parts by now, or in another order; what was made anew is where its like was.
    alike = now if [size for _, _, size in places] == [region.size for region in group.regions] else []
    found = []
    for number in numbers:
        memory = at.get((group.devices[number], *group.places[number])) or (alike[number] if alike else None)
        if memory is None or _share(memory, group.regions[number], looker) > MOST_CHANGED:
            found.append(number)
    return found


def _share(memory: memoryview | DeviceMemory, before: Chunked, looker: Looker) -> float:
    """About how much of it is not as before; a device can tell of all of it."""
    if isinstance(memory, memoryview):
        return looker.changed(memory, before)
    fast = memory.chunk_digests(CHUNK_BYTES)
    return sum(was != now for was, now in zip(before.fast, fast, strict=True)) / max(1, len(fast))
