"""Who is writing to a folder, so that nobody collects what a writer counts on.

The story that this prevents:

1. A writer asks for chunk X; it is there, though no manifest names it any more. So the writer does not write it.
2. A collector finds X unreferenced and removes it.
3. The writer commits a manifest that names X.

So a writer holds a *lease* from its first question to its commit, and nothing is collected while one is held. A lease
is a file with a lock (flock) that ends with its process. A process that lives but does not go on (its capture failed,
nobody committed) loses its lease after ``LEASE_S``; a commit after that checks that all it counts on is still there.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import StoreError

#: A lease that was not renewed for so long has been abandoned.
LEASE_S = 600.0
#: Who does not get the lock of a folder in this time gives up: whoever has it does not go on.
LOCK_S = 30.0
MOST_PAUSE_S = 0.05

FOLDER_MODE = 0o700
FILE_MODE = 0o600


def try_lock(file: int) -> bool:
    """Lock an open file for this opening of it alone; False when another opening has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock(file: int, how: int) -> None:
    """Lock a file of which nobody needs the lock for long.

    A process that was stopped just then keeps it: its session is suspended, say. Others must not wait with it, as their
    captures and in the end their cells would.
    """
    end_s, pause_s = time.monotonic() + LOCK_S, 0.001
    while True:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end_s:
                raise StoreError(
                    f"another process has had the store locked for {LOCK_S:g} s.",
                    hint="It may be stopped; it is tried again.",
                ) from None
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, MOST_PAUSE_S)


class Lease:
    """The right to count on what a folder holds, from ``Leases.begin`` to ``end``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._renewed_s = time.monotonic()

    def renew(self) -> None:
        if time.monotonic() - self._renewed_s > LEASE_S / 20:
            os.utime(self._file)
            self._renewed_s = time.monotonic()

    def stands(self) -> bool:
        """Whether no collector took it away. Ask under ``Leases.shared``."""
        return os.fstat(self._file).st_nlink > 0

    def end(self) -> None:
        self._path.unlink(missing_ok=True)
        self.drop()

    def drop(self) -> None:
        """Close this process's copy and leave the lease to the process that it was inherited from."""
        # An interrupt may come in between; closing twice could close the file of somebody else.
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:  # an interrupt came before anybody knew of it
            self.end()


class Leases:
    """The leases of one folder, and the lock under which they are given and taken."""

    def __init__(self, folder: Path) -> None:
        self._lock_path = folder / "lock"
        self._folder = folder / "leases"

    def create(self) -> None:
        self._folder.mkdir(mode=FOLDER_MODE, exist_ok=True)

    @contextmanager
    def shared(self) -> Iterator[None]:
        """While this is held, no lease is taken away and nothing is collected."""
        with self._locked(fcntl.LOCK_SH):
            yield

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """While this is held, no lease begins and nothing is committed."""
        with self._locked(fcntl.LOCK_EX):
            yield

    def begin(self) -> Lease:
        """Waits while somebody collects."""
        with self.shared():
            return Lease(self._folder / uuid.uuid4().hex)

    def held(self) -> int:
        """How many writers count on what is here. Ask under ``exclusive``; clears away leases that are over."""
        count = 0
        for path in self._folder.iterdir():
            try:
                file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue
            try:
                if try_lock(file) or abs(time.time() - os.fstat(file).st_mtime) > LEASE_S:
                    path.unlink(missing_ok=True)
                else:
                    count += 1
            finally:
                os.close(file)
        return count

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        file = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
        try:
            _lock(file, how)
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough while a process forked meanwhile has a copy
            os.close(file)
