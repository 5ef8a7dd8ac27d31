"""Who is writing to a URL, so that nobody collects what a writer counts on (the story is told in ``lease.py``).

Objects know no locks. So whoever comes first leaves an object and then looks whether the other side has left one: a
writer and a collector that start at the same moment cannot both miss the other, and the one that sees the other goes
back. The objects hold a time of the clock of who wrote them, and do not count any more when that is ``LEASE_S`` old.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import StoreError
from .lease import LEASE_S
from .objects import Objects

_FOLDER = "leases"
_WRITER = "writer-"
_COLLECTOR = "collector-"
#: How long a writer waits for a collector, and between two looks.
_WAIT_S = 60.0
_LOOK_S = 0.2


class RemoteLease:
    """The right to count on what a URL holds, until ``end``."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._path = f"{_FOLDER}/{_WRITER}{uuid.uuid4().hex}"
        give_up_s = time.monotonic() + _WAIT_S
        while True:
            self._write()
            if not _others(objects, _COLLECTOR):
                return
            self.end()
            if time.monotonic() > give_up_s:
                raise StoreError(f"somebody collects in {objects.url}.", hint="Try again later.")
            time.sleep(_LOOK_S)

    def renew(self) -> None:
        if time.monotonic() - self._renewed_s > LEASE_S / 20 and self.stands():
            self._write()

    def stands(self) -> bool:
        """Whether no collector took it away."""
        return self._objects.read(self._path) is not None

    def end(self) -> None:
        self._objects.remove(self._path)

    def _write(self) -> None:
        _mark(self._objects, self._path)
        self._renewed_s = time.monotonic()


@contextmanager
def collecting(objects: Objects) -> Iterator[None]:
    """While this is held no lease begins. Raises ``StoreError`` while one is held, or somebody else collects."""
    path = f"{_FOLDER}/{_COLLECTOR}{uuid.uuid4().hex}"
    _mark(objects, path)
    try:
        if _others(objects, _WRITER) or len(_others(objects, _COLLECTOR)) > 1:
            raise StoreError(
                "a checkpoint is being written to this store, so nothing can be removed from it now.",
                hint="Try again when it is done.",
            )
        yield
    finally:
        objects.remove(path)


def _mark(objects: Objects, path: str) -> None:
    objects.write(path, str(time.time()).encode())


def _others(objects: Objects, kind: str) -> list[str]:
    """What is there of a kind; clears away what has been abandoned."""
    found = []
    for name in objects.sizes(_FOLDER):
        if not name.startswith(kind):
            continue
        written = objects.read(f"{_FOLDER}/{name}", 0, 64)
        if written is None:
            continue
        if abs(time.time() - _time(written)) > LEASE_S:
            objects.remove(f"{_FOLDER}/{name}")
        else:
            found.append(name)
    return found


def _time(data: bytes) -> float:
    try:
        return float(data)
    except ValueError:
        return 0.0
