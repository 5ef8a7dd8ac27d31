"""The catalogue: sessions, events and tokens, in SQLite or PostgreSQL.

Writes are made in the event loop. With SQLite, in WAL mode without a sync at each commit, they take well under a
millisecond, and a killed process loses none of them (a machine that goes down may lose the last ones, and all its
sessions with them). With PostgreSQL they take as long as a few round trips to it and a commit. Reads that may be long
are for threads; every method may be called from any.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from jupyter_gpuaas.controller.catalogue.opening import address, is_shared, make_engine
from jupyter_gpuaas.controller.catalogue.records import SessionRecord, TokenRecord
from jupyter_gpuaas.controller.catalogue.schema_version import bring_up
from jupyter_gpuaas.controller.catalogue.tables import controller_lease, events, keys, sessions, tokens
from jupyter_gpuaas.errors import CatalogueError, InvalidRequest, NotActing, StaleEpoch
from jupyter_gpuaas.model import Event, SessionState

_ENDED = (SessionState.CLOSED, SessionState.FAILED)
#: Values that one statement names.
AT_ONCE = 500


class Database:
    """The service's memory.

    Parameters
    ----------
    where
        Path of a file of SQLite, or the address of a database (setting ``database_url``).
    events_kept
        Bounds its growth.

    Raises
    ------
    SettingError
        ``where`` is not usable.
    CatalogueError
        The database does not answer, or is of newer code.
    """

    def __init__(self, where: str | Path, *, events_kept: int) -> None:
        self._events_kept = events_kept
        #: Whether controllers on other machines can use it as well.
        self.is_shared = is_shared(where)
        self._engine = make_engine(address(where))
        self._written = 0
        #: What was done since the service has started: events by kind and by the state they led to, transactions.
        self.events_by_kind: Counter[str] = Counter()
        self.events_by_target: Counter[str] = Counter()
        self.writes, self.write_s, self.failures = 0, 0.0, 0
        self._term = 0
        # Numbers of events must become visible in their order: whoever reads on behind the newest would miss one.
        self._turn = threading.Lock()
        try:
            with _mapped():
                bring_up(self._engine)
        except BaseException:
            self._engine.dispose()
            raise

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction; also for tables that have a file of their own. Not to be held over an ``await``."""
        with self.unfenced() as connection:
            if self._term:
                self._check_term(connection)
            yield connection

    @contextlib.contextmanager
    def unfenced(self) -> Iterator[Connection]:
        """A transaction that does not ask whether this controller still acts."""
        with self._turn, self._timed(), _mapped(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        began_s = time.monotonic()
        try:
            yield
        except CatalogueError:
            self.failures += 1
            raise
        finally:
            self.writes += 1
            self.write_s += time.monotonic() - began_s

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection to read with."""
        with _mapped(), self._engine.connect() as connection:
            yield connection

    def fence(self, term: int) -> None:
        """From now on write nothing unless this is still the newest term of the lease of controllers."""
        self._term = term

    def _check_term(self, connection: Connection) -> None:
        this = controller_lease.c.term == self._term
        if self.is_shared:
            # The lock keeps a successor from taking over before what follows is committed.
            held = connection.execute(select(controller_lease.c.id).where(this).with_for_update(read=True)).scalar()
        else:
            held = connection.execute(update(controller_lease).where(this).values(term=self._term)).rowcount
        if not held:
            raise NotActing("another controller has taken over; this one may change nothing any more.")

    def lasting(self) -> float:
        """Seconds that one look takes; raises CatalogueError where there is no answer."""
        began_s = time.monotonic()
        with self.reading() as connection:
            connection.execute(select(1))
        return time.monotonic() - began_s

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
        with self.writing() as connection:
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
        with self.writing() as connection:
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

    def page(
        self, owner: str | None, *, ended: bool, name: str = "", after: str = "", limit: int
    ) -> list[tuple[str, bytes]]:
        """Ids and records (for ``record_of``) of sessions, in the order of their creation.

        Parameters
        ----------
        owner
            None means everybody's.
        after
            Id of the session behind which they begin.

        Raises
        ------
        InvalidRequest
            ``after`` is no session of the owner's that is remembered.
        """
        of_owner = [sessions.c.owner == owner] if owner is not None else []
        query = select(sessions.c.id, sessions.c.record).where(*of_owner)
        if not ended:
            query = query.where(sessions.c.state.not_in([state.value for state in _ENDED]))
        if name:
            query = query.where(sessions.c.name == name)
        with self.reading() as connection:
            if after:
                number = connection.execute(select(sessions.c.number).where(sessions.c.id == after, *of_owner)).scalar()
                if number is None:
                    raise InvalidRequest(f"after: no session {after[:64]!r} is remembered.", hint="Begin anew.")
                query = query.where(sessions.c.number > number)
            rows = connection.execute(query.order_by(sessions.c.number).limit(limit)).all()
        return [(row.id, row.record) for row in rows]

    @staticmethod
    def record_of(stored: bytes) -> SessionRecord:
        """A record as it lies in the database."""
        return msgspec.json.decode(stored, type=SessionRecord)

    def _records(self, query: Any) -> list[SessionRecord]:
        with self.reading() as connection:
            rows = connection.execute(query).scalars().all()
        return [self.record_of(row) for row in rows]

    # -- events --------------------------------------------------------------------------------------

    def announce(self, **news: Any) -> int:
        """Write an event that changes no session; returns its number."""
        with self.writing() as connection:
            return self._append(connection, **news)

    def events(self, *, after: int, limit: int, session_id: str = "", owner: str | None = None) -> list[Event]:
        """Events above ``after``, oldest first; with ``owner`` only those that concern this user."""
        query = select(events).where(events.c.seq > after)
        if session_id:
            query = query.where(events.c.session_id == session_id)
        if owner is not None:
            query = query.where(events.c.owner.in_(["", owner]))
        with self.reading() as connection:
            rows = connection.execute(query.order_by(events.c.seq).limit(limit)).mappings().all()
        names = Event.__struct_fields__
        return [Event(**{name: row[name] for name in names}) for row in rows]

    def newest_event(self) -> int:
        """Number of the newest event; 0 when there is none."""
        with self.reading() as connection:
            return connection.execute(select(func.max(events.c.seq))).scalar() or 0

    def _append(self, connection: Connection, **news: Any) -> int:
        row: dict[str, Any] = {
            "time_s": time.time(),
            "session_id": "",
            "owner": "",
            "source": "",
            "target": "",
            "cause": "",
            "epoch": 0,
            "detail": {},
        } | news
        row["cause"] = _text(row["cause"])
        key = connection.execute(insert(events).values(row)).inserted_primary_key
        assert key is not None
        seq = int(key[0])
        self._written += 1
        self.events_by_kind[row["kind"]] += 1
        if row["kind"] == "transition":
            self.events_by_target[row["target"]] += 1
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

    def forget_owner(self, owner: str) -> None:
        """Forget an owner's ended sessions, what was told to the owner alone, and the key of checkpoints."""
        ended = [state.value for state in _ENDED]
        with self.writing() as connection:
            connection.execute(delete(sessions).where(sessions.c.owner == owner, sessions.c.state.in_(ended)))
            connection.execute(delete(events).where(events.c.owner == owner))
            connection.execute(delete(keys).where(keys.c.owner == owner))

    # -- tokens ----------------------------------------------------------------------------------------

    def tokens(self) -> list[TokenRecord]:
        """All tokens, expired ones too."""
        with self.reading() as connection:
            rows = connection.execute(select(tokens)).mappings().all()
        names = TokenRecord.__struct_fields__
        return [msgspec.convert({name: row[name] for name in names}, TokenRecord) for row in rows]

    def add_token(self, record: TokenRecord) -> None:
        """Remember a token."""
        with self.writing() as connection:
            connection.execute(insert(tokens).values(msgspec.to_builtins(record)))

    def drop_tokens(self, digests: Iterable[str]) -> None:
        """Forget tokens."""
        with self.writing() as connection:
            for some in portions(list(digests)):
                connection.execute(delete(tokens).where(tokens.c.digest.in_(some)))

    # -- keys of checkpoints -----------------------------------------------------------------------------

    def checkpoint_key(self, owner: str) -> str:
        """The secret of this owner's checkpoints, as hexadecimal digits; made when it is asked for first."""
        wanted = select(keys.c.key).where(keys.c.owner == owner)
        with self.writing() as connection:
            found: str | None = connection.execute(wanted).scalar()
            if found is None:
                found = secrets.token_hex(32)
                connection.execute(insert(keys).values(owner=owner, key=found))
        return found


def portions(values: Sequence[str]) -> Iterator[Sequence[str]]:
    """Values in portions that one statement can name: every database has a limit of its own."""
    for first in range(0, len(values), AT_ONCE):
        yield values[first : first + AT_ONCE]


@contextlib.contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        reason = getattr(error, "orig", None) or error
        raise CatalogueError(f"the service's database: {reason}.") from error


def _text(value: str) -> str:
    """What every database takes: causes quote what kernels and hosts said, which may be anything."""
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
