"""What another host's store has of one session, read over the network."""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from ..errors import ChunkCorrupt, RemoteProtocolError, StoreError, TransportError
from ..model import Peer
from ..wire.priority import step_back
from ..wire.transfer import CHUNK, Frame, PeerLink
from .base import CHUNK_BYTES, DIGEST_BYTES, Buffer, Freed, Objection, Usage, Written, no_objection
from .codec import RAW, decode, matches
from .manifests import MANIFEST_BYTES, no_such

#: What one request asks for at most, and so many digests.
REQUEST_BYTES = 64 * 1024**2
REQUEST_CHUNKS = 16_384
#: How many work at the same time on large fetches. Of two cores a third one would take more from the user's cells, and
#: bring nothing.
_CONNECTIONS = min(3, max(2, os.cpu_count() or 1))
#: Less is not worth a connection of its own.
_LEAST_BYTES = 4 * CHUNK_BYTES
#: So often in a row a connection may break without a chunk having come.
ATTEMPTS = 4
_PAUSE_S = 0.1
#: How often who waits for the others looks whether it was interrupted.
_LOOK_UP_S = 0.2
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

#: Chunks that are still to come, in the order in which they are asked for.
_Batch = deque[tuple[bytes, memoryview]]


class PeerStore:
    """The checkpoints of one session at the host that runs it, for reading; chunks of a manifest that was asked for.

    A connection that breaks is opened again, and what had not come is asked for again. Beside ``StoreError``s, methods
    raise ``TransportError`` for a peer that cannot be reached, ``RemoteProtocolError`` for one that breaks the
    protocol, and what it refuses with, such as ``StaleEpoch``.

    Parameters
    ----------
    connections
        How many work at the same time on large fetches.
    timeout_s
        How long the peer may be silent.
    came
        Called with each chunk that has come and is right, in the thread that has it: the processor has it at hand.
    """

    def __init__(
        self,
        peer: Peer,
        *,
        connections: int = _CONNECTIONS,
        timeout_s: float = 30.0,
        came: Callable[[bytes, memoryview], None] = lambda digest, memory: None,
    ) -> None:
        self.peer = peer
        self._came = came
        #: All that came from the peer.
        self.sent_bytes = 0
        self._connections = connections
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._idle: list[PeerLink] = []

    # -- the protocol, as far as it only reads -----------------------------------------------------------------

    def missing(self, digests: Iterable[bytes]) -> set[bytes]:
        """Which of these chunks no manifest names that this peer was asked for."""
        wanted = list(dict.fromkeys(digests))
        found: set[bytes] = set()
        for start in range(0, len(wanted), REQUEST_CHUNKS):
            part = wanted[start : start + REQUEST_CHUNKS]
            data = self._whole("POST", "missing", b"".join(part), len(part) * DIGEST_BYTES)
            if len(data) % DIGEST_BYTES:
                raise RemoteProtocolError("the peer answers with a part of a digest.")
            found.update(data[at : at + DIGEST_BYTES] for at in range(0, len(data), DIGEST_BYTES))
        return found & set(wanted)

    def fetch(self, wanted: Sequence[tuple[bytes, memoryview]]) -> None:
        first: dict[bytes, memoryview] = {}
        again: list[tuple[memoryview, memoryview]] = []
        for digest, memory in wanted:
            flat = memory.cast("B") if memory.format != "B" or memory.ndim != 1 else memory
            known = first.setdefault(digest, flat)
            if known is not flat:
                again.append((known, flat))
        self._fetch(first)
        for source, target in again:
            if len(source) != len(target):
                raise ChunkCorrupt("one chunk was asked for in two lengths.")
            target[:] = source

    def manifest(self, manifest_id: str) -> bytes:
        if not _ID.fullmatch(manifest_id):
            raise no_such(manifest_id)
        return self._whole("GET", f"manifest/{manifest_id}", b"", MANIFEST_BYTES)

    def news(self, image: str, known: bytes, most_bytes: int) -> bytes:
        """What there is of a process image beside what is known, which is for ``image.follow`` to say."""
        if not _ID.fullmatch(image):
            raise no_such(image)
        return self._whole("POST", f"image/{image}", known, most_bytes)

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for link in idle:
            link.close()

    # -- and what it does not ----------------------------------------------------------------------------------

    def put(self, chunks: Iterable[tuple[bytes, Buffer]]) -> Written:
        self._refuse()

    def commit(self, manifest_id: str, manifest: bytes, *, unless: Objection = no_objection) -> None:
        self._refuse()

    def manifests(self) -> list[str]:
        self._refuse()

    def rewrite(self, manifest_id: str, manifest: bytes) -> None:
        self._refuse()

    def forget(self, manifest_id: str) -> None:
        self._refuse()

    def collect(self, references: Callable[[bytes], Iterable[bytes]]) -> Freed:
        self._refuse()

    def usage(self) -> Usage:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise StoreError("at another host, checkpoints can only be read, each by its id.")

    # -- asking ------------------------------------------------------------------------------------------------

    def _whole(self, method: str, name: str, body: bytes, most_bytes: int) -> bytes:
        failures = 0
        while True:
            link = None
            try:
                link = self._link()
                link.ask(method, name, body)
                data = link.whole(most_bytes)
            except BaseException as error:
                if link is not None:
                    link.close()
                failures += 1
                if not isinstance(error, TransportError) or failures >= ATTEMPTS:
                    raise
                threading.Event().wait(_pause_s(failures))
            else:
                self._keep(link)
                return data

    def _fetch(self, wanted: dict[bytes, memoryview]) -> None:
        batches = _batches(wanted, self._connections)
        if not batches:
            return
        work = _Work(batches)
        if len(batches) == 1:
            self._work(work)
        else:
            threads = [
                threading.Thread(target=self._work_beside, args=(work,), name="gpuaas-fetch", daemon=True)
                for _ in range(min(self._connections, len(batches)))
            ]
            try:
                for thread in threads:
                    thread.start()
                for thread in threads:
                    while thread.is_alive():
                        thread.join(_LOOK_UP_S)
            except BaseException as error:  # an interrupt
                work.fail(error)
                for thread in threads:
                    if thread.ident is not None:
                        thread.join()  # what they write to is the caller's
        if work.error is not None:
            raise work.error

    def _work_beside(self, work: _Work) -> None:
        step_back()
        self._work(work)

    def _work(self, work: _Work) -> None:
        link: PeerLink | None = None
        while (batch := work.next()) is not None:
            try:
                if link is None:
                    link = self._link()
                work.uses(link)
                _read_chunks(link, batch, work, self._came)
            except TransportError as error:
                if link is not None:
                    link.close()
                    link = None
                work.again(batch, error)
            except BaseException as error:
                if link is not None:
                    link.close()
                work.fail(error)
                if not isinstance(error, Exception):
                    raise
                return
        if link is not None:
            work.leaves(link)
            self._keep(link)

    def _link(self) -> PeerLink:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return PeerLink(self.peer, timeout_s=self._timeout_s, counted=self._count)

    def _keep(self, link: PeerLink) -> None:
        with self._lock:
            if len(self._idle) < self._connections:
                self._idle.append(link)
                return
        link.close()

    def _count(self, received: int) -> None:
        with self._lock:
            self.sent_bytes += received


class _Work:
    """What several threads fetch together."""

    def __init__(self, batches: Iterable[_Batch]) -> None:
        self._lock = threading.Lock()
        self._batches = deque(batches)
        self._links: set[PeerLink] = set()
        self._failures = 0
        self._over = threading.Event()
        self.error: BaseException | None = None

    def next(self) -> _Batch | None:
        with self._lock:
            return self._batches.popleft() if self._batches and self.error is None else None

    def uses(self, link: PeerLink) -> None:
        with self._lock:
            self._links.add(link)
            if self.error is not None:
                link.close()

    def leaves(self, link: PeerLink) -> None:
        with self._lock:
            self._links.discard(link)

    def came(self) -> None:
        """A chunk is there."""
        self._failures = 0

    def again(self, batch: _Batch, error: TransportError) -> None:
        """A connection broke: what is left of a batch is for whoever is free, after a pause, if that makes sense."""
        with self._lock:
            self._failures += 1
            failures = self._failures
            self._batches.append(batch)
        if failures >= ATTEMPTS:
            self.fail(error)
        else:
            self._over.wait(_pause_s(failures))

    def fail(self, error: BaseException) -> None:
        with self._lock:
            if self.error is None:
                self.error = error
            links = list(self._links)
        self._over.set()
        for link in links:
            link.close()


def _pause_s(failures: int) -> float:
    # At once the first time: a connection that was kept may have been closed at the other end.
    return _PAUSE_S * float(2 ** (failures - 1) - 1)


def _batches(wanted: dict[bytes, memoryview], connections: int) -> list[_Batch]:
    total = sum(len(memory) for memory in wanted.values())
    most = min(REQUEST_BYTES, max(_LEAST_BYTES, -(-total // (2 * connections))))
    found: list[_Batch] = []
    size = 0
    for digest, memory in wanted.items():
        if not found or size + len(memory) > most or len(found[-1]) == REQUEST_CHUNKS:
            found.append(deque())
            size = 0
        found[-1].append((digest, memory))
        size += len(memory)
    return found


def _read_chunks(link: PeerLink, batch: _Batch, work: _Work, came: Callable[[bytes, memoryview], None]) -> None:
    """Ask for a batch; what has come and is what it should be is taken from it."""
    link.ask("POST", "chunks", b"".join(digest for digest, _ in batch))
    while batch:
        digest, memory = batch[0]
        found = link.frame()
        if found is None or found.kind != CHUNK:
            raise RemoteProtocolError(f"the peer's answer ends before the chunk {digest.hex()}.")
        _read_chunk(link, found, digest, memory)
        came(digest, memory)
        batch.popleft()
        work.came()
    if link.frame() is not None:
        raise RemoteProtocolError("the peer sends more chunks than it was asked for.")


def _read_chunk(link: PeerLink, found: Frame, digest: bytes, memory: memoryview) -> None:
    if found.raw_bytes != len(memory):
        raise ChunkCorrupt(f"chunk {digest.hex()} has {found.raw_bytes} bytes, not {len(memory)} as expected.")
    if found.codec == RAW and found.length == len(memory):
        link.payload_into(memory)
    else:
        data = decode(found.codec, link.payload(), found.raw_bytes) if found.length < found.raw_bytes else None
        if data is None:
            raise ChunkCorrupt(f"chunk {digest.hex()} comes packed in a way that cannot be undone.")
        memory[:] = data
    if not matches(digest, memory):
        raise ChunkCorrupt(f"chunk {digest.hex()} is not what its digest says.")
