"""Certificates for tests, by the own CA of a service, and TLS servers that show them."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from jupyter_gpuaas.cli.authority import Authority
from jupyter_gpuaas.wire.tls import FOLDER, Credentials, key_beside, server_context

HERE = ("127.0.0.1",)
ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{"status": "ok"}'


def own_ca(home: Path, *hosts: str) -> Authority:
    """What ``certs init`` makes, for a service of this machine."""
    authority = Authority(home / FOLDER)
    authority.init()
    authority.issue("service", hosts or HERE)
    return authority


def issued(folder: Path, *hosts: str, name: str = "x", days_ago: int = 0, days: int = 30) -> Credentials:
    """A certificate of a CA of its own, from so many days ago."""
    now = datetime.datetime.now(datetime.timezone.utc)
    authority = Authority(folder, now - datetime.timedelta(days=days_ago))
    if not authority.there:
        authority.init()
    cert = authority.issue(name, hosts or HERE, days=days).file
    return Credentials(str(folder / "ca.pem"), cert, key_beside(cert))


@contextlib.contextmanager
def strict_server(credentials: Credentials) -> Iterator[int]:
    """The port of a server that takes one connection, and wants to be shown a certificate of its CA."""
    context = server_context(credentials)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection.dup() as kept:
                    try:
                        with context.wrap_socket(connection, server_side=True) as tls:
                            tls.recv(1)
                            tls.sendall(ANSWER)
                    except ssl.SSLError:
                        # Closed with something unread it would be reset, and what was said last lost on its way.
                        kept.shutdown(socket.SHUT_WR)
                        while kept.recv(65536):
                            pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(30)


@contextlib.asynccontextmanager
async def serving(credentials: Credentials | None) -> AsyncIterator[int]:
    """The port of a server on loopback that answers every request with ``ANSWER``; None for one without TLS."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read(1)
            writer.write(ANSWER)
            await writer.drain()
        writer.close()

    context = server_context(credentials) if credentials is not None else None
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]
