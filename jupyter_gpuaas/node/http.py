"""The little HTTP that an agent speaks: one request a connection, parsed by h11, on a plain socket.

A plain socket, because a client's connection is handed by descriptor to the host of its session (and on to its
kernel), which then talks to the client without anything in between.
"""

from __future__ import annotations

import asyncio
import socket
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import h11
import msgspec

from ..errors import GpuaasError, RemoteProtocolError
from ..wire.unreadable import is_count

HEAD_BYTES = 16 * 1024
HEAD_TIMEOUT_S = 10.0
END_OF_HEADERS = b"\r\n\r\n"


class Passed(msgspec.Struct, frozen=True):
    """What the agent is told of a connection that came by TLS, by the front that has ended that."""

    #: Whether the client has shown a certificate that was verified.
    certified: bool = False
    #: Whether it is on another machine.
    far: bool = False


class HttpRequest(msgspec.Struct):
    """One request; ``raw`` is its head as it came, ``rest`` what has been read of its body."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    raw: bytes
    rest: bytes
    #: How its connection came; None for one without TLS.
    came: Passed | None = None

    @property
    def bearer(self) -> str:
        """The token of the Authorization header; empty when there is none."""
        kind, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() if kind.lower() == "bearer" else ""

    @property
    def length(self) -> int:
        """Content-Length; raises RemoteProtocolError when it is not a number."""
        value = self.headers.get("content-length", "0")
        if not is_count(value):
            raise RemoteProtocolError(f"Content-Length: {value[:40]!r} is not a number.")
        return int(value)


async def read_request(connection: socket.socket) -> HttpRequest | None:
    """Read a request's head; None when the peer sends nothing.

    Raises RemoteProtocolError for what is not HTTP, TimeoutError for a peer that dawdles.
    """
    loop = asyncio.get_running_loop()
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
    raw = b""

    async def read() -> HttpRequest | None:
        nonlocal raw
        while True:
            data = await loop.sock_recv(connection, 64 * 1024)
            if not data:
                return None
            raw += data
            try:
                parser.receive_data(data)
                event = parser.next_event()
            except h11.RemoteProtocolError as error:
                raise RemoteProtocolError(f"not HTTP: {error}.") from error
            if isinstance(event, h11.Request):
                end = raw.find(END_OF_HEADERS) + len(END_OF_HEADERS)
                if end < len(END_OF_HEADERS):
                    raise RemoteProtocolError("not HTTP: lines of the head have to end with CR LF.")
                try:
                    target = urlsplit(event.target.decode("latin-1"))
                except ValueError as error:
                    raise RemoteProtocolError(f"path: {error}.") from error
                return HttpRequest(
                    event.method.decode("latin-1"),
                    target.path,
                    dict(parse_qsl(target.query)),
                    {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers},
                    raw[:end],
                    raw[end:],
                )

    return await asyncio.wait_for(read(), HEAD_TIMEOUT_S)


async def read_body(connection: socket.socket, request: HttpRequest, most_bytes: int) -> bytes:
    """Read the rest of a request's body."""
    if request.length > most_bytes:
        raise RemoteProtocolError(
            f"body: has {request.length} bytes, at most {most_bytes} are allowed.", hint="Setting request_body_bytes."
        )
    body = bytearray(request.rest)
    while len(body) < request.length:
        data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(connection, 1 << 18), HEAD_TIMEOUT_S)
        if not data:
            raise RemoteProtocolError("body: the connection ended before it was complete.")
        body += data
    return bytes(body)


def response(status: int, body: Any = None, content_type: str = "application/json") -> bytes:
    """A whole response; ``body`` is encoded as JSON unless it is bytes already."""
    data = body if isinstance(body, bytes) else msgspec.json.encode({} if body is None else body)
    return head(status, content_type, len(data)) + data


def head(status: int, content_type: str, length: int | None = None) -> bytes:
    """Head of a response; without a length the body goes to the end of the connection."""
    size = "" if length is None else f"Content-Length: {length}\r\n"
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nDate: {formatdate(usegmt=True)}\r\n"
        f"Content-Type: {content_type}\r\n{size}Connection: close\r\n\r\n"
    ).encode()


def error_response(error: GpuaasError) -> bytes:
    """The answer that an error of ours becomes."""
    return response(error.status, {"error": type(error).__name__, "message": error.message, "hint": error.hint})
