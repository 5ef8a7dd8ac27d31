"""A numbered, acknowledged stream of records in both directions, that outlives its connections. No I/O.

Both ends are alike. On each new connection an end first says what it has (``hello``), which is at the same time the
acknowledgement of everything up to there; then it sends again what the other lacks. Records of the stream are numbered
from 1; a record with number 0 is such a word of the link itself, and is sent again after records were taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from ..errors import RemoteProtocolError
from ..wire.record import Buffer, Kind, Record, RecordReader, encode
from ..wire.resume import Inbox, Outbox


class LinkState(msgspec.Struct, frozen=True):
    """What the host must know to go on with a link, also on another node."""

    #: The last number that was taken.
    have: int = 0
    #: The last number that was given.
    last: int = 0
    #: Records that the other end has not acknowledged, one after the other.
    waiting: bytes = b""


class _Word(msgspec.Struct):
    have: int


class Resumable:
    """One end.

    Parameters
    ----------
    most_bytes
        Bound on what waits for the other end; it can be passed by one record.
    message_bytes
        Largest record that is taken.
    """

    def __init__(self, *, most_bytes: int, message_bytes: int, state: LinkState | None = None) -> None:
        self._most_bytes = most_bytes
        self._message_bytes = message_bytes
        self._outbox = Outbox(1 << 62)  # who sends looks at ``full`` before it reads on; nothing is refused here
        self._inbox = Inbox()
        self._sizes: deque[tuple[int, int]] = deque()  # number and bytes of each record that waits
        self.waiting_bytes = 0
        self._reader = RecordReader(message_bytes)
        self._greeted = False
        if state is not None:
            self._inbox.last = state.have
            self._take_over(state)

    @property
    def full(self) -> bool:
        """Whether more waits for the other end than should."""
        return self.waiting_bytes > self._most_bytes

    @property
    def idle(self) -> bool:
        """Whether the other end has acknowledged everything."""
        return not len(self._outbox)

    def state(self) -> LinkState:
        waiting = b"".join(bytes(part) for record in self._outbox.after(self._acknowledged) for part in record)
        return LinkState(self._inbox.last, self._outbox.last, waiting)

    def opened(self) -> list[Buffer]:
        """A new connection: what to send first on it."""
        self._reader = RecordReader(self._message_bytes)
        self._greeted = False
        return self.word()

    def word(self) -> list[Buffer]:
        """What was taken so far; to be sent after records have been dealt with."""
        return encode(Kind.NOTICE, 0, 0, [msgspec.json.encode(_Word(self._inbox.last))])

    def put(self, kind: Kind, parts: Sequence[Buffer]) -> list[Buffer]:
        """Keep a record until it is acknowledged; gives what to send now, nothing while there is no connection."""
        buffers = self._outbox.put(kind, 0, parts)
        self._keep(sum(map(len, buffers)))
        return buffers if self._greeted else []

    def feed(self, data: Buffer) -> tuple[list[Record], list[Buffer]]:
        """Bytes that came: new records in order, each once, and what is to be sent because of them.

        Raises
        ------
        RemoteProtocolError
            The bytes are none of this stream; the connection must be closed.
        """
        records: list[Record] = []
        answer: list[Buffer] = []
        for record in self._reader.feed(data):
            if record.number == 0:
                answer += self._heard(record)
            elif self._inbox.accept(record.number):
                records.append(record)
        return records, answer

    def closed(self) -> None:
        """The connection is gone; what is put from now on waits."""
        self._greeted = False

    def _heard(self, record: Record) -> list[Buffer]:
        try:
            have = msgspec.json.decode(record.parts[0], type=_Word).have
        except (msgspec.MsgspecError, IndexError) as error:
            raise RemoteProtocolError(f"a word of the link cannot be read: {error}.") from error
        self._outbox.acknowledge(have)
        while self._sizes and self._sizes[0][0] <= have:
            self.waiting_bytes -= self._sizes.popleft()[1]
        if self._greeted:
            return []
        self._greeted = True
        return [part for lacking in self._outbox.after(have) for part in lacking]

    def _keep(self, size: int) -> None:
        self._sizes.append((self._outbox.last, size))
        self.waiting_bytes += size

    @property
    def _acknowledged(self) -> int:
        return self._sizes[0][0] - 1 if self._sizes else self._outbox.last

    def _take_over(self, state: LinkState) -> None:
        records = RecordReader(self._message_bytes).feed(state.waiting)
        self._outbox.last = state.last - len(records)
        for record in records:
            size = sum(map(len, self._outbox.put(record.kind, record.time_us, record.parts)))
            self._keep(size)
