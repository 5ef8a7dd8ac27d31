"""Records and resumption: whole, byte by byte, and hostile."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_gpuaas.errors import LocalProtocolError, RemoteProtocolError, TransportError
from jupyter_gpuaas.wire.record import HEAD, Kind, Record, RecordReader, check, encode, skim
from jupyter_gpuaas.wire.resume import Inbox, Outbox, Sent

PARTS = [b"topic", b'{"msg_id":"1"}', b"{}", b"{}", b'{"text":"a"}', bytes(range(256)) * 300]


def wire(number: int, parts: list[bytes] = PARTS, kind: Kind = Kind.IOPUB) -> bytes:
    return b"".join(encode(kind, number, 7, parts))


def plain(record: Record) -> tuple[int, int, int, list[bytes]]:
    return record.kind, record.number, record.time_us, [bytes(part) for part in record.parts]


@given(
    messages=st.lists(st.lists(st.binary(max_size=300), max_size=8), max_size=8),
    cuts=st.lists(st.integers(1, 200), min_size=1, max_size=20),
)
def test_reader_any_slicing_gives_the_same_records(messages: list[list[bytes]], cuts: list[int]) -> None:
    stream = b"".join(wire(number, parts) for number, parts in enumerate(messages, 1))
    reader, got, position, turn = RecordReader(1 << 20), [], 0, 0
    while position < len(stream):
        size = cuts[turn % len(cuts)]
        got += [plain(record) for record in reader.feed(stream[position : position + size])]
        position, turn = position + size, turn + 1
    assert got == [(Kind.IOPUB, n, 7, parts) for n, parts in enumerate(messages, 1)]


def test_reader_byte_by_byte_gives_the_record_with_its_last_byte() -> None:
    reader, stream = RecordReader(1 << 20), wire(1)
    for byte in stream[:-1]:
        assert reader.feed(bytes([byte])) == []
    (record,) = reader.feed(stream[-1:])
    assert plain(record) == (Kind.IOPUB, 1, 7, PARTS)


def test_large_parts_are_not_copied_by_encode() -> None:
    part = bytes(100_000)
    assert any(buffer is part for buffer in encode(Kind.IOPUB, 1, 0, [b"", part]))


def test_announced_length_above_the_bound_is_refused_before_memory_is_taken() -> None:
    head = HEAD.pack(b"GPR1", 2, 0, 1, 1, 0, 2 * 1024**3, 0)
    with pytest.raises(RemoteProtocolError, match="message_bytes"):
        RecordReader(1 << 20).feed(head)


@pytest.mark.parametrize(
    ("what", "head"),
    [
        ("not a record", HEAD.pack(b"HTTP", 2, 0, 0, 1, 0, 0, 0)),
        ("not a record", HEAD.pack(b"GPR1", 2, 9, 0, 1, 0, 0, 0)),
        ("unknown kind", HEAD.pack(b"GPR1", 99, 0, 0, 1, 0, 0, 0)),
        ("cannot hold", HEAD.pack(b"GPR1", 2, 0, 5, 1, 0, 8, 0)),
        ("checksum", HEAD.pack(b"GPR1", 2, 0, 0, 1, 0, 0, 1)),
    ],
)
def test_malformed_head_is_refused(what: str, head: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=what):
        RecordReader(1 << 20).feed(head)


@pytest.mark.parametrize("position", [5, 9, 17, 33, 41, 60, -1])
def test_flipped_bit_anywhere_is_refused(position: int) -> None:
    stream = bytearray(wire(1, [b"a" * 40, b"b" * 40]))
    stream[position] ^= 1
    with pytest.raises(RemoteProtocolError):
        RecordReader(1 << 20).feed(bytes(stream))


def test_part_lengths_that_do_not_add_up_are_refused() -> None:
    import xxhash

    table = struct.pack("<2Q", 5, 1 << 60)
    body = table + b"x" * 10
    checked = struct.pack("<4sBBHQQQ", b"GPR1", 2, 0, 2, 1, 0, len(body))
    stream = checked + xxhash.xxh3_64(checked + body).intdigest().to_bytes(8, "little") + body
    with pytest.raises(RemoteProtocolError, match="add up"):
        RecordReader(1 << 20).feed(stream)


def test_skim_walks_whole_records_only() -> None:
    stream = wire(1) + wire(2)
    assert [number for _, number, _ in skim(stream)] == [1, 2]
    assert [number for _, number, _ in skim(stream[:-1])] == [1]
    assert list(skim(b"")) == []


def test_outbox_gives_again_what_was_not_acknowledged() -> None:
    outbox = Outbox(1 << 20)
    sent = [b"".join(outbox.put(Kind.SHELL, 0, [b"%d" % i])) for i in range(5)]
    assert [b"".join(buffers) for buffers in outbox.after(2)] == sent[2:]
    outbox.acknowledge(3)
    assert len(outbox) == 2
    assert [b"".join(buffers) for buffers in outbox.after(3)] == sent[3:]
    with pytest.raises(LocalProtocolError):
        outbox.after(1)
    with pytest.raises(RemoteProtocolError):
        outbox.acknowledge(6)


def test_outbox_full_refuses_and_keeps_what_it_has() -> None:
    outbox = Outbox(300)
    outbox.put(Kind.SHELL, 0, [bytes(200)])
    with pytest.raises(TransportError, match="outbox_bytes"):
        outbox.put(Kind.SHELL, 0, [bytes(200)])
    assert outbox.last == 1 and len(outbox) == 1
    outbox.acknowledge(1)
    outbox.put(Kind.SHELL, 0, [bytes(200)])
    assert outbox.last == 2


def test_inbox_lets_each_number_through_once_and_refuses_holes() -> None:
    inbox = Inbox()
    assert [inbox.accept(n) for n in (1, 2, 1, 2, 3, 3)] == [True, True, False, False, True, False]
    with pytest.raises(RemoteProtocolError):
        inbox.accept(5)
    assert inbox.last == 3


def test_outbox_forgets_what_an_answer_tells_to_have_come_and_all_before_it() -> None:
    outbox = Outbox(1 << 20)
    for text in (b"a", b"b", b"c"):
        outbox.put(Kind.SHELL, 5, [text])
    outbox.arrived(2)
    outbox.arrived(1)
    assert outbox.serials == {3}
    outbox.rebase()
    assert [b"".join(bytes(part) for part in buffers)[-1:] for buffers in outbox.after(0)] == [b"c"]


def test_outbox_still_has_what_came_to_a_lost_host_and_in_part_to_its_successor() -> None:
    outbox, successor = Outbox(1 << 20), Inbox()
    for text in (b"a", b"b"):
        outbox.put(Kind.SHELL, 5, [text])
    outbox.rebase()
    assert successor.accept(1)
    outbox.arrived(2)  # the lost host has answered it, as its journal tells; then the link is cut
    outbox.acknowledge(successor.last)
    outbox.put(Kind.SHELL, 5, [b"c"])
    records = RecordReader(1 << 20).feed(b"".join(b"".join(buffers) for buffers in outbox.after(successor.last)))
    assert [successor.accept(record.number) for record in records] == [True, True]
    assert outbox.serials == {3}


def test_outbox_goes_on_behind_what_was_answered_when_the_other_side_counts_less() -> None:
    """Link that breaks while the host's disk is slow: it has answered a request that is not in its journal yet."""
    outbox = Outbox(1 << 20)
    sent = [b"".join(outbox.put(Kind.SHELL, 5, [text])) for text in (b"a", b"b", b"c")]
    outbox.arrived(1)
    outbox.acknowledge(0)
    assert [b"".join(buffers) for buffers in outbox.after(0)] == sent[1:]
    outbox.rebase()  # now with somebody who has got nothing
    records = RecordReader(1 << 20).feed(b"".join(b"".join(buffers) for buffers in outbox.after(0)))
    assert [(record.number, bytes(record.parts[0])) for record in records] == [(1, b"b"), (2, b"c")]


def test_outbox_rebased_counts_anew_without_what_is_dropped_and_behind_what_comes_before() -> None:
    outbox = Outbox(1 << 20)
    for text in (b"a", b"b", b"c" * 100_000, b"d"):
        outbox.put(Kind.SHELL, 7, [text])
    outbox.acknowledge(1)
    assert outbox.serials == {2, 3, 4}
    outbox.rebase({2}, [Sent(1, Kind.SHELL, 5, [b"a"])])
    records = RecordReader(1 << 20).feed(b"".join(b"".join(buffers) for buffers in outbox.after(0)))
    assert [(record.number, record.time_us) for record in records] == [(1, 5), (2, 7), (3, 7)]
    assert [bytes(record.parts[0])[:1] for record in records] == [b"a", b"c", b"d"]
    assert outbox.serials == {1, 3, 4}
    outbox.put(Kind.SHELL, 7, [b"e"])
    assert (outbox.last, outbox.last_serial) == (4, 5)
    outbox.acknowledge(4)
    assert len(outbox) == 0


@given(st.data())
def test_check_agrees_with_reading(data: st.DataObject) -> None:
    bodies = data.draw(st.lists(st.lists(st.binary(max_size=40), max_size=4), min_size=1, max_size=4))
    stream = bytearray(
        b"".join(b"".join(encode(Kind.IOPUB, number, 9, parts)) for number, parts in enumerate(bodies, 5))
    )
    numbers = list(range(5, 5 + len(bodies)))
    assert check(stream, 1 << 20) == numbers
    position = data.draw(st.integers(0, len(stream) - 1))
    stream[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(RemoteProtocolError):
        check(stream, 1 << 20)
    stream[position:] = b""
    if position:
        ends = [offset + size for offset, _, size in skim(bytes(stream))]
        if position not in ends:
            with pytest.raises(RemoteProtocolError):
                check(stream, 1 << 20)


def test_check_refuses_a_body_that_is_too_large() -> None:
    (record,) = encode(Kind.IOPUB, 1, 9, [b"x" * 100])
    assert check(record, 108) == [1]
    with pytest.raises(RemoteProtocolError):
        check(record, 107)
