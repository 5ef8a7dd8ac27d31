"""One kernel process and the sockets to it. It knows nothing of sessions, journals or clients."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
import zmq

from ..model import Channel
from ..wire.jupyter import DELIMITER, OWN_SESSION, make_parts, read_header, split_frames
from ..wire.record import Buffer
from ..wire.unreadable import UNREADABLE
from ..wire.zmqport import Message, ZmqPort
from .kernel_launch import Launch

IOPUB_HIGH_WATER = 256
#: How long after an interrupt the kernel is reminded of it; see ``KernelProcess.remind``.
REMIND_S = (0.1, 0.4, 1.5, 5.0)
PORTS = {"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5}


class KernelHandler(Protocol):
    """Who is told what a kernel says. Parts are header, parent, metadata, content and buffers."""

    def kernel_said(self, channel: Channel, batch: list[tuple[Buffer, list[Buffer]]]) -> None:
        """(topic of an iopub message, else empty; parts) of the messages that have arrived."""

    def kernel_exited(self, status: int) -> None: ...


class Kernel(Protocol):
    """A kernel as a host uses it: ``KernelProcess``, or ``JailedKernel``."""

    @property
    def pid(self) -> int: ...

    @property
    def alive(self) -> bool: ...

    @property
    def stopped(self) -> bool:
        """Whether ``pause`` has been called, and ``resume`` not yet."""

    @property
    def halted(self) -> bool:
        """Whether ``resume`` has something to do: where it failed, not all that ``pause`` has taken was given back."""

    @property
    def data_socket(self) -> Path: ...

    def has(self, pid: int) -> bool:
        """Whether this process is one of those that ``pause`` stops. Raises ProcessLookupError where it has ended."""

    async def ask(
        self, channel: Channel, msg_type: str, content: dict[str, Any], *, subshell: str = ""
    ) -> dict[str, Any]: ...

    def send(self, channel: Channel, parts: list[Buffer]) -> None: ...

    def hold_outputs(self) -> None: ...

    def take_outputs(self) -> None: ...

    def cap_memory(self, most_bytes: int) -> None: ...

    async def pause(self) -> None: ...

    async def resume(self) -> None: ...

    def interrupt(self) -> None: ...

    def remind(self) -> None: ...

    def kill(self) -> None: ...

    async def ended(self, timeout_s: float | None = None) -> bool: ...

    def close(self) -> None: ...


class KernelProcess:
    """Starts ``python -m jupyter_gpuaas.kernel`` on ipc sockets in ``folder`` (0700, short path).

    Parameters
    ----------
    environ
        Whole environment of the process.
    log
        Descriptor that takes the process's own stdout and stderr.
    launch
        By which command, and as which user.
    """

    def __init__(
        self,
        folder: Path,
        environ: Mapping[str, str],
        log: int,
        handler: KernelHandler,
        launch: Launch | None = None,
    ) -> None:
        self._launch = launch or Launch()
        self._folder = folder
        self._environ = environ
        self._log = log
        self._handler = handler
        self._context = zmq.Context(io_threads=1)
        self._ports: dict[Channel, ZmqPort] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        #: Requests of our own whose idle status has not come yet.
        self._echoes: set[str] = set()
        self._iopub_heard = asyncio.Event()
        self.stopped = False

    @property
    def data_socket(self) -> Path:
        """Where the kernel takes bundles."""
        return self._folder / "data"

    @property
    def halted(self) -> bool:
        return self.stopped

    @property
    def pid(self) -> int:
        """Process id, 0 before the start."""
        return self._process.pid if self._process else 0

    @property
    def alive(self) -> bool:
        """Whether the process has been started and has not ended."""
        return self._process is not None and not self._watch.done()

    async def start(self, timeout_s: float) -> None:
        """Return when the kernel answers on shell and iopub; raises RuntimeError when it does not."""
        prefix = self._folder / "k"
        connection = {f"{name}_port": port for name, port in PORTS.items()}
        # No key: only this user's processes reach sockets in a 0700 folder, and signing costs every message.
        connection_file = self._folder / "kernel.json"
        connection_file.write_bytes(
            msgspec.json.encode(
                connection | {"transport": "ipc", "ip": str(prefix), "key": "", "signature_scheme": "hmac-sha256"}
            )
        )
        connection_file.chmod(0o600)
        self._launch.give(self._folder, connection_file)
        self._process = await asyncio.create_subprocess_exec(
            *self._launch.wrap,
            sys.executable,
            "-m",
            "jupyter_gpuaas.kernel",
            "-f",
            str(connection_file),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={**self._environ, "GPUAAS_DATA_SOCKET": str(self.data_socket)},
            start_new_session=True,  # an interrupt goes to the kernel's process group, and only there
            **self._launch.popen(self._folder),
        )
        self._watch = asyncio.create_task(self._wait())
        identity = os.urandom(8)  # shell and stdin share it: input requests go to the asker's identity
        for channel, kind in (
            (Channel.SHELL, zmq.DEALER),
            (Channel.STDIN, zmq.DEALER),
            (Channel.CONTROL, zmq.DEALER),
            (Channel.IOPUB, zmq.SUB),
        ):
            sock = self._context.socket(kind)
            sock.setsockopt(zmq.LINGER, 0)
            # Behind the bound on outputs it is the kernel that holds them, and then the cell that waits.
            sock.setsockopt(zmq.RCVHWM, IOPUB_HIGH_WATER if kind == zmq.SUB else 0)
            sock.setsockopt(zmq.SNDHWM, 0)
            # The kernel binds after we connect; wait little between two tries.
            sock.setsockopt(zmq.RECONNECT_IVL, 10)
            if kind == zmq.SUB:
                sock.setsockopt(zmq.SUBSCRIBE, b"")
            else:
                sock.setsockopt(zmq.IDENTITY, identity)
            sock.connect(f"ipc://{prefix}-{PORTS[channel]}")
            self._ports[channel] = ZmqPort(sock, lambda batch, channel=channel: self._batch(channel, batch))  # type: ignore[misc]
        ready = asyncio.gather(self.ask(Channel.SHELL, "kernel_info_request", {}), self._iopub_heard.wait())
        done, _ = await asyncio.wait({ready, self._watch}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if ready not in done:
            ready.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ready
            if self._watch in done:
                raise RuntimeError(f"the kernel process ended while starting: {describe_exit(self._watch.result())}")
            raise RuntimeError(f"the kernel did not answer within {timeout_s:g} s")
        self._echoes.clear()  # what was said before iopub was heard is not said again

    async def ask(
        self, channel: Channel, msg_type: str, content: dict[str, Any], *, subshell: str = ""
    ) -> dict[str, Any]:
        """Send a request of our own, which no client is shown anything of, and return the content of its reply.

        Raises RuntimeError when the kernel process has ended, or does.
        """
        if self._watch.done():
            raise RuntimeError(f"the kernel process ended: {describe_exit(self._watch.result())}")
        parts = make_parts(b"", msg_type, b"{}", content, subshell=subshell)
        msg_id = read_header(parts[1]).msg_id
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[msg_id] = future
        self._echoes.add(msg_id)
        self.send(channel, parts[1:])
        try:
            return await future
        finally:
            self._waiting.pop(msg_id, None)

    def send(self, channel: Channel, parts: list[Buffer]) -> None:
        """Send header, parent, metadata, content and buffers."""
        self._ports[channel].send([DELIMITER, b"", *parts])

    def hold_outputs(self) -> None:
        """Take no more outputs for now; replies still come."""
        self._ports[Channel.IOPUB].pause()

    def take_outputs(self) -> None:
        self._ports[Channel.IOPUB].resume()

    def cap_memory(self, most_bytes: int) -> None:
        """Make allocations beyond ``most_bytes`` fail in the kernel (MemoryError); 0 takes the cap away."""
        cap_memory(self.pid, most_bytes)

    async def pause(self) -> None:
        """Stop every process of the kernel's group where it is, and take no more of what it has said."""
        self.stopped = True
        self.hold_outputs()
        self._signal(signal.SIGSTOP)

    async def resume(self) -> None:
        """Let it go on after ``pause``."""
        self.stopped = False
        self._signal(signal.SIGCONT)
        self.take_outputs()

    def has(self, pid: int) -> bool:
        """Whether this process is of its group."""
        return os.getpgid(pid) == self.pid

    def interrupt(self) -> None:
        """SIGINT to the kernel and the processes of its group."""
        self._signal(signal.SIGINT)
        self.remind()

    def remind(self) -> None:
        """Make the kernel carry out an interrupt that it got, wherever it was when it came.

        A signal that comes when Python has decided to wait in the system, but does not wait yet (it lets go of the
        interpreter's lock first, which takes milliseconds on a busy machine), is noted and then slept over: the cell's
        ``sleep(3600)`` goes on. SIGURG, for which the kernel has a handler that does nothing, ends such a wait; Python
        then does what it has noted, once, and waits on if that was nothing.
        """
        loop = asyncio.get_running_loop()
        for after_s in REMIND_S:
            loop.call_later(after_s, self._remind)

    def _remind(self) -> None:
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGURG)

    def kill(self) -> None:
        """SIGKILL to the kernel's process group."""
        if self.pid:
            self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    async def ended(self, timeout_s: float | None = None) -> bool:
        """Wait for the end of the process; False when it has not ended in time."""
        done, _ = await asyncio.wait({self._watch}, timeout=timeout_s)
        return bool(done)

    def close(self) -> None:
        """Close the sockets and remove their files; the process has ended."""
        for port in self._ports.values():
            port.close()
        self._context.term()
        for name in [*(f"k-{number}" for number in PORTS.values()), "kernel.json", "data"]:
            (self._folder / name).unlink(missing_ok=True)

    async def _wait(self) -> int:
        assert self._process is not None
        status = await self._process.wait()
        # What it said last is still in the sockets; one turn of the loop reads it.
        await asyncio.sleep(0.05)
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(RuntimeError(f"the kernel process ended: {describe_exit(status)}"))
        self._handler.kernel_exited(status)
        return status

    def _batch(self, channel: Channel, batch: list[Message]) -> None:
        said: list[tuple[Buffer, list[Buffer]]] = []
        for frames in batch:
            if channel is Channel.IOPUB and not self._iopub_heard.is_set():
                self._iopub_heard.set()
            try:
                idents, _, parts = split_frames(frames)
            except ValueError:
                continue  # iopub's welcome message, which is for us
            if not ((self._waiting or self._echoes) and self._is_own(channel, parts)):
                said.append((idents[0] if idents else b"", parts))
        if said:
            self._handler.kernel_said(channel, said)

    def _is_own(self, channel: Channel, parts: list[Buffer]) -> bool:
        try:
            parent = read_header(parts[1])
        except UNREADABLE:
            return False
        if parent.session != OWN_SESSION or not parent.msg_id.startswith(OWN_SESSION):
            return False
        if channel is Channel.IOPUB and read_header(parts[0]).msg_type == "status" and b"idle" in bytes(parts[3]):
            self._echoes.discard(parent.msg_id)
        future = self._waiting.get(parent.msg_id)
        if future is not None and channel is not Channel.IOPUB and not future.done():
            future.set_result(msgspec.json.decode(parts[3]))
        return True


def cap_memory(pid: int, most_bytes: int) -> None:
    """Make allocations of a process beyond ``most_bytes`` fail."""
    if sys.platform == "linux" and pid:
        limit = most_bytes or resource.RLIM_INFINITY
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_DATA, (limit, limit))


def describe_exit(status: int) -> str:
    """Exit status in words."""
    if status >= 0:
        return f"it exited with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = str(-status)
    return f"it was ended by signal {name}" + (
        " (the kernel of the operating system does this when memory runs out)" if status == -signal.SIGKILL else ""
    )
