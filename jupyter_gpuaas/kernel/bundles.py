"""Bundles in and out of the kernel, directly on the client's TCP connection.

The host passes each connection by file descriptor over a unix socket, with a JSON head. A thread of its own then moves
the bytes; while it is in the system call it does not hold the interpreter's lock, so a running cell goes on.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import socket
import threading
from collections import OrderedDict
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from jupyter_gpuaas.config import load
from jupyter_gpuaas.errors import CellError, GpuaasError, ProtocolError
from jupyter_gpuaas.state.arrival import Arrival
from jupyter_gpuaas.state.bundle import (
    PREFIX,
    count_buffers,
    prefix,
    read_sizes,
)

log = logging.getLogger(__name__)

#: A peer that moves nothing for this long is given up.
SILENCE_S = 60.0
#: Bundles that nobody has fetched; the oldest go first, as their clients are probably gone.
MOST_UNCLAIMED = 16
HEAD_BYTES = 1024**2
ACCEPT_PAUSE_S = 0.1


class BundleStore:
    """Bundles that arrived for the next cell, and results that wait to be fetched.

    Parameters
    ----------
    socket_path
        Unix socket at which the host hands connections over; empty for none (the bundles are then passed by hand).
    limit_bytes
        Largest bundle that is accepted.
    """

    def __init__(self, socket_path: str = "", *, limit_bytes: int | None = None) -> None:
        self._limit_bytes = load().bundle_bytes if limit_bytes is None else limit_bytes
        self._bundles: OrderedDict[str, Sequence[Any]] = OrderedDict()
        self._lock = threading.Lock()
        self._path = socket_path
        #: Connections that are being served.
        self.moving = 0
        self._listener: socket.socket | None = None
        self._closed = threading.Event()
        if socket_path:
            self._listener = self._listen(socket_path)
            threading.Thread(target=self._serve, args=(self._listener,), name="gpuaas-bundles", daemon=True).start()

    def offer(self, bundle: str, buffers: Sequence[Any]) -> None:
        """Keep a bundle until somebody takes it."""
        with self._lock:
            self._bundles[bundle] = buffers
            self._bundles.move_to_end(bundle)
            while len(self._bundles) > MOST_UNCLAIMED:
                self._bundles.popitem(last=False)

    def take(self, bundle: str) -> Sequence[Any]:
        """The bundle, which is then no longer kept.

        Raises
        ------
        CellError
            It did not arrive, or has been taken.
        """
        with self._lock:
            try:
                return self._bundles.pop(bundle)
            except KeyError:
                raise CellError(f"bundle {bundle} is not in this session.", hint="Run the cell again.") from None

    def close(self) -> None:
        """Take no more connections."""
        self._closed.set()
        if self._listener is not None:
            # Wakes the thread that waits in accept(); close() alone would not.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
            os.unlink(self._path)

    # -- connections -----------------------------------------------------------------------------

    @staticmethod
    def _listen(path: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        if os.path.exists(path):
            os.unlink(path)
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(64)
        return listener

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                host, _ = listener.accept()
            except OSError as error:
                if self._closed.wait(ACCEPT_PAUSE_S):
                    return
                # No descriptors left, mostly: a cell has opened many files. Who waits is served when some come back.
                log.warning("no connection of a bundle can be taken: %s", error)
                continue
            threading.Thread(target=self._handed_over, args=(host,), name="gpuaas-bundle", daemon=True).start()

    def _handed_over(self, host: socket.socket) -> None:
        try:
            with host:
                head, descriptor = _receive_head(host)
        except (OSError, ProtocolError) as error:
            log.warning("a bundle's connection was not handed over: %s", error)
            return
        with self._lock:
            self.moving += 1
        try:
            with socket.socket(fileno=descriptor) as client:
                client.settimeout(SILENCE_S)
                self._answer(client, head)
        except OSError as error:
            log.warning("bundle %s: the client is gone: %s", head.get("bundle"), error)
        finally:
            with self._lock:
                self.moving -= 1

    def _answer(self, client: socket.socket, head: dict[str, Any]) -> None:
        bundle = str(head["bundle"])
        try:
            if head["method"] == "PUT":
                begun = base64.b64decode(head.get("body_start") or "")
                self.offer(bundle, receive(client, int(head["length"]), begun, limit_bytes=self._limit_bytes))
                _respond(client, 201, b"{}")
                return
            buffers = self.take(bundle)
        except GpuaasError as error:
            status = 404 if type(error) is CellError and head["method"] != "PUT" else error.status
            body = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
            _respond(client, status, json.dumps(body).encode())
            return
        try:
            start = prefix(buffers)
            _respond(client, 200, start, more=sum(memoryview(buffer).nbytes for buffer in buffers))
            for buffer in buffers:
                client.sendall(buffer)
        except OSError:
            self.offer(bundle, buffers)  # The client may come again by another way.
            raise


def receive(client: socket.socket, length: int, begun: bytes, *, limit_bytes: int) -> list[Any]:
    """Read the body of a request into the memory in which its objects will live.

    Raises
    ------
    CellError
        It is larger than the setting ``bundle_bytes`` allows.
    RemoteProtocolError
        It is not a bundle.
    """
    if length > limit_bytes:
        raise CellError(
            f"the variables have {length} bytes, and the setting bundle_bytes allows {limit_bytes}.",
            hint="Raise it, or load the data in the remote cell.",
        )
    rest = memoryview(begun)

    def fill(view: memoryview) -> None:
        nonlocal rest
        filled = min(len(rest), len(view))
        view[:filled] = rest[:filled]
        rest = rest[filled:]
        while filled < len(view):
            count = client.recv_into(view[filled:])
            if not count:
                raise ConnectionError(f"the connection ended before the bundle did, {len(view) - filled} bytes early")
            filled += count

    fixed = memoryview(bytearray(PREFIX.size))
    fill(fixed)
    table = memoryview(bytearray(8 * count_buffers(fixed)))
    fill(table)
    arrival = Arrival(read_sizes(table, length=length - len(fixed) - len(table)))
    for memory in arrival:
        fill(memory)
    return arrival.buffers


def _receive_head(host: socket.socket) -> tuple[dict[str, Any], int]:
    data, descriptors, _, _ = socket.recv_fds(host, HEAD_BYTES, 1)
    if len(descriptors) != 1:
        raise ProtocolError("the host passed no connection")
    try:
        while True:
            if data.endswith(b"}"):
                try:
                    return json.loads(data), descriptors[0]
                except ValueError:
                    pass  # A piece that happens to end so.
            more = host.recv(HEAD_BYTES)
            if not more or len(data) > HEAD_BYTES:
                raise ProtocolError("the host's head of a bundle is not JSON")
            data += more
    except BaseException:
        os.close(descriptors[0])
        raise


def _respond(client: socket.socket, status: int, body: bytes, *, more: int = 0) -> None:
    kind = "application/octet-stream" if more else "application/json"
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body) + more}\r\nConnection: close\r\n\r\n"
    )
    client.sendall(head.encode() + body)
