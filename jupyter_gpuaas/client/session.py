"""A session as one client uses it: requests with their replies and outputs, on top of a channel."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Protocol
from uuid import uuid4

import msgspec

from jupyter_gpuaas.client.coming import Wanted, channel_of
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.errors import CellError, GpuaasError, SessionEnded, TransportError
from jupyter_gpuaas.lifecycle.node_loss import state_words
from jupyter_gpuaas.model import Channel, ChannelInfo
from jupyter_gpuaas.wire.channel import Channel as SessionChannel
from jupyter_gpuaas.wire.channel import Resend
from jupyter_gpuaas.wire.jupyter import PROTOCOL_VERSION, read_json
from jupyter_gpuaas.wire.record import Buffer, Kind, Record
from jupyter_gpuaas.wire.requests import UNREACHABLE, Requests
from jupyter_gpuaas.wire.waiting import Held

log = logging.getLogger(__name__)


class Message(msgspec.Struct):
    """A message of the session."""

    msg_type: str
    content: dict[str, Any]
    metadata: dict[str, Any]
    buffers: Sequence[Buffer]
    #: When the host wrote it down, in microseconds since the epoch.
    time_us: int


class Listener(Protocol):
    """Who is told what a request leads to. Called in the event loop."""

    def output(self, message: Message) -> None:
        """Something that the request's cell published, in order; the last one is ``idle``."""

    def asked(self, message: Message) -> None:
        """The cell wants input; answer with `RemoteSession.answer`."""


class _Request:
    def __init__(self, listener: Listener | None, loop: asyncio.AbstractEventLoop) -> None:
        self.listener = listener
        self.reply: dict[str, Any] | None = None
        self.idle = False
        self.done: asyncio.Future[dict[str, Any]] = loop.create_future()

    def settle(self) -> None:
        if self.idle and self.reply is not None and not self.done.done():
            self.done.set_result(self.reply)


class RemoteSession:
    """One client of one session; use it in one event loop.

    Parameters
    ----------
    notice
        Told in words when the link is lost and when it is back, and that the session's host was lost.
    """

    def __init__(
        self,
        service: ServiceClient,
        session: str,
        settings: Settings,
        *,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.id = session
        self._service = service
        self._notice = notice
        self._channel = SessionChannel(self._ticket, self, settings, token=lambda: service.token, ca=lambda: service.ca)
        # Cells that are shipped have no numbers by which they could be told of.
        self._under_way = Requests(
            self._channel, self._failed, self._ends, tell=_nothing, most_bytes=settings.outbox_bytes
        )
        self._settings = settings
        self._info: ChannelInfo | None = None
        self._requests: dict[str, _Request] = {}
        self._wanted = Wanted()
        self._run: asyncio.Task[str] | None = None
        self._linked = asyncio.Event()
        self._lost = False
        self._ended: GpuaasError | None = None
        #: Somebody else's messages were seen: what is acknowledged here would be lost to them.
        self._shared = False
        self._asked_from: bytes = b""

    async def open(self, info: ChannelInfo | None = None) -> None:
        """Attach.

        Raises
        ------
        GpuaasError
            The session cannot be had.
        """
        if info is not None:
            self._info = info
            self._channel.use(info)
        self._run = asyncio.get_running_loop().create_task(self._keep())
        linked = asyncio.ensure_future(self._linked.wait())
        try:
            await asyncio.wait({linked, self._run}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            linked.cancel()
        if self._ended is not None:
            raise self._ended

    async def close(self) -> None:
        """Detach; the session goes on."""
        self._channel.close()
        if self._run is not None:
            self._run.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._run

    @property
    def ended(self) -> bool:
        """Whether the channel is over and will not come back."""
        return self._ended is not None

    async def info(self, *, anew: bool = False) -> ChannelInfo:
        """Addresses and a ticket that is still good; ``anew`` when those at hand have turned out not to be."""
        if anew:
            return await self._ticket()
        if self._info is None or self._info.expires_s < datetime.now(timezone.utc).timestamp() + 10:
            self._info = await self._service.ticket(self.id)
        return self._info

    async def request(
        self,
        msg_type: str,
        content: Mapping[str, Any],
        *,
        metadata: Mapping[str, Any] | None = None,
        listener: Listener | None = None,
        channel: str = "shell",
    ) -> dict[str, Any]:
        """Send a request; its reply's content, when the reply and the last output are there.

        Raises
        ------
        SessionEnded
            It ended meanwhile.
        CellError
            The session's host was lost, and what it had done of this, or what was to come of it.
        """
        if self._ended is not None:
            raise self._ended
        loop = asyncio.get_running_loop()
        msg_id = uuid4().hex
        request = _Request(listener, loop)
        self._requests[msg_id] = request
        self._wanted.want()
        try:
            address, *parts = self._message(msg_id, msg_type, content, metadata or {})
            self._under_way.send(Held(Channel(channel), bytes(address), msg_id, msg_type, parts, loop.time()))
            return await request.done
        finally:
            del self._requests[msg_id]
            if not self._requests:
                self._wanted.settle()

    async def ask(self, op: str, **content: Any) -> dict[str, Any]:
        """One operation of the session that is not a cell.

        Raises
        ------
        CellError
            It was refused, with the session's reason.
        """
        reply = await self.request("gpuaas_request", {"op": op, **content})
        if reply.get("status") != "ok":
            raise CellError(f"{reply.get('evalue') or reply.get('ename') or 'the session refused'}")
        return reply

    def interrupt(self) -> None:
        """Interrupt what runs."""
        if self._channel.linked:
            self._channel.send_op({"op": "interrupt"})
        else:
            self._send(Kind.CONTROL, uuid4().hex, "interrupt_request", {}, {})

    def answer(self, text: str) -> None:
        """Give the input that the cell asked for last."""
        self._send(Kind.STDIN, uuid4().hex, "input_reply", {"status": "ok", "value": text}, {}, self._asked_from)

    # -- ChannelHandler --------------------------------------------------------------------------

    def record_received(self, record: Record) -> None:
        if record.kind not in (Kind.SHELL, Kind.IOPUB, Kind.STDIN, Kind.CONTROL):
            self._acknowledge(record)
            return
        try:
            self._message_received(record)
        except (ValueError, TypeError, LookupError, AttributeError, msgspec.DecodeError):
            # One message that is none must not end the channel for all others.
            log.warning("record %d of session %s cannot be used", record.number, self.id, exc_info=True)
        self._acknowledge(record)

    def _message_received(self, record: Record) -> None:
        self._under_way.heard(record)
        _, header, parent, metadata, content, *buffers = record.parts
        asked_by = read_json(parent)
        request = self._requests.get(asked_by.get("msg_id", ""))
        if request is None:
            self._shared |= asked_by.get("session", self._channel.client) != self._channel.client
            return
        msg_type = read_json(header)["msg_type"]
        message = Message(msg_type, read_json(content), read_json(metadata), buffers, record.time_us)
        if record.kind is Kind.IOPUB:
            request.idle |= msg_type == "status" and message.content.get("execution_state") == "idle"
            if request.listener is not None:
                request.listener.output(message)
        elif record.kind is Kind.STDIN:
            self._asked_from = bytes(header)
            if request.listener is not None:
                request.listener.asked(message)
        else:
            request.reply = message.content
        request.settle()

    def channel_linked(self, welcome: dict[str, Any]) -> None:
        self._linked.set()
        if self._lost:
            self._lost = False
            self._notice("connected again")

    def channel_unlinked(self, reason: str, retry_s: float) -> None:
        if retry_s and not self._lost:
            self._lost = True
            self._notice(f"the connection to the session is lost ({reason}); trying again, the session goes on")

    def host_lost(self, welcome: dict[str, Any], kept: frozenset[int], *, anew: bool) -> Resend:
        """See ``ChannelHandler``."""
        self._notice(f"the host of the session was lost; it is back, and {state_words(None)}")
        for request in self._requests.values() if anew else ():
            request.idle = False  # what is sent again ends again
        return self._under_way.host_lost(welcome, kept, anew=anew)

    def host_changed(self, op: dict[str, Any]) -> None:
        """The reply to a cell that was cut off comes on the channel itself."""

    # --------------------------------------------------------------------------------------------

    def _failed(self, held: Held, ename: str, why: str) -> None:
        """A request that will not be answered."""
        request = self._requests.get(held.msg_id)
        if request is not None and not request.done.done():
            waits = f"the request cannot wait any longer for a connection: {why}"
            request.done.set_exception(TransportError(waits) if ename == UNREACHABLE else CellError(why))

    def _ends(self, held: Held) -> None:
        """A request that was answered, and of which nothing more is heard."""
        request = self._requests.get(held.msg_id)
        if request is not None:
            request.idle = True
            request.settle()

    async def _ticket(self) -> ChannelInfo:
        view = await self._service.session(self.id)
        _, self._info = await channel_of(self._service, view, self._wanted, seen=_nothing, told=_nothing)
        return self._info

    async def _keep(self) -> str:
        try:
            reason = await self._channel.run()
            self._ended = SessionEnded(f"the session has ended: {reason or 'it was left'}.")
        except GpuaasError as error:
            self._ended, reason = error, str(error)
        except Exception as error:
            # A bug of ours; who waits for a reply is to hear of it.
            log.exception("the channel of session %s is over", self.id)
            reason = f"{type(error).__name__}: {error}"
            self._ended = TransportError(f"the connection to the session has failed: {reason}.")
        for request in self._requests.values():
            if not request.done.done():
                request.done.set_exception(self._ended)
        return reason

    def _send(
        self,
        kind: Kind,
        msg_id: str,
        msg_type: str,
        content: Mapping[str, Any],
        metadata: Mapping[str, Any],
        parent: bytes = b"{}",
    ) -> None:
        """Something that nobody waits for an answer to."""
        try:
            self._channel.send(kind, self._message(msg_id, msg_type, content, metadata, parent))
        except TransportError as error:
            raise TransportError(f"the request cannot wait any longer for a connection: {error}") from error

    def _message(
        self,
        msg_id: str,
        msg_type: str,
        content: Mapping[str, Any],
        metadata: Mapping[str, Any],
        parent: bytes = b"{}",
    ) -> list[Buffer]:
        """Address, header, parent, metadata and content."""
        header = {
            "msg_id": msg_id,
            "msg_type": msg_type,
            "username": "",
            "session": self._channel.client,
            "date": datetime.now(timezone.utc).isoformat(),
            "version": PROTOCOL_VERSION,
        }
        encode = msgspec.json.encode
        return [self._channel.client.encode(), encode(header), parent, encode(metadata), encode(content)]

    def _acknowledge(self, record: Record) -> None:
        # Not every record: each acknowledgement is a message of its own.
        if not self._shared and (record.number % 64 == 0 or not self._requests):
            self._channel.acknowledge(record.number)


def _nothing(_: object) -> None:
    """For what nobody here needs to hear."""
