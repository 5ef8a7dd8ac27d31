"""Two connections made one: what comes from either goes to the other, no faster than that takes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

HIGH_BYTES = 1024**2
LOW_BYTES = 256 * 1024
#: How long an end that is closed may take to take what is left for it.
LINGER_S = 5.0


class End(asyncio.Protocol):
    """One of the two. Nothing is read from it before it has been joined with the other.

    Parameters
    ----------
    over
        Called once, when it is gone.
    """

    def __init__(self, over: Callable[[], None] = lambda: None) -> None:
        self.transport: asyncio.Transport | None = None
        self._over = over
        self._other: End | None = None
        self._ending = False
        self._full = False
        self._early = bytearray()

    def join(self, other: End) -> None:
        """Let it flow; both are connected."""
        self._other, other._other = other, self
        for end in (self, other):
            assert end.transport is not None
            if end._early:  # pausing came too late for it
                end._pass_on(bytes(end._early))
            if end.transport.is_closing():
                end._end_other()
        for end in (self, other):
            end._read_on()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=HIGH_BYTES, low=LOW_BYTES)
        transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        self._pass_on(data)

    def _pass_on(self, data: bytes) -> None:
        if self._other is None:
            self._early += data
        elif not self._other._ending:
            self._other.put(data)

    def put(self, data: bytes) -> None:
        """Send it."""
        if self.transport is not None:
            self.transport.write(data)

    def eof_received(self) -> bool:
        """Nothing more comes from this end; it may still be sent to, where it can tell the two apart."""
        self._end_other()
        return self.transport is not None and self.transport.can_write_eof() and not self._ending

    def pause_writing(self) -> None:
        self._full = True
        if self._other is not None and self._other.transport is not None:
            self._other.transport.pause_reading()

    def resume_writing(self) -> None:
        self._full = False
        if self._other is not None:
            self._other._read_on()

    def connection_lost(self, error: Exception | None) -> None:
        self._end_other(wholly=True)
        self.transport = None
        self._over()

    def _read_on(self) -> None:
        other = self._other
        if self.transport is not None and not self.transport.is_closing() and other is not None and not other._full:
            self.transport.resume_reading()

    def _end_other(self, *, wholly: bool = False) -> None:
        if self._other is not None:
            self._other.end(wholly=wholly)

    def end(self, *, wholly: bool = False) -> None:
        """What it was sent is the last; with ``wholly``, or where it cannot be told apart, it is closed after that."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if not wholly and transport.can_write_eof():
            if not self._ending:
                self._ending = True
                transport.write_eof()
            return
        self._ending = True
        transport.close()
        self._linger(-1)

    def _linger(self, left: int) -> None:
        """One that takes nothing any more, or does not say that it has taken the end, is not waited for."""
        transport = self.transport
        if transport is None:
            return
        now = transport.get_write_buffer_size()
        if now == left:
            transport.abort()
        else:
            asyncio.get_running_loop().call_later(LINGER_S, self._linger, now)
