"""ZMQ sockets that are sent on by the thread that has something to say, beside the thread that owns them.

ipykernel hands each message to the thread of its socket. Each such step wakes a thread, which then wants Python's lock
from the one that woke it: for a short cell, that is most of its time. A ZMQ socket may be used by any thread, but only
by one at a time; so a lock is enough, and two things that a thread of its own had for free:

- A message has several frames. A KeyboardInterrupt between two of them would leave a torn one, and glue it to the next.
- Sending may consume the edge on the socket's descriptor that would have told its owner of a message to read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import zmq
from tornado.ioloop import IOLoop

from .interrupts import Postponed


class SharedSocket(zmq.Socket[bytes]):
    """A socket whose operations exclude each other; ``share`` makes one of another socket."""

    #: Held by the thread that uses the socket.
    lock: Any
    #: Lets the owner look for messages.
    _look: Callable[[], None]

    def watched(self, loop: IOLoop, handle: Callable[[Any, int], None]) -> None:
        """Its owner reads it in this loop, with this handler of its events."""
        self._look = lambda: loop.add_callback(handle, self, 0)

    def send_at_once(self, parts: Any, *, copy: bool) -> None:
        """Send a whole message, from a thread that is not its owner's; raises ``zmq.Again`` where it would block."""
        with self.lock:
            zmq.Socket.send_multipart(self, parts, zmq.NOBLOCK, copy=copy)
            if int(zmq.Socket.get(self, zmq.EVENTS)) & zmq.POLLIN:
                self._look()

    def get(self, option: int) -> Any:
        with self.lock:
            return zmq.Socket.get(self, option)

    def send_multipart(self, *arguments: Any, **more: Any) -> Any:
        with self.lock:
            return zmq.Socket.send_multipart(self, *arguments, **more)

    def recv_multipart(self, *arguments: Any, **more: Any) -> Any:
        with self.lock:
            return zmq.Socket.recv_multipart(self, *arguments, **more)

    def close(self, *arguments: Any) -> None:
        with self.lock:
            zmq.Socket.close(self, *arguments)


def share(sock: Any) -> SharedSocket:
    """Make a socket that is in nobody's loop yet a shared one."""
    sock.__class__ = SharedSocket  # of the same layout; ipykernel makes its sockets itself
    sock.lock = threading.RLock()
    sock._look = lambda: None
    shared: SharedSocket = sock
    return shared


class Replies:
    """Stands for the socket on which the main thread hands its replies to the thread of the shell channel."""

    def __init__(self, shell: SharedSocket, pair: Any) -> None:
        self._shell = shell
        self._pair = pair

    def send_multipart(self, parts: Any, flags: int = 0, copy: bool = True, track: bool = False) -> None:
        """Send a reply; a ROUTER never blocks, so it is always sent at once, and in order."""
        with Postponed():
            self._shell.send_at_once(parts, copy=copy)

    def close(self, *arguments: Any) -> None:
        self._pair.close(*arguments)
