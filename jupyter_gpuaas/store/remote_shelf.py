"""What the packs at a URL hold, as far as this process has looked."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .objects import Objects
from .pack import Entry, Place, read_index, scan
from .packwriter import INDEX_SUFFIX, PACK_SUFFIX

_NAME = re.compile(r"[0-9a-f]{32}")
#: Larger objects are none of ours.
_LARGEST_PACK = 4 * 1024**3


def pack_path(name: str) -> str:
    return f"packs/{name}{PACK_SUFFIX}"


def index_path(name: str) -> str:
    return f"packs/{name}{INDEX_SUFFIX}"


class RemoteShelf:
    """All packs at one URL. Not for several threads at once."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self.places: dict[bytes, Place] = {}
        #: Packs that have arrived -> their size.
        self.packs: dict[str, int] = {}
        self._entries: dict[str, list[Entry]] = {}
        self._bad: set[Place] = set()

    def sync(self) -> None:
        """See what others have added and removed."""
        sizes = self._objects.sizes("packs")
        here = {}
        for path, size in sizes.items():
            name, dot, suffix = path.partition(".")
            if _NAME.fullmatch(name) and dot + suffix == PACK_SUFFIX and size <= _LARGEST_PACK:
                here[name] = size
        for name in self.packs.keys() - here.keys():
            self._entries.pop(name, None)
        # A place that shows an object while it is being written shows another size later.
        for name, size in here.items():
            if self.packs.get(name) != size and (name in self.packs or name not in self._entries):
                self._entries[name] = self._look(name, size, sizes.get(name + INDEX_SUFFIX, 0))
        self.packs = here
        self._rebuild()

    def add(self, entry: Entry) -> None:
        """Take in what this process is writing."""
        self._entries.setdefault(entry[1].pack, []).append(entry)
        self.places[entry[0]] = entry[1]

    def drop(self, name: str) -> None:
        """Forget a pack."""
        self._entries.pop(name, None)
        self.packs = {other: size for other, size in self.packs.items() if other != name}
        self._rebuild()

    def discard(self, places: Iterable[Place]) -> None:
        gone = set(places)
        for name in {place.pack for place in gone} & self._entries.keys():
            self._entries[name] = [entry for entry in self._entries[name] if entry[1] not in gone]
        self._rebuild()

    def distrust(self, places: Iterable[Place]) -> None:
        """Forget entries for good whose bytes are damaged."""
        damaged = list(places)
        self._bad.update(damaged)
        self.discard(damaged)

    def entries(self, name: str) -> list[Entry]:
        return self._entries.get(name, [])

    def search(self, digests: set[bytes]) -> dict[bytes, Place]:
        """Look for chunks in the packs themselves, past all indexes: slow, for when an index is damaged."""
        found: dict[bytes, Place] = {}
        for name, size in self.packs.items():
            for digest, place in self._scan(name, size):
                if digest in digests and place not in self._bad:
                    found[digest] = place
        return found

    def _look(self, name: str, size: int, index_bytes: int) -> list[Entry]:
        index = self._objects.read(index_path(name)) if index_bytes <= 2 * size + 4096 else None
        entries, covered, _ = read_index(name, index or b"", size)
        if covered < size:
            entries = self._scan(name, size)
        return [entry for entry in entries if entry[1] not in self._bad]

    def _scan(self, name: str, size: int) -> list[Entry]:
        return list(scan(name, lambda at, most: self._objects.read(pack_path(name), at, at + most) or b"", 0, size))

    def _rebuild(self) -> None:
        places: dict[bytes, Place] = {}
        for entries in self._entries.values():
            places.update(entries)
        self.places = places  # at once: others look things up meanwhile
