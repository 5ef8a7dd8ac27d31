"""Bundles: named objects and files as a list of buffers, and back.

Names that share objects or memory are packed in one *group*, one pickle, so that aliases stay aliases. The memory of
a group lies in *arenas*: buffers that overlap become ranges of one arena, so that views stay views of their base.

A bundle is a list of buffers. The first one is a msgpack `Head`, the others are what it points to by index. On the
wire (`prefix`, `read_prefix`), little endian: ``b"GPB1"``, number of buffers (4 bytes), 8 bytes a length, then
the buffers one after the other.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import xxhash

from jupyter_gpuaas.errors import RemoteProtocolError
from jupyter_gpuaas.state import pickling
from jupyter_gpuaas.state.pickling import Pickled
from jupyter_gpuaas.wire.memory import allocate as allocate

MAGIC = b"GPB1"
PREFIX = struct.Struct("<4sI")
MAX_BUFFERS = 1_000_000
#: Arenas below this are laid together into one.
SMALL_BYTES = 64 * 1024
ALIGNMENT = 64

Buffer = bytes | bytearray | memoryview


class Range(msgspec.Struct, frozen=True, array_like=True):
    """Where one out-of-band buffer lies: arena of its group, offset, length."""

    arena: int
    offset: int
    length: int
    readonly: bool


class GroupHead(msgspec.Struct, frozen=True):
    """One pickle: a tuple of the values of ``names``."""

    names: tuple[str, ...]
    #: Index of the pickle stream among the bundle's buffers, and of the arenas.
    stream: int
    arenas: tuple[int, ...]
    ranges: tuple[Range, ...]
    #: Of the arenas, where the sender has them.
    digests: tuple[str, ...] = ()
    #: What both sides call this state of these names; empty if nobody will ask for it again.
    version: str = ""


class FileHead(msgspec.Struct, frozen=True):
    """One file; ``path`` is relative to the working folder, with ``/`` between its parts."""

    path: str
    size: int
    mtime_ns: int
    digest: str
    executable: bool = False
    #: Index of its content among the bundle's buffers; -1 when only described.
    buffer: int = -1


class Head(msgspec.Struct, frozen=True):
    """What is in a bundle, in the order in which it is to be unpacked."""

    groups: tuple[GroupHead, ...] = ()
    files: tuple[FileHead, ...] = ()


class Group(msgspec.Struct):
    """A packed group before it is put into a bundle. Buffers are borrowed from the objects, not copied."""

    names: tuple[str, ...]
    stream: bytes
    arenas: list[Buffer]
    ranges: tuple[Range, ...]
    #: Notebook names that must be bound before this group is unpacked.
    references: frozenset[str]
    #: Holds remote variables, so what it means depends on the session.
    has_handles: bool
    digests: tuple[str, ...] = ()
    version: str = ""

    @property
    def nbytes(self) -> int:
        """Size on the wire."""
        return len(self.stream) + sum(len(arena) for arena in self.arenas)

    def digest(self) -> str:
        """Changes whenever anything in the group does."""
        if not self.digests:
            self.digests = tuple(xxhash.xxh3_128_hexdigest(arena) for arena in self.arenas)
        return combine(self.stream, self.ranges, self.digests)


def combine(stream: Buffer, ranges: Sequence[Range], digests: Sequence[str]) -> str:
    """Digest of a group whose arenas have these digests."""
    whole = xxhash.xxh3_128(stream)
    whole.update(msgspec.msgpack.encode((ranges, digests)))
    return whole.hexdigest()


def pack_group(names: Sequence[str], values: Sequence[Any], pickled: Pickled | None = None) -> Group:
    """Pack names together in one pickle.

    Parameters
    ----------
    pickled
        What `pickling.dump` made of exactly these values, if somebody has it already.

    Raises
    ------
    Refused
        Something cannot leave this process.
    """
    own = frozenset(names)
    pickled = pickled or pickling.dump(tuple(values), own=own)
    arenas, ranges, alone = _arenas(pickled)
    if alone:
        # Strided arrays that share their memory with nothing else: send their elements, not all that lies between.
        pickled = pickling.dump(tuple(values), own=own, lonely=alone)
        arenas, ranges, _ = _arenas(pickled)
    return Group(
        tuple(names),
        pickled.stream,
        arenas,
        ranges,
        frozenset(pickled.trace.references) - own,
        bool(pickled.trace.handles),
    )


def _arenas(pickled: Pickled) -> tuple[list[Buffer], tuple[Range, ...], set[int]]:
    """Lay out the buffers of a pickle: arenas, where each buffer lies, ids of strided arrays that overlap nothing."""
    spans = [(address(view), view.nbytes) for view in pickled.buffers]
    order = sorted(range(len(spans)), key=lambda index: spans[index])
    runs: list[tuple[int, int, list[int]]] = []
    for index in order:
        start, length = spans[index]
        if runs and start < runs[-1][1]:
            low, high, members = runs[-1]
            runs[-1] = (low, max(high, start + length), [*members, index] if len(members) < 2 else _add(members, index))
        else:
            runs.append((start, start + length, [index]))
    single = {(low, high) for low, high, members in runs if len(members) == 1}
    alone = {key for key, span in pickled.trace.strided.items() if span in single}

    # In the order of the pickle, so that equal objects give equal layouts wherever they lie in memory.
    runs.sort(key=lambda run: min(run[2]))
    arenas: list[Buffer] = []
    places: dict[int, Range] = {}
    joint = bytearray()
    joined: list[tuple[int, int, int]] = []
    for low, high, members in runs:
        content = _run_content(low, high, members, spans, pickled.buffers)
        if high - low < SMALL_BYTES:
            base = len(joint)
            joint += content
            joint += bytes(-len(joint) % ALIGNMENT)
            joined += [(index, base + spans[index][0] - low, spans[index][1]) for index in members]
            continue
        for index in members:
            start, length = spans[index]
            places[index] = Range(len(arenas), start - low, length, pickled.buffers[index].readonly)
        arenas.append(content)
    for index, offset, length in joined:
        places[index] = Range(len(arenas), offset, length, pickled.buffers[index].readonly)
    if joined:
        arenas.append(joint)
    return arenas, tuple(places[index] for index in range(len(spans))), alone


def _add(members: list[int], index: int) -> list[int]:
    members.append(index)
    return members


def _run_content(
    low: int, high: int, members: list[int], spans: list[tuple[int, int]], views: list[memoryview]
) -> Buffer:
    for index in members:
        if spans[index] == (low, high - low):
            return views[index]
    # Views that overlap without one that covers all: the union has no object of its own, so it is put together.
    whole = memoryview(bytearray(high - low))
    for index in members:
        start, length = spans[index]
        whole[start - low : start - low + length] = views[index]
    return whole


def address(view: memoryview) -> int:
    """Where the memory of a view begins."""
    numpy = sys.modules.get("numpy")
    if numpy is None:
        # Without numpy only `PickleBuffer`s of the user's own come here; each counts as memory of its own.
        return id(view) << 20
    return int(numpy.frombuffer(view, numpy.uint8).__array_interface__["data"][0])


# -- bundles -------------------------------------------------------------------------------------


def assemble(groups: Iterable[Group], files: Iterable[tuple[FileHead, Buffer]] = ()) -> list[Buffer]:
    """Put packed groups and files into one bundle."""
    buffers: list[Buffer] = [b""]
    heads: list[GroupHead] = []
    for group in groups:
        stream = len(buffers)
        buffers.append(group.stream)
        arenas = tuple(range(len(buffers), len(buffers) + len(group.arenas)))
        buffers += group.arenas
        heads.append(GroupHead(group.names, stream, arenas, group.ranges, group.digests, group.version))
    described: list[FileHead] = []
    for file, content in files:
        described.append(msgspec.structs.replace(file, buffer=len(buffers)))
        buffers.append(content)
    buffers[0] = msgspec.msgpack.encode(Head(tuple(heads), tuple(described)))
    return buffers


def read_head(buffers: Sequence[Buffer]) -> Head:
    """The table of contents of a received bundle, checked against its buffers.

    Raises
    ------
    RemoteProtocolError
        It points to what is not there.
    """
    if not buffers:
        raise RemoteProtocolError("bundle: has no head")
    try:
        head = msgspec.msgpack.decode(buffers[0], type=Head)
    except msgspec.MsgspecError as error:
        raise RemoteProtocolError(f"bundle: its head is not readable: {error}") from error
    count = len(buffers)
    for group in head.groups:
        for index in (group.stream, *group.arenas):
            if not 0 < index < count:
                raise RemoteProtocolError(f"bundle: buffer {index} of {count} does not exist")
        for where in group.ranges:
            if not 0 <= where.arena < len(group.arenas) or where.offset < 0 or where.length < 0:
                raise RemoteProtocolError("bundle: a range names an arena that does not exist")
            if where.offset + where.length > len(buffers[group.arenas[where.arena]]):
                raise RemoteProtocolError("bundle: a range ends behind its arena")
    for file in head.files:
        if not 0 < file.buffer < count:
            raise RemoteProtocolError(f"bundle: buffer {file.buffer} of {count} does not exist")
    return head


def unpack_group(group: GroupHead, buffers: Sequence[Buffer]) -> dict[str, Any]:
    """The values of a group by name; they use the received memory in place."""
    views = []
    for where in group.ranges:
        view = memoryview(buffers[group.arenas[where.arena]])[where.offset : where.offset + where.length]
        views.append(view.toreadonly() if where.readonly else view)
    values = pickling.load(buffers[group.stream], views)
    return dict(zip(group.names, values, strict=True))


# -- the wire ------------------------------------------------------------------------------------


def prefix(buffers: Sequence[Buffer]) -> bytes:
    """What goes before the buffers on the wire."""
    sizes = [memoryview(buffer).nbytes for buffer in buffers]
    return PREFIX.pack(MAGIC, len(sizes)) + struct.pack(f"<{len(sizes)}Q", *sizes)


def count_buffers(fixed: Buffer) -> int:
    """Number of buffers that the first `PREFIX.size` bytes announce."""
    magic, count = PREFIX.unpack(fixed)
    if magic != MAGIC:
        raise RemoteProtocolError("bundle: does not begin with GPB1")
    if count > MAX_BUFFERS:
        raise RemoteProtocolError(f"bundle: announces {count} buffers, at most {MAX_BUFFERS} are allowed")
    return int(count)


def read_sizes(table: Buffer, *, length: int | None) -> list[int]:
    """Lengths of the buffers; ``length`` is what the body says it has for all of them, where it says so."""
    sizes = list(struct.unpack(f"<{len(table) // 8}Q", table))
    if length is not None and sum(sizes) != length:
        raise RemoteProtocolError(f"bundle: its buffers have {sum(sizes)} bytes, its body {length}")
    return sizes


def group_names(memos: Mapping[str, Pickled], values: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Which names must be packed together because they share objects or memory, in the order of ``values``."""
    parent = {name: name for name in values}

    def find(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    owner: dict[int, str] = {}
    spans: list[tuple[int, int, str]] = []
    for name, pickled in memos.items():
        for key in pickled.shareable() if len(memos) > 1 else ():
            other = owner.setdefault(key, name)
            if other != name:
                parent[find(name)] = find(other)
        spans += [(address(view), view.nbytes, name) for view in pickled.buffers]
    spans.sort()
    end, last = -1, ""
    for start, length, name in spans:
        if start < end:
            parent[find(name)] = find(last)
        if start + length > end:
            end, last = start + length, name
    # Definitions that refer to each other in a circle have no order in which they could be unpacked one by one.
    reached = {name: _reached(name, memos) for name in memos}
    for name, others in reached.items():
        for other in others:
            if other != name and name in reached[other]:
                parent[find(name)] = find(other)
    groups: dict[str, list[str]] = {}
    for name in values:
        groups.setdefault(find(name), []).append(name)
    return [tuple(names) for names in groups.values()]


def _reached(name: str, memos: Mapping[str, Pickled]) -> set[str]:
    found: set[str] = set()
    todo = [name]
    while todo:
        for other in memos[todo.pop()].trace.references:
            if other in memos and other not in found:
                found.add(other)
                todo.append(other)
    return found


def in_order(groups: Sequence[Group]) -> list[Group]:
    """The groups so that each comes after those that it refers to; `group_names` leaves no circles."""
    by_name = {name: group for group in groups for name in group.names}
    ordered: list[Group] = []
    seen: set[tuple[str, ...]] = set()

    def place(group: Group) -> None:
        if group.names in seen:
            return
        seen.add(group.names)
        for name in sorted(group.references):
            if name in by_name:
                place(by_name[name])
        ordered.append(group)

    for group in groups:
        place(group)
    return ordered
