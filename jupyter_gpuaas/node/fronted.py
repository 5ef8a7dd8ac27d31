"""The agent's way to its front (``front``), which is started, and started again when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable

import msgspec

from ..errors import TransportError
from ..wire.tls import Credentials
from .http import Passed

log = logging.getLogger(__name__)

OPEN_S = 30.0
PAUSE_S = 0.5
DATAGRAM_BYTES = 4096


class Fronted:
    """Takes connections from the front.

    Parameters
    ----------
    take
        Called with each connection, and whether its client has shown a certificate, and is on another machine.
    """

    def __init__(
        self, listener: socket.socket, credentials: Credentials, take: Callable[[socket.socket, Passed], None]
    ) -> None:
        self._listener = listener
        self._credentials = credentials
        self._take = take
        self._front: socket.socket | None = None
        self._process: asyncio.subprocess.Process | None = None

    async def open(self) -> None:
        """Start the front.

        Raises
        ------
        TransportError
            It does not come up; its words are in the agent's log.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        files = self._credentials
        try:
            with theirs:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "jupyter_gpuaas.node.front"),
                    *("--listener", str(self._listener.fileno()), "--agent", str(theirs.fileno())),
                    *("--ca", files.ca, "--cert", files.cert, "--key", files.key),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=[self._listener.fileno(), theirs.fileno()],
                    start_new_session=True,
                )
            said = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(ours, DATAGRAM_BYTES), OPEN_S)
        except (OSError, asyncio.TimeoutError, TimeoutError) as error:
            ours.close()
            raise TransportError(f"the TLS front of this node does not start: {error}.") from error
        if not said:
            ours.close()
            raise TransportError("the TLS front of this node has ended; its log says why.")
        self._front = ours

    async def run(self) -> None:
        """Pass on what comes, and start the front again when it has ended; never returns."""
        while True:
            assert self._front is not None
            await self._until_gone(self._front)
            self._front.close()
            log.error("the TLS front has ended, and is started again")
            while True:
                await asyncio.sleep(PAUSE_S)
                try:
                    await self.open()
                    break
                except TransportError as error:
                    log.error("%s", error)

    def close(self) -> None:
        """Let no connection in any more; the front ends when what is open has ended."""
        if self._front is not None:
            self._front.close()

    async def _until_gone(self, front: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()

        def take() -> None:
            try:
                data, descriptors, _, _ = socket.recv_fds(front, DATAGRAM_BYTES, 1)
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            if not data:
                gone.set()
                return
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
                with contextlib.suppress(msgspec.MsgspecError):
                    self._take(socket.socket(fileno=descriptor), msgspec.json.decode(data, type=Passed))

        loop.add_reader(front, take)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(front)
