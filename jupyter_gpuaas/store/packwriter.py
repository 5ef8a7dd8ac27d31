"""One pack file that this process appends to."""

from __future__ import annotations

import fcntl
import os
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path

from .base import Buffer
from .codec import Encoded
from .lease import FILE_MODE, try_lock
from .pack import HEAD_BYTES, INDEX_HEADER, PACK_HEADER, Entry, Place, head, index_batch

PACK_SUFFIX = ".pack"
INDEX_SUFFIX = ".idx"
#: A file under this suffix is being made by somebody, or was when its maker died.
NEW_SUFFIX = ".new"

_IOV_MAX = 512
#: The disk begins to work on written bytes after so many, not only when a commit asks for them.
_WRITE_BEHIND_BYTES = 32 * 1024**2


class PackWriter:
    """A new pack, locked for as long as it is open, so that others leave it alone. For one thread at a time.

    Entries up to ``durable`` survive a power cut and are in the index; what is behind may be cut off again.
    """

    def __init__(self, folder: Path) -> None:
        self.name = uuid.uuid4().hex
        self.path = folder / (self.name + PACK_SUFFIX)
        self.index_path = folder / (self.name + INDEX_SUFFIX)
        # Locked before it has its name: nobody may find it without its lock and take it for a dead writer's.
        new = folder / (self.name + NEW_SUFFIX)
        self._file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        try_lock(self._file)
        os.write(self._file, PACK_HEADER)
        os.rename(new, self.path)
        self._index = os.open(self.index_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        self.index_bytes = os.write(self._index, INDEX_HEADER)
        self.size = self.durable = len(PACK_HEADER)
        self._pending: list[Entry] = []
        self._behind = self.size
        self._syncer: threading.Thread | None = None
        self._failure: OSError | None = None

    def append(self, chunks: Sequence[Encoded]) -> list[Entry]:
        """Write entries, straight from the memory that their payloads are in, or raise OSError and be as before."""
        buffers: list[Buffer] = []
        entries: list[Entry] = []
        at = self.size
        for chunk in chunks:
            buffers += (head(chunk), chunk.payload)
            place = Place(self.name, at + HEAD_BYTES, len(chunk.payload), chunk.raw_bytes, chunk.codec)
            entries.append((chunk.digest, place))
            at = place.end
        try:
            write_all(self._file, buffers, self.size)
        except OSError:
            self.cut(self.size)
            raise
        self.size = at
        self._pending += entries
        self._write_behind()
        return entries

    def cut(self, size: int) -> list[Entry]:
        """Take back what lies behind ``size``, which is not below ``durable``."""
        os.ftruncate(self._file, size)
        gone = [entry for entry in self._pending if entry[1].offset > size]
        self._pending = [entry for entry in self._pending if entry[1].offset <= size]
        self.size = size
        self._behind = min(self._behind, size)
        return gone

    def sync(self) -> None:
        """Make all entries durable, then name them in the index."""
        self._join()
        if self._failure is not None:
            raise self._failure
        if not self._pending:
            return
        os.fdatasync(self._file)
        batch = index_batch(self._pending, self.durable, self.size)
        try:
            write_all(self._index, [batch], self.index_bytes)
        except OSError:
            os.ftruncate(self._index, self.index_bytes)
            raise
        self.index_bytes += len(batch)
        self.durable = self.size
        self._pending = []

    def close(self) -> None:
        """Give the pack up; what is not durable yet is left to whoever looks at it next."""
        self._join()
        if self._file >= 0:
            fcntl.flock(self._file, fcntl.LOCK_UN)  # a forked process may have a copy that would keep the lock
        self.drop()

    def drop(self) -> None:
        """Close this process's copy and leave the pack to the process that it was inherited from."""
        # An interrupt may come in between; closing twice could close the file of somebody else.
        files, self._file, self._index = (self._file, self._index), -1, -1
        for file in files:
            if file >= 0:
                os.close(file)

    def _write_behind(self) -> None:
        if self.size - self._behind < _WRITE_BEHIND_BYTES or (self._syncer is not None and self._syncer.is_alive()):
            return
        self._behind = self.size
        self._syncer = threading.Thread(target=self._sync_quietly, name="gpuaas-write-behind", daemon=True)
        self._syncer.start()

    def _join(self) -> None:
        if self._syncer is not None:
            self._syncer.join()
            self._syncer = None

    def _sync_quietly(self) -> None:
        try:
            os.fdatasync(self._file)
        except OSError as error:
            self._failure = error  # the kernel reports it once only, and `sync` must not miss it


def write_all(file: int, buffers: Sequence[Buffer], position: int) -> None:
    """``pwritev`` until everything is written."""
    views = [memoryview(buffer).cast("B") for buffer in buffers if len(buffer)]
    first = 0
    while first < len(views):
        written = os.pwritev(file, views[first : first + _IOV_MAX], position)
        position += written
        while first < len(views) and written >= len(views[first]):
            written -= len(views[first])
            first += 1
        if written:
            views[first] = views[first][written:]
