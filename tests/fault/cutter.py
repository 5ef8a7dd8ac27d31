"""A TCP forwarder on loopback whose connections can be cut and stalled: a bad network for one address."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Callable

CHUNK_BYTES = 1 << 16


class Cutter:
    """Forwards to the port that ``target`` names at the time of each connection.

    ``cut`` resets all connections; ``stall`` moves no more bytes on them and leaves them open; ``heal`` ends a stall.
    New connections are stalled too while a stall lasts.
    """

    def __init__(self, target: Callable[[], int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        self._closed = False
        self.accepted = 0
        threading.Thread(target=self._accept, daemon=True, name="cutter").start()

    def cut(self) -> int:
        """Reset every connection; returns how many there were."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    # Linger 0: what has not been sent is thrown away, as when a cable is pulled. The thread that
                    # forwards wakes up from this and closes; a close from here would leave it waiting for ever.
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RDWR)
        return len(pairs)

    def stall(self) -> None:
        self._flowing.clear()

    def heal(self) -> None:
        self._flowing.set()

    def close(self) -> None:
        self._closed = True
        self._flowing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._target()), timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            self.accepted += 1
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs.append((near, far))
            threading.Thread(target=self._forward, args=(near, far), daemon=True).start()

    def _forward(self, near: socket.socket, far: socket.socket) -> None:
        other = {near: far, far: near}
        try:
            with selectors.DefaultSelector() as selector:
                for end in other:
                    selector.register(end, selectors.EVENT_READ)
                while True:
                    for key, _ in selector.select():
                        assert isinstance(key.fileobj, socket.socket)
                        self._flowing.wait()
                        data = key.fileobj.recv(CHUNK_BYTES)
                        if not data:
                            return
                        other[key.fileobj].sendall(data)
        except (OSError, ValueError):
            pass
        finally:
            for end in other:
                end.close()
