"""Removes packs that nobody needs, and writes anew what is left of those that are mostly unneeded."""

from __future__ import annotations

import os

from .base import Freed
from .codec import Encoded, decode, matches
from .lease import try_lock
from .manifests import sync_folder
from .pack import HEAD_BYTES, Entry
from .packwriter import INDEX_SUFFIX, NEW_SUFFIX, PackWriter
from .shelf import Shelf

#: A pack of which less is needed is written anew.
_LIVE_SHARE = 0.5
#: So many small packs become one: each process that ever wrote here has left at least one.
_SMALL_PACKS = 16
_SMALL_SHARE = 1 / 8
_BATCH_BYTES = 8 * 1024**2


def sweep(shelf: Shelf, needed: set[bytes], pack_bytes: int) -> Freed:
    """Free the room of chunks that are not needed.

    The caller sees to it that nobody counts on what the shelf holds. Packs of living writers are left alone. What is
    copied is durable before the old pack goes, so a crash leaves chunks twice at worst.
    """
    before, chunks = shelf.stored_bytes(), 0
    rewrite: dict[str, list[Entry]] = {}
    small: dict[str, list[Entry]] = {}
    for name in list(shelf.names()):
        size = _size_if_dead(shelf, name)
        if size is None:
            continue
        entries = shelf.entries(name)
        live = [entry for entry in entries if entry[0] in needed and shelf.places.get(entry[0]) == entry[1]]
        live_bytes = sum(HEAD_BYTES + place.stored_bytes for _, place in live)
        chunks += len(entries) - len(live)
        if not live:
            shelf.remove(name)
        elif live_bytes < _LIVE_SHARE * size:
            rewrite[name] = live
        elif size < _SMALL_SHARE * pack_bytes:
            small[name] = live
        else:
            chunks -= len(entries) - len(live)
    if len(small) >= _SMALL_PACKS:
        rewrite |= small
    else:
        chunks -= sum(len(shelf.entries(name)) - len(live) for name, live in small.items())
    if rewrite:
        _rewrite(shelf, rewrite, pack_bytes)
    _clear_leftovers(shelf)
    return Freed(chunks, max(0, before - shelf.stored_bytes()))


def _size_if_dead(shelf: Shelf, name: str) -> int | None:
    """Size of a pack that no living process writes to."""
    with shelf.opened(name) as file:
        return os.fstat(file).st_size if try_lock(file) else None


def _rewrite(shelf: Shelf, packs: dict[str, list[Entry]], pack_bytes: int) -> None:
    writers: list[PackWriter] = []
    done: list[str] = []
    try:
        for name, entries in packs.items():
            intact = True
            batch: list[Encoded] = []
            size = 0
            with shelf.opened(name) as file:
                for digest, place in entries:
                    payload = os.pread(file, place.stored_bytes, place.offset)
                    data = decode(place.codec, payload, place.raw_bytes)
                    if data is None or not matches(digest, data):
                        intact = False  # the pack stays, for whoever can make more of it
                        continue
                    batch.append(Encoded(digest, place.codec, place.raw_bytes, payload))
                    size += len(payload)
                    if size >= _BATCH_BYTES:
                        _append(shelf, writers, batch, pack_bytes)
                        batch, size = [], 0
            if batch:
                _append(shelf, writers, batch, pack_bytes)
            if intact:
                done.append(name)
        for writer in writers:
            writer.sync()
        sync_folder(shelf.folder)
    except OSError:
        for writer in writers:
            shelf.remove(writer.name)
        raise
    finally:
        for writer in writers:
            writer.close()
    for name in done:
        shelf.remove(name)
    sync_folder(shelf.folder)


def _append(shelf: Shelf, writers: list[PackWriter], batch: list[Encoded], pack_bytes: int) -> None:
    if not writers or writers[-1].size >= pack_bytes:
        writers.append(PackWriter(shelf.folder))
    shelf.add(writers[-1].name, writers[-1].append(batch))


def _clear_leftovers(shelf: Shelf) -> None:
    """Indexes whose pack is gone, and files whose maker died before they had their name."""
    packs = set(shelf.names())
    for path in list(shelf.folder.iterdir()):
        if path.suffix == INDEX_SUFFIX and path.stem not in packs:
            path.unlink(missing_ok=True)
        elif path.suffix == NEW_SUFFIX:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                if try_lock(file):
                    path.unlink(missing_ok=True)
            finally:
                os.close(file)
