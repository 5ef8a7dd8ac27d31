"""The root of a jail's tree: starts the kernel, and stands between its ZMQ sockets and the host.

ZMQ drops what is on its way to a peer whose connection ends, so a host that hung up for a dump would lose outputs of
the running cell. Here both ends of every ZMQ connection are in the image. Towards the host goes one unix socket with
numbered, acknowledged records (``resumable.py``): the host closes it before a dump, dials again afterwards on whatever
node it is, and gets what it lacks.

It also adopts the processes that lose their parent, so that they stay in the tree.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import msgspec
import zmq

from ..model import Channel
from ..wire.record import Kind, Record
from ..wire.zmqport import Message, ZmqPort
from .carrier import Carrier
from .resumable import Resumable

PR_SET_CHILD_SUBREAPER = 36
IOPUB_HIGH_WATER = 256
PORTS = {Channel.SHELL: 1, Channel.IOPUB: 2, Channel.STDIN: 3, Channel.CONTROL: 4}
SOCKETS = {Channel.SHELL: zmq.DEALER, Channel.STDIN: zmq.DEALER, Channel.CONTROL: zmq.DEALER, Channel.IOPUB: zmq.SUB}
KINDS = {Channel.SHELL: Kind.SHELL, Channel.IOPUB: Kind.IOPUB, Channel.STDIN: Kind.STDIN, Channel.CONTROL: Kind.CONTROL}
CHANNELS = {kind: channel for channel, kind in KINDS.items()}
#: What a kernel said last is still in the sockets when its end is known.
LAST_WORDS_S = 0.05
LOG_READ_BYTES = 65_536


class RelaySpec(msgspec.Struct, frozen=True, kw_only=True):
    """What the relay is told. Paths are those that the jail sees."""

    #: Where it listens for the host.
    socket: str
    #: The kernel's sockets are ``<prefix>-<number>``.
    prefix: str
    #: Command of the kernel.
    argv: tuple[str, ...]
    #: Outputs that may wait for the host; then the kernel holds them, and then its cell waits.
    waiting_bytes: int
    message_bytes: int


class Order(msgspec.Struct, frozen=True):
    """A word of the host to the relay."""

    #: ``signal`` to the kernel's process group, ``hold`` or ``take`` outputs.
    op: str
    number: int = 0


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """A word of the relay to the host: one of these is set."""

    log: str | None = None
    #: As of ``subprocess``: negative for a signal.
    exited: int | None = None
    #: Pid of the kernel inside.
    kernel: int | None = None


class Relay:
    """One kernel, for the life of its jail."""

    def __init__(self, spec: RelaySpec) -> None:
        self._spec = spec
        self._context = zmq.Context(io_threads=1)
        self._ports: dict[Channel, ZmqPort] = {}
        self._held = False
        self._reads_log = False
        self._log_ended = False
        self._kernel: subprocess.Popen[bytes] | None = None
        stream = Resumable(most_bytes=spec.waiting_bytes, message_bytes=spec.message_bytes)
        self.link = Carrier(stream, self._took, self._moved)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._failed)
        server = await loop.create_unix_server(self.link.protocol, self._spec.socket)
        await self._start_kernel(loop)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        self._reap()  # one may have ended before the handler was there
        # From here on nothing of the host's is open; what goes wrong is said on the link.
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 2)
        os.close(null)
        async with server:
            await loop.create_future()

    async def _start_kernel(self, loop: asyncio.AbstractEventLoop) -> None:
        identity = os.urandom(8)  # shell and stdin share it: input requests go to the asker's identity
        for channel, kind in SOCKETS.items():
            sock = self._context.socket(kind)
            sock.setsockopt(zmq.LINGER, 0)
            sock.setsockopt(zmq.RCVHWM, IOPUB_HIGH_WATER if kind == zmq.SUB else 0)
            sock.setsockopt(zmq.SNDHWM, 0)
            # The kernel binds after we connect; wait little between two tries.
            sock.setsockopt(zmq.RECONNECT_IVL, 10)
            if kind == zmq.SUB:
                sock.setsockopt(zmq.SUBSCRIBE, b"")
            else:
                sock.setsockopt(zmq.IDENTITY, identity)
            sock.connect(f"ipc://{self._spec.prefix}-{PORTS[channel]}")
            self._ports[channel] = ZmqPort(sock, lambda batch, channel=channel: self._said(channel, batch))  # type: ignore[misc]
        log, kernels = os.pipe()
        os.set_blocking(log, False)
        self._log = log
        self._kernel = subprocess.Popen(  # noqa: ASYNC220 (there is nothing else to do yet)
            self._spec.argv,
            stdin=subprocess.DEVNULL,
            stdout=kernels,
            stderr=kernels,
            start_new_session=True,  # an interrupt goes to the kernel's process group, and only there
        )
        os.close(kernels)
        self._tell(Event(kernel=self._kernel.pid))

    # -- from the kernel ---------------------------------------------------------------------------------------

    def _said(self, channel: Channel, batch: list[Message]) -> None:
        self.link.put([(KINDS[channel], frames) for frames in batch])

    def _logged(self) -> None:
        try:
            data = os.read(self._log, LOG_READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self._tell(Event(log=data.decode(errors="replace")))
        else:
            self._log_ended = True
            self._loop.remove_reader(self._log)
            os.close(self._log)

    def _reap(self) -> None:
        """Wait for whoever has ended: the kernel, or a process that had lost its parent."""
        assert self._kernel is not None
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._kernel.pid:
                    code = os.waitstatus_to_exitcode(status)
                    self._kernel.returncode = code
                    self._loop.call_later(LAST_WORDS_S, self._tell, Event(exited=code))

    def _tell(self, event: Event) -> None:
        self.link.put([(Kind.NOTICE, [msgspec.json.encode(event)])])

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        text = "".join(traceback.format_exception(error)) if error is not None else f"{context.get('message')}\n"
        self._tell(Event(log=f"relay: {text}"))

    # -- from the host -----------------------------------------------------------------------------------------

    def _took(self, records: list[Record]) -> None:
        for record in records:
            channel = CHANNELS.get(record.kind)
            if channel is not None:
                self._ports[channel].send(list(record.parts))
            else:
                self._obey(msgspec.json.decode(record.parts[0], type=Order))

    def _obey(self, order: Order) -> None:
        if order.op == "signal":
            if self._kernel is not None and self._kernel.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._kernel.pid, order.number)
        elif order.op in ("hold", "take"):
            self._held = order.op == "hold"
            self._moved()

    def _moved(self) -> None:
        """Read on, or not: outputs while they find room, and what the kernel logs likewise. Replies always."""
        if self._kernel is None:  # being started
            return
        port = self._ports[Channel.IOPUB]
        full = self.link.stream.full
        if full or self._held:
            port.pause()
        else:
            port.resume()
        if self._log_ended or full != self._reads_log:
            return
        self._reads_log = not full
        if full:
            self._loop.remove_reader(self._log)
        else:
            self._loop.add_reader(self._log, self._logged)

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()


def main() -> None:
    spec = msgspec.json.decode(sys.argv[1], type=RelaySpec)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    Path(spec.socket).unlink(missing_ok=True)
    os.umask(0o077)
    asyncio.run(Relay(spec).run())


if __name__ == "__main__":
    main()
