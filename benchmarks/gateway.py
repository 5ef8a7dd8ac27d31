"""The row of a Jupyter server whose kernels come by its gateway client from Jupyter Kernel Gateway, all on loopback.

Both servers live in a virtual environment of their own that is made on first use, with the versions below.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from rows import START_TIMEOUT_S, Heard, Message, listen
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

PINNED = {
    "jupyter_server": "2.21.1",
    "jupyter_kernel_gateway": "3.0.1",
    "ipykernel": "7.4.0",
    "ipyparallel": "9.2.0",
    "jupyter_client": "8.10.0",
    "numpy": "2.4.6",
    "pyzmq": "27.3.0",
    "tornado": "6.6.1",
}
FOLDER = Path(__file__).resolve().parent / ".venv-gateway"
V1 = Subprotocol("v1.kernel.websocket.jupyter.org")


def environment() -> Path:
    """Python of the virtual environment with the pinned versions; makes it when it is not there."""
    python = FOLDER / "bin" / "python"
    wanted = [f"{name}=={version}" for name, version in PINNED.items()]
    stamp = FOLDER / "pinned.json"
    if not stamp.exists() or json.loads(stamp.read_text()) != wanted:
        subprocess.run([sys.executable, "-m", "venv", str(FOLDER)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True)
        stamp.write_text(json.dumps(wanted))
    return python


class Servers:
    """Kernel Gateway, and a Jupyter server in front of it; without limits of the message rate.

    Parameters
    ----------
    folder
        Empty folder for what they write.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self.url = ""

    def start(self) -> None:
        python = str(environment())
        gateway, server = _free_port(), _free_port()
        unlimited = ["--ZMQChannelsWebsocketConnection.limit_rate=False"]
        self._spawn(
            [python, "-m", "kernel_gateway", "--KernelGatewayApp.ip=127.0.0.1", f"--KernelGatewayApp.port={gateway}",
             "--KernelGatewayApp.port_retries=0", *unlimited],
            f"http://127.0.0.1:{gateway}/api",
        )  # fmt: skip
        self.url = f"http://127.0.0.1:{server}"
        self._spawn(
            [python, "-m", "jupyter_server", f"--gateway-url=http://127.0.0.1:{gateway}", "--ServerApp.ip=127.0.0.1",
             f"--ServerApp.port={server}", "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--allow-root",
             "--ServerApp.open_browser=False", "--ServerApp.disable_check_xsrf=True", *unlimited],
            f"{self.url}/api",
        )  # fmt: skip

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def _spawn(self, command: list[str], url: str) -> None:
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("JUPYTER", "JPY", "KG_"))}
        for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR"):
            environ[f"JUPYTER_{name}"] = str(self._folder / name.lower())
        log = self._folder / f"{command[2]}.log"
        with open(log, "ab") as output:
            process = subprocess.Popen(
                command, env=environ, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        self._processes.append(process)
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                return
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline_s:
                    raise RuntimeError(f"{command[2]} does not start:\n{log.read_text()[-2000:]}") from None
                time.sleep(0.05)


class GatewayKernel:
    """A kernel reached as a browser would reach it: REST and a WebSocket to the Jupyter server."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._kernel = ""
        self._session = uuid.uuid4().hex
        self._loop = asyncio.new_event_loop()
        self._socket: ClientConnection | None = None

    def start(self) -> None:
        request = urllib.request.Request(f"{self._url}/api/kernels", b"{}", {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=START_TIMEOUT_S) as answer:
            self._kernel = json.load(answer)["id"]
        self._connect()
        asked = self._send("kernel_info_request", {})
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            message = self._receive(2.0)
            if message is not None and message.parent == asked and message.msg_type == "kernel_info_reply":
                return
            if message is None:
                if time.monotonic() > deadline_s:
                    raise RuntimeError("the kernel behind the gateway does not answer")
                asked = self._send("kernel_info_request", {})

    def run(self, code: str, *, quiet_s: float = 30.0, stall_s: float = 0.0) -> Heard:
        content = {
            "code": code, "silent": False, "store_history": False,
            "user_expressions": {}, "allow_stdin": False, "stop_on_error": False,
        }  # fmt: skip
        if self._socket is None:
            self._connect()
        sent_s = time.perf_counter()
        request = self._send("execute_request", content)
        return listen(self._receive, request, sent_s, quiet_s=quiet_s, stall_s=stall_s)

    def stop(self) -> None:
        if self._socket is not None:
            self._loop.run_until_complete(self._socket.close())
        if self._kernel:
            request = urllib.request.Request(f"{self._url}/api/kernels/{self._kernel}", method="DELETE")
            urllib.request.urlopen(request, timeout=30).close()
        self._loop.close()

    def _connect(self) -> None:
        url = f"ws{self._url.removeprefix('http')}/api/kernels/{self._kernel}/channels?session_id={self._session}"

        async def opened() -> ClientConnection:
            return await connect(
                url, subprotocols=[V1], max_size=None, max_queue=None, compression=None, proxy=None, ping_interval=None
            )

        self._socket = self._loop.run_until_complete(opened())

    def _send(self, msg_type: str, content: dict[str, Any]) -> str:
        assert self._socket is not None
        msg_id = uuid.uuid4().hex
        header = {
            "msg_id": msg_id, "msg_type": msg_type, "session": self._session, "username": "bench",
            "version": "5.4", "date": time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime()),
        }  # fmt: skip
        data: bytes | str
        if self._socket.subprotocol == V1:
            data = _pack_v1([b"shell", *(json.dumps(part).encode() for part in (header, {}, {}, content))])
        else:
            data = json.dumps(
                {"channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": content}
            )
        self._loop.run_until_complete(self._socket.send(data))
        return msg_id

    def _receive(self, timeout_s: float) -> Message | None:
        """The next message; None when none came in time or the connection has ended."""
        if self._socket is None:
            return None

        async def receive() -> bytes | str:
            assert self._socket is not None
            return await asyncio.wait_for(self._socket.recv(), timeout_s)

        try:
            data = self._loop.run_until_complete(receive())
        except asyncio.TimeoutError:
            return None
        except ConnectionClosed:
            self._socket = None
            return None
        if self._socket.subprotocol == V1 and isinstance(data, bytes):
            parts = _unpack_v1(data)
            header, parent = json.loads(parts[1]), json.loads(parts[2])
            largest = max(len(part) for part in parts)
            content = json.loads(parts[4])
        else:
            largest = len(data)
            if isinstance(data, bytes):  # several parts: their number, their offsets, the parts; the first is JSON
                count = struct.unpack_from("!I", data)[0]
                offsets = [*struct.unpack_from(f"!{count}I", data, 4), len(data)]
                data = data[offsets[0] : offsets[1]].decode()
            message = json.loads(data)
            header, parent, content = message["header"], message["parent_header"], message["content"]
        return Message(header["msg_type"], parent.get("msg_id", ""), content, largest)


def _pack_v1(parts: list[bytes]) -> bytes:
    """Number of offsets, offsets (8 bytes each, the last is the end), parts."""
    offsets = [8 * (len(parts) + 2)]
    for part in parts:
        offsets.append(offsets[-1] + len(part))
    return struct.pack(f"<{len(offsets) + 1}Q", len(offsets), *offsets) + b"".join(parts)


def _unpack_v1(data: bytes) -> list[bytes]:
    count = struct.unpack_from("<Q", data)[0]
    offsets = struct.unpack_from(f"<{count}Q", data, 8)
    return [data[start:end] for start, end in itertools.pairwise(offsets)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
