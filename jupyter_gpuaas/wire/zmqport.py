"""A ZMQ socket in an asyncio loop, read in batches.

pyzmq's own asyncio support costs a future and a poll a message; under a burst of outputs that is most of the work.
This reads everything that is there each time the socket's descriptor fires, and hands it on as one batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import zmq

from .record import Buffer

BATCH = 256
#: Frames up to this size are copied out of ZMQ's memory; larger ones are borrowed.
COPY_BYTES = 64 * 1024

READABLE = int(zmq.POLLIN)

Message = list[Buffer]


class ZmqPort:
    """Calls ``on_batch`` with the multipart messages that have arrived.

    Parameters
    ----------
    on_batch
        Called in the loop, with at most ``BATCH`` messages; what it raises goes to the loop's exception handler.
    """

    def __init__(self, sock: zmq.Socket[bytes], on_batch: Callable[[list[Message]], None]) -> None:
        self.sock = sock
        self._on_batch = on_batch
        self._loop = asyncio.get_running_loop()
        self._descriptor: int = sock.FD
        self._scheduled = False
        self._paused = False
        self._closed = False
        self._loop.add_reader(self._descriptor, self._ready)
        self._again()

    def send(self, parts: Sequence[Buffer]) -> None:
        """Send at once; raises ``zmq.Again`` where that would block, and other ``zmq.ZMQError`` as they come."""
        try:
            self.sock.send_multipart(parts, zmq.NOBLOCK, copy=max(map(len, parts)) < COPY_BYTES)
        finally:
            # Sending may consume the edge on the descriptor that told of a message to read.
            self._again()

    def pause(self) -> None:
        """Read no further; ZMQ, and then the sender, holds what comes."""
        if not (self._paused or self._closed):
            self._paused = True
            # It stays readable until somebody reads, and the loop would call at each turn.
            self._loop.remove_reader(self._descriptor)

    def resume(self) -> None:
        if self._paused and not self._closed:
            self._paused = False
            self._loop.add_reader(self._descriptor, self._ready)
            self._again()

    def close(self, linger_ms: int = 0) -> None:
        """Close the socket; what was sent is given ``linger_ms`` to leave."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._descriptor)
            self.sock.close(linger_ms)

    def _again(self) -> None:
        if not self._scheduled and not self._closed:
            self._scheduled = True
            self._loop.call_soon(self._ready_again)

    def _ready_again(self) -> None:
        self._scheduled = False
        self._ready()

    def _ready(self) -> None:
        if self._closed or self._paused:
            return
        batch: list[Message] = []
        sock = self.sock
        # To ask costs less than the exception of a read that finds nothing.
        while int(sock.get(zmq.EVENTS)) & READABLE:
            frames = sock.recv_multipart(zmq.NOBLOCK, copy=False)
            batch.append([frame.bytes if len(frame) < COPY_BYTES else frame.buffer for frame in frames])
            if len(batch) == BATCH:
                self._again()
                break
        if batch:
            self._on_batch(batch)
