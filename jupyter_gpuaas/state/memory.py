"""Memory of a group: out-of-band buffers laid together into regions, and copies of what is to be written.

Whatever views a group holds, overlapping buffers are one region, so that what shared memory shares it again. A region
is looked at in chunks (see `looking`); only chunks that differ from last time are copied or written. The digest that
addresses a chunk in the store is computed later, from the copy, and never for a chunk that has not changed.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from ..store.base import CHUNK_BYTES
from ..store.manifest import Span
from ..wire.memory import allocate
from .device.memory import DeviceMemory

#: Of a pool: slots that are allocated together.
_SLOTS = 8

#: Regions are looked for again by address and size: the digests decide, so a wrong find costs time and no more.
Place = tuple[int, int]


class ChunkRef:
    """One chunk of a region or stream: where its bytes are, until its address in the store is known."""

    __slots__ = ("digest", "memory", "owner")

    def __init__(self, memory: memoryview | None, owner: Any = None) -> None:
        #: BLAKE3 digest; empty until the chunk was written.
        self.digest = b""
        #: The bytes, as long as they are still to be written.
        self.memory = memory
        #: Keeps borrowed memory alive; of a copy, the slot of the pool; of one that waits on a device, its `Staged`.
        self.owner = owner

    @property
    def is_borrowed(self) -> bool:
        """Whether the bytes are an object's own, which changes them when it likes."""
        return self.owner is not None and not isinstance(self.owner, (memoryview, Staged))

    @property
    def is_staged(self) -> bool:
        """Whether the bytes lie in a copy on a device."""
        return isinstance(self.owner, Staged)

    @property
    def nbytes(self) -> int:
        """Bytes that are still to be written."""
        if isinstance(self.owner, Staged):
            return self.owner.length
        return 0 if self.memory is None else self.memory.nbytes


class Staged(NamedTuple):
    """Where a chunk lies in a copy on a device, until it is fetched."""

    memory: DeviceMemory
    offset: int
    length: int


class Chunked:
    """The chunks of one run of bytes, and their fast digests."""

    __slots__ = ("edges", "fast", "mark", "patience", "penalty", "refs", "size")

    def __init__(self, size: int, fast: list[bytes], refs: list[ChunkRef]) -> None:
        self.size = size
        self.fast = fast
        self.refs = refs
        #: Since when its pages are watched (see `looking`), 0 for not at all; and digests of what no whole page holds.
        self.mark = 0
        self.edges = b""
        #: How often it has to stay as it is before it is watched, and how often after it next changes much.
        self.patience = 0
        self.penalty = 1


class Layout(msgspec.Struct):
    """Where the buffers of one pickle lie."""

    #: First address and size of each region, in the order of the pickle.
    places: list[Place]
    #: The bytes of each region; borrowed.
    contents: list[memoryview]
    spans: tuple[Span, ...]
    makers: list[tuple[Any, ...]]
    #: Keeps the memory alive.
    views: Sequence[memoryview]


def lay_out(views: Sequence[memoryview], owners: dict[int, tuple[Any, ...]]) -> Layout:
    """Merge buffers that overlap into regions.

    Parameters
    ----------
    owners
        Address of a buffer that is the whole memory of one object -> what to allocate for it.
    """
    bounds = [(address(view), view.nbytes) for view in views]
    runs: list[tuple[int, int, list[int]]] = []
    for index in sorted(range(len(bounds)), key=bounds.__getitem__):
        start, length = bounds[index]
        if runs and start < runs[-1][1]:
            low, high, members = runs[-1]
            members.append(index)
            runs[-1] = (low, max(high, start + length), members)
        else:
            runs.append((start, start + length, [index]))
    # In the order of the pickle, so that equal objects give equal layouts wherever they lie.
    runs.sort(key=lambda run: min(run[2]))
    spans: list[Span | None] = [None] * len(views)
    makers: list[tuple[Any, ...]] = []
    contents: list[memoryview] = []
    for number, (low, high, members) in enumerate(runs):
        for index in members:
            start, length = bounds[index]
            spans[index] = Span(number, start - low, length, views[index].readonly)
        whole = next((index for index in members if bounds[index] == (low, high - low)), None)
        contents.append(views[whole].cast("B") if whole is not None else _memory_at(low, high - low))
        makers.append(owners.get(low, ("bytes",)) if whole is not None else ("bytes",))
    places = [(low, high - low) for low, high, _ in runs]
    return Layout(places, contents, tuple(span for span in spans if span is not None), makers, views)


def address(view: memoryview) -> int:
    """Where the memory of a view begins."""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        return int(numpy.frombuffer(view, numpy.uint8).__array_interface__["data"][0])
    if not view.readonly:
        return ctypes.addressof(ctypes.c_char.from_buffer(view))
    # Nothing but numpy and torch give out read-only memory that could overlap with other memory.
    return id(view) << 20


def _memory_at(low: int, size: int) -> memoryview:
    """Memory that several views cover together; valid as long as they live."""
    return memoryview((ctypes.c_char * size).from_address(low)).cast("B")


def length_of(chunked: Chunked | None, number: int) -> int:
    """Bytes of one chunk."""
    assert chunked is not None
    return min(CHUNK_BYTES, chunked.size - number * CHUNK_BYTES)


class CopyPool:
    """Warm memory for copies: fresh pages, not copying, are what costs.

    Slots are one chunk long. Those given back are kept up to ``keep_bytes``; beyond, memory is returned to the system.
    It is taken several slots at a time, so that it is of huge pages where the system has them.
    """

    def __init__(self, keep_bytes: int) -> None:
        self._keep = keep_bytes // CHUNK_BYTES
        self._free: list[memoryview] = []

    def copy(self, ref: ChunkRef) -> int:
        """Replace borrowed memory by a copy; returns the bytes copied."""
        assert ref.memory is not None
        slot = self._slot()
        copied = slot[: ref.memory.nbytes]
        copied[:] = ref.memory
        ref.memory, ref.owner = copied, slot
        return copied.nbytes

    def fetch(self, refs: Iterable[ChunkRef]) -> None:
        """Bring those to the host that wait on a device."""
        waiting: dict[int, list[ChunkRef]] = {}
        for ref in refs:
            if isinstance(ref.owner, Staged):
                waiting.setdefault(id(ref.owner.memory), []).append(ref)
        for together in waiting.values():
            places = [ref.owner for ref in together]
            slots = [self._slot() for _ in together]
            targets = [slot[: place.length] for slot, place in zip(slots, places, strict=True)]
            places[0].memory.read([(place.offset, place.length) for place in places], targets)
            for ref, slot, target in zip(together, slots, targets, strict=True):
                ref.memory, ref.owner = target, slot

    def _slot(self) -> memoryview:
        try:
            return self._free.pop()
        except IndexError:
            memory = allocate(_SLOTS * CHUNK_BYTES)
            more = [memory[start : start + CHUNK_BYTES] for start in range(0, memory.nbytes, CHUNK_BYTES)]
            slot = more.pop()
            self._free += more
            return slot

    def give_back(self, ref: ChunkRef) -> None:
        """The chunk was written; its slot serves again."""
        slot, ref.owner, ref.memory = ref.owner, None, None
        if isinstance(slot, memoryview) and slot.nbytes == CHUNK_BYTES and len(self._free) < self._keep:
            self._free.append(slot)
