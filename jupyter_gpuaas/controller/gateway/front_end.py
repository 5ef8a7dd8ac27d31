"""One WebSocket of a Jupyter front end, on one session.

What a kernel proxy is for ZMQ, this is for WebSockets, over the same channel to the session's host. Jupyter's protocol
has no acknowledgements, but WebSockets have pings: what was sent before one that was answered has arrived. What had not
when a connection was cut is said again to the front end when it comes back under the same id.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from typing import Any

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from jupyter_gpuaas.controller.auth import User
from jupyter_gpuaas.controller.controller import Controller
from jupyter_gpuaas.controller.gateway.kernels import Had, Kernels, Place
from jupyter_gpuaas.controller.reports import HOSTED_STATES
from jupyter_gpuaas.controller.sessions import LiveSession
from jupyter_gpuaas.controller.sockets import connection_of
from jupyter_gpuaas.errors import GpuaasError, RemoteProtocolError, SessionEnded
from jupyter_gpuaas.lifecycle.describe import describe
from jupyter_gpuaas.model import LIVE_STATES, Channel, ChannelInfo, HostState, SessionState
from jupyter_gpuaas.wire import websocket as codec
from jupyter_gpuaas.wire.channel import Channel as SessionChannel
from jupyter_gpuaas.wire.channel import Resend
from jupyter_gpuaas.wire.jupyter import make_parts, read_header
from jupyter_gpuaas.wire.record import Buffer, Kind, Record
from jupyter_gpuaas.wire.requests import ASKED_BY_ITSELF, UNREACHABLE, Requests
from jupyter_gpuaas.wire.tls import of_service
from jupyter_gpuaas.wire.waiting import Held, Waiting, fail_request, tell_ended

log = logging.getLogger(__name__)

#: Pause between two questions what has arrived.
CONFIRM_S = 0.05
ADDRESS = b"gateway-"
CHANNELS = {Kind.SHELL: Channel.SHELL, Kind.CONTROL: Channel.CONTROL, Kind.STDIN: Channel.STDIN}
_GOING_AWAY = 1001
_POLICY = 1008
OVER = "RemoteSessionEnded"


class _Said(msgspec.Struct):
    """Something for the front end; without parts, only a number that is passed."""

    number: int
    channel: Channel = Channel.IOPUB
    parts: list[Buffer] | None = None
    size: int = 0


class FrontEnd:
    """Passes requests on and outputs back, until the connection or the session ends."""

    def __init__(
        self, controller: Controller, kernels: Kernels, live: LiveSession, user: User, socket: WebSocket, name: str
    ) -> None:
        settings = msgspec.structs.replace(controller.settings, relay="never")
        self._controller = controller
        self._kernels = kernels
        self._live = live
        self._user = user
        self._socket = socket
        self._place: Place = (live.session.id, name)
        # Replies to what it asked on a former connection reach it on this one.
        self._address = ADDRESS + hashlib.sha256(name.encode()).hexdigest()[:16].encode()
        self._named = codec.V1 in socket.scope["subprotocols"]
        # Jupyter's own server, as a client, decodes whatever comes as text and fails for good where it is none.
        self._takes_bytes = self._named or "origin" in socket.headers
        self._told_of_buffers = False
        self._channel = SessionChannel(
            self._ticket, self, settings, token=lambda: "", ca=lambda: of_service(settings).ca
        )
        self._requests = Requests(
            self._channel, self._fail, self._end, tell=self._tell, most_bytes=settings.outbox_bytes
        )
        self._waiting = Waiting(self._reply, self._publish, settings.unreachable_s, settings.outbox_bytes)
        self._wanted = asyncio.Event()
        self._queue: deque[_Said] = deque()
        self._queue_bytes = 0
        self._most_bytes = settings.undelivered_pages_bytes
        self._more = asyncio.Event()
        self._passing_over = False
        self._sent = self._asked = self._confirmed = 0
        self._kernel_starts = 0
        self._ever_linked = False
        #: Somebody else's replies were seen: what is acknowledged here would be lost to them.
        self._shared = False
        self._over = ""
        self._leave = asyncio.Event()

    def leave(self) -> None:
        """End: the front end has another connection, or the service ends."""
        self._leave.set()

    async def run(self) -> None:
        """Serve; the connection has not been accepted yet."""
        had = self._kernels.opened(self._place, self)
        if had is not None:
            self._sent = self._confirmed = had.number
            self._channel.begin_behind(*had)
        await self._socket.accept(subprotocol=codec.V1 if self._named else None)
        work = [self._keep_channel(), self._send(), self._receive(), self._confirm(), self._leave.wait()]
        tasks = [asyncio.create_task(each, name=f"gateway {self._place[0]}") for each in work]
        try:
            await asyncio.wait(tasks[1:3] + tasks[4:], return_when=asyncio.FIRST_COMPLETED)
            for task in tasks[1:3]:
                if task.done() and not task.cancelled() and task.exception() is not None:
                    log.error("a front end of session %s", self._place[0], exc_info=task.exception())
        finally:
            self._kernels.left(self._place, self)
            self._channel.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._close(_GOING_AWAY, "")

    async def _close(self, code: int, reason: str) -> None:
        try:
            await self._socket.close(code, reason)
        except (RuntimeError, WebSocketDisconnect):
            return  # the other side went first

    # -- from the front end ----------------------------------------------------------------------------------

    async def _receive(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text, data = message.get("text"), message.get("bytes")
            try:
                if self._named:
                    channel, parts = codec.decode_v1(data or b"")
                elif data is not None:
                    channel, parts = codec.decode_binary(data)
                elif text and text[0] == "\0":  # buffers, in a frame of text that happens to be one
                    channel, parts = codec.decode_binary(text.encode())
                else:
                    channel, parts = codec.decode_text(text or "")
                header = read_header(parts[0])
            except (RemoteProtocolError, msgspec.MsgspecError, UnicodeError) as error:
                await self._close(_POLICY, str(error)[:120])
                return
            self._requested(Held(channel, self._address, header.msg_id, header.msg_type, parts, _now_s()))

    def _requested(self, held: Held) -> None:
        self._kernels.active(self._place[0])
        if self._over:
            self._fail(held, OVER, self._over)
        elif self._channel.linked:
            self._requests.send(held)
        elif held.msg_type == "interrupt_request":
            self._waiting.cancel_cells()
            self._reply(held.channel, b"", make_parts(b"", "interrupt_reply", held.parts[0], {"status": "ok"})[1:])
        elif self._waiting.hold(held):
            if held.msg_type not in ASKED_BY_ITSELF:
                self._wanted.set()
        else:
            self._fail(held, UNREACHABLE, "too much waits for the link already. Setting outbox_bytes.")

    # -- to the front end ------------------------------------------------------------------------------------

    def _reply(self, channel: Channel, _: Buffer, parts: list[Buffer]) -> None:
        self._say(_Said(0, channel, parts))

    def _publish(self, _: Buffer, parts: list[Buffer]) -> None:
        self._say(_Said(0, Channel.IOPUB, parts))

    def _fail(self, held: Held, ename: str, why: str) -> None:
        fail_request(held, ename, why, self._reply, self._publish)

    def _end(self, held: Held) -> None:
        tell_ended(held, self._publish)

    def _state(self, state: str) -> None:
        self._publish(b"", make_parts(b"", "status", b"{}", {"execution_state": state})[1:])

    def _tell(self, text: str) -> None:
        self._publish(b"", make_parts(b"", "stream", b"{}", {"name": "stderr", "text": text})[1:])

    def _say(self, said: _Said) -> None:
        said.size = sum(len(part) for part in said.parts or ())
        self._queue.append(said)
        self._queue_bytes += said.size
        self._more.set()

    async def _send(self) -> None:
        while True:
            self._more.clear()
            while self._queue:
                said = self._queue[0]
                if said.parts is not None:
                    try:
                        await self._put(said.channel, said.parts)
                    except (WebSocketDisconnect, RuntimeError):
                        return
                    self._kernels.active(self._place[0])
                if self._queue and self._queue[0] is said:  # else all has begun anew meanwhile
                    self._queue.popleft()
                    self._queue_bytes -= said.size
                    self._sent = said.number or self._sent
            if self._passing_over:
                self._passing_over = False
                self._channel.rewind(self._sent)
            if self._over and not self._queue:
                return
            await self._more.wait()

    async def _put(self, channel: Channel, parts: list[Buffer]) -> None:
        if self._named:
            await self._socket.send_bytes(codec.encode_v1(channel, parts))
        elif len(parts) > codec.FIXED_PARTS and self._takes_bytes:
            await self._socket.send_bytes(codec.encode_binary(channel, parts))
        else:
            if len(parts) > codec.FIXED_PARTS and not self._told_of_buffers:
                self._told_of_buffers = True
                self._tell(
                    "\n[remote GPU] This kernel sends binary data, which a Jupyter server does not bring through a "
                    "gateway: widgets that need it stay empty. The kernel of the package jupyter_gpuaas has no such "
                    "limit.\n"
                )
            await self._socket.send_text(codec.encode_text(channel, parts))

    async def _confirm(self) -> None:
        """Note what has arrived: the front end need not be told it again, and the host may forget it."""
        connection = connection_of(self._socket)
        if connection is None:
            return
        asked = 0
        while True:
            await asyncio.sleep(CONFIRM_S)
            if asked and connection.arrived == asked:
                asked, self._confirmed = 0, max(self._confirmed, self._asked)
                if self._confirmed:
                    self._kernels.had(self._place, Had(self._confirmed, self._channel.journal, self._channel.epoch))
                    if not self._shared:
                        self._channel.acknowledge(self._confirmed)
            if not asked and self._sent > self._confirmed:
                asked, self._asked = connection.arrived + 1, self._sent
                connection.ask(asked)

    # -- the session -----------------------------------------------------------------------------------------

    async def _keep_channel(self) -> None:
        try:
            reason = await self._channel.run()
        except GpuaasError as error:
            reason = str(error)
        if not reason:
            return
        self._over = f"this session has ended: {reason}"
        self._requests.fail(OVER, self._over)
        self._waiting.fail(OVER, self._over)
        self._state("dead")
        self._more.set()

    async def _ticket(self) -> ChannelInfo:
        """A ticket, when the session has a host; a parked one is woken when a request waits for it."""
        live = self._live
        while True:
            rung = live.bell.next()
            session = live.session
            if session.state not in LIVE_STATES:
                raise SessionEnded(f"session {session.name!r}: {session.cause or session.state}.")
            if live.hosted and session.state in HOSTED_STATES:
                return self._controller.channel(live, self._user, str(self._socket.base_url), inside=True)
            self._waiting.status(describe(session))
            if session.state is SessionState.PARKED and self._wanted.is_set():
                self._controller.parking.wake(live, f"wanted by {self._user.name}")
                continue
            waits = [asyncio.ensure_future(rung.wait())]
            if session.state is SessionState.PARKED:
                waits.append(asyncio.ensure_future(self._wanted.wait()))
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waits:
                    each.cancel()

    # -- ChannelHandler --------------------------------------------------------------------------------------

    def record_received(self, record: Record) -> None:
        """See ``ChannelHandler``."""
        self._passing_over = self._passing_over or (bool(self._queue) and self._queue_bytes > self._most_bytes)
        self._requests.heard(record, passed_over=self._passing_over)
        if self._passing_over:
            return
        said = _Said(record.number)
        if record.kind is Kind.IOPUB:
            said.parts = list(record.parts[1:])
        elif record.kind in CHANNELS:
            address = bytes(record.parts[0])
            self._shared = self._shared or not address.startswith(ADDRESS)
            if address == self._address:
                said.channel, said.parts = CHANNELS[record.kind], list(record.parts[1:])
        elif record.kind is Kind.NOTICE:
            gap = msgspec.json.decode(record.parts[0])
            count = gap["last"] - gap["first"] + 1
            self._tell(f"{count} messages were dropped here: the journal of this session was full.")
        self._say(said)

    def channel_linked(self, welcome: dict[str, Any]) -> None:
        """See ``ChannelHandler``."""
        self._kernel_starts = welcome["kernel_starts"]
        if not self._ever_linked and welcome["state"] == HostState.BUSY:
            self._state("busy")
        self._ever_linked = True
        self._wanted.clear()
        for held in self._waiting.release():
            self._requests.send(held)

    def channel_unlinked(self, reason: str, retry_s: float) -> None:
        """See ``ChannelHandler``."""
        if not retry_s or self._ever_linked:
            self._waiting.status(f"{reason}; this cell runs when the session is there")
        else:
            self._waiting.trouble(f"{reason} Next try in {retry_s:.1f} s.")

    def host_lost(self, welcome: dict[str, Any], kept: frozenset[int], *, anew: bool) -> Resend:
        """See ``ChannelHandler``."""
        if anew:
            # What waits is still said; numbers of the former journal mean nothing any more.
            self._queue = deque(msgspec.structs.replace(said, number=0) for said in self._queue)
            self._sent = self._asked = self._confirmed = 0
            self._passing_over = False
        return self._requests.host_lost(welcome, kept, anew=anew)

    def host_changed(self, op: dict[str, Any]) -> None:
        """See ``ChannelHandler``."""
        starts = int(op.get("kernel_starts", 0))
        if starts > self._kernel_starts > 0:
            self._state("restarting")
        self._kernel_starts = max(self._kernel_starts, starts)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
