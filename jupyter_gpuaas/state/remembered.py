"""What a restore knows for the capture that follows it: which bytes in memory are the chunks of the checkpoint.

The restore filled memory with chunks whose fast digests are known. So the first look afterwards finds what has not
changed since, as any other look does, and nothing of it is copied or written again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..store.base import CHUNK_BYTES
from ..store.blob import chunk_digests
from ..store.manifest import Blob, GroupRecord, Manifest, Verdict
from .capture import Group, Tracker
from .device.copies import digests_of
from .device.memory import made_memories
from .memory import Chunked, ChunkRef, Place, address
from .owners import bytes_of
from .rules.registry import Restoring


class Remembered:
    """Collects the groups of one restore.

    Parameters
    ----------
    fast
        Fast digests of chunks by their digests; a group with a chunk that is not among them is looked at as a new one.
    """

    def __init__(self, manifest: Manifest, fast: Mapping[bytes, bytes]) -> None:
        self._manifest = manifest
        self._fast = fast
        self._entries = {entry.names: entry for entry in manifest.groups}
        self._groups: list[Group] = []

    def group(self, record: GroupRecord, values: Sequence[Any], owners: Sequence[Any], restoring: Restoring) -> None:
        """A group is there; ``owners`` are those of its regions in host memory."""
        group = Group(record.names, values)
        stream = self._chunked(record.stream)
        if stream is None:
            return
        group.stream = stream
        made = made_memories(restoring)
        fast = dict(zip(made, digests_of(list(made.values()), CHUNK_BYTES), strict=True))
        hosts, places, moved = iter(owners), [], False
        for region in record.regions:
            content: Chunked | None
            if region.maker == ("device",):
                number = sum(device != "cpu" for device in group.devices)
                if number not in made:
                    return
                memory, content = made[number], _refs(region.content, fast[number])
                device, place = memory.device, (memory.address, memory.nbytes)
                moved = moved or device != region.device
            else:
                content, device, place = self._chunked(region.content), "cpu", _place(next(hosts))
            if content is None or place[1] != region.content.size:
                return
            group.regions.append(content)
            group.makers.append(region.maker)
            group.devices.append(device)
            places.append(place)
        group.places = tuple(places)
        group.spans = record.spans
        group.references = frozenset(record.references)
        group.verdict = self._manifest.names.get(record.names[0], Verdict("stored"))
        # A record names the device, so it is another one where that is another.
        group.entry = None if moved else self._entries.get(record.names)
        self._groups.append(group)

    def tracker(self, namespace: dict[str, Any]) -> Tracker:
        """What tracks the namespace from here on."""
        tracker = Tracker(namespace)
        tracker.groups = self._groups
        tracker.restored = True
        return tracker

    def _chunked(self, content: Blob) -> Chunked | None:
        try:
            return _refs(content, [self._fast[digest] for digest in chunk_digests(content)])
        except KeyError:
            return None


def _refs(content: Blob, fast: list[bytes]) -> Chunked:
    refs = []
    for digest in chunk_digests(content):
        ref = ChunkRef(None)
        ref.digest = digest
        refs.append(ref)
    return Chunked(content.size, fast, refs)


def _place(owner: Any) -> Place:
    memory = bytes_of(owner)
    return (address(memory) if memory.nbytes else 0, memory.nbytes)
