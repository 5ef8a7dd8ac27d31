"""The journal on its way to another host: complete, verified, and gone on with after a break."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from jupyter_gpuaas.errors import MigrationError, RemoteProtocolError, TransportError
from jupyter_gpuaas.model import Handover, Peer
from jupyter_gpuaas.node import succession
from jupyter_gpuaas.node.http import error_response
from jupyter_gpuaas.node.journal import Journal
from jupyter_gpuaas.node.succession import fetch_handover, fetch_journal, serve_handover, serve_journal
from jupyter_gpuaas.wire.record import HEAD, Kind, encode

from .test_journal import US, make, read_all, say, texts

HANDOVER = Handover(
    journal="j", last=3, acknowledged=1, sent=2, inboxes={"c": 4}, seen=(b"x" * 16,), held=(), kernel_starts=1
)


class Source:
    """Answers each connection as told, on loopback."""

    def __init__(self, answer: Callable[[socket.socket, int], None]) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.peer = Peer(url=f"http://127.0.0.1:{self._listener.getsockname()[1]}/transfer", ticket="t")
        self.asked: list[str] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                head = connection.recv(1 << 16).decode()
                if not head:
                    return
                assert "Authorization: Bearer t" in head
                self.asked.append(head.split()[1])
                self._answer(connection, int(head.split()[1].rpartition("=")[2] or 0) if "after" in head else 0)

    def close(self) -> None:
        socket.create_connection(self._listener.getsockname()).close()
        self._thread.join()
        self._listener.close()


@pytest.fixture
def source() -> Iterator[Callable[..., Source]]:
    made: list[Source] = []

    def make_one(answer: Callable[[socket.socket, int], None]) -> Source:
        made.append(Source(answer))
        return made[-1]

    yield make_one
    for each in made:
        each.close()


@pytest.mark.parametrize("segment", [200, 5000, 1 << 20])
def test_copy_of_a_journal_is_the_same_and_goes_on_where_the_former_one_ended(
    tmp_path: Path, source: Callable[..., Source], segment: int
) -> None:
    journal, copy = make(tmp_path, 1 << 24, segment), make(tmp_path / "copy", 1 << 24, 3000)
    said = [b"%d " % i * (i % 70) for i in range(100)]
    for text in said:
        say(journal, text)
    say(journal, b"x" * 3_000_000)
    peer = source(lambda connection, after: serve_journal(connection, journal.copy(after))).peer
    assert fetch_journal(peer, copy) == sum(HEAD.size + record.body_bytes for record in read_all(journal))
    say(journal, b"the last")
    fetch_journal(peer, copy, identity=journal.id, last=journal.last)
    assert fetch_journal(peer, copy) == 0
    copy.become(journal.id, ())
    assert read_all(copy) == read_all(journal)
    opened = make(tmp_path / "copy", 1 << 24, 3000)
    assert (opened.id, opened.last) == (journal.id, journal.last)
    assert texts(read_all(opened))[:100] == said
    assert say(opened, b"more") == 103


def test_broken_connection_is_gone_on_with_behind_the_last_whole_record(
    tmp_path: Path, source: Callable[..., Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(succession, "RETRY_S", 0.0)
    journal, copy = make(tmp_path), make(tmp_path / "copy")
    for number in range(20):
        say(journal, b"%d" % number * 50)
    cuts = iter([700, 400, 10_000_000])

    def answer(connection: socket.socket, after: int) -> None:
        near, far = socket.socketpair()
        with near, far:
            serve_journal(far, journal.copy(after))
            far.shutdown(socket.SHUT_WR)
            data = b""
            while piece := near.recv(1 << 16):
                data += piece
        body = data.index(b"\r\n\r\n") + 4
        connection.sendall(data[: body + next(cuts)])

    served = source(answer)
    fetch_journal(served.peer, copy)
    assert read_all(copy) == read_all(journal)
    starts = [int(path.rpartition("=")[2]) for path in served.asked]
    assert len(starts) == 3 and starts[0] == 0 < starts[1] < starts[2]


def test_what_the_source_dropped_is_a_gap_in_the_copy_as_well(tmp_path: Path, source: Callable[..., Source]) -> None:
    journal, copy = make(tmp_path, most=3000, segment=1000), make(tmp_path / "copy")
    for number in range(5):
        say(journal, b"%d" % number * 100)
    peer = source(lambda connection, after: serve_journal(connection, journal.copy(after))).peer
    fetch_journal(peer, copy)
    for number in range(5, 60):
        say(journal, b"%d" % number * 100)
    assert journal.first > 6
    fetch_journal(peer, copy)
    assert (copy.first, copy.last) == (journal.first, 60)
    assert read_all(copy)[1:] == read_all(journal)[1:]  # the first is the notice of the gap, which has a time


@pytest.mark.parametrize("ends", ["elsewhere", "as another"])
def test_journal_that_is_not_the_one_handed_over_is_refused(
    tmp_path: Path, source: Callable[..., Source], ends: str
) -> None:
    journal, copy = make(tmp_path), make(tmp_path / "copy")
    say(journal, b"one")
    peer = source(lambda connection, after: serve_journal(connection, journal.copy(after))).peer
    with pytest.raises(MigrationError):
        fetch_journal(peer, copy, identity="other" if ends == "as another" else journal.id, last=2)


def test_source_that_never_sends_a_whole_record_is_given_up(
    tmp_path: Path, source: Callable[..., Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(succession, "RETRY_S", 0.0)
    journal = make(tmp_path)
    say(journal, b"one")

    def answer(connection: socket.socket, after: int) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + msgspec.json.encode({"journal": "j", "first": 1, "last": 1}))
        connection.sendall(b"\n" + b"".join(journal.copy(0).pieces())[:-1])

    served = source(answer)
    with pytest.raises(TransportError):
        fetch_journal(served.peer, make(tmp_path / "copy"))
    assert len(served.asked) == succession.TRIES


def damaged(records: bytes) -> bytes:
    return records[:-1] + bytes([records[-1] ^ 1])


def numbered(*numbers: int) -> bytes:
    return b"".join(b"".join(encode(Kind.IOPUB, number, US, [b"", b"{}", b"{}", b"{}", b"x"])) for number in numbers)


@pytest.mark.parametrize(
    "data", [b"", b"x" * 60, numbered(3)[:-1], damaged(numbered(3)), numbered(2), numbered(3, 5), numbered(4, 3)]
)
def test_extend_with_what_is_not_the_next_records_changes_nothing(tmp_path: Path, data: bytes) -> None:
    journal = make(tmp_path)
    journal.extend(numbered(1, 2), US)
    with pytest.raises(RemoteProtocolError):
        journal.extend(data, US)
    assert [record.number for record in read_all(journal)] == [1, 2]
    journal.extend(numbered(3), US)
    assert journal.last == journal.written == 3


def test_copy_is_what_was_written_then_while_the_journal_goes_on(tmp_path: Path) -> None:
    journal: Journal = make(tmp_path, most=1500, segment=300)
    for number in range(8):
        say(journal, b"%d" % number)
    copy, before = journal.copy(2), b"".join(journal.copy(2).pieces())
    for number in range(100):
        say(journal, b"%d" % number)
    assert journal.first > 8
    assert b"".join(copy.pieces()) == before
    assert (copy.first, copy.last) == (3, 8)


def test_handover_arrives_as_it_was_and_its_refusal_as_what_it_is(source: Callable[..., Source]) -> None:
    peer = source(lambda connection, _: serve_handover(connection, HANDOVER)).peer
    assert fetch_handover(peer, 1 << 20) == HANDOVER
    with pytest.raises(RemoteProtocolError):
        fetch_handover(peer, 10)
    peer = source(lambda connection, _: connection.sendall(error_response(MigrationError("not yet.")))).peer
    with pytest.raises(MigrationError):
        fetch_handover(peer, 1 << 20)
