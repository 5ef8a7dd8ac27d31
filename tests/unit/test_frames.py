"""Which bytes pass the WebSocket library by: only payload of plain binary frames, in any slicing."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from jupyter_gpuaas.wire.frames import PlainFrames, frame_head

ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
MOST = 70_000


@dataclass
class Sent:
    """A frame, and whether it is to pass the library by."""

    frame: Frame
    plain: bool

    @property
    def wire(self) -> bytes:
        return self.frame.serialize(mask=False)


SIZES = st.sampled_from([0, 1, 125, 126, 65_535, 65_536]) | st.integers(0, 300)
PLAIN = SIZES.map(lambda size: [Sent(Frame(Opcode.BINARY, b"\x82" * size), True)])
TEXT = SIZES.map(lambda size: [Sent(Frame(Opcode.TEXT, b"t" * size), False)])
CONTROL = st.sampled_from([Opcode.PING, Opcode.PONG]).map(lambda opcode: [Sent(Frame(opcode, b"\x82\x01"), False)])
FRAGMENTS = CONTROL.map(
    lambda between: [
        Sent(Frame(Opcode.BINARY, b"\x82" * 200, fin=False), False),
        *between,
        Sent(Frame(Opcode.CONT, b"\x82" * 3), False),
    ]
)
STREAMS = st.lists(PLAIN | TEXT | CONTROL | FRAGMENTS, max_size=8).map(lambda groups: sum(groups, list[Sent]()))


def split(stream: bytes, cuts: list[int], frames: PlainFrames) -> tuple[bytes, bytes]:
    """The plain payload and the library's bytes of a stream that arrives in slices."""
    plain, library, position, turn = bytearray(), bytearray(), 0, 0
    while position < len(stream):
        size = cuts[turn % len(cuts)]
        for is_plain, piece in frames.split(stream[position : position + size]):
            (plain if is_plain else library).extend(piece)
        position, turn = position + size, turn + 1
    return bytes(plain), bytes(library)


@given(sent=STREAMS, cuts=st.lists(st.sampled_from([1, 2, 3, 7, 50, 1000, 100_000]), min_size=1, max_size=9))
def test_any_slicing_splits_the_same(sent: list[Sent], cuts: list[int]) -> None:
    if min(cuts) < 50 and sum(len(one.wire) for one in sent) > 10_000:
        cuts = [*cuts, 100_000]
    stream = ANSWER + b"".join(one.wire for one in sent)
    plain, library = split(stream, cuts, PlainFrames(MOST))
    assert plain == b"".join(one.frame.data for one in sent if one.plain)
    assert library == ANSWER + b"".join(one.wire for one in sent if not one.plain)


def test_order_is_kept() -> None:
    sent = [Frame(Opcode.BINARY, b"1"), Frame(Opcode.TEXT, b"2"), Frame(Opcode.BINARY, b"3")]
    pieces = list(PlainFrames(MOST).split(ANSWER + b"".join(frame.serialize(mask=False) for frame in sent)))
    assert [(plain, bytes(piece)[-1:]) for plain, piece in pieces] == [
        (False, b"\n"), (True, b"1"), (False, b"2"), (True, b"3"),
    ]  # fmt: skip


HOSTILE = {
    "masked": Frame(Opcode.BINARY, b"x" * 9).serialize(mask=True),
    "reserved bit": b"\xc2\x01x",
    "too large": b"\x82\x7f" + struct.pack(">Q", MOST + 1),
    "longer than 2**63": b"\x82\x7f" + b"\xff" * 8,
    "reserved opcode": b"\x83\x02xy",
}


@pytest.mark.parametrize("cut", [1, 3, 1000])
@pytest.mark.parametrize("what", HOSTILE)
def test_malformed_frame_is_left_to_the_library(what: str, cut: int) -> None:
    frames = PlainFrames(MOST)
    assert split(ANSWER + HOSTILE[what], [cut], frames) == (b"", ANSWER + HOSTILE[what])


def test_whole_frame_between_fragments_is_left_to_the_library() -> None:
    stream = b"\x02\x01a" + b"\x82\x01b"
    assert split(ANSWER + stream, [1], PlainFrames(MOST)) == (b"", ANSWER + stream)


def test_refused_handshake_leaves_its_body_to_the_library() -> None:
    frames, body = PlainFrames(MOST), b"\x82\x01x"
    head, *_ = frames.split(ANSWER)
    frames.end()
    assert head == (False, ANSWER) and split(body, [1], frames) == (b"", body)


def test_payload_that_was_received_elsewhere_is_counted() -> None:
    frames = PlainFrames(MOST)
    assert split(ANSWER + frame_head(10) + b"abc", [100], frames)[0] == b"abc"
    assert frames.left == 7
    frames.received(7)
    assert split(frame_head(1) + b"d", [100], frames)[0] == b"d"


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_head_is_the_one_that_the_library_writes(size: int) -> None:
    assert frame_head(size) + b"x" * size == Frame(Opcode.BINARY, b"x" * size).serialize(mask=False)
