"""The numbered stream: nothing lost and nothing twice, whenever its connection breaks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_gpuaas.errors import RemoteProtocolError
from jupyter_gpuaas.image.resumable import LinkState, Resumable
from jupyter_gpuaas.wire.record import Kind, encode

BYTES = 1 << 20


def end(**options: int) -> Resumable:
    return Resumable(most_bytes=options.get("most", BYTES), message_bytes=BYTES)


class Pair:
    """Two ends and the bytes between them, of which any part may be lost with the connection."""

    def __init__(self) -> None:
        self.ends = (end(), end())
        self.wires = (bytearray(), bytearray())  # to the end of the same index
        self.got: tuple[list[bytes], list[bytes]] = ([], [])
        self.up = False

    def connect(self) -> None:
        for wire in self.wires:
            wire.clear()
        for at in (0, 1):
            self.ends[at].closed()
        for at in (0, 1):
            self.wires[1 - at].extend(b"".join(self.ends[at].opened()))
        self.up = True

    def cut(self) -> None:
        self.up = False
        for one in self.ends:
            one.closed()

    def put(self, at: int, data: bytes) -> None:
        self.wires[1 - at].extend(b"".join(self.ends[at].put(Kind.IOPUB, [data])))

    def carry(self, at: int, count: int) -> None:
        """Deliver the next bytes to an end."""
        if not self.up:
            return
        data = bytes(self.wires[at][:count])
        del self.wires[at][:count]
        records, answer = self.ends[at].feed(data)
        self.got[at].extend(bytes(record.parts[0]) for record in records)
        if records:
            answer += self.ends[at].word()
        self.wires[1 - at].extend(b"".join(answer))

    def settle(self) -> None:
        self.connect()
        while self.wires[0] or self.wires[1]:
            for at in (0, 1):
                self.carry(at, len(self.wires[at]))


steps = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 1), st.integers(1, 300)),
    st.tuples(st.just("carry"), st.integers(0, 1), st.integers(1, 400)),
    st.tuples(st.just("connect"), st.just(0), st.just(0)),
    st.tuples(st.just("cut"), st.just(0), st.just(0)),
    st.tuples(st.just("move"), st.integers(0, 1), st.just(0)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=60))
def test_stream_over_connections_that_break_anywhere_is_whole(story: list[tuple[str, int, int]]) -> None:
    pair = Pair()
    sent: tuple[list[bytes], list[bytes]] = ([], [])  # to the end of the same index
    for number, (what, at, count) in enumerate(story):
        if what == "put":
            data = b"%d:" % number + b"x" * count
            sent[1 - at].append(data)
            pair.put(at, data)
        elif what == "carry":
            pair.carry(at, count)
        elif what == "move":  # an end goes on elsewhere, from its state
            pair.cut()
            moved = Resumable(most_bytes=BYTES, message_bytes=BYTES, state=pair.ends[at].state())
            assert moved.waiting_bytes == pair.ends[at].waiting_bytes
            pair.ends = (moved, pair.ends[1]) if at == 0 else (pair.ends[0], moved)
        else:
            getattr(pair, what)()
    pair.settle()
    assert pair.got == sent
    for one in pair.ends:
        assert one.idle and one.waiting_bytes == 0 and one.state().waiting == b""


def test_stream_is_full_until_the_other_end_acknowledges() -> None:
    pair = Pair()
    pair.ends = (end(most=100), end())
    pair.connect()
    pair.carry(0, 1000)
    pair.put(0, b"x" * 200)
    assert pair.ends[0].full
    pair.carry(1, 10_000)
    assert pair.ends[0].full
    pair.carry(0, 10_000)
    assert not pair.ends[0].full


def test_stream_with_a_gap_is_refused() -> None:
    one = end()
    one.opened()
    with pytest.raises(RemoteProtocolError, match="missing"):
        one.feed(b"".join(encode(Kind.IOPUB, 2, 0, [b"second"])))


def test_stream_acknowledgement_of_what_was_never_sent_is_refused() -> None:
    one = end()
    one.opened()
    with pytest.raises(RemoteProtocolError, match="acknowledged"):
        one.feed(b"".join(encode(Kind.NOTICE, 0, 0, [b'{"have": 3}'])))
    with pytest.raises(RemoteProtocolError, match="word of the link"):
        end().feed(b"".join(encode(Kind.NOTICE, 0, 0, [b"no json"])))


def test_stream_state_of_a_fresh_end_is_empty() -> None:
    assert end().state() == LinkState()
