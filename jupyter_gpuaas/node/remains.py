"""What a host that is gone has left on its node's disk, for the host that takes its session over.

Journal, working folder, and the handover if there was one. A host that died has handed nothing over: what can be known
of its requests is in its journal. Remains that nobody ordered are given up after an hour.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from ..config import Settings
from ..errors import MigrationError, NoSuchSession, RemoteProtocolError
from ..lifecycle.node_loss import CELLS_TOLD, sort_out
from ..model import CellRuns, Channel, Handover, HeldRequest
from ..wire.jupyter import read_count, read_header, read_subshell
from ..wire.record import Kind, Record, RecordReader, skim
from ..wire.unreadable import UNREADABLE, is_count
from .cell_runs import runs_of
from .held import HANDOVER
from .journal import Journal
from .succession import serve_handover, serve_journal, serve_source
from .transfer import Transfer, TransferRequest
from .unanswered import HEAD_PARTS, Unanswered

KEPT_S = 3600.0
NOTE = "remains.json"
#: In a message that tells that a cell has ended.
IDLE = b'"idle"'
#: Where a record's head has its kind.
KIND_AT = 4


class Remains(msgspec.Struct, frozen=True):
    """Of one session, and what tickets for them are checked with."""

    session_id: str
    epoch: int
    secret: str
    since_s: float
    #: Somebody said that they are to stay: until somebody says that they may go.
    ordered: bool = False

    def __repr__(self) -> str:
        return f"Remains(session_id={self.session_id!r}, epoch={self.epoch})"


class Shelf:
    """The remains on one node. Its methods may be called from any thread."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder = folder
        self._settings = settings
        self._lock = threading.Lock()
        self._journals: dict[str, Journal] = {}
        self._transfers: dict[str, Transfer] = {}

    def add(self, remains: Remains, session_folder: Path) -> None:
        """Take a session's folder, unless there is no journal in it."""
        if not (session_folder / "journal").is_dir():
            return
        self.drop(remains.session_id)
        self._write(remains, session_folder)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        with self._lock:
            session_folder.rename(self._folder / remains.session_id)

    def get(self, session_id: str) -> Remains | None:
        try:
            return msgspec.json.decode((self._folder / session_id / NOTE).read_bytes(), type=Remains)
        except (OSError, *UNREADABLE):
            return None

    def order(self, session_id: str, epoch: int) -> bool:
        """Keep them until they are dropped; False where there are none of this epoch."""
        remains = self.get(session_id)
        if remains is None or remains.epoch != epoch:
            return False
        self._write(msgspec.structs.replace(remains, ordered=True), self._folder / session_id)
        return True

    def drop(self, session_id: str, *, up_to: int | None = None) -> None:
        """Remove them, if there are any.

        Parameters
        ----------
        up_to
            Epoch of the host that has left them, as whoever asks knows it: what a later one has left stays.
        """
        gone = self._folder / f".{session_id}.{secrets.token_hex(4)}"
        with self._lock:
            remains = self.get(session_id) if up_to is not None else None
            if remains is not None and up_to is not None and remains.epoch > up_to:
                return
            self._journals.pop(session_id, None)
            transfer = self._transfers.pop(session_id, None)
            with contextlib.suppress(FileNotFoundError):
                (self._folder / session_id).rename(gone)
        if transfer is not None:
            transfer.close()
        shutil.rmtree(gone, ignore_errors=True)

    def expire(self, now_s: float) -> None:
        """Remove what nobody has asked for in time, and what cannot be read."""
        for path in list(self._folder.iterdir()) if self._folder.is_dir() else []:
            if path.name.startswith("."):  # who dropped it did not come to the end
                shutil.rmtree(path, ignore_errors=True)
                continue
            remains = self.get(path.name)
            if remains is None or (not remains.ordered and not 0 <= now_s - remains.since_s <= KEPT_S):
                self.drop(path.name)

    def close(self) -> None:
        with self._lock:
            transfers = list(self._transfers.values())
        for transfer in transfers:
            transfer.close()

    def serve(self, remains: Remains, connection: socket.socket, passed: dict[str, Any], rest: bytes) -> None:
        """Answer a successor's request; blocks, closes the connection.

        Raises
        ------
        GpuaasError
            Nothing was sent yet: that is to be the answer.
        """
        method, path = passed["method"], passed["path"]
        if path == "files":
            asked = TransferRequest(method, path, passed["length"], rest, passed.get("far"))
            self._transfer(remains).serve(connection, asked)
            return
        if (method, path) == ("GET", "source"):
            serve_source(connection, remains=True)
        elif (method, path) == ("GET", "journal"):
            after = passed["query"].get("after", "0")
            if not is_count(after):
                raise RemoteProtocolError("after: is not a number.")
            serve_journal(connection, self._journal(remains).copy(int(after)))
        elif (method, path) == ("GET", "handover"):
            image = passed["query"].get("image") == "1"
            serve_handover(connection, self._handover(remains, image=image))
        else:
            raise NoSuchSession("remains: the host is gone; its checkpoints are in their store only.")
        connection.close()

    def cells(self, remains: Remains, after: str, of: str) -> CellRuns:
        """What the journal has of the notebook's cells, while no host has it; blocks."""
        journal = self._journal(remains)
        copy = journal.copy(journal.first - 1)
        return runs_of(copy, self._settings.message_bytes, after=after, of=of)

    def _transfer(self, remains: Remains) -> Transfer:
        with self._lock:
            if remains.session_id not in self._transfers:
                work = self._folder / remains.session_id / "work"
                self._transfers[remains.session_id] = Transfer(
                    remains.session_id, None, work=work if work.is_dir() else None, settings=self._settings
                )
            return self._transfers[remains.session_id]

    def _journal(self, remains: Remains) -> Journal:
        with self._lock:
            if remains.session_id not in self._journals:
                self._journals[remains.session_id] = Journal(
                    self._folder / remains.session_id / "journal",
                    most_bytes=self._settings.journal_bytes,
                    segment_bytes=self._settings.journal_segment_bytes,
                    message_bytes=self._settings.message_bytes,
                    memory_bytes=self._settings.waiting_bytes,
                )
            return self._journals[remains.session_id]

    def _handover(self, remains: Remains, *, image: bool) -> Handover:
        journal = self._journal(remains)
        try:
            data = (self._folder / remains.session_id / HANDOVER).read_bytes()
        except OSError:
            return handover_of(journal, self._settings.message_bytes)
        try:
            handover = msgspec.msgpack.decode(data, type=Handover)
        except UNREADABLE as error:
            raise MigrationError(f"what the host has left cannot be read: {error}.") from error
        if (handover.journal, handover.last) != (journal.id, journal.last):
            raise MigrationError("the journal that the host has left is not the one that it handed over.")
        return given(handover, journal, self._settings.message_bytes, image=image)

    @staticmethod
    def _write(remains: Remains, folder: Path) -> None:
        temporary = folder / f"{NOTE}.new"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.encode(remains))
        temporary.replace(folder / NOTE)


def note(session_id: str, epoch: int, secret: str, *, ordered: bool) -> Remains:
    """Remains of a host that ends now."""
    return Remains(session_id, epoch, secret, time.time(), ordered)


def given(handover: Handover, journal: Journal, message_bytes: int, *, image: bool) -> Handover:
    """What a successor gets, by whether it has the image of the kernel, if one was handed over.

    Who begins with a checkpoint lacks what has been since, and its user is to be told.
    """
    return handover if image or not handover.imaged else handover_of(journal, message_bytes)


def handover_of(journal: Journal, message_bytes: int) -> Handover:
    """What a host would have handed over, as far as its journal tells: cells only, and what became of them.

    A cell that was not answered has begun if the kernel said so, and may have begun without a word if no older one in
    its shell was unanswered.
    """
    cells = Unanswered(message_bytes)
    seen: dict[bytes, None] = {}
    answered: deque[int] = deque(maxlen=CELLS_TOLD)
    unended: dict[str, bytes] = {}
    for record in _records(journal, 0, message_bytes, {Kind.REQUEST, Kind.SHELL}):
        cells.take(record.kind, record.number, record.parts)
        if record.kind is Kind.REQUEST:
            seen[xxhash.xxh3_128_digest(record.parts[1])] = None
            continue
        with contextlib.suppress(*UNREADABLE):
            if read_header(record.parts[1]).msg_type == "execute_reply":
                parent = bytes(record.parts[2])
                unended[read_header(parent).msg_id] = parent
                if count := read_count(record.parts[4]):
                    answered.append(count)
    seen.update((xxhash.xxh3_128_digest(cell.parts[1]), None) for cell in cells.cells.values())
    _forget_ended(unended, journal, message_bytes)
    begun = _begun(cells, journal, message_bytes)
    requests = {msg_id: HeldRequest(Channel.SHELL, cell.parts) for msg_id, cell in cells.cells.items()}
    broken, held = sort_out(((msg_id, read_subshell(request.parts[1])) for msg_id, request in requests.items()), begun)
    # Of some that may be run nobody knows any more what they are.
    broken += [msg_id for msg_id in held if len(requests[msg_id].parts) == HEAD_PARTS]
    return Handover(
        journal=journal.id,
        last=journal.last,
        acknowledged=journal.acknowledged,
        sent=journal.last,
        inboxes={},
        losses=journal.losses,
        seen=tuple(seen),
        held=tuple(requests[msg_id] for msg_id in held if msg_id not in broken),
        broken=tuple(requests[msg_id] for msg_id in broken),
        answered=tuple(answered),
        unended=tuple(unended.values()),
        whole=False,
        kernel_starts=1,
    )


def _begun(cells: Unanswered, journal: Journal, message_bytes: int) -> set[str]:
    """Of which of them the kernel has said anything."""
    begun = {msg_id for msg_id, cell in cells.cells.items() if cell.begun}
    if cells.cells:
        first = min(cell.number for cell in cells.cells.values())
        for record in _records(journal, first, message_bytes, {Kind.IOPUB}):
            with contextlib.suppress(*UNREADABLE):  # a cell can send what it likes there
                begun.add(read_header(record.parts[2]).msg_id)
    return begun


def _forget_ended(answered: dict[str, bytes], journal: Journal, message_bytes: int) -> None:
    """What is left are cells whose host died between their reply and the word that they have ended.

    Clients wait for both, which come in any order.
    """
    for record in _records(journal, 0, message_bytes, {Kind.IOPUB}, holding=IDLE) if answered else ():
        with contextlib.suppress(*UNREADABLE):
            if read_header(record.parts[1]).msg_type == "status" and IDLE in bytes(record.parts[4]):
                answered.pop(read_header(record.parts[2]).msg_id, None)


def _records(
    journal: Journal, after: int, message_bytes: int, kinds: Collection[Kind], *, holding: bytes = b""
) -> Iterator[Record]:
    """Records of some kinds that hold some bytes; the others are passed over by their heads."""
    waiting = bytearray()
    for piece in journal.copy(after).pieces():
        waiting += piece
        whole = 0
        for offset, _, size in skim(waiting):
            whole = offset + size
        data = bytes(memoryview(waiting)[:whole])
        view = memoryview(data)
        del waiting[:whole]
        for offset, _, size in skim(data):
            if data[offset + KIND_AT] in kinds and data.find(holding, offset, offset + size) >= 0:
                yield from RecordReader(message_bytes).feed(view[offset : offset + size])
