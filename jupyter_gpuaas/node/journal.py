"""The journal: everything that a session's kernel said, numbered, on disk, bounded.

An append-only run of records (``wire.record``) in segment files. A client is sent the journal's own bytes from any
number on, so a replay and the live stream are the same thing.

What is kept: acknowledged segments go when they are old or when room is needed; others go, oldest first, only when
the bound would be passed, and a reader finds a notice in their place. The bound counts what is older than the newest
message, so that one message larger than the bound still arrives. When the disk is full, records go to memory (bounded
too) until it has room again. Nothing is synced to the platter: the journal has to survive processes, not machines.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from ..errors import JournalError, RemoteProtocolError
from ..model import Loss
from ..wire.record import HEAD, MAGIC, Buffer, Kind, RecordReader, check, encode, skim
from .segment import FileSegment, MemorySegment, Segment

KEEP_ACKNOWLEDGED_US = 3600 * 1_000_000
READ_BYTES = 256 * 1024
PIECE_BYTES = 1024**2
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
ID_FILE = "id"
LOSSES_KEPT = 16


class Journal:
    """The journal in ``folder``; opened again after a crash, it cuts off a torn last record.

    Parameters
    ----------
    most_bytes
        Bound of all segments together, the newest record not counted.
    segment_bytes
        A segment that has reached this size is followed by a new one.
    message_bytes
        Largest record body; a larger one is refused with JournalError.
    memory_bytes
        Bound of what is kept in memory while the disk takes no more; the oldest goes first.
    """

    def __init__(
        self, folder: Path, *, most_bytes: int, segment_bytes: int, message_bytes: int, memory_bytes: int
    ) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self.segment_bytes = min(segment_bytes, max(1, most_bytes // 2))
        self._message_bytes = message_bytes
        self._memory_bytes = memory_bytes
        self._pending: list[Buffer] = []
        #: Bytes that were appended and not flushed.
        self.pending_bytes = 0
        #: How often a batch was taken back that readers may have seen a part of.
        self.torn = 0
        self.acknowledged = 0
        #: Records that were dropped without having been acknowledged.
        self.dropped = 0
        #: Why the newest segment is in memory; empty while it is on disk.
        self.no_room = ""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        #: Which journal this is, wherever it goes: numbers of one mean nothing in another. And the losses of hosts that
        #: wrote it, oldest first: behind where such a one ended, a number can mean another record to its clients.
        self.id, self.losses = _read_id(folder)
        if not self.id:
            self._set_id(os.urandom(16).hex())
        self._segments: list[Segment] = _recover(folder, message_bytes)
        #: Number of the last record that was appended, and of the last that was flushed.
        self.last = self.written = self._segments[-1].last if self._segments else 0
        #: Of the last one that is wholly there: ``written`` is ahead while a batch is written in pieces.
        self.whole = self.written
        if self._segments:
            self.acknowledged = self._segments[0].first - 1

    @property
    def first(self) -> int:
        """Number of the oldest record that is still here; one past the last when none is."""
        return self._segments[0].first if self._segments else self.last + 1

    @property
    def newest(self) -> Segment | None:
        """The segment that is written to."""
        return self._segments[-1] if self._segments else None

    @property
    def next_first(self) -> int:
        """Number of the first record of the segment that the next one goes to, as long as the disk has room."""
        newest = self.newest
        if newest is None or (isinstance(newest, FileSegment) and newest.size >= self.segment_bytes):
            return self.written + 1
        return newest.first

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(segment.size for segment in self._segments)

    def append(self, kind: Kind, time_us: int, parts: Sequence[Buffer]) -> int:
        """Number a record and keep it for the next ``flush``; the parts are borrowed until then."""
        body = 8 * len(parts) + sum(len(part) for part in parts)
        if body > self._message_bytes:
            raise JournalError(
                f"a message of {body} bytes is larger than the {self._message_bytes} that are allowed.",
                hint="Setting message_bytes.",
            )
        self.last += 1
        self._pending += encode(kind, self.last, time_us, parts)
        self.pending_bytes += body + HEAD.size
        return self.last

    def flush(self, time_us: int) -> bytes | None:
        """Write what was appended, with one system call.

        Returns
        -------
        The written bytes when they are few, so that a reader at the end needs not read them again; else None.
        """
        if not self._pending:
            return b""
        buffers, size = self._take_pending()
        self._make_room(time_us, self.written + 1)
        self._write(buffers, time_us, self.last)
        return b"".join(buffers) if size <= READ_BYTES else None

    def flush_slowly(self, time_us: int) -> Iterator[None]:
        """Write what was appended in pieces, so that readers can follow while it is written.

        What is appended meanwhile waits for the next flush. Where there is no room for the whole batch, it goes to
        memory. When the disk fills up on the way all the same, ``torn`` rises, too: who has read a part of the batch
        must start anew behind the last whole record.
        """
        if not self._pending:
            return
        buffers, size = self._take_pending()
        last, before = self.last, self.written
        self._make_room(time_us, before + 1)
        segment = self._segments[-1]
        if isinstance(segment, FileSegment):
            start, start_last = segment.size, segment.last
            try:
                segment.reserve(size)
                segment.last, segment.written_us, self.written = last, time_us, last
                for piece in _pieces(buffers):
                    segment.write([piece])
                    yield
            except OSError as error:
                self.torn += segment.size > start
                segment.truncate(start)
                segment.last, self.written = start_last, before
                self._after_failure(error)
            else:
                self.no_room, self.whole = "", last
                return
        self._write(buffers, time_us, last)

    def _take_pending(self) -> tuple[list[Buffer], int]:
        buffers, self._pending = self._pending, []
        size, self.pending_bytes = self.pending_bytes, 0
        return buffers, size

    def acknowledge(self, number: int) -> None:
        """Everything up to ``number`` has reached a client."""
        if number > self.last:
            raise RemoteProtocolError(f"{number} is acknowledged, but only {self.last} were sent.")
        self.acknowledged = max(self.acknowledged, number)

    def reader(self, after: int) -> Reader:
        """Read from the record behind ``after`` on."""
        if after > self.last or after < 0:
            raise RemoteProtocolError(f"after: {after} is not between 0 and {self.last}.")
        return Reader(self, after)

    def copy(self, after: int) -> JournalCopy:
        """What is written so far behind the record ``after``, to be read by another thread while this goes on.

        Not while a batch is being written in pieces.
        """
        if after > self.written or after < 0:
            raise RemoteProtocolError(f"after: {after} is not between 0 and {self.written}.")
        runs = []
        for segment in self._segments:
            if segment.last > after:
                # One in memory cannot be read while it grows.
                held = segment.read(0, segment.size) if isinstance(segment, MemorySegment) else None
                runs.append(Run(segment, held, segment.size))
        first = max(after + 1, runs[0].segment.first) if runs else after + 1
        return JournalCopy(self.id, first, self.written, runs)

    def extend(self, data: Buffer, time_us: int) -> None:
        """Append whole records of the journal that this is a copy of, with their numbers.

        Where the first of them is not the next one, what lies between was dropped there; so is what is older here.

        Raises
        ------
        RemoteProtocolError
            They are not whole and sound records without a gap; nothing was appended.
        """
        if self._pending:
            raise RemoteProtocolError("this journal has records of its own.")
        numbers = check(data, self._message_bytes)
        if not numbers:
            raise RemoteProtocolError("the copy of a journal is empty.")
        first = numbers[0]
        if first <= self.last or numbers != list(range(first, first + len(numbers))):
            raise RemoteProtocolError(f"the copy of a journal goes on with {first} after {self.last}: not in order.")
        if first > self.last + 1:
            for segment in self._segments:
                segment.remove()
            self._segments.clear()
            self.last = self.written = self.whole = first - 1
            self.acknowledged = max(self.acknowledged, first - 1)
        self.last = numbers[-1]
        self._make_room(time_us, first)
        self._write([data], time_us, self.last)

    def become(self, identity: str, losses: tuple[Loss, ...]) -> None:
        """Go on as the journal of this identity and these losses, whose records have been appended."""
        self._set_id(identity, losses)

    def note_loss(self, epoch: int) -> None:
        """The host that wrote this was lost, and that of an epoch goes on with what it left."""
        # Who missed an earlier one has missed this one, too: one that left as much tells nothing more.
        losses = [*(loss for loss in self.losses if loss.last < self.last), Loss(epoch, self.last)]
        if len(losses) > LOSSES_KEPT:
            # As if both had left what the first did: clients get some of it again rather than lack some.
            losses[:2] = [Loss(losses[1].epoch, losses[0].last)]
        self._set_id(self.id, tuple(losses))

    def begin_anew(self) -> None:
        """Be another journal, without any record."""
        for segment in self._segments:
            segment.remove()
        self._segments.clear()
        self._take_pending()
        self.last = self.written = self.whole = self.acknowledged = self.dropped = 0
        self._set_id(os.urandom(16).hex())

    def _set_id(self, identity: str, losses: tuple[Loss, ...] = ()) -> None:
        self.id, self.losses = identity, losses
        lines = [identity, *(f"{loss.epoch} {loss.last}" for loss in losses)]
        file, temporary = self._folder / ID_FILE, self._folder / f"{ID_FILE}.new"
        try:
            temporary.write_text("\n".join(lines), "ascii")
            temporary.replace(file)
        except OSError:
            # It is needed only by whoever opens the folder later, and takes another one then: none that lacks a loss.
            for path in (file, temporary):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)

    def segment_with(self, number: int) -> Segment | None:
        """The segment that holds a record, or the oldest one behind it; None when there is none yet."""
        starts = [segment.first for segment in self._segments]
        index = max(0, bisect.bisect_right(starts, number) - 1)
        for segment in self._segments[index:]:
            if segment.last >= number:
                return segment
        return None

    def remove(self) -> None:
        """Delete everything."""
        for segment in self._segments:
            segment.remove()
        self._segments.clear()
        (self._folder / ID_FILE).unlink(missing_ok=True)
        if self._folder.exists():
            self._folder.rmdir()

    def _make_room(self, time_us: int, first: int) -> None:
        old_us = time_us - KEEP_ACKNOWLEDGED_US
        while len(self._segments) > 1:
            oldest = self._segments[0]
            acknowledged = oldest.last <= self.acknowledged
            if not (acknowledged and oldest.written_us < old_us) and self.size <= self._most_bytes:
                break
            if not acknowledged:
                self.dropped += oldest.last - max(self.acknowledged, oldest.first - 1)
            oldest.remove()
            del self._segments[0]
        newest = self._segments[-1] if self._segments else None
        if newest is None or newest.size >= self.segment_bytes or isinstance(newest, MemorySegment):
            self._open_segment(first)

    def _write(self, buffers: Sequence[Buffer], time_us: int, last: int) -> None:
        segment = self._segments[-1]
        try:
            segment.write(buffers)
        except OSError as error:
            self._after_failure(error)
            self._write(buffers, time_us, last)
            return
        if isinstance(segment, FileSegment):
            self.no_room = ""
        segment.last, segment.written_us = last, time_us
        self.written = self.whole = last

    def _after_failure(self, error: OSError) -> None:
        """The newest segment takes no more: make room, or go on in memory."""
        if self._segments[-1].size == 0:
            self._segments.pop().remove()
        if error.errno in NO_ROOM and self._drop_acknowledged():
            self._open_segment(self.written + 1)
        else:
            self._to_memory(error, self.written + 1)

    def _open_segment(self, first: int) -> None:
        """Begin a segment on disk; where that cannot be, one in memory."""
        try:
            self._segments.append(FileSegment(self._folder, first))
        except OSError as error:
            self._to_memory(error, first)

    def _drop_acknowledged(self) -> bool:
        """Give room back that nobody needs; False when there is none."""
        done = [segment for segment in self._segments if segment.last <= self.acknowledged]
        for segment in done:
            segment.remove()
        self._segments = self._segments[len(done) :]
        return bool(done)

    def _to_memory(self, error: OSError, first: int) -> None:
        """The disk takes no more, for whatever reason: keep records in memory, and there too not without bound."""
        self.no_room = f"the journal cannot be written to disk: {error.strerror}"
        if self._segments and isinstance(self._segments[-1], MemorySegment):
            if self._segments[-1].size < self._memory_bytes // 8:
                return
        held = [segment for segment in self._segments if isinstance(segment, MemorySegment)]
        while held and sum(segment.size for segment in held) > self._memory_bytes:
            # Everything up to and with the dropped segment goes, so that there is one gap and not several.
            doomed = held.pop(0)
            while self._segments:
                oldest = self._segments.pop(0)
                oldest.remove()
                self.dropped += max(0, oldest.last - max(self.acknowledged, oldest.first - 1))
                if oldest is doomed:
                    break
        self._segments.append(MemorySegment(first))


class Run(msgspec.Struct, frozen=True):
    """A segment up to a size that it had; ``held`` is its content where that is not in a file."""

    segment: Segment
    held: bytes | None
    size: int

    def read(self, offset: int, most: int) -> bytes:
        most = max(0, min(most, self.size - offset))
        return self.segment.read(offset, most) if self.held is None else self.held[offset : offset + most]


class JournalCopy:
    """Records ``first`` to ``last`` of a journal as they were at one moment; read by one thread, once."""

    def __init__(self, journal: str, first: int, last: int, runs: Sequence[Run]) -> None:
        self.journal = journal
        self.first = first
        self.last = last
        self._runs = runs

    def pieces(self) -> Iterator[bytes]:
        """The records' bytes, in pieces of any size."""
        for run in self._runs:
            offset = 0
            while run.segment.first <= self.first:
                head = run.read(offset, HEAD.size)
                if len(head) < HEAD.size:
                    break
                _, _, _, _, number, _, length, _ = HEAD.unpack(head)
                if number >= self.first:
                    break
                offset += HEAD.size + length
            while data := run.read(offset, PIECE_BYTES):
                offset += len(data)
                yield data


class Reader:
    """A place in the journal that moves on as bytes are taken."""

    def __init__(self, journal: Journal, after: int) -> None:
        self._journal = journal
        self._segment: Segment | None = None
        self._offset = 0
        self._rest = 0  # bytes still to come of a record larger than one read
        #: Number of the last record that was handed out, wholly or in part.
        self.number = after

    @property
    def at_end(self) -> bool:
        """Whether everything written so far was handed out."""
        return self._rest == 0 and self.number == self._journal.written

    def skip_to_end(self) -> None:
        """The caller has what ``flush`` just wrote behind the end that this reader stood at."""
        self.number = self._journal.written
        self._segment = self._journal.newest
        self._offset = self._segment.size if self._segment else 0

    def read(self, most: int = READ_BYTES) -> bytes:
        """The next bytes of the stream; empty at the end."""
        if self._rest:
            assert self._segment is not None
            data = self._segment.read(self._offset, min(most, self._rest))
            self._offset += len(data)
            self._rest -= len(data)
            return data
        if self.number >= self._journal.written:
            return b""
        if self._segment is None or self._offset >= self._segment.size:
            gap = self._enter(self.number + 1)
            if gap:
                return gap
        assert self._segment is not None
        data = self._segment.read(self._offset, most)
        whole = 0
        for offset, number, size in skim(data):
            whole, self.number = offset + size, number
        if whole:
            self._offset += whole
            return data[:whole]
        if len(data) < HEAD.size:
            return b""
        _, _, _, _, number, _, length, _ = HEAD.unpack_from(data)
        self.number = number
        self._offset += len(data)
        self._rest = HEAD.size + length - len(data)
        return data

    def _enter(self, number: int) -> bytes:
        """Go to a record; when it was dropped, to the oldest one kept, and return a notice of the gap."""
        segment = self._journal.segment_with(number)
        if segment is None:
            raise JournalError(f"record {number} is not in the journal.")
        self._segment, self._offset = segment, 0
        if segment.first > number:
            self.number = segment.first - 1
            gap = msgspec.json.encode({"gap": True, "first": number, "last": self.number})
            return b"".join(encode(Kind.NOTICE, self.number, segment.written_us, [gap]))
        while True:
            walked = 0
            for offset, found, size in skim(segment.read(self._offset, READ_BYTES)):
                if found == number:
                    self._offset += offset
                    return b""
                walked = offset + size
            if not walked:  # one record that is larger than a read, or one that is still being written
                data = segment.read(self._offset, HEAD.size)
                if len(data) < HEAD.size:
                    return b""
                head = HEAD.unpack(data)
                if head[4] == number:
                    return b""
                walked = HEAD.size + head[6]
            self._offset += walked


def _read_id(folder: Path) -> tuple[str, tuple[Loss, ...]]:
    try:
        identity, *lines = (folder / ID_FILE).read_text("ascii").splitlines()
        return identity, tuple(Loss(*map(int, line.split())) for line in lines)
    except (OSError, ValueError, TypeError):
        return "", ()


def _pieces(buffers: Sequence[Buffer]) -> Iterator[memoryview]:
    for buffer in buffers:
        view = memoryview(buffer)
        for start in range(0, len(view), PIECE_BYTES):
            yield view[start : start + PIECE_BYTES]


def _recover(folder: Path, message_bytes: int) -> list[Segment]:
    """The segments in a folder, each verified and cut behind its last sound record."""
    segments: list[Segment] = []
    for path in sorted(folder.glob("*.seg")):
        segment = FileSegment(folder, int(path.stem))
        segment.size = path.stat().st_size
        segment.written_us = path.stat().st_mtime_ns // 1000
        sound = _sound_bytes(segment, message_bytes)
        if sound < segment.size:
            segment.truncate(sound)
        if sound:
            segments.append(segment)
        else:
            segment.remove()
    return segments


def _sound_bytes(segment: FileSegment, message_bytes: int) -> int:
    """Length of the run of whole, correct records at the start of a segment; sets its ``last``."""
    offset = 0
    while True:
        head = segment.read(offset, HEAD.size)
        if len(head) < HEAD.size or head[:4] != MAGIC:
            return offset
        number, length = HEAD.unpack(head)[4], HEAD.unpack(head)[6]
        if number != segment.last + 1 or length > message_bytes or offset + HEAD.size + length > segment.size:
            return offset
        reader = RecordReader(message_bytes)
        try:
            reader.feed(head)
            taken = HEAD.size
            while taken < HEAD.size + length:
                data = segment.read(offset + taken, min(READ_BYTES, HEAD.size + length - taken))
                reader.feed(data)
                taken += len(data)
        except RemoteProtocolError:
            return offset
        segment.last = number
        offset += HEAD.size + length
