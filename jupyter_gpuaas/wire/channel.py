"""A session's channel as its client holds it: opened, lost, opened again, and nothing lost on the way.

``Channel.run`` keeps one link up until the session ends or it is closed. The direct address is tried first, then the
relay. Requests wait in an outbox until the host has them; records of the host pass an inbox, so that the handler sees
each once and in order, whatever happened to the links.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import msgspec

from ..config import Settings
from ..errors import (
    NoSuchSession,
    RemoteProtocolError,
    SessionEnded,
    StaleEpoch,
    TransportError,
    Unauthorized,
)
from ..model import ChannelInfo
from .link import Link, connect
from .record import MAX_PARTS, Buffer, Kind, Record, RecordReader
from .resume import Inbox, Outbox, Sent
from .unreadable import UNREADABLE

MOVING = "the session is moving to another node"
#: A ticket is not used when it has less than this left.
TICKET_MARGIN_S = 5.0
#: From one pause between two tries to the next. A service that is back after t seconds is found again within t/3 or so.
PAUSE_GROWS = 1.4


class Resend(msgspec.Struct):
    """What a handler wants of its requests: those ``before`` sent again, those to ``drop`` not at all."""

    drop: frozenset[int] = frozenset()
    before: list[Sent] = msgspec.field(default_factory=list)


class ChannelHandler(Protocol):
    """Who is told what happens on a channel."""

    def record_received(self, record: Record) -> None:
        """The next record of the journal."""

    def channel_linked(self, welcome: dict[str, Any]) -> None:
        """The link stands (again). ``welcome`` holds ``state`` and ``kernel_starts`` of the host."""

    def channel_unlinked(self, reason: str, retry_s: float) -> None:
        """The link is down, or was not to be had; the next try is in ``retry_s``.

        At once (0.0) when the session moves to another node: that is no trouble, only a pause.
        """

    def host_lost(self, welcome: dict[str, Any], kept: frozenset[int], *, anew: bool) -> Resend:
        """The session has come back after the loss of its host; called before ``channel_linked``.

        Parameters
        ----------
        kept
            Serials of the requests that will be sent again, as nobody has said that they arrived.
        anew
            The journal begins anew: of requests that had arrived nobody knows any more. Else the host tells what
            became of cells, and of no other request.
        """

    def host_changed(self, op: dict[str, Any]) -> None:
        """The host says that its state has changed: ``state``, ``cause``, ``kernel_starts``."""


class Channel:
    """The channel of one client to one session.

    Parameters
    ----------
    ticket
        Gets a fresh ticket from the service; may raise what ``ServiceClient.ticket`` raises.
    token
        The user's own, for the relay.
    ca
        File with the authorities by which service and nodes are verified; that of the settings when None.
    client
        Id of this client, ``[A-Za-z0-9_-]{1,64}``; a host knows it again. A random one when empty.
    """

    def __init__(
        self,
        ticket: Callable[[], Awaitable[ChannelInfo]],
        handler: ChannelHandler,
        settings: Settings,
        *,
        token: Callable[[], str],
        ca: Callable[[], str] | None = None,
        client: str = "",
    ) -> None:
        self.client = client or os.urandom(12).hex()
        self._ticket = ticket
        self._token = token
        self._ca = ca or (lambda: settings.ca)
        self._handler = handler
        self._settings = settings
        self._info: ChannelInfo | None = None
        self._relayed = settings.relay == "always"
        self._outbox = Outbox(settings.outbox_bytes)
        self._inbox: Inbox | None = None
        self._journal = ""  # which one the inbox is of
        self._epoch = 0  # of the host with which both count
        self._reader = RecordReader(settings.message_bytes)
        self._link: Link | None = None
        self._opening = False
        self._doubt = False  # the ticket's addresses did not work, or do not any more
        self._moved = False  # the session is on its way to another host
        self._most_bytes = settings.message_bytes
        self._unlinked: asyncio.Event = asyncio.Event()
        self._reason = ""
        self._welcomed = False
        self._closed = False
        self._acknowledged = 0
        self._ended = ""

    @property
    def linked(self) -> bool:
        """Whether requests reach the host at this moment."""
        return self._welcomed

    @property
    def received(self) -> int:
        """Number of the last record handed to the handler."""
        return self._inbox.last if self._inbox else 0

    @property
    def journal(self) -> str:
        """Id of the journal that ``received`` counts in; empty before the first link."""
        return self._journal

    @property
    def epoch(self) -> int:
        """Of the host whose welcome came last; 0 before the first link."""
        return self._epoch

    def begin_behind(self, number: int, journal: str, epoch: int) -> None:
        """Before ``run``: an earlier channel has got everything up to this record, and the welcome of this epoch."""
        self._inbox, self._journal, self._epoch = Inbox(number), journal, epoch

    def use(self, info: ChannelInfo) -> None:
        """Use this ticket for the next link, instead of asking for one."""
        self._info = info

    async def run(self) -> str:
        """Keep the channel up. Returns why it is over: what the session's end was, or empty after ``close``.

        Raises
        ------
        GpuaasError
            The session cannot be had: it has ended, it is somebody else's, or the token is not good.
        """
        pause_s = self._settings.retry_first_s
        while True:
            try:
                info = await self._fresh_ticket()
            except TransportError as error:
                self._reason = str(error)
            else:
                opened_s, received = time.monotonic(), self.received
                try:
                    await self._open(info)
                    await self._unlinked.wait()
                    # One that ends at once and brings nothing, each time again, is no better than none.
                    if received != self.received or time.monotonic() - opened_s > self._settings.retry_most_s:
                        pause_s = self._settings.retry_first_s
                except (NoSuchSession, SessionEnded, Unauthorized, StaleEpoch) as error:
                    # The node knows nothing of it, or of the ticket; what became of the session the service knows.
                    self._info, self._reason = None, str(error)
                except TransportError as error:
                    self._doubt, self._reason = True, str(error)
                    if self._settings.relay == "auto":
                        self._relayed = not self._relayed
            if self._ended or self._closed:
                return self._ended
            if self._moved:
                self._moved = False
                self._handler.channel_unlinked(self._reason, 0.0)
                continue
            self._handler.channel_unlinked(self._reason, pause_s)
            # Spread the clients of a service that comes back.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(pause_s * PAUSE_GROWS, self._settings.retry_most_s)

    def send(self, kind: Kind, parts: Sequence[Buffer]) -> int:
        """Send a request (address, header, parent, metadata, content, *buffers); kept until the host has it.

        Returns
        -------
        Its serial.

        Raises TransportError when it is larger than the host takes, or too much waits already; nothing is kept then.
        """
        size = 8 * len(parts) + sum(len(part) for part in parts)
        if size > self._most_bytes or len(parts) > MAX_PARTS:
            raise TransportError(
                f"a message of {size} bytes in {len(parts)} parts is larger than what is allowed "
                f"({self._most_bytes} bytes, {MAX_PARTS} parts).",
                hint="Setting message_bytes.",
            )
        buffers = self._outbox.put(kind, time.time_ns() // 1000, parts)
        if self._welcomed:
            self._put(buffers)
        return self._outbox.last_serial

    def answered(self, serial: int) -> None:
        """The host has answered this request, which was sent; nothing up to it is sent again."""
        self._outbox.arrived(serial)

    def acknowledge(self, number: int) -> None:
        """Everything up to ``number`` is safe with the user; the host may forget it."""
        if number > self._acknowledged:
            self._acknowledged = number
            self.send_op({"op": "ack", "number": number})

    def send_op(self, op: dict[str, Any]) -> None:
        """Send a JSON op, if the link is up; ops are not repeated."""
        if self._link is not None and self._welcomed:
            self._link.send_op(op)

    def rewind(self, number: int) -> None:
        """Take the records behind ``number`` again, as if they had not come; the link is opened anew for it."""
        if self._inbox is not None:
            self._inbox.last = number
        if self._link is not None:
            self._link.abort("records are taken again")

    async def delivered(self, timeout_s: float) -> bool:
        """Wait until the host has everything that was sent; False when it has not in time."""
        deadline = time.monotonic() + timeout_s
        while len(self._outbox) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        return not len(self._outbox)

    def close(self) -> None:
        """End the link; ``run`` returns. The session goes on."""
        self._closed = True
        if self._link is not None:
            self._link.close("the client leaves")
        self._unlinked.set()

    # -- LinkHandler -------------------------------------------------------------------------------------------

    def binary_received(self, link: Link, data: Buffer) -> None:
        if self._is_mine(link) and self._inbox is not None:
            self._take(link, lambda: self._reader.feed(data))

    def room(self, link: Link) -> memoryview | None:
        return self._reader.room if link is self._link and self._inbox is not None else None

    def room_filled(self, link: Link, count: int) -> None:
        self._take(link, lambda: self._reader.filled(count))

    def _take(self, link: Link, read: Callable[[], list[Record]]) -> None:
        assert self._inbox is not None
        try:
            for record in read():
                first = first_of_gap(record) if record.kind is Kind.NOTICE else None
                if self._inbox.accept(record.number, first=first):
                    self._handler.record_received(record)
        except RemoteProtocolError as error:
            link.abort(str(error))

    def op_received(self, link: Link, op: dict[str, Any]) -> None:
        if not self._is_mine(link):
            return
        if op["op"] == "welcome":
            self._count_on(op)
            if self._inbox is None:
                self._inbox = Inbox(op["after"])
            elif op["after"] != self._inbox.last:  # rewound since the link was asked for
                link.abort("records are taken again")
                return
            self._welcomed = True
            self._most_bytes = min(self._settings.message_bytes, op.get("message_bytes", self._settings.message_bytes))
            if self._acknowledged:  # it may have been lost with the former link
                link.send_op({"op": "ack", "number": self._acknowledged})
            for buffers in self._outbox.after(op["received"] or 0):
                self._put(buffers)
            self._handler.channel_linked(op)
        elif op["op"] == "ack":
            self._outbox.acknowledge(op["number"])
        elif op["op"] == "ended":
            self._ended = op.get("reason") or "the session has ended"
        elif op["op"] == "moved":
            # Whatever else this link says is true of the former host only.
            self._info, self._moved = None, True
            link.abort(MOVING)
        elif op["op"] == "state":
            self._handler.host_changed(op)

    def link_drained(self, link: Link) -> None:
        """The outbox bounds what waits; the link may hold it all."""

    def link_closed(self, link: Link, reason: str) -> None:
        if self._is_mine(link):
            self._link = None
            self._welcomed = False
            self._reason = reason
            # Of a node that hangs, the same address would be tried until that times out, too.
            self._doubt = self._doubt or link.silent
            self._unlinked.set()

    def _count_on(self, welcome: dict[str, Any]) -> None:
        """Go on counting where the host does, or begin anew with it."""
        journal, received = welcome.get("journal", ""), welcome["received"]
        anew = (bool(self._journal) and journal != self._journal) or bool(welcome.get("behind"))
        self._journal, self._epoch = journal, welcome.get("epoch", 0)
        if anew:
            self._inbox, self._acknowledged = None, 0
        if anew or received is None:
            resend = self._handler.host_lost(welcome, self._outbox.serials, anew=anew)
            self._outbox.rebase(resend.drop, resend.before)
        else:
            self._outbox.acknowledge(received)

    # -- inside ------------------------------------------------------------------------------------------------

    async def _fresh_ticket(self) -> ChannelInfo:
        """The ticket at hand, or a new one; one whose addresses did not work is used only when no other can be had."""
        if self._info is not None and self._info.expires_s < time.time() + TICKET_MARGIN_S:
            self._info = None
        if self._info is None or self._doubt:
            try:
                self._info = await self._ticket()
            except TransportError:
                if self._info is None:
                    raise
            self._doubt = False
        return self._info

    async def _open(self, info: ChannelInfo) -> None:
        """Open a link by the direct or the relayed way; a half record of the former one is forgotten."""
        self._reader = RecordReader(self._settings.message_bytes)
        self._unlinked.clear()
        query = f"?client={self.client}" + (f"&after={self._inbox.last}" if self._inbox else "")
        query += f"&journal={self._journal}&epoch={self._epoch}" if self._journal else ""
        url, token = (info.relay_url, self._token()) if self._relayed else (info.direct_url, info.ticket)
        s = self._settings
        self._opening = True
        try:
            link = await connect(
                url + query,
                token,
                self,
                frame_bytes=s.frame_bytes,
                ping_s=s.ping_s,
                silence_s=s.silence_s,
                ca=self._ca(),
            )
        finally:
            self._opening = False
        if link.closed:
            return
        self._link = link
        # One that was given up before may have told of its end while this one was opened.
        self._unlinked.clear()
        if self._closed:
            link.close("the client leaves")

    def _is_mine(self, link: Link) -> bool:
        """Whether an event of this link is of the present one; the first may come before ``connect`` returns."""
        if self._link is None and self._opening:
            self._link = link
        return link is self._link

    def _put(self, buffers: list[Buffer]) -> None:
        """Send a record, in frames that the other side takes."""
        assert self._link is not None
        most = self._settings.frame_bytes // 2
        for buffer in buffers:
            if len(buffer) <= most:
                self._link.send_binary(buffer)
            else:
                view = memoryview(buffer)
                for start in range(0, len(view), most):
                    self._link.send_binary(view[start : start + most])


def first_of_gap(notice: Record) -> int | None:
    """Number of the first record in whose place a notice stands; None for a notice of something else.

    Raises
    ------
    RemoteProtocolError
        It is no notice.
    """
    try:
        return msgspec.json.decode(notice.parts[0], type=_Notice).first
    except (*UNREADABLE, IndexError) as error:
        raise RemoteProtocolError(f"record {notice.number}: is no notice: {error}.") from error


class _Notice(msgspec.Struct):
    first: int | None = None
