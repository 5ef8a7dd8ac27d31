"""The way of a host, and of its kernel, to another node where TLS is on.

Who fetches state from another host speaks plain HTTP, in threads, and in a kernel, which must not hold the node's
certificate. So the host listens on a unix socket, in a folder that only its user can enter, and joins each connection
with one of TLS to that other node, on which it shows the certificate. One socket leads to one node, and a ticket is
needed there, too.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import msgspec

from ..errors import GpuaasError, TransportError
from ..model import Peer
from ..wire.tls import Credentials, client_context, explain
from ..wire.transfer import UNIX_SCHEME
from . import http
from .pump import End
from .tls_end import TlsEnd

CONNECT_S = 10.0
#: How long a caller that was refused may take to go.
REFUSED_S = 60.0


class Dialler:
    """Opens ways to other nodes.

    Parameters
    ----------
    credentials
        Those of the node.
    """

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        #: (where to, folder) -> what listens, and its name there.
        self._servers: dict[tuple[str, Path], tuple[asyncio.AbstractServer, str]] = {}
        #: Path of a socket -> where to.
        self._leads_to: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._callers: set[_Caller] = set()

    async def way(
        self, peer: Peer, folder: Path, *, seen_as: Path | None = None, owner: tuple[int, int] | None = None
    ) -> Peer:
        """The same peer, by way of a socket in a folder; a peer that is spoken to without TLS as it is.

        Parameters
        ----------
        peer
            May be one to which there is a way already, in another folder.
        seen_as
            The folder as whoever uses it sees it, where that is another path.
        owner
            User and group who may use it, where that is another user.
        """
        url = urlsplit(peer.url)
        to = self._leads_to.get(unquote(url.netloc), "") if url.scheme == UNIX_SCHEME else url.netloc
        if url.scheme == "http" or not to:
            return peer
        if (to, folder) not in self._servers:
            self._servers[to, folder] = await self._listen(to, folder, owner)
        _, name = self._servers[to, folder]
        path = (seen_as or folder) / name
        return msgspec.structs.replace(peer, url=f"{UNIX_SCHEME}://{quote(str(path), safe='')}{url.path}")

    async def _listen(self, to: str, folder: Path, owner: tuple[int, int] | None) -> tuple[asyncio.AbstractServer, str]:
        path, url = folder / f"peer{len(self._leads_to)}", urlsplit(f"https://{to}")
        self._leads_to[str(path)] = to
        server = await asyncio.get_running_loop().create_unix_server(
            lambda: _Caller(self, url.hostname or "", url.port or 443), str(path)
        )
        path.chmod(0o600)
        if owner is not None:
            os.chown(path, *owner)
        return server, path.name

    def close(self) -> None:
        """Listen no more, and end what is open."""
        for server, _ in self._servers.values():
            server.close()
        self._servers = {}
        for task in self._tasks:
            task.cancel()
        for caller in list(self._callers):
            if caller.transport is not None:
                caller.transport.abort()

    def dial(self, caller: _Caller, host: str, port: int) -> None:
        """Join a caller with the node."""
        self._callers.add(caller)
        task = asyncio.get_running_loop().create_task(self._dial(caller, host, port))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def gone(self, caller: _Caller) -> None:
        """It has left."""
        self._callers.discard(caller)

    async def _dial(self, caller: _Caller, host: str, port: int) -> None:
        address = f"{host}:{port}"
        end: TlsEnd | None = None

        def troubled(error: ssl.SSLError) -> None:
            caller.refuse(_trouble(error, address, self._credentials.ca))

        try:
            end = TlsEnd(client_context(self._credentials), server_name=host, troubled=troubled)
            await asyncio.wait_for(_connect(end, host, port), CONNECT_S)
        except (GpuaasError, OSError, asyncio.TimeoutError, TimeoutError) as error:
            if end is not None:
                end.end(wholly=True)
            caller.refuse(_trouble(error, address, self._credentials.ca))
            return
        if caller.transport is None:
            end.end(wholly=True)
            return
        caller.join(end)


async def _connect(end: TlsEnd, host: str, port: int) -> None:
    await asyncio.get_running_loop().create_connection(lambda: end, host, port)
    await end.opened


class _Caller(End):
    """Somebody who has connected to the socket."""

    def __init__(self, dialler: Dialler, host: str, port: int) -> None:
        super().__init__(lambda: dialler.gone(self))
        self._dialler, self._to = dialler, (host, port)
        self._refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._dialler.dial(self, *self._to)

    def refuse(self, error: GpuaasError) -> None:
        """Answer with an error, whatever is asked; it is closed when the caller has closed it."""
        if self.transport is not None and not self._refused:
            self._refused = True
            self.transport.write(http.error_response(error))
            self.transport.resume_reading()
            asyncio.get_running_loop().call_later(REFUSED_S, self.transport.close)

    def data_received(self, data: bytes) -> None:
        if not self._refused:
            super().data_received(data)

    def eof_received(self) -> bool:
        return super().eof_received() and not self._refused

    def end(self, *, wholly: bool = False) -> None:
        if not self._refused:
            super().end(wholly=wholly)


def _trouble(error: BaseException, address: str, ca: str) -> TransportError:
    if isinstance(error, GpuaasError):
        return TransportError(error.message, hint=error.hint)
    trouble = explain(error, address, ca)
    if trouble is not None:
        return TransportError(f"{trouble.says}.", hint=trouble.do)
    timed_out = isinstance(error, (asyncio.TimeoutError, TimeoutError))
    why = "it does not answer" if timed_out else str(error) or type(error).__name__
    return TransportError(f"the node at {address}: {why}.")
