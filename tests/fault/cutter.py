"""A TCP forwarder on loopback whose connections can be cut and stalled: a bad network for one address."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Callable

CHUNK_BYTES = 1 << 16
#: Less than this is the head of an answer.
SPOILT_FROM_BYTES = 512


class Cutter:
    """Forwards to the port that ``target`` names at the time of each connection.

    ``cut`` resets all connections; ``stall`` moves no more bytes on them and leaves them open; ``heal`` ends both.
    New connections are stalled too while a stall lasts, and refused while ``down`` is set. ``spoil`` changes a byte in
    the answers to so many requests for chunks.
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
        self._pause_s: float | None = None
        self._cut_next = False
        self.accepted = 0
        self.down = False
        self.spoil = 0
        #: What was done to somebody so far: cuts under data, connections refused, data held up, answers spoilt.
        self.cut_in_use = self.refused = self.held_up = self.spoilt = 0
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

    def cut_twice(self) -> None:
        """Reset every connection, and those that there are then once more, as soon as something goes over one."""
        self.cut()
        self._cut_next = True

    def stall(self, pause_s: float | None = None) -> None:
        """Hold everything up; with ``pause_s``, until something has been held up for so long."""
        self._pause_s = pause_s
        self._flowing.clear()

    def heal(self) -> None:
        self._cut_next = False
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
            if self.down:
                self.refused += 1
                near.close()
                continue
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
        chunks = False
        try:
            with selectors.DefaultSelector() as selector:
                for end in other:
                    selector.register(end, selectors.EVENT_READ)
                while True:
                    for key, _ in selector.select():
                        assert isinstance(key.fileobj, socket.socket)
                        if not self._flowing.is_set():
                            self.held_up += bool(key.fileobj.recv(1, socket.MSG_PEEK))  # not that it ends
                            if not self._flowing.wait(self._pause_s):
                                self._flowing.set()
                        data = key.fileobj.recv(CHUNK_BYTES)
                        if not data:
                            return
                        if self._cut_next:
                            self._cut_next = False
                            self.cut_in_use += 1
                            self.cut()
                        if key.fileobj is near and b"/transfer/chunks " in data:
                            chunks = True
                        elif key.fileobj is far and chunks and self.spoil and len(data) > SPOILT_FROM_BYTES:
                            middle, chunks = len(data) // 2, False
                            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
                            self.spoil -= 1
                            self.spoilt += 1
                        other[key.fileobj].sendall(data)
        except (OSError, ValueError):
            pass
        finally:
            with self._lock, contextlib.suppress(ValueError):
                self._pairs.remove((near, far))
            for end in other:
                end.close()
