"""An image that lies in the folder in which it is made, for the host that fetches it from there meanwhile.

Nothing is copied for it: a chunk is a place in a file. What is said over the wire is here, too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..errors import RemoteProtocolError
from ..store.base import CHUNK_BYTES, DIGEST_BYTES
from ..wire.unreadable import UNREADABLE
from .manifest import FILE_NAME

#: Parts that one answer names.
MOST_PARTS = 4096
#: How long who asks for more is let wait until there is more.
NEWS_S = 1.0


class Known(msgspec.Struct, frozen=True, array_like=True):
    """What the other end has of an image: so many parts of this attempt at making it."""

    attempt: int = 0
    parts: int = 0
    #: It is to be answered at once.
    hurry: bool = False


class Part(msgspec.Struct, frozen=True, array_like=True):
    """A chunk of a file of an image; those of one file come in their order."""

    name: str
    size: int
    digest: bytes


class News(msgspec.Struct, frozen=True, array_like=True):
    """What there is more. Of another attempt than the one that was known, all of it counts from the beginning."""

    attempt: int
    parts: tuple[Part, ...]
    #: All parts there are, and whether there will be more.
    total: int
    complete: bool


class Place(NamedTuple):
    """Where a chunk lies."""

    path: Path
    at: int
    size: int


class Shelf:
    """The image that a host makes, if it makes one. Implements ``Sink``; used from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._image = ""
        self._attempt = 0
        self._folder = Path()
        self._parts: list[Part] = []
        self._places: dict[bytes, Place] = {}
        self._manifest: bytes | None = None
        self._closed = False

    def begin(self, image: str, folder: Path) -> None:
        with self._changed:
            self._empty()
            self._image, self._folder, self._attempt = image, folder, self._attempt + 1

    def put(self, name: str, at: int, chunks: Sequence[tuple[bytes, bytes]]) -> None:
        with self._changed:
            for digest, data in chunks:
                self._parts.append(Part(name, len(data), digest))
                self._places.setdefault(digest, Place(self._folder / name, at, len(data)))
                at += len(data)
            self._changed.notify_all()

    def commit(self, image: str, manifest: bytes) -> None:
        with self._changed:
            self._manifest = manifest
            self._changed.notify_all()

    def clear(self) -> None:
        """There is no image any more."""
        with self._changed:
            self._empty()

    def close(self) -> None:
        """Nobody is to wait for more."""
        with self._changed:
            self._closed = True
            self._empty()

    # -- for who fetches it ------------------------------------------------------------------------------------

    def news(self, image: str, known: Known) -> News:
        """What there is more than is known; waits a moment for that, also for the image itself."""
        until_s = time.monotonic() + (0.0 if known.hurry else NEWS_S)
        with self._changed:
            while True:
                news = self._news(image, known)
                left_s = until_s - time.monotonic()
                if news.parts or news.complete or news.attempt != known.attempt or self._closed or left_s <= 0:
                    return news
                self._changed.wait(left_s)

    def manifest(self, image: str) -> bytes | None:
        """The sealed manifest of this image; None before all of it is here."""
        with self._changed:
            return self._manifest if image == self._image else None

    def find(self, digests: Sequence[bytes]) -> list[Place] | None:
        """Where these chunks lie; None if one is of no image here."""
        with self._changed:
            places = [self._places.get(digest) for digest in digests]
        found = [place for place in places if place is not None]
        return found if len(found) == len(places) and found else None

    # -- inside ------------------------------------------------------------------------------------------------

    def _news(self, image: str, known: Known) -> News:
        if image != self._image:
            return News(known.attempt, (), known.parts, False)
        first = known.parts if known.attempt == self._attempt else 0
        parts = tuple(self._parts[first : first + MOST_PARTS])
        complete = self._manifest is not None and first + len(parts) == len(self._parts)
        return News(self._attempt, parts, len(self._parts), complete)

    def _empty(self) -> None:
        self._image, self._parts, self._places, self._manifest = "", [], {}, None
        self._changed.notify_all()


_known_decoder = msgspec.msgpack.Decoder(Known)
_news_decoder = msgspec.msgpack.Decoder(News)


def read_known(data: bytes) -> Known:
    """What the other end says that it has; raises RemoteProtocolError."""
    try:
        return _known_decoder.decode(data)
    except UNREADABLE as error:
        raise RemoteProtocolError(f"body: cannot be read: {error}.") from error


def read_news(data: bytes) -> News:
    """What a peer says that there is more; raises RemoteProtocolError, also for names and sizes that no part has."""
    try:
        news = _news_decoder.decode(data)
    except UNREADABLE as error:
        raise RemoteProtocolError(f"what the peer says of an image cannot be read: {error}.") from error
    for part in news.parts:
        if not FILE_NAME.fullmatch(part.name) or not 0 < part.size <= CHUNK_BYTES or len(part.digest) != DIGEST_BYTES:
            raise RemoteProtocolError(f"the peer names {part.name[:80]!r}, {part.size} bytes, as part of an image.")
    return news
