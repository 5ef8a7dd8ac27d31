"""One end of a joined connection (``pump``) that speaks TLS.

Not asyncio's TLS: that ends a handshake which fails without a word to the other side, which would never learn that it
was its certificate.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from .pump import End

READ_BYTES = 256 * 1024


class TlsEnd(End):
    """Its connection is made without TLS, and is one when ``opened`` has come true.

    Parameters
    ----------
    server_name
        Of the other side, where that is the server; None where it is a client.
    troubled
        Called where the other side has ended it for a reason, before it has said anything. A server that does not take
        a certificate says so after the handshake.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        server_name: str | None = None,
        over: Callable[[], None] = lambda: None,
        troubled: Callable[[ssl.SSLError], None] = lambda error: None,
    ) -> None:
        super().__init__(over)
        self._troubled = troubled
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_name is None, server_hostname=server_name
        )
        #: Raises ssl.SSLError, or ConnectionError where the other side has just gone.
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._heard = False

    @property
    def certified(self) -> bool:
        """Whether the other side has shown a certificate, which was verified."""
        return bool(self._tls.getpeercert())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.resume_reading()
        self._shake()

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        if self.opened.done():
            self._decrypt()
        else:
            self._shake()

    def eof_received(self) -> bool:
        self._incoming.write_eof()
        if self.opened.done():
            self._decrypt()
        return False

    def put(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._tls.write(view) :]
            except ssl.SSLError as error:
                self._fail(error)
                return
        self._flush()

    def end(self, *, wholly: bool = False) -> None:
        """Say that nothing more comes, by TLS; there is no end of one direction only."""
        if self.opened.done() and not self._ending and self.transport is not None:
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                pass  # it wants to read the same of the other side, which is not waited for
            self._flush()
        super().end(wholly=True)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.opened.done():
            self._not_opened(error or ConnectionResetError("it ended the connection"))
        super().connection_lost(error)

    # -- inside ------------------------------------------------------------------------------------------------

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            self._flush()  # what is the matter
            self._not_opened(error)
            super().end(wholly=True)
            return
        self._flush()
        assert self.transport is not None
        self.transport.pause_reading()
        if not self.opened.done():
            self.opened.set_result(None)
        self._decrypt()

    def _not_opened(self, error: Exception) -> None:
        if not self.opened.done():
            self.opened.set_exception(error)
            self.opened.exception()  # who has given up waiting for it is not to be warned

    def _decrypt(self) -> None:
        pieces: list[bytes] = []
        problem: ssl.SSLError | None = None
        try:
            # One record at a time.
            while data := self._tls.read(READ_BYTES):
                pieces.append(data)
        except ssl.SSLError as error:
            problem = error
        if pieces:
            self._heard = True
            self._pass_on(b"".join(pieces))
        if problem is None:
            self._end_other(wholly=True)  # it has said that nothing more comes
        elif isinstance(problem, ssl.SSLWantReadError):
            self._flush()
        else:
            self._fail(problem)

    def _fail(self, error: ssl.SSLError) -> None:
        if not self._heard:
            self._troubled(error)
        self._flush()
        super().end(wholly=True)
        self._end_other(wholly=True)

    def _flush(self) -> None:
        if self._outgoing.pending and self.transport is not None and not self.transport.is_closing():
            self.transport.write(self._outgoing.read())
