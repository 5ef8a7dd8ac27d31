"""Bundles to and from a session: plain HTTP in a thread, bytes straight from and into the memory they live in."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from jupyter_gpuaas.errors import GpuaasError, RemoteProtocolError, TransportError, from_wire
from jupyter_gpuaas.model import ChannelInfo
from jupyter_gpuaas.state.arrival import Arrival
from jupyter_gpuaas.state.bundle import (
    PREFIX,
    Buffer,
    count_buffers,
    prefix,
    read_sizes,
)
from jupyter_gpuaas.wire.tls import Credentials, client_context, explain

T = TypeVar("T")

CONNECT_TIMEOUT_S = 5.0
SILENCE_S = 60.0
#: Buffers below this are joined before they are sent.
JOIN_BYTES = 64 * 1024


async def put_bundle(
    info: ChannelInfo,
    bundle: str,
    buffers: Sequence[Buffer],
    *,
    token: str = "",
    relay: str = "auto",
    ca: str = "",
) -> None:
    """Send a bundle to the session's kernel, where it waits for the cell that names it.

    Parameters
    ----------
    token
        The user's own, for the way through the controller.
    relay
        ``auto`` tries the node itself, then the controller; ``never`` and ``always`` as they say.
    ca
        File with the authorities by which both are verified; empty means those of this machine.
    """
    await asyncio.to_thread(_by_some_way, info, token, relay, ca, lambda way: way.put(bundle, buffers))


async def get_bundle(
    info: ChannelInfo, bundle: str, *, token: str = "", relay: str = "auto", ca: str = ""
) -> list[Any]:
    """Fetch a bundle that the session's kernel offers; parameters as for `put_bundle`."""
    return await asyncio.to_thread(_by_some_way, info, token, relay, ca, lambda way: way.get(bundle))


def _by_some_way(info: ChannelInfo, token: str, relay: str, ca: str, act: Callable[[_Way], T]) -> T:
    ways = []
    if info.bundle_url and relay != "always":
        ways.append(_Way(info.bundle_url, info.ticket, ca))
    if info.relay_bundle_url and token and relay != "never":
        ways.append(_Way(info.relay_bundle_url, token, ca))
    failures, hint = [], ""
    for way in ways:
        try:
            return act(way)
        except (OSError, http.client.HTTPException) as error:
            trouble = explain(error, urlsplit(way.base).netloc, ca)
            failures.append(f"{way.base}: {trouble.says if trouble else error or type(error).__name__}")
            hint = trouble.do if trouble else hint
    failed = "; ".join(failures) or "no address is known"
    raise TransportError(f"the session's data could not be moved ({failed}).", hint=hint)


class _Way:
    """One address at which a session's bundles can be reached."""

    def __init__(self, base: str, token: str, ca: str) -> None:
        self.base = base
        self._ca = ca
        self._token = token

    def put(self, bundle: str, buffers: Sequence[Buffer]) -> None:
        start = prefix(buffers)
        connection = self._connect()
        try:
            connection.putrequest("PUT", self._path(bundle), skip_accept_encoding=True)
            connection.putheader("Authorization", f"Bearer {self._token}")
            connection.putheader("Content-Type", "application/octet-stream")
            connection.putheader("Content-Length", str(len(start) + sum(memoryview(b).nbytes for b in buffers)))
            connection.endheaders()
            broken: OSError | None = None
            try:
                _send(connection, [start, *buffers])
            except OSError as error:
                broken = error  # A refusal may be waiting to be read.
            try:
                answer = connection.getresponse()
            except (OSError, http.client.HTTPException):
                if broken is not None:
                    raise broken from None
                raise
            if answer.status != 201:
                raise _refusal(answer)
        finally:
            connection.close()

    def get(self, bundle: str) -> list[Any]:
        connection = self._connect()
        try:
            connection.putrequest("GET", self._path(bundle), skip_accept_encoding=True)
            connection.putheader("Authorization", f"Bearer {self._token}")
            connection.endheaders()
            answer = connection.getresponse()
            if answer.status != 200:
                raise _refusal(answer)
            fixed = _fill(answer, memoryview(bytearray(PREFIX.size)))
            table = _fill(answer, memoryview(bytearray(8 * count_buffers(fixed))))
            announced = answer.length  # What is left of the body; None where the relay does not tell.
            arrival = Arrival(read_sizes(table, length=announced))
            for memory in arrival:
                _fill(answer, memory)
            return arrival.buffers
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.base)
        host, port = parts.hostname or "", parts.port
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = client_context(Credentials(ca=self._ca))
            connection = http.client.HTTPSConnection(host, port, timeout=CONNECT_TIMEOUT_S, context=context)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=CONNECT_TIMEOUT_S)
        connection.connect()  # Sets TCP_NODELAY; the system's own buffer sizes were the fastest.
        connection.sock.settimeout(SILENCE_S)
        return connection

    def _path(self, bundle: str) -> str:
        return f"{urlsplit(self.base).path.rstrip('/')}/{quote(bundle, safe='')}"


def _send(connection: http.client.HTTPConnection, buffers: Sequence[Buffer]) -> None:
    joined = bytearray()
    for buffer in buffers:
        view = memoryview(buffer)
        if view.nbytes < JOIN_BYTES:
            joined += view
            if len(joined) < JOIN_BYTES:
                continue
            view = memoryview(b"")
        if joined:
            connection.sock.sendall(joined)
            joined = bytearray()
        if view.nbytes:
            connection.sock.sendall(view)
    if joined:
        connection.sock.sendall(joined)


def _fill(answer: http.client.HTTPResponse, view: memoryview) -> memoryview:
    filled = 0
    while filled < len(view):
        count = answer.readinto(view[filled:])
        if not count:
            raise ConnectionError("the connection ended before the bundle did")
        filled += count
    return view


def _refusal(answer: http.client.HTTPResponse) -> GpuaasError:
    try:
        return from_wire(json.loads(answer.read(1024**2)), status=answer.status)
    except ValueError:
        return RemoteProtocolError(f"the session's data was refused with status {answer.status}.")
