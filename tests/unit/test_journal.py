"""The journal on its own: order, bound, gaps, torn ends, full disks."""

import errno
import os
from pathlib import Path

import msgspec
import pytest

from jupyter_gpuaas.errors import JournalError, RemoteProtocolError
from jupyter_gpuaas.model import Loss
from jupyter_gpuaas.node import segment as segment_module
from jupyter_gpuaas.node.journal import LOSSES_KEPT, Journal
from jupyter_gpuaas.wire.record import Kind, Record, RecordReader, encode

US = 1_000_000


def make(folder: Path, most: int = 1 << 20, segment: int = 1 << 14, message: int = 1 << 24) -> Journal:
    return Journal(
        folder / "journal", most_bytes=most, segment_bytes=segment, message_bytes=message, memory_bytes=2**26
    )


def say(journal: Journal, text: bytes, time_us: int = US) -> int:
    number = journal.append(Kind.IOPUB, time_us, [b"topic", b"{}", b"{}", b"{}", text])
    journal.flush(time_us)
    return number


def read_all(journal: Journal, after: int = 0, most: int = 1 << 20) -> list[Record]:
    reader, parser, records = journal.reader(after), RecordReader(1 << 30), []
    while data := reader.read(most):
        records += parser.feed(data)
    assert reader.at_end
    return records


def texts(records: list[Record]) -> list[bytes]:
    return [bytes(record.parts[4]) for record in records]


@pytest.mark.parametrize("most", [1 << 20, 1000, 41, 40])
def test_reader_any_read_size_gets_every_record_once_in_order(tmp_path: Path, most: int) -> None:
    journal = make(tmp_path)
    said = [b"%d " % i * (i % 50 + 1) for i in range(400)]
    for text in said:
        say(journal, text)
    records = read_all(journal, most=most)
    assert texts(records) == said
    assert [record.number for record in records] == list(range(1, 401))


@pytest.mark.parametrize("after", [0, 1, 57, 399, 400])
def test_reader_after_a_number_starts_behind_it(tmp_path: Path, after: int) -> None:
    journal = make(tmp_path, segment=2000)
    for i in range(400):
        say(journal, b"%d" % i)
    assert [record.number for record in read_all(journal, after)] == list(range(after + 1, 401))


def test_reader_at_end_sees_what_is_written_later(tmp_path: Path) -> None:
    journal = make(tmp_path, segment=300)
    reader, parser = journal.reader(0), RecordReader(1 << 20)
    got: list[bytes] = []
    for i in range(50):
        say(journal, b"%d" % i)
        if i % 3 == 0:
            reader_data = journal.append(Kind.IOPUB, US, [b"", b"", b"", b"", b"x"])
            assert reader_data
            journal.flush(US)
        while data := reader.read():
            got += texts(parser.feed(data))
    assert got == [t for i in range(50) for t in ([b"%d" % i, b"x"] if i % 3 == 0 else [b"%d" % i])]


def test_skip_to_end_continues_with_the_next_record(tmp_path: Path) -> None:
    journal = make(tmp_path)
    reader = journal.reader(0)
    say(journal, b"handed over directly")
    reader.skip_to_end()
    say(journal, b"read back")
    assert texts(RecordReader(1 << 20).feed(reader.read())) == [b"read back"]


def test_record_larger_than_a_read_arrives_whole(tmp_path: Path) -> None:
    journal = make(tmp_path, most=1 << 30)
    big = os.urandom(5 << 20)
    say(journal, b"before")
    say(journal, big)
    say(journal, b"after")
    assert texts(read_all(journal, most=100_000)) == [b"before", big, b"after"]
    assert texts(read_all(journal, after=2)) == [b"after"]


def test_bound_drops_the_oldest_and_says_so_in_their_place(tmp_path: Path) -> None:
    journal = make(tmp_path, most=20_000, segment=4_000)
    for i in range(500):
        say(journal, b"%d" % i * 50)
        assert journal.size <= 20_000 + 300
    first, *rest = read_all(journal)
    assert first.kind is Kind.NOTICE
    gap = msgspec.json.decode(first.parts[0])
    assert gap["first"] == 1 and gap["last"] == first.number == journal.first - 1
    assert [record.number for record in rest] == list(range(journal.first, 501))
    assert journal.dropped == gap["last"]


def test_bound_takes_acknowledged_records_without_a_loss(tmp_path: Path) -> None:
    journal = make(tmp_path, most=20_000, segment=4_000)
    for i in range(500):
        number = say(journal, b"%d" % i * 50)
        journal.acknowledge(number)
    assert journal.dropped == 0 and journal.first > 1
    assert all(record.kind is Kind.IOPUB for record in read_all(journal, after=journal.first - 1))


def test_acknowledged_and_old_segments_go_without_need(tmp_path: Path) -> None:
    journal = make(tmp_path, segment=1_000)
    for i in range(100):
        journal.acknowledge(say(journal, b"%d" % i * 20, US))
    say(journal, b"later", US + 3601 * US)
    assert journal.first > 90


def test_message_larger_than_the_bound_still_arrives(tmp_path: Path) -> None:
    journal = make(tmp_path, most=10_000, segment=2_000)
    say(journal, b"small")
    big = os.urandom(1 << 20)
    say(journal, big)
    assert texts(read_all(journal)) == [b"small", big]


def test_message_larger_than_allowed_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    journal = make(tmp_path, message=1000)
    say(journal, b"a")
    with pytest.raises(JournalError, match="message_bytes"):
        journal.append(Kind.IOPUB, US, [b"x" * 2000])
    assert say(journal, b"b") == 2
    assert texts(read_all(journal)) == [b"a", b"b"]


def test_reader_in_a_trimmed_segment_reads_on(tmp_path: Path) -> None:
    journal = make(tmp_path, most=8_000, segment=2_000)
    reader, parser = journal.reader(0), RecordReader(1 << 20)
    for i in range(20):
        say(journal, b"%02d" % i * 30)
    got = parser.feed(reader.read(500))
    for i in range(20, 200):
        say(journal, b"%02d" % i * 30)
    while data := reader.read(500):
        got += parser.feed(data)
    numbers = [record.number for record in got]
    assert numbers[:5] == [1, 2, 3, 4, 5] and numbers[-1] == 200
    assert [record.kind for record in got].count(Kind.NOTICE) == 1


@pytest.mark.parametrize("cut", [1, 39, 41, 60])
def test_torn_last_record_is_cut_off(tmp_path: Path, cut: int) -> None:
    journal = make(tmp_path)
    for i in range(10):
        say(journal, b"%d" % i * 30)
    (path,) = (tmp_path / "journal").glob("*.seg")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - cut)
    again = make(tmp_path)
    assert again.last == 9
    assert say(again, b"new") == 10
    assert texts(read_all(again)) == [*(b"%d" % i * 30 for i in range(9)), b"new"]


def test_flipped_bit_in_the_last_record_is_cut_off(tmp_path: Path) -> None:
    journal = make(tmp_path)
    for i in range(10):
        say(journal, b"%d" % i * 30)
    (path,) = (tmp_path / "journal").glob("*.seg")
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    assert make(tmp_path).last == 9


@pytest.mark.parametrize("written", [0, 20, 60, 100])
def test_torn_record_whose_room_was_reserved_is_cut_off(tmp_path: Path, written: int) -> None:
    journal = make(tmp_path)
    say(journal, b"whole")
    (path,) = (tmp_path / "journal").glob("*.seg")
    record = b"".join(encode(Kind.IOPUB, 2, US, [b"t", b"{}", b"{}", b"{}", b"torn" * 30]))
    with path.open("ab") as file:
        file.write(record[:written].ljust(len(record), b"\0"))
    again = make(tmp_path)
    assert again.last == 1 and say(again, b"new") == 2
    assert texts(read_all(again)) == [b"whole", b"new"]


def test_full_disk_keeps_records_in_memory_and_returns_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = make(tmp_path)
    say(journal, b"on disk")
    real = os.pwritev

    def full(file: int, views: list[memoryview], position: int) -> int:
        real(file, [views[0][:10]], position)  # a torn write, as a full disk leaves it
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(segment_module.os, "pwritev", full)
    say(journal, b"in memory 1")
    say(journal, b"in memory 2")
    assert "No space left" in journal.no_room
    monkeypatch.setattr(segment_module.os, "pwritev", real)
    say(journal, b"on disk again")
    assert journal.no_room == ""
    assert texts(read_all(journal)) == [b"on disk", b"in memory 1", b"in memory 2", b"on disk again"]


def test_full_disk_memory_is_bounded_and_leaves_one_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = make(tmp_path, most=1 << 30, message=1 << 24)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(segment_module.os, "pwritev", full)
    for _ in range(40):
        say(journal, bytes(4 << 20))
    assert journal.size <= 80 << 20
    records = read_all(journal)
    assert [record.kind for record in records].count(Kind.NOTICE) == 1
    assert records[-1].number == 40


def test_slow_flush_can_be_followed_while_it_is_written(tmp_path: Path) -> None:
    journal = make(tmp_path, most=1 << 30)
    say(journal, b"before")
    big = [os.urandom(3 << 20), b"small", os.urandom(2 << 20)]
    for text in big:
        journal.append(Kind.IOPUB, US, [b"t", b"{}", b"{}", b"{}", text])
    readers = [(journal.reader(after), RecordReader(1 << 30), list[Record]()) for after in (0, 1)]
    ahead = 0
    for _ in journal.flush_slowly(US):
        number = journal.append(Kind.IOPUB, US, [b"t", b"{}", b"{}", b"{}", b"meanwhile"]) if not ahead else ahead
        ahead = number
        for reader, parser, records in readers:
            while data := reader.read():
                records += parser.feed(data)
        # Somebody who comes in the middle, and has all that is whole so far.
        late = journal.reader(readers[0][2][-1].number)
        assert late.read() is not None
    journal.flush(US)
    for reader, parser, records in readers:
        while data := reader.read():
            records += parser.feed(data)
    assert texts(readers[0][2]) == [b"before", *big, b"meanwhile"]
    assert texts(readers[1][2]) == [*big, b"meanwhile"]
    assert texts(read_all(journal)) == [b"before", *big, b"meanwhile"]


@pytest.mark.parametrize(("error", "on_disk"), [(errno.ENOSPC, False), (errno.EOPNOTSUPP, True)])
def test_slow_flush_without_a_reservation_tears_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, on_disk: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(segment_module.os, "posix_fallocate", refuse)
    journal = make(tmp_path, most=1 << 30)
    say(journal, b"before")
    journal.append(Kind.IOPUB, US, [b"t", b"{}", b"{}", b"{}", b"big" * (1 << 20)])
    for _ in journal.flush_slowly(US):
        assert on_disk
    assert journal.torn == 0 and bool(journal.no_room) is not on_disk
    assert texts(read_all(journal)) == [b"before", b"big" * (1 << 20)]


@pytest.mark.parametrize("broken", [False, True], ids=["full", "broken"])
def test_slow_flush_on_a_disk_that_fills_up_takes_the_batch_back_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    journal = make(tmp_path, most=1 << 30)
    say(journal, b"before")
    big = os.urandom(5 << 20)
    journal.append(Kind.IOPUB, US, [b"t", b"{}", b"{}", b"{}", big])
    real, room = os.pwritev, 3 << 20

    def filling(file: int, views: list[memoryview], position: int) -> int:
        nonlocal room
        if room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(file, views, position)
        room -= written
        return written

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(segment_module.os, "pwritev", filling)
    if broken:  # it does not give room back either
        monkeypatch.setattr(segment_module.os, "ftruncate", refuse)
    reader, parser = journal.reader(0), RecordReader(1 << 30)
    got: list[Record] = []
    for _ in journal.flush_slowly(US):
        while data := reader.read():
            got += parser.feed(data)
    assert texts(got) == [b"before"] and journal.torn == 1
    assert texts(read_all(journal, after=1)) == [big]
    monkeypatch.setattr(segment_module.os, "pwritev", real)
    say(journal, b"after")
    assert texts(read_all(journal)) == [b"before", big, b"after"]


def test_acknowledge_of_what_was_never_sent_is_refused(tmp_path: Path) -> None:
    journal = make(tmp_path)
    say(journal, b"a")
    with pytest.raises(RemoteProtocolError):
        journal.acknowledge(2)
    with pytest.raises(RemoteProtocolError):
        journal.reader(2)


def test_remove_leaves_nothing(tmp_path: Path) -> None:
    journal = make(tmp_path, segment=100)
    for _ in range(20):
        say(journal, b"x" * 50)
    journal.remove()
    assert list(tmp_path.iterdir()) == []


def test_journal_that_begins_anew_is_another_one_without_records(tmp_path: Path) -> None:
    journal = make(tmp_path, segment=100)
    for _ in range(20):
        say(journal, b"x" * 50)
    journal.acknowledge(5)
    before = journal.id
    journal.begin_anew()
    assert journal.id != before
    assert (journal.last, journal.written, journal.acknowledged, journal.size) == (0, 0, 0, 0)
    assert say(journal, b"first") == 1
    assert texts(read_all(journal)) == [b"first"]
    again = make(tmp_path, segment=100)
    assert (again.id, texts(read_all(again))) == (journal.id, [b"first"])


def test_losses_are_known_to_whoever_opens_the_journal_later_and_the_oldest_are_taken_together(tmp_path: Path) -> None:
    journal, losses = make(tmp_path), []
    for epoch in range(2, 2 * LOSSES_KEPT):
        losses.append(Loss(epoch, say(journal, b"x")))
        journal.note_loss(epoch)
    again = make(tmp_path)
    assert again.id == journal.id
    oldest = Loss(losses[-LOSSES_KEPT].epoch, losses[0].last)
    assert again.losses == journal.losses == (oldest, *losses[1 - LOSSES_KEPT :])
    again.begin_anew()
    assert again.losses == make(tmp_path).losses == ()


def test_loss_of_a_host_that_left_less_than_earlier_ones_is_all_that_counts(tmp_path: Path) -> None:
    journal = make(tmp_path)
    for _ in range(3):
        say(journal, b"x")
    losses = (Loss(2, 1), Loss(3, 3), Loss(4, 8))
    journal.become("other", losses)
    journal.note_loss(5)
    assert make(tmp_path).losses == (Loss(2, 1), Loss(5, 3))


def test_journal_of_an_older_version_has_no_losses(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "journal" / "id").write_text("0f" * 16)
    again = make(tmp_path)
    assert (again.id, again.losses) == ("0f" * 16, ())


def test_journal_whose_loss_cannot_be_written_is_another_one_for_whoever_opens_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clients begin anew with it, and lack nothing."""
    journal = make(tmp_path)

    def full(path: Path, data: str, encoding: str) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        journal.note_loss(2)
    assert journal.losses == (Loss(2, 0),)
    assert make(tmp_path).id != journal.id
    journal.remove()
    assert list(tmp_path.iterdir()) == []
