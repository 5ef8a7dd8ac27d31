"""Starts light hosts: ``python -m benchmarks.light.nursery SOCKET``. It ends, with all of them, when its input does.

An agent asks over the socket; a host is forked from this process, which has imported all that hosts need.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import selectors
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

import msgspec

import jupyter_gpuaas.node.host as real
from benchmarks.light.kernel import LightHost
from jupyter_gpuaas.config import load

#: Where agents find this process.
VARIABLE = "LIGHT_NURSERY"
ASK_BYTES = 1 << 17


def launch(arguments: list[str], environ: dict[str, str], output: int) -> int:
    """``Hosts.launch``, of an agent of this service."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
        channel.settimeout(30)
        channel.connect(os.environ[VARIABLE])
        socket.send_fds(channel, [msgspec.json.encode([arguments, environ])], [output])
        return int(channel.recv(64))


def _be_host(arguments: list[str], environ: dict[str, str], output: int) -> NoReturn:
    """In the child: become the host."""
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.clear()
        os.environ.update(environ)
        given = dict(zip(arguments[::2], arguments[1::2], strict=True))
        folder, sessions = Path(given["--run-folder"]), Path(given["--sessions"])

        async def serve() -> None:
            await LightHost(given["--run-id"], folder, given["--node"], load(), sessions).run()

        asyncio.run(serve())
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    real.end_marked = _no_marks
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who has ended is reaped by the system
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(sys.argv[1])
    listener.listen(256)
    gc.collect()
    gc.freeze()  # else the first collection of each host would copy what all share
    born: list[int] = []
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in selector.select()}
            if 0 in ready:
                break
            channel, _ = listener.accept()
            data, descriptors, _, _ = socket.recv_fds(channel, ASK_BYTES, 1)
            arguments, environ = msgspec.json.decode(data)
            pid = os.fork()
            if pid == 0:
                selector.close()
                listener.close()
                channel.close()
                _be_host(arguments, environ, descriptors[0])
            born.append(pid)
            os.close(descriptors[0])
            channel.send(str(pid).encode())
            channel.close()
    for pid in born:
        with contextlib.suppress(ProcessLookupError):
            # Of a process group of its own, and a child of ours as long as it lives: no other process is meant.
            if os.getpgid(pid) == pid:
                os.kill(pid, signal.SIGKILL)


def _no_marks(run_id: str, *, spare: int = 0) -> None:
    """A host marks the processes below it in their environment; a light one has none."""


if __name__ == "__main__":
    main()
