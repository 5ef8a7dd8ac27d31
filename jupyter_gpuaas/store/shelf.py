"""What the packs of a folder hold, as far as this process has looked."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .codec import decode, matches
from .lease import try_lock
from .pack import HEADER_BYTES, INDEX_HEADER, Entry, Place, index_batch, read_index, scan
from .packwriter import INDEX_SUFFIX, PACK_SUFFIX, write_all

_NAME = re.compile(r"[0-9a-f]{32}")


@dataclass
class _Seen:
    """One pack as this process knows it."""

    entries: list[Entry] = field(default_factory=list)
    #: Up to which byte of the pack the entries reach, and up to which byte of its index they were read.
    covered: int = 0
    index_bytes: int = 0
    #: Nothing can be added to it any more, or only by ourselves.
    settled: bool = False


class Shelf:
    """All packs of one folder. Not for several threads at once.

    ``places`` holds only what is durable, or was written by this process: another writer may count on it. An entry
    that a living writer has not made durable yet may be cut off again, so it is not seen.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places: dict[bytes, Place] = {}
        self._packs: dict[str, _Seen] = {}
        self._bad: set[Place] = set()

    def sync(self) -> None:
        """See what others have added and removed."""
        here = set(self.names())
        gone = self._packs.keys() - here
        for name in gone:
            del self._packs[name]
        if gone:
            self._rebuild()
        for name in here:
            seen = self._packs.setdefault(name, _Seen())
            if not seen.settled:
                try:
                    self._look(name, seen)
                except FileNotFoundError:  # collected since
                    del self._packs[name]
                    self._rebuild()

    def names(self) -> Iterator[str]:
        """Names of the packs in the folder."""
        with os.scandir(self.folder) as listing:
            for entry in listing:
                name, suffix = os.path.splitext(entry.name)
                if suffix == PACK_SUFFIX and _NAME.fullmatch(name) and entry.is_file(follow_symlinks=False):
                    yield name

    def add(self, name: str, entries: Iterable[Entry]) -> None:
        """Take in what this process wrote to a pack of its own."""
        seen = self._packs.setdefault(name, _Seen(settled=True))
        for entry in entries:
            seen.entries.append(entry)
            self.places[entry[0]] = entry[1]

    def discard(self, entries: Iterable[Entry]) -> None:
        """Forget entries that were cut off or whose bytes are not what they should be."""
        gone = {place for _, place in entries}
        for name in {place.pack for place in gone} & self._packs.keys():
            seen = self._packs[name]
            seen.entries = [entry for entry in seen.entries if entry[1] not in gone]
        self._rebuild()

    def distrust(self, entries: Iterable[Entry]) -> None:
        """Forget entries for good whose bytes are damaged."""
        damaged = list(entries)
        self._bad.update(place for _, place in damaged)
        self.discard(damaged)

    def remove(self, name: str) -> None:
        """Delete a pack; whoever has it open still may go on reading."""
        (self.folder / (name + PACK_SUFFIX)).unlink(missing_ok=True)
        (self.folder / (name + INDEX_SUFFIX)).unlink(missing_ok=True)
        if self._packs.pop(name, None) is not None:
            self._rebuild()

    def entries(self, name: str) -> list[Entry]:
        return self._packs[name].entries if name in self._packs else []

    def stored_bytes(self) -> int:
        """Bytes of all files of the folder."""
        total = 0
        with os.scandir(self.folder) as listing:
            for entry in listing:
                try:
                    total += entry.stat(follow_symlinks=False).st_size
                except FileNotFoundError:
                    continue
        return total

    def search(self, digests: set[bytes]) -> dict[bytes, Place]:
        """Look for chunks in the packs themselves, past all indexes: slow, for when an index is damaged."""
        found: dict[bytes, Place] = {}
        for name in list(self.names()):
            try:
                with self.opened(name) as file:
                    for digest, place in scan(name, _reader(file), 0, os.fstat(file).st_size):
                        if digest in digests and place not in self._bad:
                            found[digest] = place
            except FileNotFoundError:
                continue
        return found

    @contextmanager
    def opened(self, name: str) -> Iterator[int]:
        """A pack's file, open for reading."""
        file = os.open(self.folder / (name + PACK_SUFFIX), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            yield file
        finally:
            os.close(file)

    def _look(self, name: str, seen: _Seen) -> None:
        with self.opened(name) as file:
            # Asked before the index is read: what a writer adds between the two is then in the index.
            dead = try_lock(file)
            size = os.fstat(file).st_size
            index = self._read_index(name, seen.index_bytes, size)
            entries, covered, good = read_index(name, index, size, covered=seen.covered)
            if good:
                self._take(seen, entries)
                seen.covered = covered
                seen.index_bytes += good
            if dead:
                if max(seen.covered, HEADER_BYTES) < size:
                    self._adopt(name, seen, file, size)
                seen.settled = True

    def _adopt(self, name: str, seen: _Seen, file: int, size: int) -> None:
        """Take over what a dead writer left behind the index: what is whole becomes durable and is indexed.

        After a power cut the bytes may not be those of the digest, and a writer must not count on such a chunk.
        """
        read = _reader(file)
        whole = []
        for digest, place in scan(name, read, seen.covered, size):
            data = decode(place.codec, read(place.offset, place.stored_bytes), place.raw_bytes)
            if data is not None and matches(digest, data):
                whole.append((digest, place))
        batch = index_batch(whole, seen.covered or HEADER_BYTES, size)
        try:
            os.fdatasync(file)
            out = os.open(
                self.folder / (name + INDEX_SUFFIX), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            try:
                os.ftruncate(out, seen.index_bytes)
                write_all(out, [batch] if seen.index_bytes else [INDEX_HEADER, batch], seen.index_bytes)
            finally:
                os.close(out)
        except OSError:
            pass  # a folder that may only be read, or a full disk: the next one scans again
        self._take(seen, whole)
        seen.covered = size

    def _read_index(self, name: str, start: int, pack_bytes: int) -> bytes:
        try:
            file = os.open(self.folder / (name + INDEX_SUFFIX), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                size = os.fstat(file).st_size - start
                # An entry takes less room here than there; that of a pack of nothing but its header may be larger.
                return _read_exactly(file, start, size) if 0 < size <= 2 * pack_bytes + 4096 else b""
            finally:
                os.close(file)
        except OSError:  # there is none, or what is there is none; the pack itself tells all
            return b""

    def _take(self, seen: _Seen, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry[1] not in self._bad:
                seen.entries.append(entry)
                self.places[entry[0]] = entry[1]

    def _rebuild(self) -> None:
        places: dict[bytes, Place] = {}
        for seen in self._packs.values():
            places.update(seen.entries)
        self.places = places  # at once: others look things up meanwhile


def _reader(file: int) -> Callable[[int, int], bytes]:
    return lambda offset, most: os.pread(file, most, offset)


def _read_exactly(file: int, start: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.pread(file, size, start)
        if not part:
            break
        parts.append(part)
        start, size = start + len(part), size - len(part)
    return b"".join(parts)
