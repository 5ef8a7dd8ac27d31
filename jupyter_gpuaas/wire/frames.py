"""Bulk data past the WebSocket library: which received bytes are payload of plain binary frames, without I/O.

The ``websockets`` library copies a payload several times on its way in and out. A frame that a server sends is not
masked, so its payload can go from the socket to where it belongs, and from the journal to the socket, as it is. All
else stays with the library: handshake, control frames, ops, fragments, and whatever is wrong, which it refuses with the
code that the RFC names. What a client sends is masked and gains nothing from this.

Source: RFC 6455, section 5.2.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator

FIN_BINARY = 0x82
FIN = 0x80
RESERVED = 0x70
MASK = 0x80
CONTINUATION, TEXT, BINARY = 0x0, 0x1, 0x2
LONGEST_HEAD = 10
END_OF_HEADERS = b"\r\n\r\n"


def frame_head(length: int) -> bytes:
    """What stands before the payload of a plain binary frame: final, not masked, no extension."""
    if length < 126:
        return struct.pack("!BB", FIN_BINARY, length)
    if length < 1 << 16:
        return struct.pack("!BBH", FIN_BINARY, 126, length)
    return struct.pack("!BBQ", FIN_BINARY, 127, length)


class PlainFrames:
    """Splits what a client receives, from the first byte of the connection on, in any slicing.

    Parameters
    ----------
    most_bytes
        A frame that announces more is left to the library, which refuses it.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        #: Whether the answer to the handshake has come to its end.
        self.opened = False
        self._short = b""  # the beginning of a head, or the last bytes of an unfinished handshake
        self._fragmented = False
        self._library_left = 0
        #: Bytes of payload that are still to come of the plain frame at hand.
        self.left = 0

    def split(self, data: bytes) -> Iterator[tuple[bool, memoryview]]:
        """Pieces of ``data`` in their order: (whether it is plain payload, else the library's; the piece)."""
        view = memoryview(data)
        position = 0
        if not self.opened:
            position = self._end_of_handshake(data)
            yield False, view[:position]
        elif self._short:
            view, self._short = memoryview(self._short + data), b""
        while position < len(view):
            if self.left:
                piece = view[position : position + self.left]
                self.left -= len(piece)
                position += len(piece)
                yield True, piece
            elif self._library_left:
                piece = view[position : position + min(self._library_left, len(view))]
                self._library_left -= len(piece)
                position += len(piece)
                yield False, piece
            else:
                size = self._read_head(view[position : position + LONGEST_HEAD])
                if not size:
                    self._short = bytes(view[position:])
                    return
                if not self._library_left:  # which takes its frames with their heads
                    position += size

    def received(self, count: int) -> None:
        """So many bytes of ``left`` were received past ``split``."""
        self.left -= count

    def end(self) -> None:
        """At the end of a connection, or of a handshake that was refused: all that still comes is the library's."""
        self.opened, self.left, self._library_left = True, 0, sys.maxsize

    def _end_of_handshake(self, data: bytes) -> int:
        """How much of ``data`` belongs to the handshake; nothing of that is held back from the library's bounds."""
        seen = self._short + data
        end = seen.find(END_OF_HEADERS)
        if end < 0:
            self._short = seen[-len(END_OF_HEADERS) + 1 :]
            return len(data)
        position = end + len(END_OF_HEADERS) - len(self._short)
        self.opened, self._short = True, b""
        return position

    def _read_head(self, head: memoryview) -> int:
        """Enter the frame that begins here; returns the length of its head, 0 when that is not all there."""
        if len(head) < 2:
            return 0
        size = 2 + {126: 2, 127: 8}.get(head[1] & ~MASK, 0)
        if len(head) < size:
            return 0
        length = head[1] & ~MASK if size == 2 else int.from_bytes(head[2:size], "big")
        opcode = head[0] & ~(FIN | RESERVED)
        if head[0] & RESERVED or head[1] & MASK or length > self._most_bytes:
            self.end()
        elif head[0] == FIN_BINARY and not self._fragmented:
            self.left = length
        else:
            if opcode in (CONTINUATION, TEXT, BINARY):
                self._fragmented = not head[0] & FIN
            self._library_left = size + length
        return size
