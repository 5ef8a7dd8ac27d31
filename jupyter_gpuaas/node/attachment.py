"""One attached client as its host sees it: takes its requests, sends it the journal."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Protocol

from ..errors import GpuaasError
from ..wire.link import Link
from ..wire.record import Buffer, Record, RecordReader
from ..wire.resume import Inbox
from .journal import Journal

ACK_DELAY_S = 0.2
#: Large frames: each border costs the receiver a turn of its loop.
FRAME_BYTES = 1024**2


class Arrivals(Inbox):
    """An inbox that knows which of what came may not be in the journal yet: that is not acknowledged."""

    def __init__(self, last: int = 0) -> None:
        super().__init__(last)
        #: The last one that is safe until the journal is whole up to a record.
        self._unsafe: deque[tuple[int, int]] = deque()

    def needs(self, before: int, number: int) -> None:
        """What came behind ``before`` is in the journal when the record ``number`` is."""
        self._unsafe.append((before, number))

    def safe(self, whole: int) -> int:
        """Number of the last one to acknowledge, where the journal is whole up to this record."""
        while self._unsafe and self._unsafe[0][1] <= whole:
            self._unsafe.popleft()
        return self._unsafe[0][0] if self._unsafe else self.last


class AttachmentOwner(Protocol):
    """The host, as an attachment needs it."""

    journal: Journal

    def requests_received(self, attachment: Attachment, records: list[Record]) -> None: ...

    def client_interrupts(self) -> None:
        """A client wants what runs to be interrupted, and no reply."""

    def detached(self, attachment: Attachment, reason: str) -> None: ...


class Attachment:
    """The host's end of a link.

    Parameters
    ----------
    inbox
        What has arrived from this client so far, on earlier links too.
    after
        Number of the last record that the client has.
    frame_bytes
        Most bytes of a frame to this client.
    """

    def __init__(
        self, owner: AttachmentOwner, client: str, inbox: Arrivals, after: int, *, message_bytes: int, frame_bytes: int
    ) -> None:
        self._owner = owner
        self.client = client
        self.inbox = inbox
        self._reader = owner.journal.reader(after)
        self._records = RecordReader(message_bytes)
        self._frame_bytes = min(frame_bytes, FRAME_BYTES)
        self._ack: asyncio.TimerHandle | None = None
        self._link: Link | None = None
        self._live = False  # the reader stands at the journal's end
        self._deaf = False

    @property
    def sent(self) -> int:
        """Number of the last record that has left for this client, wholly or in part."""
        return self._reader.number

    def begin(self, link: Link, welcome: dict[str, Any]) -> None:
        """Greet the client and start the stream."""
        self._link = link
        link.send_op({"op": "welcome", "after": self._reader.number, **welcome})
        self.pump()

    def flushed(self, data: bytes | None) -> None:
        """The journal has grown by ``data``, or by more than is worth handing around."""
        if self._live and data is not None and self._link is not None and self._link.writable:
            self._link.send_binary(data)
            self._reader.skip_to_end()
        else:
            self.pump()

    def pump(self) -> None:
        """Send from the journal until the link is full or all is sent."""
        self._live = False
        while self._link is not None and self._link.writable and not self._link.closed:
            data = self._reader.read(self._frame_bytes)
            if not data:
                self._live = self._reader.at_end
                return
            self._link.send_binary(data)

    def start_anew(self, reason: str) -> None:
        """Cut the link: a part of what was sent has been taken back."""
        if self._link is not None:
            self._link.abort(reason)

    def send_op(self, op: dict[str, Any]) -> None:
        if self._link is not None:
            self._link.send_op(op)

    def close(self, reason: str, code: int = 1000) -> None:
        """End the link; what still comes on it counts as not received, so that its client sends it again."""
        self._deaf = True
        if self._link is not None:
            self._link.close(reason, code)

    # -- LinkHandler -------------------------------------------------------------------------------------------

    def binary_received(self, link: Link, data: Buffer) -> None:
        if self._deaf:
            return
        before = self.inbox.last
        accepted: list[Record] = []
        problem: GpuaasError | None = None
        try:
            accepted += (record for record in self._records.feed(data) if self.inbox.accept(record.number))
        except GpuaasError as error:
            problem = error
        # What was accepted before the fault counts as received, so it must be carried out.
        if accepted:
            try:
                self._owner.requests_received(self, accepted)
            except GpuaasError as error:
                problem = error
            self.inbox.needs(before, self._owner.journal.last)
        if problem is not None:
            link.close(str(problem), code=1008)
            return
        if accepted and self._ack is None:
            self._acknowledge_later()

    def op_received(self, link: Link, op: dict[str, Any]) -> None:
        if self._deaf:
            return
        number = op.get("number")
        if op["op"] == "ack" and isinstance(number, int):
            try:
                self._owner.journal.acknowledge(number)
            except GpuaasError as error:
                link.close(str(error), code=1008)
        elif op["op"] == "interrupt":
            self._owner.client_interrupts()
        else:
            link.close(f"op: {op['op'][:40]!r} is unknown or lacks its fields", code=1008)

    def link_drained(self, link: Link) -> None:
        self.pump()

    def link_closed(self, link: Link, reason: str) -> None:
        if self._ack is not None:
            self._ack.cancel()
        self._owner.detached(self, reason)

    def _acknowledge(self) -> None:
        self._ack = None
        safe = self.inbox.safe(self._owner.journal.whole)
        self.send_op({"op": "ack", "number": safe})
        if safe < self.inbox.last:
            self._acknowledge_later()

    def _acknowledge_later(self) -> None:
        self._ack = asyncio.get_running_loop().call_later(ACK_DELAY_S, self._acknowledge)
