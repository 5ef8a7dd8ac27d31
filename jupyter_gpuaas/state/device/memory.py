"""Memory that is not host memory: how a rule hands it to the capture, and how the restore hands it back.

A rule cannot give the pickler a buffer of a GPU. It gives a `DeviceMemory` to `out_of_band` instead and puts the
`Place` that it gets into its reduce value::

    place = out_of_band(memory, context)
    return rebuild, (place, ...)

**What a capture does** after ``dump``: `memories(context)` are the device memories of that pickle, in order; none
overlaps another, and a place refers to them by index. Each becomes one region of the group, with ``device`` and
``maker = ("device",)``. ``memory.chunk_digests(CHUNK_BYTES)`` says cheaply which chunks changed since the capture
before (same device, address and length); only those are copied, on the device by ``memory.stage(spans)`` where it has
room, so that cells go on at once, and to the host by ``memory.read(spans, into)``, where they are hashed and stored.
The digests only find what changed: a content address is always computed on the host. ``memory.read`` returns when the
bytes are there, and sees all that was queued on the device before the call.

**What a restore does** before ``load``: ``restoring.memo[CONTENTS] = [content, ...]``, in the same order, each with
``nbytes`` and ``fill(memory)``, which writes all bytes of the region by ``memory.write(spans, data)``, in pieces of
any size as they come from the store: no copy of the whole on the host. `HostContent` is that for bytes in memory.
The rebuilding callables allocate on the mapped device, wrap what they allocated as a `DeviceMemory` and call ``fill``
once an index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..rules.registry import Context, NotRestorable, Restoring, restoring

#: Key in ``Context.memo``: the device memories of a pickle, in the order of their places.
MEMORIES = "device memories"
#: Key in ``Restoring.memo``: what the restore has read for them.
CONTENTS = "device contents"
_MADE = "device memory made"

#: Bytes of one digest.
DIGEST_BYTES = 16

Spans = Sequence[tuple[int, int]]


class DeviceMemory(Protocol):
    """A stretch of memory of one device. Spans are (offset, length) in bytes within it."""

    @property
    def device(self) -> str:
        """``cuda:0``, as the rest of the world writes it."""

    @property
    def address(self) -> int: ...

    @property
    def nbytes(self) -> int: ...

    def chunk_digests(self, chunk_bytes: int) -> list[bytes]:
        """16 bytes for each chunk, the last may be shorter; equal bytes have equal digests in every process.

        For finding what changed, against accidents only: whoever chooses the bytes can make two chunks collide.
        """

    def read(self, spans: Spans, into: Sequence[memoryview]) -> None:
        """Copy to the host; each target is as long as its span. What `stage` gave may be read in any thread."""

    def stage(self, spans: Spans) -> DeviceMemory | None:
        """A copy of these stretches on the device, one behind the other, complete when this returns.

        None where there is no room to spare, or nothing to be won.
        """

    def write(self, spans: Spans, data: Sequence[Any]) -> None:
        """Copy from the host; the data may be reused when this returns."""


@dataclass(frozen=True)
class Place:
    """Where a rule's memory lies: which of the device memories, and from which byte on. What a pickle holds of it."""

    index: int
    offset: int = 0

    def __reduce__(self) -> Any:
        return Place, (self.index, self.offset)


class Content(Protocol):
    """What a restore has for one device memory."""

    @property
    def nbytes(self) -> int: ...

    def fill(self, memory: DeviceMemory) -> None:
        """Write it all to memory that has just been allocated."""


class HostContent:
    """Content that lies in host memory."""

    def __init__(self, data: Any) -> None:
        self.data = memoryview(data).cast("B")

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def fill(self, memory: DeviceMemory) -> None:
        memory.write([(0, self.nbytes)], [self.data])


def out_of_band(memory: DeviceMemory, context: Context) -> Place:
    """Leave device memory to the capture.

    Memory that lies within one that is there already gets a place in it, so that both share again.

    Raises
    ------
    NotRestorable
        It overlaps with another only in part, or one comes after a part of it.
    """
    known = context.memo.setdefault(MEMORIES, [])
    low, high = memory.address, memory.address + memory.nbytes
    for index, other in enumerate(known):
        if other.device != memory.device or other.address >= high or low >= other.address + other.nbytes:
            continue
        if other.address <= low and high <= other.address + other.nbytes:
            return Place(index, low - other.address)
        raise NotRestorable(f"shares memory of {memory.device} with another object that holds only a part of it")
    known.append(memory)
    return Place(len(known) - 1)


def memories(context: Context) -> list[DeviceMemory]:
    """The device memories that the pickle of this context refers to."""
    found: list[DeviceMemory] = context.memo.get(MEMORIES, [])
    return found


def contents_of(context: Context) -> list[Content]:
    """Copies on the host of all device memories of a pickle, as a restore wants them. For tests and small states."""
    found: list[Content] = []
    for memory in memories(context):
        data = bytearray(memory.nbytes)
        memory.read([(0, memory.nbytes)], [memoryview(data)])
        found.append(HostContent(data))
    return found


def made_memories(restoring: Restoring) -> dict[int, DeviceMemory]:
    """What ``make`` made for the group that was restored last, by index."""
    return {index: memory for index, (_, memory) in restoring.memo.get(_MADE, {}).items()}


def make(place: Place, device: str, allocate: Callable[[str, int], Any], wrap: Callable[[Any], DeviceMemory]) -> Any:
    """The memory of a place at restore: allocated and filled once an index, whoever asks first.

    Parameters
    ----------
    device
        Where it lay; the device map says where it goes.
    allocate
        Makes an owner of so many bytes on a device.
    wrap
        The device memory of such an owner.

    Returns
    -------
    The owner and the device memory that it is wrapped as; both belong to whoever asked first, so a library that finds
    an owner of another one wraps its address.
    """
    now: Restoring = restoring()
    made = now.memo.setdefault(_MADE, {})
    if place.index not in made:
        content: Content = now.memo[CONTENTS][place.index]
        owner = allocate(now.device(device), content.nbytes)
        memory = wrap(owner)
        if memory.nbytes != content.nbytes:
            raise ValueError(f"{memory.nbytes} bytes allocated for {content.nbytes} bytes of content")
        content.fill(memory)
        made[place.index] = owner, memory
    return made[place.index]
