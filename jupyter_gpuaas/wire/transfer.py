"""State of a session on its way from one host to another: HTTP on a kept connection, large answers as frames.

An answer of frames is an HTTP body in chunks, and each of these chunks is one frame: a head of 8 bytes (kind, codec,
two bytes of zero, bytes once unpacked) and the payload. So a receiver knows where to put a payload before it arrives,
and an error in the middle is a frame as well.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec

from ..errors import GpuaasError, RemoteProtocolError, TransportError, from_wire, to_wire
from ..model import Peer
from .unreadable import UNREADABLE, is_count

#: One chunk of a checkpoint, in the order asked for.
CHUNK = 1
#: What went wrong, as JSON; nothing follows.
ERROR = 2
#: What follows is of this file: msgpack of its entry.
FILE = 3
#: Bytes of the file.
PIECE = 4

FRAME = struct.Struct("<BBHI")
#: A frame is not longer.
FRAME_BYTES = 1024**2 + FRAME.size
CONTENT_TYPE = "application/vnd.gpuaas.frames"
HEAD_BYTES = 16 * 1024
#: A refusal is not longer.
ERROR_BYTES = 64 * 1024
_BUFFER_BYTES = 64 * 1024
#: Of ``sendmsg``.
_PARTS = 256
_SENDFILE_BYTES = 1024**2
#: How the address of a peer begins to which there is a way by a socket of this node: its path is quoted in the place of
#: a host.
UNIX_SCHEME = "http+unix"
#: Not every file and system has it.
_NO_SENDFILE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class Frame(NamedTuple):
    """The head of a frame; its payload is still to be read."""

    kind: int
    codec: int
    raw_bytes: int
    length: int


class Incoming:
    """Reads lines and exact lengths from a socket in blocking mode.

    Parameters
    ----------
    first
        What has been read of it already.
    """

    def __init__(self, connection: socket.socket, first: bytes = b"") -> None:
        self._connection = connection
        self._bytes = bytearray(max(_BUFFER_BYTES, len(first)))
        self._buffer = memoryview(self._bytes)
        self._buffer[: len(first)] = first
        self._start, self._end = 0, len(first)
        #: Bytes that came from the socket.
        self.received = 0

    def line(self) -> bytes:
        """Up to the next end of line, without it; raises RemoteProtocolError for one that is too long."""
        line = bytearray()
        while True:
            at = self._bytes.find(b"\n", self._start, self._end)
            line += self._buffer[self._start : self._end if at < 0 else at]
            self._start = self._end if at < 0 else at + 1
            if len(line) > HEAD_BYTES:
                raise RemoteProtocolError(f"a line of more than {HEAD_BYTES} bytes.")
            if at >= 0:
                return bytes(line.removesuffix(b"\r"))
            self._fill()

    def at_end(self) -> bool:
        """Wait for more; whether there is none."""
        if self._start == self._end:
            try:
                self._fill()
            except ConnectionResetError:
                return True
        return False

    def into(self, target: memoryview) -> None:
        """Fill memory; what is not in the buffer goes straight there."""
        there = min(len(target), self._end - self._start)
        target[:there] = self._buffer[self._start : self._start + there]
        self._start += there
        target = target[there:]
        while len(target):
            count = self._connection.recv_into(target)
            if not count:
                raise ConnectionResetError("it ended in the middle")
            self.received += count
            target = target[count:]

    def exactly(self, length: int) -> bytes:
        data = bytearray(length)
        self.into(memoryview(data))
        return bytes(data)

    def _fill(self) -> None:
        count = self._connection.recv_into(self._buffer)
        if not count:
            raise ConnectionResetError("it ended")
        self.received += count
        self._start, self._end = 0, count


def send(connection: socket.socket, parts: Sequence[bytes | memoryview]) -> None:
    """Send all parts, without joining them."""
    views = [memoryview(part) for part in parts if len(part)]
    first = 0
    while first < len(views):
        count = connection.sendmsg(views[first : first + _PARTS])
        while first < len(views) and count >= len(views[first]):
            count -= len(views[first])
            first += 1
        if count:
            views[first] = views[first][count:]


def send_from(connection: socket.socket, file: int, offset: int, count: int) -> None:
    """Send a part of a file, past the memory of this process where the system can do that.

    Raises OSError where the file ends before, and what the connection fails with.
    """
    while count:
        try:
            sent = os.sendfile(connection.fileno(), file, offset, min(count, _SENDFILE_BYTES))
        except BlockingIOError:
            timeout_s = connection.gettimeout()
            poller = select.poll()
            poller.register(connection, select.POLLOUT)
            if not poller.poll(None if timeout_s is None else timeout_s * 1000):
                raise TimeoutError("the other end takes nothing") from None
            continue
        except OSError as error:
            if error.errno not in _NO_SENDFILE:
                raise
            data = os.pread(file, min(count, _SENDFILE_BYTES), offset)
            send(connection, [data])
            sent = len(data)
        if not sent:
            raise OSError("the file ends")
        offset, count = offset + sent, count - sent


Parts = list[bytes | memoryview]


def frame(kind: int, payload: bytes | memoryview = b"", *, codec: int = 0, raw_bytes: int = 0) -> Parts:
    """A frame as parts for ``send``."""
    start, end = frame_around(kind, len(payload), codec=codec, raw_bytes=raw_bytes)
    return [start, payload, end]


def frame_around(kind: int, length: int, *, codec: int = 0, raw_bytes: int = 0) -> tuple[bytes, bytes]:
    """What a frame has before and behind a payload of this length."""
    head = FRAME.pack(kind, codec, 0, raw_bytes)
    return b"%x\r\n" % (len(head) + length) + head, b"\r\n"


def error_frame(error: GpuaasError) -> Parts:
    return frame(ERROR, msgspec.json.encode(to_wire(error))[: FRAME_BYTES // 2])


END = b"0\r\n\r\n"


def connect_to(url: str, timeout_s: float) -> socket.socket:
    """A connection to the transfer routes at an address; raises OSError, or TransportError for what is no address."""
    address = urlsplit(url)
    if address.scheme == UNIX_SCHEME and address.netloc:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout_s)
            connection.connect(unquote(address.netloc))
        except OSError:
            connection.close()
            raise
        return connection
    if address.scheme != "http" or not address.hostname:
        raise TransportError(f"peer: {url!r} is no address of a node.")
    connection = socket.create_connection((address.hostname, address.port or 80), timeout=timeout_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class PeerLink:
    """One connection to the transfer routes of a session's host, for one request after another, in one thread.

    What fails with a TransportError may be tried again on another one; after any error this one is of no use.

    Parameters
    ----------
    counted
        Called with numbers of bytes that came.
    """

    def __init__(
        self, peer: Peer, *, timeout_s: float = 30.0, counted: Callable[[int], None] = lambda count: None
    ) -> None:
        self._peer = peer
        self._counted = counted
        self._length: int | None = None
        self._left = 0
        self._told = 0
        address = urlsplit(peer.url)
        self._path = address.path.rstrip("/")
        self._host = "node" if address.scheme == UNIX_SCHEME else address.netloc
        try:
            self._connection = connect_to(peer.url, timeout_s)
        except OSError as error:
            raise self._broken(error) from error
        self._incoming = Incoming(self._connection)

    def close(self) -> None:
        """End it, from any thread; who waits for it gets a TransportError."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    # -- asking ------------------------------------------------------------------------------------------------

    def ask(self, method: str, name: str, body: bytes = b"") -> None:
        """Send a request and read the head of its answer; raises the error that it answers with."""
        head = (
            f"{method} {self._path}/{name} HTTP/1.1\r\nHost: {self._host}\r\nAuthorization: Bearer {self._peer.ticket}"
            f"\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            send(self._connection, [head.encode("latin-1"), body])
            status, headers = self._head()
            length = headers.get("content-length", "")
            self._length = int(length) if is_count(length) else None
            if status != 200:
                told = self._incoming.exactly(min(self._length or 0, ERROR_BYTES))
                raise from_wire(_decoded(told), status=status)
            if self._length is None and headers.get("transfer-encoding", "") != "chunked":
                raise RemoteProtocolError("the peer's answer says nothing of its length.")
        except OSError as error:
            raise self._broken(error) from error
        finally:
            self._count()

    def whole(self, most_bytes: int) -> bytes:
        """The body of an answer that is one piece."""
        if self._length is None or self._length > most_bytes:
            raise RemoteProtocolError(f"the peer's answer has {self._length} bytes, at most {most_bytes} may come.")
        try:
            return self._incoming.exactly(self._length)
        except OSError as error:
            raise self._broken(error) from error
        finally:
            self._count()

    def frame(self) -> Frame | None:
        """The head of the next frame, None at the end. Raises the error that it brings."""
        if self._length is not None:
            raise RemoteProtocolError("the peer's answer has no frames.")
        try:
            line = self._incoming.line()
            try:
                size = int(line, 16) if len(line) <= 8 else -1
            except ValueError:
                size = -1
            if size == 0:
                self._incoming.line()
                return None
            if not FRAME.size <= size <= FRAME_BYTES:
                raise RemoteProtocolError(f"the peer sends a frame of {line[:20]!r} bytes.")
            kind, codec, _, raw_bytes = FRAME.unpack(self._incoming.exactly(FRAME.size))
            self._left = size - FRAME.size
            if kind == ERROR:
                raise from_wire(_decoded(self.payload()), status=200)
            return Frame(kind, codec, raw_bytes, self._left)
        except OSError as error:
            raise self._broken(error) from error

    def payload_into(self, memory: memoryview) -> None:
        """Read the payload of the frame into memory of its length."""
        assert len(memory) == self._left
        try:
            self._incoming.into(memory)
            self._incoming.line()
        except OSError as error:
            raise self._broken(error) from error
        finally:
            self._count()

    def payload(self) -> bytes:
        data = bytearray(self._left)
        self.payload_into(memoryview(data))
        return bytes(data)

    # -- inside ------------------------------------------------------------------------------------------------

    def _head(self) -> tuple[int, dict[str, str]]:
        words = self._incoming.line().split(None, 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not is_count(words[1].decode("latin-1")):
            raise RemoteProtocolError("the peer does not speak HTTP.")
        headers: dict[str, str] = {}
        size = 0
        while line := self._incoming.line():
            size += len(line)
            if size > HEAD_BYTES:
                raise RemoteProtocolError(f"the head of the peer's answer has more than {HEAD_BYTES} bytes.")
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip().lower()
        return int(words[1]), headers

    def _count(self) -> None:
        self._counted(self._incoming.received - self._told)
        self._told = self._incoming.received

    def _broken(self, error: OSError) -> TransportError:
        reason = "it does not answer" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
        return TransportError(f"the host that has the session, at {self._host}: {reason}.")


def _decoded(data: bytes) -> object:
    try:
        return msgspec.json.decode(data)
    except UNREADABLE:
        return None
