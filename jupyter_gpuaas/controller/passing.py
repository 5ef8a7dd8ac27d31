"""What a controller that stands by passes on to the one that acts: whole connections, byte by byte.

So a client may use the address of either. Nothing is looked at beyond the first line of a request, by which it is one
that the standby answers itself, or not: streams and what WebSockets say among themselves go through as if nobody stood
between.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol
from urllib.parse import urlsplit

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from jupyter_gpuaas.errors import SettingError
from jupyter_gpuaas.wire.tls import Credentials, client_context

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 3.0
#: A first line is not longer.
LINE_BYTES = 64 * 1024


class Passes(Protocol):
    """An application that may stand by."""

    @property
    def passes_to(self) -> str:
        """Address of the controller that acts; empty when it acts itself, or nobody does."""

    def answers(self, method: bytes, path: bytes) -> bool:
        """Whether it answers such a request itself all the same; the path as it was sent, without its query."""

    #: By which the one that acts is verified, where it speaks TLS.
    credentials: Credentials

    def began(self, connection: Front) -> None:
        """A connection is passed on from now on."""

    def ended(self, connection: Front) -> None:
        """It is over."""


class Front(H11Protocol):
    """A connection of a controller's server: served here, or passed on."""

    _far: _Far | None = None
    _head = b""

    def data_received(self, data: bytes) -> None:
        """Decide at the begin of each request that is not passed on yet."""
        if self._far is not None:
            self._far.take(data)
            return
        face = self.config.app
        url = str(getattr(face, "passes_to", ""))
        if not url or self.conn.their_state is not h11.IDLE:
            self._serve(data)
            return
        self._head += data
        line, complete, _ = self._head.partition(b"\r\n")
        if not complete and len(self._head) < LINE_BYTES:
            return
        if face.answers(*_asked(line)):  # type: ignore[union-attr]
            self._serve(b"")
            return
        self._unset_keepalive_if_required()
        self.transport.pause_reading()
        self._far, self._head = _Far(self, self._head), b""
        face.began(self)  # type: ignore[union-attr]
        connecting = self.loop.create_task(self._pass(self._far, url), name="pass a connection on")
        self.tasks.add(connecting)
        connecting.add_done_callback(self.tasks.discard)

    def _serve(self, data: bytes) -> None:
        head, self._head = self._head + data, b""
        super().data_received(head)

    async def _pass(self, far: _Far, url: str) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            credentials: Credentials = self.config.app.credentials  # type: ignore[union-attr]
            context = client_context(credentials) if parts.scheme == "https" else None
            await asyncio.wait_for(
                self.loop.create_connection(lambda: far, parts.hostname or "", port, ssl=context), CONNECT_TIMEOUT_S
            )
        except (OSError, ValueError, SettingError, asyncio.TimeoutError, TimeoutError) as error:
            log.warning("%s cannot be asked for a client: %s", url, error or "it does not answer")
            if not self.transport.is_closing():
                self._forget_far()
                self._serve(far.early)  # which refuses, and says why
                self.transport.resume_reading()
            return
        if self.transport.is_closing():
            far.close()
        elif far.writable:
            self.transport.resume_reading()

    def cut(self) -> None:
        """End what is passed on: the controller at the other end does not act any more, or does not answer."""
        far = self._far
        self.transport.abort()
        if far is not None:
            far.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or was let go."""
        far = self._far
        super().connection_lost(exc)
        if far is not None:
            self._forget_far()
            far.close()

    def _forget_far(self) -> None:
        self._far = None
        self.config.app.ended(self)  # type: ignore[union-attr]

    def pause_writing(self) -> None:
        """The client does not read: neither do we."""
        if self._far is not None:
            self._far.pause()
        else:
            super().pause_writing()

    def resume_writing(self) -> None:
        if self._far is not None:
            self._far.go_on()
        else:
            super().resume_writing()


class _Far(asyncio.Protocol):
    """The other half of a connection that is passed on."""

    def __init__(self, front: Front, first: bytes) -> None:
        self._front = front
        self._transport: asyncio.Transport | None = None
        #: What the client has said before there was a connection.
        self.early = first
        self.writable = True

    def take(self, data: bytes) -> None:
        """What the client says."""
        if self._transport is None:
            self.early += data
        else:
            self._transport.write(data)

    def pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def go_on(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self.early)

    def data_received(self, data: bytes) -> None:
        self._front.transport.write(data)

    def pause_writing(self) -> None:
        self.writable = False
        self._front.transport.pause_reading()

    def resume_writing(self) -> None:
        self.writable = True
        self._front.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        # What has come is still written. A client that waits for more learns that there is none.
        self._front.transport.close()


def _asked(line: bytes) -> tuple[bytes, bytes]:
    """Method and path, without its query, of the first line of a request."""
    method, *words = line.split(b" ")
    return method, words[0].partition(b"?")[0] if words else b""
