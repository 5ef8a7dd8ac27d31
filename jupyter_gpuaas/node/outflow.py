"""What is said in a session goes into its journal, and from there to its clients."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Protocol

from ..errors import JournalError
from ..wire.jupyter import make_parts
from ..wire.record import Buffer, Kind
from .clients import Clients
from .dialogue import KEPT_BYTES, unanswerable
from .journal import Journal
from .unanswered import Unanswered

#: A batch above this is written in pieces.
LARGE_BYTES = 4 * 1024**2


class Source(Protocol):
    """The session's host, as this needs it."""

    def not_written(self, why: str) -> None:
        """The journal cannot be written."""

    def disk_filled(self, why: str) -> None:
        """There is no room for the journal, or (empty) there is again."""

    def written(self) -> None:
        """What was said so far is in the journal, or lost."""


class Outflow:
    """Into one journal, in the order in which it is said."""

    def __init__(self, journal: Journal, clients: Clients, source: Source) -> None:
        self._journal = journal
        self._clients = clients
        self._source = source
        self._full_told = False
        self._slow: asyncio.Task[None] | None = None
        self._unanswered = Unanswered(KEPT_BYTES)
        #: First record of the segment that has been told of the cells that it lacks.
        self._told_in = 0

    def go_on_with(self, cells: Iterable[Sequence[Buffer]]) -> None:
        """What the session's former host was asked, oldest first: address and header at least."""
        for parts in cells:
            self._unanswered.take(Kind.REQUEST, 0, parts)
        self.flush()

    def append(self, kind: Kind, parts: list[Buffer]) -> None:
        """This is said; ``flush`` lets it go."""
        now_us = time.time_ns() // 1000
        try:
            self._journal.append(kind, now_us, parts)
        except JournalError as error:
            text = f"\n[remote GPU] An output could not be kept: {error}\n"
            content = {"name": "stderr", "text": text}
            self._journal.append(Kind.IOPUB, now_us, make_parts(b"stream.stderr", "stream", parts[2], content))
            if kind in (Kind.SHELL, Kind.CONTROL):
                self._journal.append(kind, now_us, unanswerable(parts, str(error)))
        self._unanswered.take(kind, self._journal.last, parts)

    def flush(self) -> None:
        """Write what was said, and send it."""
        if self._slow is not None:
            return  # it goes on with what came meanwhile
        self._tell_unanswered()
        if self._journal.pending_bytes > LARGE_BYTES:
            self._slow = asyncio.get_running_loop().create_task(self._flush_slowly())
            return
        try:
            data = self._journal.flush(time.time_ns() // 1000)
        except (JournalError, OSError) as error:
            self._source.not_written(str(error))
            data = None
        if data != b"":
            self._clients.flushed(data)
            self._tell_of_disk()
        self._source.written()
        if self._tell_unanswered():  # the disk has no more room for the segment that it was
            self.flush()

    def _tell_unanswered(self) -> bool:
        """Name the cells under way in a segment that lacks the request of one: those before it may go."""
        first = self._journal.next_first
        if first == self._told_in or not self._unanswered.lacks(first):
            return False
        self._told_in = first
        # A small part of a segment, so that none is full of it.
        message = self._unanswered.message(self._journal.segment_bytes // 8)
        if message is None:
            return False
        try:
            self._journal.append(Kind.REQUEST, time.time_ns() // 1000, message)
        except JournalError:  # it is larger than a message may be here
            return False
        return True

    async def settled(self) -> None:
        """Return when everything that was said is in the journal."""
        self.flush()
        while self._slow is not None:
            await asyncio.wait({self._slow})

    def close(self) -> None:
        """The session ends."""
        if self._slow is not None:
            self._slow.cancel()

    async def _flush_slowly(self) -> None:
        """Write a large batch piece by piece; clients are sent each piece while the next one is written."""
        torn = self._journal.torn
        try:
            for _ in self._journal.flush_slowly(time.time_ns() // 1000):
                self._clients.pump()
                await asyncio.sleep(0)
        except (JournalError, OSError) as error:
            self._source.not_written(str(error))
        finally:
            self._slow = None
        if self._journal.torn != torn:
            self._clients.start_anew("the disk filled up while a message was written")
        self._clients.pump()
        self._tell_of_disk()
        self.flush()

    def _tell_of_disk(self) -> None:
        if bool(self._journal.no_room) != self._full_told:
            self._full_told = bool(self._journal.no_room)
            self._source.disk_filled(self._journal.no_room)
