"""Rows of the benchmark for large arrays: a shipped cell's push and pull, and raw TCP on the same machine."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jupyter_gpuaas.state.bundle import allocate

SIZE_BYTES = 10**9


def raw_tcp(size: int = SIZE_BYTES, *, rounds: int = 3) -> float:
    """Bytes a second from one process to another over loopback with ``sendall`` and ``recv_into``; the best round."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    child = os.fork()
    if child == 0:
        data = allocate(size)
        data[:: os.sysconf("SC_PAGE_SIZE")] = bytes(len(data[:: os.sysconf("SC_PAGE_SIZE")]))
        for _ in range(rounds):
            with socket.create_connection(("127.0.0.1", port)) as peer:
                peer.recv(1)
                peer.sendall(data)
                peer.recv(1)
        os._exit(0)
    best = 0.0
    for _ in range(rounds):
        peer, _ = listener.accept()
        with peer:
            touch(2 * size)
            begun = time.perf_counter()
            target = allocate(size)
            peer.sendall(b"g")
            filled = 0
            while filled < size:
                filled += peer.recv_into(target[filled:])
            best = max(best, size / (time.perf_counter() - begun))
            peer.sendall(b"e")
            del target
    os.waitpid(child, 0)
    listener.close()
    return best


def raw_disk(folder: Path, size: int = 2 * SIZE_BYTES, *, rounds: int = 3) -> float:
    """Bytes a second into a new file of which the disk has all in the end; the best round."""
    best = 0.0
    data = memoryview(os.urandom(8 * 1024**2))
    touch(2 * size)
    for _ in range(rounds):
        with tempfile.TemporaryFile(dir=folder) as file, ThreadPoolExecutor(1) as behind:
            begun = time.perf_counter()
            syncing = behind.submit(int)
            for at in range(0, size, len(data)):
                os.pwrite(file.fileno(), data, at)
                if syncing.done():  # the disk is at work meanwhile
                    syncing = behind.submit(os.fdatasync, file.fileno())
            syncing.result()
            os.fdatasync(file.fileno())
            best = max(best, size / (time.perf_counter() - begun))
    return best


def touch(size: int) -> None:
    """Take memory once and give it back.

    A virtual machine may get memory from its host only when it is first used, at a fraction of the speed measured here,
    and lose it again when it lies free for seconds. Called before a clock starts.
    """
    memory = allocate(size)
    memory[:: os.sysconf("SC_PAGE_SIZE")] = bytes(len(memory[:: os.sysconf("SC_PAGE_SIZE")]))


def push(run_cell: Callable[[str], Any], size: int = SIZE_BYTES, *, rounds: int = 6) -> list[float]:
    """Bytes a second of each push of a new array by ``%%remote_gpu``.

    The first ones are cold nevertheless: they open connections.

    Parameters
    ----------
    run_cell
        Runs code in a notebook that has loaded the extension and is connected, and raises when a cell fails.
    """
    rates = []
    for number in range(rounds):
        run_cell(f"import numpy as np\narray = np.full({size // 8}, {number}, dtype=np.float64)")
        touch(2 * size)
        begun = time.perf_counter()
        run_cell("%%remote_gpu\nlength = array.nbytes")
        rates.append(size / (time.perf_counter() - begun))
        run_cell(f"assert length == {size // 8 * 8}")
    return rates


def pull(run_cell: Callable[[str], Any], size: int = SIZE_BYTES, *, rounds: int = 6) -> list[float]:
    """Bytes a second of each pull of an array with ``.get()``; parameters as for `push`."""
    rates = []
    for number in range(rounds):
        run_cell(f"%%remote_gpu\nimport numpy as np\nfar = np.full({size // 8}, {number}, dtype=np.float64)")
        touch(2 * size)
        begun = time.perf_counter()
        run_cell("near = far.get()")
        rates.append(size / (time.perf_counter() - begun))
        run_cell(f"assert near.nbytes == {size // 8 * 8} and near[-1] == {number}\ndel near")
    return rates
