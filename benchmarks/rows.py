"""Kernels as a client of the benchmark uses them, and what it hears of one cell.

A row is one way to a kernel. `ZmqKernel` is the way of nbclient, a console, or a Jupyter server: five ZMQ sockets. The
browser's way, over WebSockets, is in `gateway`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import zmq
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager

START_TIMEOUT_S = 60.0
#: Parts of this size are counted, not parsed: a benchmark of the channel, not of the JSON parser.
COUNT_ONLY_BYTES = 512 * 1024**2


@dataclass
class Heard:
    """What arrived for one request; times are seconds since it was sent, None for what never came."""

    reply_s: float | None = None
    idle_s: float | None = None
    first_output_s: float | None = None
    status: str = ""
    error: str = ""
    #: Messages of each type on iopub.
    counts: Counter[str] = field(default_factory=Counter)
    #: Lines in the streams.
    lines: int = 0
    #: Largest part of a message, and how long after the request it was there.
    largest: int = 0
    largest_s: float = 0.0

    @property
    def done_s(self) -> float | None:
        """When both the reply and the idle were there."""
        return max(self.reply_s, self.idle_s) if self.reply_s is not None and self.idle_s is not None else None


@dataclass
class Message:
    """One message; ``largest`` is the size of its largest part."""

    msg_type: str
    parent: str
    content: Mapping[str, Any]
    largest: int


class Kernel(Protocol):
    """A kernel that runs cells for the benchmark."""

    def start(self) -> None:
        """Start it and connect; the clock of ``first_cell`` starts here."""

    def run(self, code: str, *, quiet_s: float = 30.0, stall_s: float = 0.0) -> Heard:
        """Run a cell and wait for its reply and its idle, or until nothing has come for ``quiet_s``.

        ``stall_s`` is how long the client reads nothing after it has sent the request.
        """

    def stop(self) -> None: ...


def first_cell(kernel: Kernel) -> tuple[float, float]:
    """Seconds from the start of a fresh kernel to the first output of its first cell, and to that cell's end."""
    begun = time.perf_counter()
    kernel.start()
    ready_s = time.perf_counter() - begun
    heard = kernel.run("print('here')")
    if heard.first_output_s is None or heard.done_s is None:
        raise RuntimeError(f"a fresh kernel does not answer: {heard}")
    return ready_s + heard.first_output_s, ready_s + heard.done_s


def listen(
    receive: Callable[[float], Message | None], request: str, sent_s: float, *, quiet_s: float, stall_s: float
) -> Heard:
    """Read messages until a request is answered; the part of ``run`` that every kind of kernel shares."""
    heard = Heard()
    if stall_s:
        time.sleep(stall_s)
    while heard.done_s is None:
        message = receive(quiet_s)
        if message is None:
            return heard
        if message.parent != request:
            continue
        now_s = time.perf_counter() - sent_s
        if message.largest > heard.largest:
            heard.largest, heard.largest_s = message.largest, now_s
        if message.msg_type == "execute_reply":
            heard.reply_s, heard.status = now_s, message.content["status"]
            if heard.status != "ok":
                heard.error = f"{message.content.get('ename')}: {message.content.get('evalue')}"
            continue
        heard.counts[message.msg_type] += 1
        if message.msg_type == "status":
            if message.content["execution_state"] == "idle":
                heard.idle_s = now_s
        elif message.msg_type != "execute_input":
            if heard.first_output_s is None:
                heard.first_output_s = now_s
            if message.msg_type == "stream":
                heard.lines += message.content["text"].count("\n")
    return heard


class ZmqClient:
    """A client that reads a kernel's raw sockets.

    Parameters
    ----------
    connection
        File with the kernel's connection.
    """

    def __init__(self, connection: str) -> None:
        client = BlockingKernelClient(context=zmq.Context.instance())
        client.load_connection_file(connection)
        self._session = client.session
        self._shell = client.connect_shell(identity=self._session.bsession)
        self._iopub = client.connect_iopub()
        self._poller = zmq.Poller()
        for sock in (self._shell, self._iopub):
            sock.linger = 0
            self._poller.register(sock, zmq.POLLIN)
        self._wait_until_heard()

    def run(self, code: str, *, quiet_s: float = 30.0, stall_s: float = 0.0) -> Heard:
        content = {
            "code": code, "silent": False, "store_history": False,
            "user_expressions": {}, "allow_stdin": False, "stop_on_error": False,
        }  # fmt: skip
        sent_s = time.perf_counter()
        request = self._session.send(self._shell, "execute_request", content)["header"]["msg_id"]
        return listen(self._receive, request, sent_s, quiet_s=quiet_s, stall_s=stall_s)

    def close(self) -> None:
        for sock in (self._shell, self._iopub):
            self._poller.unregister(sock)
            sock.close(0)

    def _wait_until_heard(self) -> None:
        """Return when a request is answered on shell and something was heard on iopub."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        replied = heard = False
        self._session.send(self._shell, "kernel_info_request", {})
        while not (replied and heard):
            message = self._receive(0.1 if replied else 1.0)
            if message is None:
                if time.monotonic() > deadline_s:
                    raise RuntimeError("the kernel does not answer")
                if replied:  # the subscription came after the answer's status messages
                    self._session.send(self._shell, "kernel_info_request", {})
            elif message.msg_type == "kernel_info_reply":
                replied = True
            else:
                heard = True

    def _receive(self, timeout_s: float) -> Message | None:
        ready = self._poller.poll(int(timeout_s * 1000))
        if not ready:
            return None
        frames = ready[0][0].recv_multipart()  # with a copy, as jupyter_client's own channels do
        _, parts = self._session.feed_identities(frames)
        largest = max(len(part) for part in parts)
        if largest >= COUNT_ONLY_BYTES:
            header, parent = (self._session.unpack(part) for part in parts[1:3])
            return Message(header["msg_type"], parent.get("msg_id", ""), {}, largest)
        message = self._session.deserialize(parts)
        parent = message["parent_header"].get("msg_id", "")
        return Message(message["msg_type"], parent, message["content"], largest)


class ZmqKernel:
    """A kernel of a kernelspec, started by jupyter_client.

    Parameters
    ----------
    env
        Whole environment of the kernel process.
    session_name
        Of its session, where it has one.
    """

    def __init__(self, kernel_name: str, env: Mapping[str, str], session_name: str = "") -> None:
        self.session_name = session_name
        self._env = dict(env)
        self._manager = KernelManager(kernel_name=kernel_name)
        self._client: ZmqClient | None = None

    def start(self) -> None:
        self._manager.start_kernel(env=self._env)
        self._client = ZmqClient(self.connection)

    def run(self, code: str, *, quiet_s: float = 30.0, stall_s: float = 0.0) -> Heard:
        assert self._client is not None
        return self._client.run(code, quiet_s=quiet_s, stall_s=stall_s)

    def stop(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._manager.has_kernel:
            self._manager.shutdown_kernel(now=False)
        self._manager.cleanup_resources()

    @property
    def connection(self) -> str:
        """File with its connection."""
        return str(self._manager.connection_file)

    @property
    def pid(self) -> int:
        """Process id of what the kernelspec's command started."""
        return int(self._manager.provisioner.process.pid)  # type: ignore[union-attr]
