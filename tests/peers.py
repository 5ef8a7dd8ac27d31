"""A host that gives a session away, as far as its successor sees it: the transfer routes on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.errors import GpuaasError
from jupyter_gpuaas.image.shelf import Shelf
from jupyter_gpuaas.model import CheckpointPlan, Peer
from jupyter_gpuaas.node import http
from jupyter_gpuaas.node.transfer import Transfer, TransferRequest

#: Told of each connection before it is served; may serve it itself and return True.
Meddle = Callable[[socket.socket], bool]


class Source:
    """Serves ``Transfer`` as agent and host do: the head is read by a loop, the rest in a thread."""

    def __init__(
        self,
        plan: CheckpointPlan | None,
        *,
        session: str = "s",
        work: Path | None = None,
        settings: Settings | None = None,
        meddle: Meddle = lambda connection: False,
        shelf: Shelf | None = None,
        far: bool | None = None,
    ) -> None:
        self.transfer = Transfer(session, plan, work=work, settings=settings or Settings(), shelf=shelf)
        self.far = far
        self.meddle = meddle
        #: Requests that opened a connection.
        self.opened: list[str] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.peer = Peer(url=f"http://127.0.0.1:{port}/v1/sessions/{session}/transfer", ticket="ticket")
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(30)
        self.transfer.close()
        for thread in self._threads:
            thread.join(30)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        if self.meddle(connection):
            return
        connection.setblocking(False)
        try:
            request = asyncio.run(http.read_request(connection))
        except GpuaasError:
            request = None
        if request is None:
            connection.close()
            return
        path = request.path.partition("/transfer/")[2]
        self.opened.append(f"{request.method} {path}")
        self.transfer.serve(connection, TransferRequest(request.method, path, request.length, request.rest, self.far))
