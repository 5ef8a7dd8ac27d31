"""One agent a node: it has a lock on the folder of its node, which ends with its process, however that ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import SettingError

#: A former agent may have let go of everything but its process; it is waited for.
PATIENCE_S = 5.0
PAUSE_S = 0.05


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Be the only agent of this folder.

    Raises
    ------
    SettingError
        Another one lives.
    """
    until_s = time.monotonic() + PATIENCE_S
    fd = os.open(folder / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while not _locked(fd):
            if time.monotonic() >= until_s:
                other = os.pread(fd, 20, 0).decode() or "?"
                raise SettingError(f"folder: {folder} has an agent already, process {other}.")
            time.sleep(PAUSE_S)
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
