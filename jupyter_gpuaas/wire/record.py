"""Records: the one format of the journal on disk and of the stream on the wire.

Layout, little endian; docs/wire.md section 2::

    offset  size  field
    0       4     magic, b"GPR1"
    4       1     kind
    5       1     reserved, 0
    6       2     number of parts
    8       8     number: 1, 2, 3 ... without a gap in one direction
    16      8     time, microseconds since the epoch
    24      8     length of the body in bytes
    32      8     xxh3-64 of bytes 0..31 and then of the body's length table and parts, in this order
    40            body: per part its length (8 bytes), then the parts one after the other

What is journaled is sent as it stands, so a host neither parses nor copies an output to pass it on.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum

import msgspec
import xxhash

from ..errors import RemoteProtocolError
from .memory import allocate

MAGIC = b"GPR1"
HEAD = struct.Struct("<4sBBHQQQQ")
CHECKED_HEAD = struct.Struct("<4sBBHQQQ")
MAX_PARTS = 65_535
#: Parts up to this size are joined with their head; larger ones are handed on without a copy.
JOIN_BYTES = 32 * 1024

Buffer = bytes | bytearray | memoryview


class Kind(IntEnum):
    """What a record carries. Message parts are: address, header, parent, metadata, content, buffers."""

    SHELL = 1
    IOPUB = 2
    STDIN = 3
    CONTROL = 4
    #: One JSON part: something the journal itself has to say, such as a gap.
    NOTICE = 16
    #: A request as the host accepted it; parts as of a message.
    REQUEST = 32


class Record(msgspec.Struct, frozen=True):
    """One record; ``parts`` are views into the received bytes."""

    kind: Kind
    number: int
    time_us: int
    parts: tuple[Buffer, ...]

    @property
    def body_bytes(self) -> int:
        """Length of the body."""
        return 8 * len(self.parts) + sum(len(part) for part in self.parts)


def encode(kind: Kind, number: int, time_us: int, parts: Sequence[Buffer]) -> list[Buffer]:
    """Buffers that in this order are the record; the parts themselves are borrowed, not copied."""
    if len(parts) > MAX_PARTS:
        raise ValueError(f"a record has {len(parts)} parts, at most {MAX_PARTS} are allowed")
    lengths = [len(part) for part in parts]
    table = struct.pack(f"<{len(parts)}Q", *lengths)
    total = len(table) + sum(lengths)
    checked = CHECKED_HEAD.pack(MAGIC, kind, 0, len(parts), number, time_us, total)
    digest = xxhash.xxh3_64(checked + table)
    if total <= JOIN_BYTES:
        body = b"".join(parts)
        digest.update(body)
        return [b"".join((checked, digest.intdigest().to_bytes(8, "little"), table, body))]
    for part in parts:
        digest.update(part)
    return [
        checked + digest.intdigest().to_bytes(8, "little") + table,
        *(p for p in parts if len(p)),
    ]


class RecordReader:
    """Bytes in, records out; takes any slicing of the stream.

    A record is complete or not there: ``feed`` raises on the first byte that cannot be right, and nothing of a bad
    record is ever handed out. Large bodies are received into one buffer of their own size.

    Parameters
    ----------
    most_bytes
        Largest body accepted; checked before any memory is taken.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._small = bytearray()  # head, and body while it is short
        self._head: tuple[int, int, int, int, int, int] | None = None  # kind, parts, number, time, length, sum
        self._digest = xxhash.xxh3_64()
        self._body: memoryview | None = None
        self._filled = 0

    def feed(self, data: Buffer) -> list[Record]:
        """Take the next bytes of the stream and return the records that they complete."""
        records: list[Record] = []
        view = memoryview(data)
        if self._small and self._body is None:
            self._small += view
            view = memoryview(bytes(self._small))
            self._small = bytearray()
        position = 0
        while position < len(view):
            if self._body is not None:
                taken = min(len(self._body) - self._filled, len(view) - position)
                self._body[self._filled : self._filled + taken] = view[position : position + taken]
                position += taken
                records += self.filled(taken)
                continue
            rest = len(view) - position
            if rest < HEAD.size:
                self._small += view[position:]
                break
            self._read_head(view[position : position + HEAD.size])
            assert self._head is not None
            length = self._head[4]
            if rest - HEAD.size >= length:
                start = position + HEAD.size
                body = view[start : start + length]
                self._digest.update(body)
                records.append(self._finish(body))
                position = start + length
            else:
                position += HEAD.size
                self._body, self._filled = allocate(length), 0
        return records

    @property
    def room(self) -> memoryview | None:
        """Where the next bytes belong, while a large body comes; who receives them there says so to ``filled``."""
        return self._body[self._filled :] if self._body is not None else None

    def filled(self, count: int) -> list[Record]:
        """So many bytes are in ``room``, as if they had been fed."""
        assert self._body is not None
        self._digest.update(self._body[self._filled : self._filled + count])  # while it is in the processor's cache
        self._filled += count
        if self._filled < len(self._body):
            return []
        body, self._body, self._filled = self._body, None, 0
        return [self._finish(body)]

    def _read_head(self, head: memoryview) -> None:
        magic, kind, reserved, n_parts, number, time_us, length, checksum = HEAD.unpack(head)
        if magic != MAGIC or reserved != 0:
            raise RemoteProtocolError(f"not a record: it begins with {bytes(head[:6])!r}.")
        if kind not in _KINDS:
            raise RemoteProtocolError(f"record {number}: unknown kind {kind}.")
        if length > self._most_bytes:
            raise RemoteProtocolError(
                f"record {number}: announces {length} bytes, at most {self._most_bytes} are allowed.",
                hint="Setting message_bytes.",
            )
        if length < 8 * n_parts:
            raise RemoteProtocolError(f"record {number}: {length} bytes cannot hold {n_parts} parts.")
        self._digest = xxhash.xxh3_64(head[: CHECKED_HEAD.size])
        self._head = (kind, n_parts, number, time_us, length, checksum)

    def _finish(self, body: memoryview) -> Record:
        assert self._head is not None
        kind, n_parts, number, time_us, length, checksum = self._head
        self._head = None
        if self._digest.intdigest() != checksum:
            raise RemoteProtocolError(f"record {number}: its checksum does not match its bytes.")
        lengths = struct.unpack_from(f"<{n_parts}Q", body)
        if 8 * n_parts + sum(lengths) != length:
            raise RemoteProtocolError(f"record {number}: its parts do not add up to its length.")
        parts: list[Buffer] = []
        position = 8 * n_parts
        for part_length in lengths:
            parts.append(body[position : position + part_length])
            position += part_length
        return Record(Kind(kind), number, time_us, tuple(parts))


_KINDS = frozenset(Kind)


def check(data: Buffer, most_bytes: int) -> list[int]:
    """Verify whole records and return their numbers; quicker than reading them.

    Raises
    ------
    RemoteProtocolError
        Something in ``data`` is not a whole and sound record.
    """
    view = memoryview(data)
    numbers: list[int] = []
    position, end = 0, len(view)
    while position < end:
        body = position + HEAD.size
        if body > end:
            raise RemoteProtocolError("not a record: it ends within a head.")
        magic, kind, reserved, n_parts, number, _, length, checksum = HEAD.unpack_from(view, position)
        sound = magic == MAGIC and kind in _KINDS and not reserved and 8 * n_parts <= length <= most_bytes
        if not sound or body + length > end:
            raise RemoteProtocolError(f"record {number}: is not whole, or not sound.")
        digest = xxhash.xxh3_64(view[position : position + CHECKED_HEAD.size])
        digest.update(view[body : body + length])
        if digest.intdigest() != checksum:
            raise RemoteProtocolError(f"record {number}: its checksum does not match its bytes.")
        if 8 * n_parts + sum(struct.unpack_from(f"<{n_parts}Q", view, body)) != length:
            raise RemoteProtocolError(f"record {number}: its parts do not add up to its length.")
        numbers.append(number)
        position = body + length
    return numbers


def skim(data: Buffer) -> Iterator[tuple[int, int, int]]:
    """Walk whole records in ``data`` by their heads alone: (offset, number, size of the whole record).

    Stops before a record that is not wholly inside. Used on bytes whose checksums were verified before.
    """
    view = memoryview(data)
    position = 0
    while position + HEAD.size <= len(view):
        magic, _, _, _, number, _, length, _ = HEAD.unpack_from(view, position)
        size = HEAD.size + length
        if magic != MAGIC or position + size > len(view):
            return
        yield position, number, size
        position += size
