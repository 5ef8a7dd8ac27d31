"""A kernel proxy and its Jupyter client that a test can hurt: killed, started again, watched message by message."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jupyter_client import BlockingKernelClient
from jupyter_client.connect import write_connection_file

DEADLINE_S = 60.0


class ProxyRun:
    """One connection file, the proxy process on it, and a client that outlives proxies."""

    def __init__(self, folder: Path, name: str, environ: dict[str, str] | None = None) -> None:
        self._environ = {**os.environ, "JPY_SESSION_NAME": name, **(environ or {})}
        self.file = str(folder / f"{name}.json")
        write_connection_file(self.file, key=os.urandom(16).hex().encode())
        self.log = folder / f"{name}.log"
        self.process = self._spawn()
        self._clients: list[BlockingKernelClient] = []
        self.client = self.new_client()
        self.closed = False
        #: Every iopub message and every reply, in order of arrival.
        self.heard: list[dict[str, Any]] = []

    def new_client(self) -> BlockingKernelClient:
        """Another front end on the same kernel."""
        client = BlockingKernelClient(connection_file=self.file)
        self._clients.append(client)
        client.load_connection_file()
        # No heartbeat: whether the proxy lives is seen from its process, and on a busy machine a beat may be late.
        client.start_channels(hb=False)
        return client

    def ready(self) -> ProxyRun:
        """Return when the kernel answers."""
        self.client.wait_for_ready(timeout=DEADLINE_S)
        return self

    def kill_proxy(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(20)

    def start_proxy(self, environ: dict[str, str] | None = None) -> None:
        """Start the kernel again on the same connection file, as a Jupyter server's restarter does."""
        self._environ |= environ or {}
        self.process = self._spawn()

    def wait(self, done: Callable[[dict[str, Any]], bool], deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """Take messages of iopub and shell until one satisfies ``done``; it is returned."""
        end = time.monotonic() + deadline_s
        while time.monotonic() < end:
            for channel in (self.client.iopub_channel, self.client.shell_channel):
                try:
                    message = channel.get_msg(timeout=0.01 if channel is self.client.iopub_channel else 0)
                except queue.Empty:
                    continue
                self.heard.append(message)
                if done(message):
                    return message
        raise AssertionError(
            f"not heard in {deadline_s:g} s; last: {[m['msg_type'] for m in self.heard[-5:]]}; "
            f"proxy says: {self.log.read_text()[-2000:]}"
        )

    def wait_done(self, msg_id: str, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """Take messages until the reply to a request and its idle have come; the reply is returned."""
        replies: list[dict[str, Any]] = []
        idle = False

        def done(message: dict[str, Any]) -> bool:
            nonlocal idle
            if message["parent_header"].get("msg_id") != msg_id:
                return False
            if message["msg_type"].endswith("_reply"):
                replies.append(message)
            elif message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                idle = True
            return idle and bool(replies)

        if not any([done(message) for message in self.heard]):  # it may have come while another was waited for
            self.wait(done, deadline_s)
        return replies[0]

    def run(self, code: str, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """Run a cell to its end; returns the reply."""
        return self.wait_done(self.client.execute(code), deadline_s)

    def text(self, msg_id: str, stream: str = "stdout") -> str:
        """What a request has printed, each message once."""
        seen: set[str] = set()
        pieces: list[str] = []
        for message in self.heard:
            if message["msg_type"] == "stream" and message["parent_header"].get("msg_id") == msg_id:
                if message["content"]["name"] == stream and message["header"]["msg_id"] not in seen:
                    seen.add(message["header"]["msg_id"])
                    pieces.append(message["content"]["text"])
        return "".join(pieces)

    def value(self, expression: str) -> str:
        """repr of an expression in the kernel."""
        msg_id = self.client.execute("", silent=True, user_expressions={"value": expression})
        reply = self.wait(lambda m: m["parent_header"].get("msg_id") == msg_id and m["msg_type"] == "execute_reply")
        assert reply["content"]["status"] == "ok", reply["content"]
        assert reply["content"]["user_expressions"]["value"]["status"] == "ok", reply["content"]
        answer: str = reply["content"]["user_expressions"]["value"]["data"]["text/plain"]
        return answer

    def close(self) -> None:
        """End the session as a client does, and the processes."""
        if self.closed:
            return
        self.closed = True
        if self.process.poll() is None:
            self.client.shutdown()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        for client in self._clients:
            client.stop_channels()
            client.context.destroy(linger=0)  # else it holds its descriptors until it is collected

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "jupyter_gpuaas.proxy", "-f", self.file],
                env=self._environ,
                stdout=log,
                stderr=log,
            )
