"""Nothing lost, nothing twice: numbering, acknowledgement and resumption, without I/O.

One side keeps what it sent in an ``Outbox`` until the other acknowledges; the other passes what arrives through an
``Inbox``, which lets each number through once and in order. After a break the sender is told the last number that
arrived and sends the rest again. The host's outbox is its journal; the proxy's is this one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator, Sequence

import msgspec

from ..errors import LocalProtocolError, RemoteProtocolError, TransportError
from .record import Buffer, Kind, RecordReader, encode


class Sent(msgspec.Struct):
    """What a record of an outbox is of. Its number may change, its serial never does."""

    serial: int
    kind: Kind
    time_us: int
    parts: Sequence[Buffer]


class _Kept(msgspec.Struct):
    number: int
    serial: int
    buffers: list[Buffer]
    size: int


class Outbox:
    """Records that were sent and not yet acknowledged, bounded by their bytes."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: deque[_Kept] = deque()
        self._bytes = 0
        #: Serials of the last records that a host which was lost may have had, and that it has had.
        self._before = self._arrived = 0
        #: Number of the last record that an answer tells to have come.
        self._heard = 0
        self.last = 0
        #: Serial of the record that was put last.
        self.last_serial = 0

    def put(self, kind: Kind, time_us: int, parts: Sequence[Buffer]) -> list[Buffer]:
        """Number and keep a record; returns its bytes.

        Raises
        ------
        TransportError
            The outbox is full; nothing was kept.
        """
        buffers = encode(kind, self.last + 1, time_us, parts)
        size = sum(len(buffer) for buffer in buffers)
        if self._kept and self._bytes + size > self._most_bytes:
            raise TransportError(
                f"{self._bytes} bytes of requests wait for the link already.",
                hint="Setting outbox_bytes.",
            )
        self.last_serial += 1
        self._keep(self.last_serial, buffers, size)
        return buffers

    def _keep(self, serial: int, buffers: list[Buffer], size: int) -> None:
        self.last += 1
        self._kept.append(_Kept(self.last, serial, buffers, size))
        self._bytes += size

    @property
    def serials(self) -> frozenset[int]:
        """Of the records that another host is to get."""
        return frozenset(kept.serial for kept in self._kept if kept.serial > self._arrived)

    def rebase(self, drop: Container[int] = (), before: Sequence[Sent] = ()) -> None:
        """Begin to count anew, towards somebody who has got nothing yet.

        Parameters
        ----------
        drop
            Serials of records that are not to be sent any more.
        before
            What had been acknowledged and is to be sent again, in front of all others; the bound does not count for it.
        """
        rest = [_sent(kept) for kept in self._kept if kept.serial > self._arrived and kept.serial not in drop]
        self._kept.clear()
        self.last = self._bytes = self._heard = 0
        self._before, self._arrived = self.last_serial, 0
        for sent in (*before, *rest):
            buffers = encode(sent.kind, self.last + 1, sent.time_us, sent.parts)
            self._keep(sent.serial, buffers, sum(len(buffer) for buffer in buffers))

    def acknowledge(self, number: int) -> None:
        """Forget everything up to ``number``."""
        if number > self.last:
            raise RemoteProtocolError(f"{number} is acknowledged, but only {self.last} were sent.")
        while self._kept and self._kept[0].number <= number:
            self._bytes -= self._kept.popleft().size

    def arrived(self, serial: int) -> None:
        """An answer tells that this record has come, and all before it: they must not go to another host.

        One of before a loss may have come to the lost host alone. Its successor, which counts, still gets it, and knows
        it by its header.
        """
        if serial <= self._before:
            self._arrived = max(self._arrived, serial)
            return
        while self._kept and self._kept[0].serial <= serial:
            gone = self._kept.popleft()
            self._heard = gone.number
            self._bytes -= gone.size

    def after(self, number: int) -> Iterator[list[Buffer]]:
        """What the other side lacks when it has everything up to ``number``.

        It may name less than it has answered: a host counts only what is in its journal, and answers from memory.
        """
        number = max(number, self._heard)
        if self._kept and number < self._kept[0].number - 1:
            raise LocalProtocolError(f"records after {number} are gone; the oldest kept is {self._kept[0].number}.")
        return (kept.buffers for kept in list(self._kept) if kept.number > number)

    def __len__(self) -> int:
        return len(self._kept)


def _sent(kept: _Kept) -> Sent:
    data = b"".join(kept.buffers)
    (record,) = RecordReader(len(data)).feed(data)
    return Sent(kept.serial, record.kind, record.time_us, record.parts)


class Inbox:
    """Lets each record number through once and in order."""

    def __init__(self, last: int = 0) -> None:
        self.last = last

    def accept(self, number: int, *, first: int | None = None) -> bool:
        """Whether to process this record; False means that it came before.

        Parameters
        ----------
        first
            For a notice that stands in the place of records ``first`` to ``number``.

        Raises
        ------
        RemoteProtocolError
            Numbers are missing in between: the stream cannot be trusted and must be opened again.
        """
        if number <= self.last:
            return False
        if (number if first is None else first) > self.last + 1:
            raise RemoteProtocolError(f"record {number} came after {self.last}: records are missing.")
        self.last = number
        return True
