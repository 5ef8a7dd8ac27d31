"""What is said in a session goes into its journal, and from there to its clients."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from ..errors import JournalError
from ..wire.jupyter import make_parts
from ..wire.record import Buffer, Kind
from .clients import Clients
from .dialogue import unanswerable
from .journal import Journal

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

    def flush(self) -> None:
        """Write what was said, and send it."""
        if self._slow is not None:
            return  # it goes on with what came meanwhile
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
