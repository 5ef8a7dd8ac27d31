"""A connection that carries a ``Resumable``: the same at the host and in the jail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ..errors import RemoteProtocolError
from ..wire.record import Buffer, Kind, Record
from .resumable import Resumable


class Carrier:
    """Serves one connection at a time; the next one goes on where the last one ended.

    Parameters
    ----------
    took
        Called with new records; when it returns they are acknowledged.
    moved
        Called when ``stream.full`` may have changed, and when the connection came or went.
    """

    def __init__(self, stream: Resumable, took: Callable[[list[Record]], None], moved: Callable[[], None]) -> None:
        self.stream = stream
        self._took = took
        self._moved = moved
        self._connection: _Connection | None = None
        self.closed = asyncio.Event()
        self.closed.set()

    def protocol(self) -> asyncio.Protocol:
        """For the next connection."""
        return _Connection(self)

    @property
    def connected(self) -> bool:
        return self._connection is not None

    def put(self, batch: Sequence[tuple[Kind, Sequence[Buffer]]]) -> None:
        """Send records, now or on the next connection."""
        out: list[Buffer] = []
        for kind, parts in batch:
            out += self.stream.put(kind, parts)
        if self._connection is not None:
            self._connection.write(out)
        self._moved()

    def finish(self) -> None:
        """Say that nothing more comes from here. The other end answers what it still has and closes."""
        if self._connection is not None:
            self.stream.closed()
            self._connection.finish()

    def drop(self) -> None:
        """Close at once."""
        if self._connection is not None:
            self._connection.drop()

    # -- of the connection -------------------------------------------------------------------------------------

    def came(self, connection: _Connection) -> None:
        if self._connection is not None:  # whoever is there now is the host; the other one was
            self._connection.drop()
        self._connection = connection
        self.closed.clear()
        connection.write(self.stream.opened())
        self._moved()

    def received(self, connection: _Connection, data: bytes) -> None:
        if connection is not self._connection:
            return
        try:
            records, answer = self.stream.feed(data)
        except RemoteProtocolError:
            connection.drop()
            return
        if records:
            self._took(records)
            answer += self.stream.word()
        connection.write(answer)
        self._moved()

    def went(self, connection: _Connection) -> None:
        if connection is self._connection:
            self._connection = None
            self.stream.closed()
            self.closed.set()
            self._moved()


class _Connection(asyncio.Protocol):
    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        self._finished = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._carrier.came(self)

    def data_received(self, data: bytes) -> None:
        self._carrier.received(self, data)

    def eof_received(self) -> bool:
        return False  # what was written before leaves, then the connection is closed

    def connection_lost(self, error: Exception | None) -> None:
        self._carrier.went(self)

    def write(self, buffers: list[Buffer]) -> None:
        if buffers and not self._finished and not self._transport.is_closing():
            self._transport.writelines(buffers)

    def finish(self) -> None:
        self._finished = True
        self._transport.write_eof()

    def drop(self) -> None:
        self._transport.abort()
