"""The catalogue: sessions, events and tokens in SQLite.

Writes are made in the event loop: in WAL mode without a sync at each commit they take well under a millisecond, and a
killed process loses none of them (a machine that goes down may lose the last ones, and all its sessions with them).
Reads that may be long are for threads; every method may be called from any.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, create_engine, delete, event, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from jupyter_gpuaas.controller.catalogue.records import SessionRecord, TokenRecord
from jupyter_gpuaas.controller.catalogue.tables import events, keys, metadata, sessions, tokens
from jupyter_gpuaas.errors import CatalogueError, StaleEpoch
from jupyter_gpuaas.model import Event, SessionState

_ENDED = (SessionState.CLOSED, SessionState.FAILED)


class Database:
    """The service's memory. ``events_kept`` bounds its growth."""

    def __init__(self, path: Path, *, events_kept: int) -> None:
        self._events_kept = events_kept
        # Before SQLite does, which would take the umask's word; its -wal and -shm files copy the mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        os.chmod(path, 0o600)
        self._engine = create_engine(
            f"sqlite:///{path}",
            poolclass=QueuePool,
            connect_args={"check_same_thread": False, "timeout": 10.0},
        )
        event.listen(self._engine, "connect", _configure)
        metadata.create_all(self._engine)
        self._written = 0

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Connection]:
        with _mapped(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Connection]:
        with _mapped(), self._engine.connect() as connection:
            yield connection

    #: For tables that have a file of their own.
    writing, reading = _writing, _reading

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    # -- sessions and their story ------------------------------------------------------------------

    def store(
        self, record: SessionRecord, *, new: bool = False, expected_event: int | None = None, **news: Any
    ) -> SessionRecord:
        """Write a session and the event that changed it in one transaction.

        Parameters
        ----------
        expected_event
            Write only if this is still the number of the session's newest event (compare and swap).
        news
            Fields of the event beyond session, epoch and time.

        Returns
        -------
        SessionRecord
            With the number of the event as its ``last_event``.

        Raises
        ------
        StaleEpoch
            Something else has happened to the session since ``expected_event``. Nothing was written.
        """
        with self._writing() as connection:
            session = record.session
            seq = self._append(
                connection,
                session_id=session.id,
                owner=session.owner,
                epoch=session.epoch,
                **news,
            )
            session = msgspec.structs.replace(session, last_event=seq)
            record = msgspec.structs.replace(record, session=session)
            row = {
                "id": session.id,
                "name": session.name,
                "owner": session.owner,
                "state": session.state.value,
                "last_event": seq,
                "record": msgspec.json.encode(record),
            }
            if new:
                connection.execute(insert(sessions).values(row))
            else:
                this = update(sessions).where(sessions.c.id == session.id)
                if expected_event is not None:
                    this = this.where(sessions.c.last_event == expected_event)
                if connection.execute(this.values(row)).rowcount != 1 and expected_event is not None:
                    raise StaleEpoch(session.epoch, session.epoch)
        return record

    def keep(self, record: SessionRecord) -> None:
        """Write what only the service knows of a session; nothing has happened that its story would tell."""
        with self._writing() as connection:
            row = {"record": msgspec.json.encode(record)}
            connection.execute(update(sessions).where(sessions.c.id == record.session.id).values(row))

    def unfinished(self) -> list[SessionRecord]:
        """Sessions that have not ended, in the order of their creation."""
        wanted = sessions.c.state.not_in([state.value for state in _ENDED])
        return self._records(select(sessions.c.record).where(wanted).order_by(sessions.c.number))

    def session(self, session_id: str) -> SessionRecord | None:
        """One session, ended ones too."""
        found = self._records(select(sessions.c.record).where(sessions.c.id == session_id))
        return found[0] if found else None

    def ended(self, owner: str | None, *, limit: int = 1000) -> list[SessionRecord]:
        """The newest sessions that have ended, newest first; ``owner`` None means everybody's."""
        query = select(sessions.c.record).where(sessions.c.state.in_([state.value for state in _ENDED]))
        if owner is not None:
            query = query.where(sessions.c.owner == owner)
        return self._records(query.order_by(sessions.c.number.desc()).limit(limit))

    def _records(self, query: Any) -> list[SessionRecord]:
        with self._reading() as connection:
            rows = connection.execute(query).scalars().all()
        return [msgspec.json.decode(row, type=SessionRecord) for row in rows]

    # -- events --------------------------------------------------------------------------------------

    def announce(self, **news: Any) -> int:
        """Write an event that changes no session; returns its number."""
        with self._writing() as connection:
            return self._append(connection, **news)

    def events(self, *, after: int, limit: int, session_id: str = "", owner: str | None = None) -> list[Event]:
        """Events above ``after``, oldest first; with ``owner`` only those that concern this user."""
        query = select(events).where(events.c.seq > after)
        if session_id:
            query = query.where(events.c.session_id == session_id)
        if owner is not None:
            query = query.where(events.c.owner.in_(["", owner]))
        with self._reading() as connection:
            rows = connection.execute(query.order_by(events.c.seq).limit(limit)).mappings().all()
        names = Event.__struct_fields__
        return [Event(**{name: row[name] for name in names}) for row in rows]

    def newest_event(self) -> int:
        """Number of the newest event; 0 when there is none."""
        with self._reading() as connection:
            return connection.execute(select(func.max(events.c.seq))).scalar() or 0

    def _append(self, connection: Connection, **news: Any) -> int:
        row = {
            "time_s": time.time(),
            "session_id": "",
            "owner": "",
            "source": "",
            "target": "",
            "cause": "",
            "epoch": 0,
            "detail": {},
        } | news
        key = connection.execute(insert(events).values(row)).inserted_primary_key
        assert key is not None
        seq = int(key[0])
        self._written += 1
        # Not at every event: a range is deleted as fast as a row.
        if self._written % max(1, min(1000, self._events_kept // 10)) == 0:
            self._prune(connection, seq - self._events_kept)
        return seq

    @staticmethod
    def _prune(connection: Connection, oldest_gone: int) -> None:
        connection.execute(delete(events).where(events.c.seq <= oldest_gone))
        # An ended session without a story is forgotten with it.
        connection.execute(
            delete(sessions).where(
                sessions.c.state.in_([state.value for state in _ENDED]),
                sessions.c.last_event <= oldest_gone,
            )
        )

    # -- tokens ----------------------------------------------------------------------------------------

    def tokens(self) -> list[TokenRecord]:
        """All tokens, expired ones too."""
        with self._reading() as connection:
            rows = connection.execute(select(tokens)).mappings().all()
        names = TokenRecord.__struct_fields__
        return [msgspec.convert({name: row[name] for name in names}, TokenRecord) for row in rows]

    def add_token(self, record: TokenRecord) -> None:
        """Remember a token."""
        with self._writing() as connection:
            connection.execute(insert(tokens).values(msgspec.to_builtins(record)))

    def drop_tokens(self, digests: Iterable[str]) -> None:
        """Forget tokens."""
        with self._writing() as connection:
            connection.execute(delete(tokens).where(tokens.c.digest.in_(list(digests))))

    # -- keys of checkpoints -----------------------------------------------------------------------------

    def checkpoint_key(self, owner: str) -> str:
        """The secret of this owner's checkpoints, as hexadecimal digits; made when it is asked for first."""
        wanted = select(keys.c.key).where(keys.c.owner == owner)
        with self._writing() as connection:
            found: str | None = connection.execute(wanted).scalar()
            if found is None:
                found = secrets.token_hex(32)
                connection.execute(insert(keys).values(owner=owner, key=found))
        return found


@contextlib.contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        reason = getattr(error, "orig", None) or error
        raise CatalogueError(f"the service's database: {reason}.") from error


def _configure(connection: sqlite3.Connection, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
