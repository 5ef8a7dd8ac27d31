"""What the host of a session gives to the host that is to take it over: manifests, chunks, files, a process image.

Everything here runs in threads, beside the host's loop, and only reads. A connection serves one request after the
other; who may ask was decided before it came here.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ..config import Settings
from ..errors import (
    ChunkMissing,
    GpuaasError,
    MigrationError,
    NoSuchCheckpoint,
    NoSuchSession,
    RemoteProtocolError,
    StoreError,
    TransportError,
)
from ..image.shelf import Place, Shelf, read_known
from ..model import CheckpointPlan
from ..state.listing import owners_address
from ..store import DIGEST_BYTES, FolderStore, Store, open_store
from ..store.base import CHUNK_BYTES
from ..store.blob import chunk_sizes, read_blobs
from ..store.codec import RAW, encode
from ..store.manifest import Blob, GroupEntry
from ..store.peer import REQUEST_CHUNKS
from ..store.seal import validate, validate_record
from ..wire.priority import step_back
from ..wire.transfer import (
    CHUNK,
    CONTENT_TYPE,
    END,
    HEAD_BYTES,
    Incoming,
    error_frame,
    frame,
    frame_around,
    send,
    send_from,
)
from ..wire.unreadable import is_count
from . import files, http

#: Connections of one session at a time.
MOST_CONNECTIONS = 16
#: How long a connection may be silent between two requests, and how long it may not take what is sent.
IDLE_S = 60.0
STALLED_S = 30.0
#: What is read from the store, and then sent, in one go.
_BATCH_BYTES = 4 * CHUNK_BYTES
_BATCH_CHUNKS = 256
#: Smaller chunks are sent together.
_STRAIGHT_BYTES = 64 * 1024
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class TransferRequest(msgspec.Struct, frozen=True):
    """A request whose head was read; ``path`` is what follows ``/transfer/``, ``rest`` what came of its body."""

    method: str
    path: str
    length: int = 0
    rest: bytes = b""
    #: Whether it comes from another machine; None where the connection itself tells.
    far: bool | None = None


class Transfer:
    """What one session gives away.

    Parameters
    ----------
    plan
        Where its checkpoints are; None where it has none.
    work
        The session's own working folder; None where both nodes have the same.
    shelf
        Where there may be a process image of it.
    """

    def __init__(
        self,
        session: str,
        plan: CheckpointPlan | None,
        *,
        work: Path | None,
        settings: Settings,
        shelf: Shelf | None = None,
    ) -> None:
        self._session = session
        self._shelf = shelf or Shelf()
        self._plan = plan
        self._work = work
        self._settings = settings
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._connections: set[socket.socket] = set()
        self._closed = False
        #: Chunks that may be asked for, with their sizes: those that manifests of this session name.
        self._sizes: dict[bytes, int] = {}
        #: Records of groups that were not looked into yet, and all that were ever met, by their digests.
        self._unread: list[GroupEntry] = []
        self._met: set[bytes] = set()

    def serve(self, connection: socket.socket, request: TransferRequest) -> None:
        """Answer this request and those that follow it on the connection, until its end; blocks. Closes it.

        The thread is the connection's own, and steps back: the session is used meanwhile.
        """
        step_back()
        with self._lock:
            full = self._closed or len(self._connections) >= MOST_CONNECTIONS
            self._connections.add(connection)
        try:
            connection.setblocking(True)
            connection.settimeout(STALLED_S)
            if full:
                raise TransportError("the session gives away its state over as many connections as it can.")
            incoming = Incoming(connection, request.rest)
            following: TransferRequest | None = request
            while following is not None:
                self._answer(connection, following, incoming)
                following = self._next(connection, incoming, request.far)
        except GpuaasError as error:
            self._refuse(connection, error)
        except OSError:
            pass  # the other end went, or does not read
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()

    def close(self) -> None:
        """End all connections, and with them the threads that serve them."""
        with self._lock:
            self._closed = True
            connections, store, self._store = list(self._connections), self._store, None
        for connection in connections:
            _shut(connection)
        if store is not None:
            store.close()

    # -- requests ----------------------------------------------------------------------------------------------

    def _next(self, connection: socket.socket, incoming: Incoming, far: bool | None) -> TransferRequest | None:
        """The head of the next request; None when none comes."""
        connection.settimeout(IDLE_S)
        try:
            if incoming.at_end():
                return None
        except TimeoutError:
            return None
        connection.settimeout(STALLED_S)
        words = incoming.line().decode("latin-1").split(" ")
        length = size = 0
        while line := incoming.line():
            size += len(line)
            name, _, value = line.decode("latin-1").partition(":")
            if name.strip().lower() == "content-length":
                if not is_count(value.strip()):
                    raise RemoteProtocolError(f"Content-Length: {value.strip()[:40]!r} is not a number.")
                length = int(value)
            if size > HEAD_BYTES:
                raise RemoteProtocolError(f"the head of the request has more than {HEAD_BYTES} bytes.")
        _, is_ours, path = words[1].partition("/transfer/") if len(words) == 3 else ("", "", "")
        if not is_ours:
            raise RemoteProtocolError("not a request for the state of a session.")
        return TransferRequest(words[0], path, length, far=far)

    def _answer(self, connection: socket.socket, request: TransferRequest, incoming: Incoming) -> None:
        match (request.method, *request.path.split("/")):
            case ("GET", "manifest", name):
                self._body(request, incoming, 0)
                data = self._manifest(name)
                send(connection, [_head("application/octet-stream", len(data)), data])
            case ("POST", "missing"):
                wanted = self._digests(request, incoming)
                known = self._known(wanted)
                absent = b"".join(digest for digest in wanted if digest not in known)
                send(connection, [_head("application/octet-stream", len(absent)), absent])
            case ("POST", "chunks"):
                self._send_chunks(connection, self._digests(request, incoming), packs=_far(connection, request))
            case ("POST", "image", name):
                news = self._shelf.news(name, read_known(self._body(request, incoming, HEAD_BYTES)))
                data = msgspec.msgpack.encode(news)
                send(connection, [_head("application/octet-stream", len(data)), data])
            case ("POST", "files"):
                body = self._body(request, incoming, files.REQUEST_BYTES)
                self._files(connection, body, packs=_far(connection, request))
            case _:
                raise NoSuchSession(f"path: there is no {request.method} {request.path[:80]} to be had here.")

    @staticmethod
    def _body(request: TransferRequest, incoming: Incoming, most_bytes: int) -> bytes:
        if request.length > most_bytes:
            raise RemoteProtocolError(f"body: has {request.length} bytes, at most {most_bytes} are allowed.")
        return incoming.exactly(request.length)

    def _digests(self, request: TransferRequest, incoming: Incoming) -> list[bytes]:
        body = self._body(request, incoming, REQUEST_CHUNKS * DIGEST_BYTES)
        if len(body) % DIGEST_BYTES:
            raise RemoteProtocolError("body: ends with a part of a digest.")
        return [body[at : at + DIGEST_BYTES] for at in range(0, len(body), DIGEST_BYTES)]

    @staticmethod
    def _refuse(connection: socket.socket, error: GpuaasError) -> None:
        try:
            send(connection, [http.error_response(error)])
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def _files(self, connection: socket.socket, body: bytes, *, packs: bool) -> None:
        """The list of files, or the files whose paths the body has."""
        if not body:
            data = files.listed(self._work, self._settings.sync_files, self._settings.sync_bytes)
            send(connection, [_head("application/octet-stream", len(data)), data])
        elif self._work is None:
            raise MigrationError("both nodes have the working folder of this session.")
        else:
            paths = files.wanted_paths(body)
            send(connection, [_head(CONTENT_TYPE)])
            files.send_files(connection, self._work, paths, packs=packs)
            send(connection, [END])

    # -- checkpoints -------------------------------------------------------------------------------------------

    def _manifest(self, name: str) -> bytes:
        if (sealed := self._shelf.manifest(name)) is not None:
            return sealed
        if self._plan is None or not _ID.fullmatch(name):
            raise NoSuchCheckpoint(f"there is no checkpoint {name[:80]!r} of this session.")
        data = self._opened().manifest(name)
        manifest = validate(data, bytes.fromhex(self._plan.key), expected_id=name)
        if manifest.session != self._session:
            raise NoSuchCheckpoint(f"there is no checkpoint {name!r} of this session.")
        with self._lock:
            for entry in (*manifest.groups, *manifest.hidden):
                if entry.record.digests not in self._met:
                    self._met.add(entry.record.digests)
                    self._unread.append(entry)
                    self._sizes.update(chunk_sizes(entry.record))
        return data

    def _known(self, digests: list[bytes]) -> dict[bytes, int]:
        """Chunks that may be given away; records are looked into when somebody asks for what only they can name."""
        with self._lock:
            if self._unread and any(digest not in self._sizes for digest in digests):
                entries, self._unread = self._unread, []
                try:
                    for blob in self._blobs_of(entries):
                        self._sizes.update(chunk_sizes(blob))
                except BaseException:
                    self._unread += entries
                    raise
            return self._sizes

    def _blobs_of(self, entries: list[GroupEntry]) -> Iterator[Blob]:
        for data in read_blobs(self._opened_locked(), [entry.record for entry in entries]):
            record = validate_record(data)
            yield record.stream
            for region in record.regions:
                yield region.content

    def _send_chunks(self, connection: socket.socket, wanted: list[bytes], *, packs: bool) -> None:
        if (lying := self._shelf.find(wanted)) is not None:
            _send_image(connection, wanted, lying, packs=packs)
            return
        known = self._known(wanted)
        unknown = {digest for digest in wanted if digest not in known}
        if unknown:
            raise ChunkMissing(
                f"chunk {min(unknown).hex()} is of no checkpoint of this session that was asked for "
                f"({len(unknown)} in all)."
            )
        store = self._opened()
        send(connection, [_head(CONTENT_TYPE)])
        if isinstance(store, FolderStore):
            for batch in _batches(wanted, known):
                self._send_as_they_lie(connection, store, batch)
            send(connection, [END])
            return
        memory = memoryview(bytearray(min(_BATCH_BYTES, sum(known[digest] for digest in set(wanted)))))
        for batch in _batches(wanted, known):
            places: dict[bytes, memoryview] = {}
            used = 0
            for digest in batch:
                if digest not in places:
                    places[digest] = memory[used : used + known[digest]]
                    used += known[digest]
            try:
                store.fetch(list(places.items()))
            except StoreError as error:
                send(connection, [*error_frame(error), END])
                raise OSError("the store failed") from error
            parts: list[bytes | memoryview] = []
            for digest in batch:
                data = places[digest]
                packed = encode(digest, data) if packs else None
                codec, payload = (packed.codec, memoryview(packed.payload)) if packed else (RAW, data)
                parts += frame(CHUNK, payload, codec=codec, raw_bytes=len(data))
            send(connection, parts)
        send(connection, [END])

    @staticmethod
    def _send_as_they_lie(connection: socket.socket, store: FolderStore, batch: list[bytes]) -> None:
        """Chunks come out of their packs as they are, large ones past our memory; the other end verifies them."""
        try:
            with store.lying(batch) as lying:
                parts: list[bytes | memoryview] = []
                for file, place in lying:
                    start, end = frame_around(CHUNK, place.stored_bytes, codec=place.codec, raw_bytes=place.raw_bytes)
                    if place.stored_bytes < _STRAIGHT_BYTES:
                        parts += (start, os.pread(file, place.stored_bytes, place.offset), end)
                        continue
                    send(connection, [*parts, start])
                    send_from(connection, file, place.offset, place.stored_bytes)
                    parts = [end]
                send(connection, parts)
        except StoreError as error:
            send(connection, [*error_frame(error), END])
            raise OSError("the store failed") from error

    def _opened(self) -> Store:
        with self._lock:
            return self._opened_locked()

    def _opened_locked(self) -> Store:
        if self._closed or self._plan is None:
            raise TransportError("the session has ended here.")
        if self._store is None:
            self._store = open_store(owners_address(self._plan.store, self._plan.owner))
        return self._store


def _send_image(connection: socket.socket, digests: list[bytes], places: list[Place], *, packs: bool) -> None:
    """Chunks of a process image, from the files that it is made of; the other end verifies them."""
    with contextlib.ExitStack() as stack:
        files: dict[Path, int] = {}
        try:
            for place in places:
                if place.path not in files:
                    files[place.path] = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
                    stack.callback(os.close, files[place.path])
        except FileNotFoundError:
            raise ChunkMissing("the process image is not there any more.") from None
        send(connection, [_head(CONTENT_TYPE)])
        for digest, place in zip(digests, places, strict=True):
            if not packs and place.size >= _STRAIGHT_BYTES:
                start, end = frame_around(CHUNK, place.size, codec=RAW, raw_bytes=place.size)
                send(connection, [start])
                send_from(connection, files[place.path], place.at, place.size)
                send(connection, [end])
                continue
            data = os.pread(files[place.path], place.size, place.at)
            packed = encode(digest, data) if packs else None
            codec, payload = (packed.codec, packed.payload) if packed else (RAW, data)
            send(connection, frame(CHUNK, memoryview(payload), codec=codec, raw_bytes=place.size))
        send(connection, [END])


def _batches(wanted: list[bytes], sizes: dict[bytes, int]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for digest in wanted:
        if batch and (size + sizes[digest] > _BATCH_BYTES or len(batch) == _BATCH_CHUNKS):
            yield batch
            batch, size = [], 0
        batch.append(digest)
        size += sizes[digest]
    if batch:
        yield batch


def _head(content_type: str, length: int | None = None) -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n{size}\r\n\r\n".encode()


def _far(connection: socket.socket, request: TransferRequest) -> bool:
    """Whether bytes go over a network, where packing them pays."""
    return not _on_this_machine(connection) if request.far is None else request.far


def _on_this_machine(connection: socket.socket) -> bool:
    """Whether the other end is here, where bytes are cheaper than packing them."""
    if connection.family == socket.AF_UNIX:
        return True
    try:
        return bool(connection.getpeername()[0] == connection.getsockname()[0])
    except OSError:
        return True


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
