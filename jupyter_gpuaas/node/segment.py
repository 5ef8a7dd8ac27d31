"""A run of consecutive records at rest: in a file, or in memory when the disk has no room."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ..wire.record import Buffer

IOV_MAX = 512
CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class Segment(Protocol):
    """Records ``first`` to ``last`` as one run of bytes; ``last`` is ``first - 1`` while it is empty."""

    first: int
    last: int
    size: int
    written_us: int

    def write(self, buffers: Sequence[Buffer]) -> None:
        """Append whole records, or raise OSError and be as before."""

    def read(self, offset: int, most: int) -> bytes: ...

    def remove(self) -> None:
        """Free the room. Whoever reads still may go on reading."""


class FileSegment:
    """A segment in a file, named after its first record."""

    def __init__(self, folder: Path, first: int) -> None:
        self.path = folder / f"{first:016d}.seg"
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.first = first
        self.last = first - 1
        self.size = 0
        self.written_us = 0

    def reserve(self, size: int) -> None:
        """Take room on disk for ``size`` more bytes, which makes writing them faster; raise OSError when it is full.

        Where the file system cannot do that, writing is what tells. A reservation that was not written to reads as
        zeros, which are no record.
        """
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._file, self.size, size)
            except OSError as error:
                if error.errno not in CANNOT_RESERVE:
                    raise

    def write(self, buffers: Sequence[Buffer]) -> None:
        position = self.size
        views = [memoryview(buffer) for buffer in buffers if len(buffer)]
        try:
            while views:
                written = os.pwritev(self._file, views[:IOV_MAX], position)
                position += written
                done = 0
                while done < len(views) and written >= len(views[done]):
                    written -= len(views[done])
                    done += 1
                views = views[done:]
                if written:
                    views[0] = views[0][written:]
        except OSError:
            self.truncate(self.size)
            raise
        self.size = position

    def read(self, offset: int, most: int) -> bytes:
        return os.pread(self._file, max(0, min(most, self.size - offset)), offset)

    def truncate(self, size: int) -> None:
        """Cut off what is behind ``size``. Where the disk refuses that, too, it is written over, and never read."""
        self.size = size
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, size)

    def remove(self) -> None:
        with contextlib.suppress(OSError):  # its room stays taken, which must not keep outputs from their clients
            self.path.unlink(missing_ok=True)

    def __del__(self) -> None:
        os.close(self._file)


class MemorySegment:
    """A segment in memory."""

    def __init__(self, first: int) -> None:
        self._bytes = bytearray()
        self.first = first
        self.last = first - 1
        self.size = 0
        self.written_us = 0

    def write(self, buffers: Sequence[Buffer]) -> None:
        for buffer in buffers:
            self._bytes += buffer
        self.size = len(self._bytes)

    def read(self, offset: int, most: int) -> bytes:
        return bytes(memoryview(self._bytes)[offset : offset + most])

    def remove(self) -> None:
        """Nothing is held outside of this object."""
