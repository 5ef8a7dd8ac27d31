"""One WebSocket as both ends of a channel use it: binary frames are the record stream, text frames are JSON ops.

The WebSocket protocol itself is the sans-I/O part of the ``websockets`` library; this file is the asyncio shell that
adds what a channel needs: adoption of a socket that somebody else accepted, a writer that tells when it is full, an end
to links that have gone silent, and a way past the library for the bulk that a host sends (``frames``).
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Protocol

import msgspec
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from ..errors import (
    Forbidden,
    GpuaasError,
    NoSuchSession,
    SessionEnded,
    StaleEpoch,
    TransportError,
    Unauthorized,
)
from .frames import PlainFrames, frame_head
from .record import JOIN_BYTES, Buffer
from .tls import Credentials, client_context, explain
from .unreadable import UNREADABLE

WRITE_HIGH_BYTES = 1024**2
WRITE_LOW_BYTES = 256 * 1024
READ_BYTES = 64 * 1024
#: Read at the border of two frames of one large record: what comes with the next frame's head has to be copied.
BORDER_BYTES = 4096


class LinkHandler(Protocol):
    """Who is told what arrives on a link. ``link_closed`` is called exactly once, and last."""

    def binary_received(self, link: Link, data: Buffer) -> None: ...

    def op_received(self, link: Link, op: dict[str, Any]) -> None: ...

    def link_drained(self, link: Link) -> None: ...

    def link_closed(self, link: Link, reason: str) -> None: ...


class ClientHandler(LinkHandler, Protocol):
    """A handler that lets a link receive large records where they belong."""

    def room(self, link: Link) -> memoryview | None:
        """Where the next bytes of the record stream belong; None where they have to be looked at first."""

    def room_filled(self, link: Link, count: int) -> None:
        """So many bytes were received in ``room``; ``binary_received`` is not called for them."""


class Link(asyncio.BufferedProtocol):
    """A WebSocket connection; made by ``connect`` or ``adopt``."""

    def __init__(
        self,
        protocol: ClientProtocol | ServerProtocol,
        handler: LinkHandler,
        *,
        ping_s: float,
        silence_s: float,
        client: ClientHandler | None = None,
        plain: PlainFrames | None = None,
    ) -> None:
        self._protocol = protocol
        self._handler = handler
        self._client = client
        self._plain = plain  # on the client's side: frames of the server are not masked
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._in_room = False
        self._ping_s = ping_s
        self._silence_s = silence_s
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._text: list[bytes] = []
        self._in_text = False
        self._heard_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._reason = ""
        self._closed = False
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self.writable = True
        #: Whether it was given up because nothing came: the other side may be gone without a word.
        self.silent = False

    # -- asyncio's side ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES, low=WRITE_LOW_BYTES)
        self._timer = self._loop.call_later(self._ping_s, self._tick)
        if isinstance(self._protocol, ClientProtocol):
            self._protocol.send_request(self._request)
            self._flush()
        else:
            self.opened.set_result(None)

    def get_buffer(self, sizehint: int) -> memoryview:
        room = self._client.room(self) if self._client is not None else None
        left = self._plain.left if self._plain is not None else 0
        self._in_room = room is not None and left > 0
        if room is None:
            return self._buffer
        return room[:left] if left else self._buffer[:BORDER_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        self._heard_s = self._loop.time()
        if self._in_room:
            assert self._plain is not None and self._client is not None
            self._plain.received(nbytes)
            self._client.room_filled(self, nbytes)
        else:
            self.received(bytes(self._buffer[:nbytes]))

    def received(self, data: bytes) -> None:
        """The next bytes of the connection, from wherever they were read."""
        if self._plain is None:
            self._to_library(data)
            return
        for plain, piece in self._plain.split(data):
            if plain:
                self._handler.binary_received(self, piece)
            else:
                self._to_library(bytes(piece))
                if self._plain.opened and self._protocol.state is not State.OPEN:
                    self._plain.end()

    def _to_library(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        self._flush()
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                self._frame_received(event)
            elif isinstance(event, Response) and not self.opened.done():
                if event.status_code == 101:
                    self.opened.set_result(None)
                else:
                    self.opened.set_exception(_refusal(event.status_code, bytes(event.body or b"")))
        if self._protocol.close_expected() and self._transport is not None:
            self._transport.close()

    def eof_received(self) -> bool:
        self._protocol.receive_eof()
        self._flush()
        return False

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if not self._closed:
            self._handler.link_drained(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        close = self._protocol.close_reason or ""
        reason = self._reason or close or (str(exc) if exc else "the other side closed the connection")
        if not self.opened.done():
            handshake = getattr(self._protocol, "handshake_exc", None)
            if isinstance(handshake, InvalidStatus):
                response = handshake.response
                self.opened.set_exception(_refusal(response.status_code, bytes(response.body or b"")))
            elif isinstance(handshake, InvalidHandshake):
                self.opened.set_exception(TransportError(f"no WebSocket answer: {handshake}"))
            else:
                self.opened.set_exception(TransportError(reason))
            self.opened.exception()  # whoever awaits it gets it; nobody else is to be warned
        self._handler.link_closed(self, reason)

    # -- our side ----------------------------------------------------------------------------------------------

    def send_binary(self, data: Buffer) -> None:
        """Queue one binary frame; look at ``writable`` before queueing much."""
        if self._protocol.state is not State.OPEN:
            return
        if isinstance(self._protocol, ClientProtocol):
            self._protocol.send_binary(bytes(data) if isinstance(data, memoryview) else data)
            self._flush()
        elif self._transport is not None and not self._transport.is_closing():
            head = frame_head(len(data))
            if len(data) <= JOIN_BYTES:
                self._transport.write(head + data)
            else:
                self._transport.write(head)
                self._transport.write(data)

    def send_op(self, op: dict[str, Any]) -> None:
        """Queue one JSON op."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_text(msgspec.json.encode(op))
            self._flush()

    def close(self, reason: str = "", code: int = 1000) -> None:
        """End the link politely; what was queued is still sent."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code, reason[:120])
            self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self, reason: str) -> None:
        """End the link at once."""
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.abort()

    @property
    def closed(self) -> bool:
        """Whether ``link_closed`` was called."""
        return self._closed

    # -- inside ------------------------------------------------------------------------------------------------

    def start_request(self, request: Request) -> None:
        """Client: the handshake to send as soon as the connection stands."""
        self._request = request

    def answer(self, head: bytes) -> None:
        """Server: answer the handshake whose bytes somebody else has read."""
        assert isinstance(self._protocol, ServerProtocol)
        self._protocol.receive_data(head)
        for event in self._protocol.events_received():
            if isinstance(event, Request):
                self._protocol.send_response(self._protocol.accept(event))
                self._flush()
            elif isinstance(event, Frame):
                self._frame_received(event)

    def _frame_received(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.PING, Opcode.PONG, Opcode.CLOSE):
            return
        if frame.opcode is not Opcode.CONT:
            self._in_text = frame.opcode is Opcode.TEXT
        if not self._in_text:
            self._handler.binary_received(self, frame.data)
            return
        self._text.append(bytes(frame.data))
        if frame.fin:
            data, self._text = b"".join(self._text), []
            try:
                op = msgspec.json.decode(data)
            except UNREADABLE as error:
                self.close(f"op: not JSON: {error}", code=1007)
                return
            if not isinstance(op, dict) or not isinstance(op.get("op"), str):
                self.close("op: must be an object with a string 'op'", code=1008)
                return
            self._handler.op_received(self, op)

    def _flush(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        for data in self._protocol.data_to_send():
            if data:
                self._transport.write(data)
            else:
                self._transport.write_eof() if self._transport.can_write_eof() else self._transport.close()

    def _tick(self) -> None:
        """Ping a quiet link, give up a silent one."""
        assert self._transport is not None
        silent_s = self._loop.time() - self._heard_s
        if silent_s >= self._silence_s:
            self.silent = True
            self.abort(f"nothing heard for {silent_s:.0f} s")
            return
        if silent_s >= self._ping_s and self._protocol.state is State.OPEN:
            self._protocol.send_ping(b"")
            self._flush()
        self._timer = self._loop.call_later(min(self._ping_s, self._silence_s - silent_s), self._tick)


async def connect(
    url: str,
    token: str,
    handler: ClientHandler,
    *,
    frame_bytes: int,
    ping_s: float,
    silence_s: float,
    timeout_s: float = 10.0,
    ca: str = "",
) -> Link:
    """Open a link to ``ws://`` or ``wss://``; the token goes in the Authorization header.

    Parameters
    ----------
    ca
        File with the authorities by which the other side is verified; empty means those of this machine.

    Raises
    ------
    Unauthorized, NoSuchSession, StaleEpoch, TransportError
        As the other side answered; TransportError also when nobody answers in time.
    """
    try:
        uri = parse_uri(url)
    except (InvalidURI, ValueError) as error:
        raise TransportError(f"the address {url!r} is not usable: {error}.") from error
    protocol = ClientProtocol(uri, max_size=frame_bytes)
    request = protocol.connect()
    request.headers["Authorization"] = f"Bearer {token}"

    def factory() -> Link:
        link = Link(
            protocol, handler, ping_s=ping_s, silence_s=silence_s, client=handler, plain=PlainFrames(frame_bytes)
        )
        link.start_request(request)
        return link

    secure = client_context(Credentials(ca=ca)) if uri.secure else None
    loop = asyncio.get_running_loop()
    link: Link | None = None

    async def open_link() -> None:
        nonlocal link
        _, link = await loop.create_connection(factory, uri.host, uri.port, ssl=secure)
        await link.opened

    try:
        await asyncio.wait_for(open_link(), timeout_s)
    except asyncio.TimeoutError:
        if link is not None:
            link.abort("no answer in time")
        raise TransportError(f"{uri.host}:{uri.port} does not answer within {timeout_s:g} s.") from None
    except OSError as error:
        trouble = explain(error, f"{uri.host}:{uri.port}", ca)
        if trouble is not None:
            raise TransportError(f"no link: {trouble.says}.", hint=trouble.do) from error
        raise TransportError(f"{uri.host}:{uri.port} cannot be reached: {error}.") from error
    except GpuaasError:
        if link is not None:
            link.abort("refused")
        raise
    assert link is not None
    return link


async def adopt(
    connection: socket.socket,
    head: bytes,
    rest: bytes,
    handler: LinkHandler,
    *,
    frame_bytes: int,
    ping_s: float,
    silence_s: float,
) -> Link:
    """Take over a socket on which a client has sent the handshake ``head``, and ``rest`` behind it already."""
    connection.setblocking(False)
    protocol = ServerProtocol(max_size=frame_bytes)
    _, link = await asyncio.get_running_loop().connect_accepted_socket(
        lambda: Link(protocol, handler, ping_s=ping_s, silence_s=silence_s), connection
    )
    link.answer(head)
    if rest:
        link.received(rest)
    return link


def _refusal(status: int, body: bytes) -> GpuaasError:
    """The other side's HTTP refusal as the error that it means."""
    try:
        told = msgspec.json.decode(body, type=dict[str, str])
    except UNREADABLE:
        told = {}
    message = told.get("message") or f"refused with status {status}."
    if told.get("error") == "StaleEpoch":
        stale = StaleEpoch(-1, -1)
        stale.message = message
        stale.args = (message,)
        return stale
    kinds: dict[int, type[GpuaasError]] = {
        401: Unauthorized, 403: Forbidden, 404: NoSuchSession, 410: SessionEnded,
    }  # fmt: skip
    return kinds.get(status, TransportError)(message, hint=told.get("hint", ""))
