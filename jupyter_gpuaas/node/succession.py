"""What a host hands to its successor beside the kernel's state: the journal, and who has asked what. Both ends.

Answer to ``GET journal?after=N``: one line of JSON (``Head``), then the records ``first`` to ``last`` as they lie in
the journal. The successor goes on behind the last whole record after a broken connection. Everything here blocks, and
runs in threads, so that neither host's outputs wait for it.
"""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import msgspec

from ..errors import GpuaasError, MigrationError, RemoteProtocolError, TransportError, from_wire
from ..model import Handover, Peer
from ..wire.record import Buffer, skim
from ..wire.transfer import UNIX_SCHEME, connect_to
from ..wire.unreadable import UNREADABLE
from . import http as own_http
from .journal import Journal, JournalCopy

CONNECT_TIMEOUT_S = 5.0
SILENCE_S = 30.0
READ_BYTES = 1 << 20
#: Tries without a single new record between them.
TRIES = 5
RETRY_S = 0.2
HEAD_BYTES = 4096


class Head(msgspec.Struct):
    """Which records follow; ``last`` is before ``first`` when there are none."""

    journal: str
    first: int
    last: int


class Source(msgspec.Struct):
    """What the state comes from: a host, or what is left of one. Then variables are in the checkpoint store only."""

    remains: bool


# -- the source ----------------------------------------------------------------------------------------------------


def serve_journal(connection: socket.socket, copy: JournalCopy) -> None:
    """Answer with a part of the journal."""
    connection.settimeout(SILENCE_S)
    line = msgspec.json.encode(Head(copy.journal, copy.first, copy.last)) + b"\n"
    connection.sendall(own_http.head(200, "application/octet-stream") + line)
    for piece in copy.pieces():
        connection.sendall(piece)


def serve_handover(connection: socket.socket, handover: Handover) -> None:
    """Answer with what a successor has to know."""
    connection.settimeout(SILENCE_S)
    data = msgspec.msgpack.encode(handover)
    connection.sendall(own_http.response(200, data, "application/msgpack"))


def serve_source(connection: socket.socket, *, remains: bool) -> None:
    """Answer with what this is: a host, or the remains of one."""
    connection.settimeout(SILENCE_S)
    connection.sendall(own_http.response(200, Source(remains)))


# -- the target ----------------------------------------------------------------------------------------------------


def fetch_handover(peer: Peer, most_bytes: int, *, image: bool = False) -> Handover:
    """What the source handed over; raises MigrationError when it has not done so yet.

    Parameters
    ----------
    image
        The process of its kernel is here, out of an image.
    """
    with _get(peer, "handover?image=1" if image else "handover") as answer:
        data = answer.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise RemoteProtocolError(f"the handover is larger than {most_bytes} bytes.")
    try:
        return msgspec.msgpack.decode(data, type=Handover)
    except UNREADABLE as error:
        raise RemoteProtocolError(f"the handover cannot be read: {error}.") from error


def fetch_source(peer: Peer) -> Source:
    """What the state comes from."""
    with _get(peer, "source") as answer:
        data = answer.read(HEAD_BYTES)
    try:
        return msgspec.json.decode(data, type=Source)
    except UNREADABLE as error:
        raise RemoteProtocolError(f"the source's answer cannot be read: {error}.") from error


def fetch_journal(
    peer: Peer, journal: Journal, *, identity: str = "", last: int = 0, clock: Callable[[], float] = time.time
) -> int:
    """Append what the source's journal has and this one has not.

    Parameters
    ----------
    identity, last
        Of the journal as it was handed over; verified, if they are given.

    Returns
    -------
    Bytes that came.

    Raises
    ------
    TransportError
        The source does not answer; what came whole is kept, and a later call goes on behind it.
    MigrationError
        It is another journal, or ends elsewhere.
    """
    received, failures, head = 0, 0, None
    while failures < TRIES:
        before = journal.last
        try:
            with _get(peer, f"journal?after={journal.last}") as answer:
                head = _read_head(answer)
                if identity and head.journal != identity:
                    raise MigrationError("the source has begun another journal since.")
                for data in _whole_records(answer):
                    received += len(data)
                    journal.extend(data, int(clock() * 1e6))
            if journal.last >= head.last:
                break
            trouble = f"the journal ended with record {journal.last} of {head.last}"
        except (OSError, http.client.HTTPException, TransportError) as error:
            trouble = str(error) or type(error).__name__
        failures = 0 if journal.last > before else failures + 1
        time.sleep(RETRY_S * failures)
    else:
        raise TransportError(f"the source's journal cannot be had: {trouble}.")
    if identity and journal.last != last:
        raise MigrationError(f"the journal ends with record {journal.last}, the source's with {last}.")
    return received


def _whole_records(answer: http.client.HTTPResponse) -> Iterator[Buffer]:
    waiting = bytearray()
    while data := answer.read1(READ_BYTES):
        waiting += data
        whole = 0
        for offset, _, size in skim(waiting):
            whole = offset + size
        if whole:
            # Bytes of its own: the rest is moved to the front.
            yield bytes(memoryview(waiting)[:whole])
            del waiting[:whole]


def _read_head(answer: http.client.HTTPResponse) -> Head:
    try:
        return msgspec.json.decode(answer.readline(HEAD_BYTES), type=Head)
    except UNREADABLE as error:
        raise RemoteProtocolError(f"the source's answer is no journal: {error}.") from error


@contextmanager
def _get(peer: Peer, path: str) -> Iterator[http.client.HTTPResponse]:
    url = urlsplit(peer.url)
    host = "node" if url.scheme == UNIX_SCHEME else url.netloc
    connection = http.client.HTTPConnection(host)
    try:
        try:
            connection.sock = connect_to(peer.url, CONNECT_TIMEOUT_S)
            connection.sock.settimeout(SILENCE_S)
            connection.request("GET", f"{url.path}/{path}", headers={"Authorization": f"Bearer {peer.ticket}"})
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise TransportError(f"the source at {host} does not answer: {error}.") from error
        if answer.status != 200:
            raise _refusal(answer)
        yield answer
    finally:
        connection.close()


def _refusal(answer: http.client.HTTPResponse) -> GpuaasError:
    try:
        body: object = msgspec.json.decode(answer.read(1 << 16))
    except (*UNREADABLE, OSError):
        body = None
    return from_wire(body, status=answer.status)
