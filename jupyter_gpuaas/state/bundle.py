"""Bundles: packed groups of names and files as a list of buffers, and back.

A bundle is a list of buffers. The first one is a msgpack `Head`, the others are what it points to by index. On the
wire (`prefix`), little endian: ``b"GPB2"``, number of buffers (4 bytes), 8 bytes a length, then the buffers
one after the other.

Memory of a group is kept in *regions*, as in checkpoints. Large ones go in chunks: those that the receiver holds are
left out, and the digests in the head say which they are.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import xxhash

from jupyter_gpuaas.errors import RemoteProtocolError
from jupyter_gpuaas.state.owners import bytes_of
from jupyter_gpuaas.store.base import CHUNK_BYTES
from jupyter_gpuaas.store.manifest import Span
from jupyter_gpuaas.wire.memory import allocate as allocate

from ..wire.unreadable import UNREADABLE

MAGIC = b"GPB2"
PREFIX = struct.Struct("<4sI")
MAX_BUFFERS = 1_000_000
#: Regions below this are laid together into one buffer.
SMALL_BYTES = 64 * 1024
ALIGNMENT = 64
DIGEST_BYTES = 16

Buffer = bytes | bytearray | memoryview
#: Chunks by their digests.
Chunks = Mapping[bytes, memoryview]


class Part(msgspec.Struct, frozen=True, array_like=True):
    """Bytes of a region that are in the bundle: buffer and where in it, where in the region, how many."""

    buffer: int
    at: int
    start: int
    length: int


class RegionHead(msgspec.Struct, frozen=True, array_like=True):
    """One stretch of memory."""

    size: int
    #: What to allocate for it, see `store.manifest.Region`; ``["device"]`` for a copy of a device's memory.
    maker: tuple[Any, ...]
    #: In ascending order. What is in none of them is in chunks that the receiver holds.
    parts: tuple[Part, ...]
    #: `DIGEST_BYTES` of each chunk; empty if the sender has not computed them.
    digests: bytes = b""


class GroupHead(msgspec.Struct, frozen=True):
    """One pickle: a tuple of the values of ``names``."""

    names: tuple[str, ...]
    #: Index of the pickle stream among the bundle's buffers.
    stream: int
    #: Host memory first, then that of devices.
    regions: tuple[RegionHead, ...]
    #: Where the out-of-band buffers of the pickle lie.
    spans: tuple[Span, ...]
    #: What both sides call this state of these names; empty if nobody will ask for it again.
    version: str = ""
    #: Names whose objects it refers to, as the receiver has them.
    known: tuple[str, ...] = ()


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


class Region(msgspec.Struct):
    """Memory of a packed group; borrowed from the objects."""

    content: memoryview
    maker: tuple[Any, ...]
    digests: bytes = b""

    def digest(self) -> bytes:
        """Digests of its chunks."""
        if not self.digests:
            size, digest = self.content.nbytes, xxhash.xxh3_128_digest
            self.digests = b"".join(digest(self.content[at : at + CHUNK_BYTES]) for at in range(0, size, CHUNK_BYTES))
        return self.digests


class Group(msgspec.Struct):
    """A packed group before it is put into a bundle. Buffers are borrowed from the objects, not copied."""

    names: tuple[str, ...]
    stream: memoryview
    regions: list[Region]
    spans: tuple[Span, ...]
    #: Notebook names that must be bound before this group is unpacked.
    references: frozenset[str]
    #: Holds remote variables, so what it means depends on the session.
    has_handles: bool
    #: Keeps borrowed memory alive.
    keeps: Any = None
    version: str = ""
    #: Names whose objects it refers to, as the receiver has them.
    known: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Size on the wire if all of it goes."""
        return self.stream.nbytes + sum(region.content.nbytes for region in self.regions)

    def digest(self) -> str:
        """Changes whenever anything in the group does."""
        whole = xxhash.xxh3_128(self.stream)
        whole.update(msgspec.msgpack.encode((self.spans, [region.maker for region in self.regions])))
        for region in self.regions:
            whole.update(region.digest())
        return whole.hexdigest()

    def chunks(self) -> dict[bytes, memoryview]:
        """The chunks of its large regions by their digests."""
        found: dict[bytes, memoryview] = {}
        for region in self.regions:
            if region.content.nbytes >= SMALL_BYTES:
                for number, digest in enumerate(split(region.digest())):
                    found[digest] = region.content[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
        return found


def split(digests: bytes) -> list[bytes]:
    """Digests one by one."""
    return [digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]


def chunks_of(group: GroupHead) -> frozenset[bytes]:
    """Digests of all chunks of a group's large regions."""
    return frozenset(
        digest for region in group.regions if region.size >= SMALL_BYTES for digest in split(region.digests)
    )


def take_digests(packed: Group, sent: GroupHead) -> None:
    """Take the digests of a group that has just been unpacked for those of the same memory packed here.

    The same bytes in the same order: no need to read them all again.
    """
    if [region.content.nbytes for region in packed.regions] == [region.size for region in sent.regions]:
        for region, head in zip(packed.regions, sent.regions, strict=True):
            region.digests = head.digests


# -- sending -------------------------------------------------------------------------------------


def assemble(
    groups: Iterable[Group],
    files: Iterable[tuple[FileHead, Buffer]] = (),
    *,
    held: Collection[bytes] = (),
) -> list[Buffer]:
    """Put packed groups and files into one bundle.

    Parameters
    ----------
    held
        Digests of chunks that the receiver has; they are left out.
    """
    buffers: list[Buffer] = [b""]
    heads: list[GroupHead] = []
    for group in groups:
        stream = len(buffers)
        buffers.append(group.stream)
        regions = _lay_down(group.regions, buffers, held)
        heads.append(GroupHead(group.names, stream, regions, group.spans, group.version, group.known))
    described: list[FileHead] = []
    for file, content in files:
        described.append(msgspec.structs.replace(file, buffer=len(buffers)))
        buffers.append(content)
    buffers[0] = msgspec.msgpack.encode(Head(tuple(heads), tuple(described)))
    return buffers


def _lay_down(regions: Sequence[Region], buffers: list[Buffer], held: Collection[bytes]) -> tuple[RegionHead, ...]:
    heads: list[RegionHead] = []
    joint = bytearray()
    joined: list[tuple[int, int]] = []
    for number, region in enumerate(regions):
        size = region.content.nbytes
        parts: list[Part] = []
        if size < SMALL_BYTES:
            joined.append((number, len(joint)))
            joint += region.content
            joint += bytes(-len(joint) % ALIGNMENT)
        else:
            for start, end in _missing(region, held):
                parts.append(Part(len(buffers), 0, start, end - start))
                buffers.append(region.content[start:end])
        heads.append(RegionHead(size, region.maker, tuple(parts), region.digests))
    for number, at in joined:
        part = Part(len(buffers), at, 0, heads[number].size)
        heads[number] = msgspec.structs.replace(heads[number], parts=(part,))
    if joined:
        buffers.append(joint)
    return tuple(heads)


def _missing(region: Region, held: Collection[bytes]) -> list[tuple[int, int]]:
    """Runs of bytes that the receiver does not hold."""
    size = region.content.nbytes
    if not held:
        return [(0, size)]
    runs: list[tuple[int, int]] = []
    for number, digest in enumerate(split(region.digest())):
        start, end = number * CHUNK_BYTES, min((number + 1) * CHUNK_BYTES, size)
        if digest in held:
            continue
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((start, end))
    return runs


# -- receiving -----------------------------------------------------------------------------------


def read_head(buffers: Sequence[Any]) -> Head:
    """The table of contents of a received bundle, checked against its buffers.

    Raises
    ------
    RemoteProtocolError
        It points to what is not there.
    """
    if not buffers:
        raise RemoteProtocolError("bundle: has no head")
    return checked_head(buffers[0], [bytes_of(buffer).nbytes for buffer in buffers])


def checked_head(content: Any, sizes: Sequence[int]) -> Head:
    """As `read_head`, before anything but the head is there."""
    try:
        head = msgspec.msgpack.decode(content, type=Head)
    except UNREADABLE as error:
        raise RemoteProtocolError(f"bundle: its head is not readable: {error}") from error
    count = len(sizes)
    for group in head.groups:
        _check_buffer(group.stream, count)
        for region in group.regions:
            _check_region(region, sizes)
        for span in group.spans:
            if not 0 <= span.region < len(group.regions) or span.offset < 0 or span.length < 0:
                raise RemoteProtocolError("bundle: a buffer of a pickle is in a region that does not exist")
            if span.offset + span.length > group.regions[span.region].size:
                raise RemoteProtocolError("bundle: a buffer of a pickle ends behind its region")
    for file in head.files:
        _check_buffer(file.buffer, count)
    return head


def _check_buffer(index: int, count: int) -> None:
    if not 0 < index < count:
        raise RemoteProtocolError(f"bundle: buffer {index} of {count} does not exist")


def _check_region(region: RegionHead, sizes: Sequence[int]) -> None:
    digests = -(-region.size // CHUNK_BYTES) * DIGEST_BYTES
    if region.size < 0 or len(region.digests) not in (0, digests):
        raise RemoteProtocolError(f"bundle: {len(region.digests)} bytes of digests for a region of {region.size}")
    end = there = 0
    for part in region.parts:
        _check_buffer(part.buffer, len(sizes))
        if part.at < 0 or part.length < 0 or part.at + part.length > sizes[part.buffer]:
            raise RemoteProtocolError("bundle: a part of a region ends behind its buffer")
        if part.start < end or part.start + part.length > region.size:
            raise RemoteProtocolError("bundle: parts of a region overlap or end behind it")
        end = part.start + part.length
        if part.start % CHUNK_BYTES or (end % CHUNK_BYTES and end != region.size):
            raise RemoteProtocolError("bundle: a part of a region is not made of chunks")
        there += part.length
    if there != region.size and not region.digests:
        raise RemoteProtocolError("bundle: chunks of a region are left out that nobody can find")


# -- the wire ------------------------------------------------------------------------------------


def prefix(buffers: Sequence[Buffer]) -> bytes:
    """What goes before the buffers on the wire."""
    sizes = [memoryview(buffer).nbytes for buffer in buffers]
    return PREFIX.pack(MAGIC, len(sizes)) + struct.pack(f"<{len(sizes)}Q", *sizes)


def count_buffers(fixed: Buffer) -> int:
    """Number of buffers that the first `PREFIX.size` bytes announce."""
    magic, count = PREFIX.unpack(fixed)
    if magic != MAGIC:
        raise RemoteProtocolError("bundle: does not begin with GPB2")
    if count > MAX_BUFFERS:
        raise RemoteProtocolError(f"bundle: announces {count} buffers, at most {MAX_BUFFERS} are allowed")
    return int(count)


def read_sizes(table: Buffer, *, length: int | None) -> list[int]:
    """Lengths of the buffers; ``length`` is what the body says it has for all of them, where it says so."""
    sizes = list(struct.unpack(f"<{len(table) // 8}Q", table))
    if length is not None and sum(sizes) != length:
        raise RemoteProtocolError(f"bundle: its buffers have {sum(sizes)} bytes, its body {length}")
    return sizes
