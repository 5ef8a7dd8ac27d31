"""The way in to a session's host: channels, bundles, logs, and what its successor fetches."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import time
from pathlib import Path
from typing import Any, Protocol

import msgspec

from ..config import Settings
from ..errors import (
    GpuaasError,
    MigrationError,
    NoSuchSession,
    RemoteProtocolError,
    TransportError,
    Unauthorized,
)
from ..image.shelf import Shelf
from ..wire import ticket
from ..wire.record import RecordReader
from ..wire.unreadable import is_count
from . import http
from .cell_runs import runs_of
from .journal import Journal
from .remains import given
from .session_host import SessionHost
from .succession import serve_handover, serve_journal, serve_source
from .threads import in_thread
from .transcript import as_text
from .transfer import Transfer, TransferRequest

#: How long a bundle waits for the end of a standstill; its client waits a little longer.
BUNDLE_PATIENCE_S = 45.0


class Inside(Protocol):
    """The host, as its door needs it."""

    settings: Settings
    session: SessionHost | None
    #: Where there may be an image of its kernel.
    shelf: Shelf

    @property
    def work(self) -> Path:
        """The session's working folder."""

    def task(self, coroutine: Any) -> asyncio.Task[Any]:
        """Run beside everything else, until the host ends."""


class Door:
    """Lets clients in, and successors."""

    def __init__(self, host: Inside) -> None:
        self._host = host
        self._transfers = 0
        self._transfer: Transfer | None = None

    def close(self) -> None:
        """End what successors are given."""
        if self._transfer is not None:
            self._transfer.close()

    async def accept(self, listener: socket.socket) -> None:
        """Take connections of clients, passed by descriptor; never returns."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                passing, _ = await loop.sock_accept(listener)
            except OSError:  # no descriptor is free at the moment
                await asyncio.sleep(0.1)
                continue
            with passing:
                passing.setblocking(True)
                passing.settimeout(5)
                try:
                    data, descriptors, _, _ = socket.recv_fds(passing, 1 << 17, 1)
                except OSError:
                    continue
            for descriptor in descriptors:
                connection = socket.socket(fileno=descriptor)
                try:
                    passed = msgspec.json.decode(data)
                except msgspec.DecodeError:
                    connection.close()  # cut short: larger than a datagram
                    continue
                self._host.task(self._serve(connection, passed))

    async def _serve(self, connection: socket.socket, passed: dict[str, Any]) -> None:
        connection.setblocking(False)
        try:
            session = self._host.session
            if session is None:
                raise NoSuchSession("this host has no session.")
            kind = passed["kind"]
            if kind == "log":
                await self._send_log(connection, session, passed)
                return
            if kind == "cells":
                await self._send_cells(connection, session, passed)
                return
            spec = session.spec
            user = ticket.check(
                passed["ticket"],
                spec.secret,
                session_id=spec.session_id,
                epoch=spec.lease.epoch,
                now_s=time.time(),
            )
            if (user == ticket.TRANSFER_USER) != (kind == "transfer"):
                raise Unauthorized("ticket: is not for this.")
            if kind == "transfer":
                await self._serve_transfer(connection, session, passed)
            elif kind == "channel":
                head, rest = (base64.b64decode(passed[name]) for name in ("head", "rest"))
                client, after, journal = passed["client"], passed["after"], passed.get("journal", "")
                await session.attach(connection, head, rest, client, after, journal, passed.get("epoch"))
            else:
                if passed["method"] == "PUT" or session.standstill.sealed:
                    # It belongs to a cell that comes behind it, which may run on another host.
                    await session.standstill.decided(BUNDLE_PATIENCE_S)
                if session.kernel is None or not session.is_here:
                    raise NoSuchSession("the session has no kernel at the moment.")
                await asyncio.to_thread(_pass_on, session.kernel.data_socket, passed, connection)
                connection.close()
        except (GpuaasError, OSError) as error:
            known = error if isinstance(error, GpuaasError) else RemoteProtocolError(str(error))
            with contextlib.suppress(OSError):
                await asyncio.get_running_loop().sock_sendall(connection, http.error_response(known))
            connection.close()

    async def _serve_transfer(self, connection: socket.socket, session: SessionHost, passed: dict[str, Any]) -> None:
        """Serve the successor of this host, in a thread of its own."""
        method, path, query = passed["method"], passed["path"], passed["query"]
        if session.stands_by:
            raise MigrationError("the session has not arrived here yet.")
        if path not in ("journal", "handover", "source"):
            body = base64.b64decode(passed["rest"])
            asked = TransferRequest(method, path, passed["length"], body, passed.get("far"))
            # It goes on with further requests on this connection, and closes it.
            await in_thread(self._state(session).serve, connection, asked, name="serve-state")
            return
        if self._transfers >= self._host.settings.transfers_at_once:
            raise TransportError("too many connections of a successor are open already.")
        self._transfers += 1
        try:
            if method != "GET":
                raise NoSuchSession(f"path: there is no {method} transfer/{path}.")
            if path == "journal":
                after = query.get("after", "0")
                if not is_count(after):
                    raise RemoteProtocolError("after: is not a number.")
                await session.settled()
                await in_thread(serve_journal, connection, session.journal.copy(int(after)), name="serve-journal")
            elif path == "source":
                await in_thread(lambda: serve_source(connection, remains=False), name="serve-source")
            else:
                handover = session.standstill.handover
                if handover is None:
                    raise MigrationError("the session has not been handed over.")
                image, most = query.get("image") == "1", self._host.settings.message_bytes
                # Nothing is added to a journal that was handed over, so it is read in a thread.
                await in_thread(
                    lambda: serve_handover(connection, given(handover, session.journal, most, image=image)),
                    name="serve-handover",
                )
            connection.close()
        finally:
            self._transfers -= 1

    def _state(self, session: SessionHost) -> Transfer:
        """What gives checkpoints and files away."""
        if self._transfer is None:
            own = session.folder / "work"
            work = own if self._host.work == own else None
            plan = session.spec.checkpoints
            self._transfer = Transfer(
                session.spec.session_id, plan, work=work, settings=self._host.settings, shelf=self._host.shelf
            )
        return self._transfer

    async def _send_log(self, connection: socket.socket, session: SessionHost, passed: dict[str, Any]) -> None:
        """What the session printed, as text; with ``follow`` until the reader goes away."""
        loop = asyncio.get_running_loop()
        with connection:
            await loop.sock_sendall(connection, http.head(200, "text/plain; charset=utf-8"))
            journal: Journal = session.journal
            reader, parser = journal.reader(journal.first - 1), RecordReader(self._host.settings.message_bytes)
            lines: list[str] = []
            tail = passed.get("tail")
            while True:
                while data := reader.read():
                    text = "".join(as_text(record) for record in parser.feed(data))
                    if tail is None:
                        await loop.sock_sendall(connection, text.encode())
                    else:
                        lines = "".join([*lines, text]).splitlines(keepends=True)[-tail:] if tail else []
                if tail is not None:
                    await loop.sock_sendall(connection, "".join(lines).encode())
                    tail = None
                if not passed.get("follow"):
                    return
                await asyncio.sleep(0.2)

    async def _send_cells(self, connection: socket.socket, session: SessionHost, passed: dict[str, Any]) -> None:
        """What the journal has of the notebook's cells; read in a thread, so that outputs do not wait for it."""
        if session.stands_by:
            raise MigrationError("the session has not arrived here yet.")
        await session.settled()
        journal: Journal = session.journal
        copy, most = journal.copy(journal.first - 1), self._host.settings.message_bytes
        cell, number = session.restored_cell, session.restored_number

        def read() -> bytes:
            runs = runs_of(copy, most, after=passed["after"], of=passed["journal"])
            if cell is not None:
                runs = msgspec.structs.replace(runs, restored_cell=cell, restored_number=number)
            return http.response(200, runs)

        answer = await in_thread(read, name="read-cells")
        with connection:
            await asyncio.get_running_loop().sock_sendall(connection, answer)


def _pass_on(path: Path, passed: dict[str, Any], connection: socket.socket) -> None:
    """Hand a client's connection to the kernel's bundle thread."""
    head = {
        "method": passed["method"],
        "bundle": passed["bundle"],
        "length": passed["length"],
        "body_start": passed["rest"],
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.settimeout(5)
        channel.connect(str(path))
        connection.setblocking(True)
        socket.send_fds(channel, [msgspec.json.encode(head)], [connection.fileno()])
