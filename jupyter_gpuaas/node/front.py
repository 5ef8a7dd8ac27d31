"""The front of a node's agent where TLS is on: a process that ends TLS, and passes plain connections in.

A TLS connection cannot be handed from process to process as a plain one can. So this process keeps it, and makes a
pair of sockets: one it joins with the client's connection, the other it hands to the agent, which treats it as any
accepted connection, and hands it on to a host or a kernel. What is open goes on without the agent, until both ends have
closed it.

It listens on a socket that the agent has opened, and tells of each connection in a datagram with the descriptor. A
client may show a certificate; one that cannot be verified ends its connection. Whether one was needed, the agent
decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from functools import partial

import click
import msgspec

from ..errors import GpuaasError, RemoteProtocolError
from ..wire.tls import HANDSHAKE, Credentials, server_context
from . import http
from .http import Passed
from .pump import End
from .tls_end import TlsEnd

HANDSHAKE_S = 10.0
ACCEPT_PAUSE_S = 0.1
#: Connections that have not come to the end of their handshake.
HANDSHAKES_MOST = 256


class Front:
    """The process.

    Parameters
    ----------
    agent
        Its end of a pair of sockets (SOCK_SEQPACKET).
    """

    def __init__(self, listener: socket.socket, agent: socket.socket, credentials: Credentials) -> None:
        self._listener = listener
        self._agent = agent
        self._credentials = credentials
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self) -> None:
        """Serve until the agent is gone, and what is open until it is closed."""
        loop = asyncio.get_running_loop()
        server_context(self._credentials)
        for each in (self._listener, self._agent):
            each.setblocking(False)
        self._agent.send(msgspec.json.encode(Passed()))
        accepting = loop.create_task(self._accept())
        # It says nothing: there is something to read when it is gone.
        await loop.sock_recv(self._agent, 1)
        accepting.cancel()
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await self._idle.wait()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self._listener)
            except OSError:  # no descriptors left, mostly
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            if len(self._tasks) >= HANDSHAKES_MOST:
                connection.close()
                continue
            task = loop.create_task(self._let_in(connection, str(address[0])))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _let_in(self, connection: socket.socket, address: str) -> None:
        client: TlsEnd | None = None
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            first = await asyncio.wait_for(_first_byte(connection), HANDSHAKE_S)
            if first != HANDSHAKE:
                await _refuse(connection, first)
                return
            client = TlsEnd(server_context(self._credentials), over=self._closed)
            far = address != str(connection.getsockname()[0])
            await self._connect(client, connection)
            await asyncio.wait_for(client.opened, HANDSHAKE_S)
            await self._hand_in(client, Passed(client.certified, far))
        except (GpuaasError, OSError, asyncio.TimeoutError, TimeoutError) as error:
            if client is not None and client.opened.done() and client.opened.exception() is None:
                print(f"a connection is not passed to the agent: {error}", file=sys.stderr, flush=True)
            if client is not None:
                client.end(wholly=True)
        except asyncio.CancelledError:
            if client is not None and client.transport is not None:
                client.transport.abort()
            raise
        finally:
            if client is None:
                connection.close()

    async def _connect(self, end: End, connection: socket.socket) -> None:
        """Give an end its connection, and count it until it is gone."""
        self._count(+1)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: end, connection)
        except BaseException:
            if end.transport is None:
                self._count(-1)
                connection.close()
            raise

    async def _hand_in(self, client: TlsEnd, passed: Passed) -> None:
        ours, theirs = socket.socketpair()
        inner = End(self._closed)
        with theirs:
            ours.setblocking(False)
            await self._connect(inner, ours)
            try:
                # One that does not take it stands still, and its clients come again.
                socket.send_fds(self._agent, [msgspec.json.encode(passed)], [theirs.fileno()])
            except OSError:
                assert inner.transport is not None
                inner.transport.abort()
                raise
        client.join(inner)

    def _closed(self) -> None:
        self._count(-1)

    def _count(self, change: int) -> None:
        self._open += change
        if self._open:
            self._idle.clear()
        else:
            self._idle.set()


async def _first_byte(connection: socket.socket) -> int:
    """The first byte that comes, which stays there; -1 at the end."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(connection, _settle, readable)
    try:
        await readable
    finally:
        loop.remove_reader(connection)
    data = connection.recv(1, socket.MSG_PEEK)
    return data[0] if data else -1


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _refuse(connection: socket.socket, first: int) -> None:
    """Tell a client of HTTP without TLS what is the matter."""
    if first < 0:
        return
    error = RemoteProtocolError(
        "this port speaks TLS, and was spoken to without.", hint="Its address begins with https://."
    )
    loop = asyncio.get_running_loop()

    async def answer() -> None:
        await loop.sock_sendall(connection, http.error_response(error))
        connection.shutdown(socket.SHUT_WR)
        # What is not read when the connection is closed would take the answer back.
        while await loop.sock_recv(connection, 1 << 16):
            pass

    with contextlib.suppress(OSError, asyncio.TimeoutError, TimeoutError):
        await asyncio.wait_for(answer(), HANDSHAKE_S)


@click.command()
@click.option("--listener", required=True, type=int)
@click.option("--agent", required=True, type=int)
@click.option("--ca", default="")
@click.option("--cert", required=True)
@click.option("--key", required=True)
def main(listener: int, agent: int, ca: str, cert: str, key: str) -> None:
    """Started by the agent, with the descriptors of its listener and of the way to it."""
    front = partial(Front, socket.socket(fileno=listener), socket.socket(fileno=agent), Credentials(ca, cert, key))
    os.set_inheritable(listener, False)
    os.set_inheritable(agent, False)

    async def serve() -> None:
        await front().run()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
