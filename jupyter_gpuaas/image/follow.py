"""Bringing an image from the host that makes it, while it is made."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import msgspec

from ..errors import ChunkCorrupt, ImageError, TransportError
from ..model import Peer
from ..store.base import CHUNK_BYTES
from ..store.blob import chunk_sizes
from ..store.peer import PeerStore
from .manifest import ImageManifest
from .pack import create, link_rounds
from .shelf import MOST_PARTS, NEWS_S, Known, News, Part, read_news

#: Of memory, for what has come and is not written yet.
TOGETHER_BYTES = 16 * CHUNK_BYTES
CLOSE_S = 2 * NEWS_S
#: More than an answer with as many parts as it may have.
_NEWS_BYTES = MOST_PARTS * 256


class Follower:
    """Has of an image what its maker has, but for a moment. Implements ``Origin``, for this image.

    A thread fetches what there is and writes it to ``folder``; nothing uses it before ``bring``, which finds out
    whether it is what the sealed manifest names.
    """

    def __init__(self, peer: Peer, image: str, folder: Path) -> None:
        self._peer = peer
        self._image = image
        self._folder = folder
        self._store = PeerStore(peer)
        self._attempt = 0
        self._parts: list[Part] = []
        self._complete = False
        self._sizes: dict[str, int] = {}
        self._changed = threading.Condition()
        self._over = threading.Event()
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None
        self._counted = 0

    def caught_up(self) -> int:
        """Begin to follow, if that has not been done; return when what its maker has now has come.

        Returns
        -------
        The bytes that came since the last call.

        Raises what the peer raises; another call tries again.
        """
        self._start()
        asking = PeerStore(self._peer)
        try:
            now = read_news(asking.news(self._image, _asked(Known(hurry=True)), _NEWS_BYTES))
        finally:
            asking.close()
        # Of an image that is not begun, nothing is known, nor has it an attempt.
        with self._changed:
            self._changed.wait_for(lambda: self._has(now) or self._ended)
            if not self._has(now):
                raise self._error or TransportError("the image is not followed any more.")
        before, self._counted = self._counted, self._store.sent_bytes
        return self._counted - before

    def close(self) -> None:
        """Stop, and remove what has come; blocks for a moment."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)  # it may be waiting for a peer that is silent
        self._store.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- Origin ------------------------------------------------------------------------------------------------

    def manifest(self, image: str) -> bytes:
        return self._store.manifest(image)

    def bring(self, manifest: ImageManifest, folder: Path) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._complete or self._ended)
            if not self._complete:
                raise self._error or TransportError("the image is not followed any more.")
        came: dict[str, list[tuple[bytes, int]]] = {}
        for part in self._parts:
            came.setdefault(part.name, []).append((part.digest, part.size))
        for file in manifest.files:
            if came.pop(file.name, []) != list(chunk_sizes(file.content)):
                raise ChunkCorrupt(f"{file.name} of the image did not come as its maker has sealed it.")
            if not file.content.size:
                os.close(create(self._ready(file.name)))
        if came:
            raise ImageError(f"{min(came)} came with the image, and is not of it.")
        link_rounds(manifest.rounds, self._folder)
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.rename(folder)

    # -- the thread --------------------------------------------------------------------------------------------

    @property
    def _ended(self) -> bool:
        return self._thread is None or self._error is not None or self._complete or self._over.is_set()

    def _has(self, now: News) -> bool:
        return self._attempt > now.attempt or (self._attempt == now.attempt and len(self._parts) >= now.total)

    def _start(self) -> None:
        if self._thread is not None and self._error is not None:
            self._thread.join(CLOSE_S)  # it has told of its error, and is about to end
        if self._thread is None or (self._error is not None and not self._thread.is_alive()):
            # From the beginning: a file may have been written in part.
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(mode=0o700, parents=True)
            self._error, self._attempt, self._parts, self._sizes = None, 0, [], {}
            self._thread = threading.Thread(target=self._run, name="image follower", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        memory = memoryview(bytearray(TOGETHER_BYTES))
        try:
            while not (self._over.is_set() or self._complete):
                asked = _asked(Known(self._attempt, len(self._parts)))
                self._take(read_news(self._store.news(self._image, asked, _NEWS_BYTES)), memory)
        except Exception as error:
            told = f"the image cannot be written to {self._folder}: {error}."
            with self._changed:
                self._error = ImageError(told) if isinstance(error, OSError) else error
                self._changed.notify_all()
        finally:
            self._store.close()

    def _take(self, news: News, memory: memoryview) -> None:
        if news.attempt != self._attempt:
            shutil.rmtree(self._folder)
            self._folder.mkdir(mode=0o700)
            with self._changed:
                self._attempt, self._parts, self._sizes = news.attempt, [], {}
        waiting: list[Part] = []
        size = 0
        for part in news.parts:
            if size + part.size > len(memory):
                self._fetch(waiting, memory)
                waiting, size = [], 0
            waiting.append(part)
            size += part.size
        self._fetch(waiting, memory)
        with self._changed:
            self._complete = news.complete
            self._changed.notify_all()

    def _fetch(self, parts: list[Part], memory: memoryview) -> None:
        """Fetch chunks, which are verified against the digests that were named, and write each file's to its end."""
        if not parts:
            return
        views: list[memoryview] = []
        at = 0
        for part in parts:
            views.append(memory[at : at + part.size])
            at += part.size
        self._store.fetch([(part.digest, view) for part, view in zip(parts, views, strict=True)])
        first = 0
        while first < len(parts):
            name, last = parts[first].name, first
            while last < len(parts) and parts[last].name == name:
                last += 1
            self._write(name, views[first:last])
            first = last
        with self._changed:
            self._parts += parts
            self._changed.notify_all()

    def _write(self, name: str, views: list[memoryview]) -> None:
        known = self._sizes.get(name)
        if known is None:
            known, descriptor = 0, create(self._ready(name))
        else:
            descriptor = os.open(self._folder / name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for view in views:
                while view:
                    count = os.pwrite(descriptor, view, known)
                    known += count
                    view = view[count:]
        finally:
            os.close(descriptor)
        self._sizes[name] = known

    def _ready(self, name: str) -> Path:
        path = self._folder / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        return path


def _asked(known: Known) -> bytes:
    return msgspec.msgpack.encode(known)
