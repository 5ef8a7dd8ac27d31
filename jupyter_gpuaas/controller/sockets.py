"""Our server's WebSockets: uvicorn's, with what a Jupyter front end needs beside."""

from __future__ import annotations

import struct
from typing import Any

from starlette.websockets import WebSocket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

_KEY = "arrivals"
#: A ping that asks for an arrival: one that keeps a quiet connection alive has four bytes.
_ASK = struct.Struct("<8sQ")
_MARK = b"arrived?"


class Socket(WebSocketsSansIOProtocol):
    """One connection.

    A pong comes after everything that was sent before its ping has reached the program at the other end, whatever
    stands in between: the only acknowledgement that WebSockets have, and answered by every one of them.
    """

    #: The highest number that the other end has confirmed.
    arrived = 0

    def ask(self, number: int) -> None:
        """Ask the other end to confirm that it has got everything up to here."""
        if self.handshake_complete and not self.close_sent and not self.transport.is_closing():
            self.conn.send_ping(_ASK.pack(_MARK, number))
            self.transport.write(b"".join(self.conn.data_to_send()))

    def handle_connect(self, event: Any) -> None:
        """Let the application find this, before it runs."""
        super().handle_connect(event)
        if hasattr(self, "scope"):
            self.scope["state"][_KEY] = self

    def handle_pong(self, event: Frame) -> None:
        """Note an answer to ``ask``."""
        data = bytes(event.data)
        if len(data) == _ASK.size and data.startswith(_MARK):
            self.arrived = max(self.arrived, _ASK.unpack(data)[1])
        else:
            super().handle_pong(event)

    def send_receive_event_to_app(self) -> None:
        """Hand a message on; what is no text, as bytes: Jupyter's own server sends messages with buffers as text."""
        if self.curr_msg_data_type == "text":
            self.frames = [b"".join(bytes(frame) for frame in self.frames)]
            try:
                self.frames[0].decode()
            except UnicodeDecodeError:
                self.curr_msg_data_type = "bytes"
        super().send_receive_event_to_app()


def connection_of(socket: WebSocket) -> Socket | None:
    """The connection of a WebSocket of the application; None under another server."""
    found = getattr(socket.state, _KEY, None)
    return found if isinstance(found, Socket) else None
