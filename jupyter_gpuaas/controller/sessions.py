"""The live sessions: their records, and the only way to change them."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.bell import Bell
from jupyter_gpuaas.controller.catalogue.database import Database
from jupyter_gpuaas.controller.catalogue.records import SessionRecord
from jupyter_gpuaas.controller.reports import HOSTED_STATES, KEPT_STATES, checkpoint_news, happened
from jupyter_gpuaas.errors import GpuaasError
from jupyter_gpuaas.lifecycle.recovery import after_failure
from jupyter_gpuaas.lifecycle.session import Command, SessionEvent, step
from jupyter_gpuaas.model import (
    LIVE_STATES,
    CheckpointStatus,
    GpuSession,
    HostReport,
    HostState,
    Lease,
    ResourceRequest,
    SessionState,
    Wish,
)

log = logging.getLogger(__name__)

#: States in which a session may have a host that has given its devices up.
WITHOUT_DEVICES = KEPT_STATES | {SessionState.SUSPENDED}


class LiveSession:
    """One session that has not ended, or whose devices are not back yet."""

    def __init__(self, record: SessionRecord) -> None:
        self.record = record
        self.bell = Bell()
        #: Held while its commands are carried out: one list of them after the other.
        self.orders = asyncio.Lock()
        #: Whether an agent has said that it hosts the present epoch.
        self.hosted = False
        #: Whether its kernel can be put into an image.
        self.in_jail = False
        #: Whether its host says that its processes stand still without devices, and why it could not let them.
        self.suspended = False
        self.no_suspend = ""
        #: Whether its host says that its cells wait, as it is about to be moved or parked.
        self.stands_still = False
        #: What its host last said is wrong while it goes on.
        self.warning = ""
        #: What its host last said, be it while that did not count.
        self.report: HostReport | None = None
        #: What its host last said of its checkpoints.
        self.checkpoints: CheckpointStatus | None = None
        #: False after a restart of the service: what has been announced is not known then.
        self.knows_checkpoints = True

    @property
    def session(self) -> GpuSession:
        return self.record.session

    @property
    def lease(self) -> Lease | None:
        return self.record.session.lease

    @property
    def next_epoch(self) -> int:
        """An epoch that no host of this session has had."""
        return max(self.session.epoch, self.record.epochs) + 1

    @property
    def kept(self) -> Lease | None:
        """What its host had before it gave that up, if that host is there and has not got it back."""
        lease, kept = self.lease, self.record.kept
        return kept if kept is not None and lease is not None and lease.epoch == kept.epoch else None

    @property
    def has_host(self) -> bool:
        """Whether its lease names a host that it needs."""
        state = self.session.state
        return state in HOSTED_STATES or (state in KEPT_STATES and self.kept is not None)

    async def settled(self) -> None:
        """Return when what has been ordered for it so far is carried out."""
        async with self.orders:
            pass

    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.session.state in (SessionState.CLOSED, SessionState.FAILED)


class Sessions:
    """All live sessions. What is changed here is in the database before anybody hears of it."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._live: dict[str, LiveSession] = {}
        #: Rung at each new event of the service.
        self.news = Bell()
        #: Carries out commands; set by the controller.
        self.order: Callable[[LiveSession, tuple[Command, ...]], None] = _nobody
        #: Hears of each wish of a session's notebook, once; set by the controller.
        self.on_wish: Callable[[LiveSession, Wish], None] = lambda live, wish: None
        #: Hears of each report that counts; set by the controller.
        self.on_report: Callable[[LiveSession], None] = lambda live: None

    def load(self) -> None:
        """Take over the sessions that an earlier controller left."""
        for record in self._database.unfinished():
            live = LiveSession(record)
            # One that was being moved may stay, and its host reports then only what changes.
            live.hosted = record.session.state in (
                SessionState.IDLE,
                SessionState.BUSY,
                SessionState.SUSPENDED,
                SessionState.MIGRATING,
            ) or (live.kept is not None)
            live.knows_checkpoints = False
            self._live[record.session.id] = live

    # -- looking -------------------------------------------------------------------------------------

    def all(self) -> list[LiveSession]:
        """All sessions that are not forgotten, oldest first."""
        return list(self._live.values())

    def get(self, session_id: str) -> LiveSession | None:
        """A session by its id."""
        return self._live.get(session_id)

    def named(self, owner: str, name: str) -> LiveSession | None:
        """The live session that this name means for this user."""
        for live in self._live.values():
            session = live.session
            if session.name == name and session.owner == owner and session.state in LIVE_STATES:
                return live
        return None

    def count(self, owner: str) -> int:
        """How many live sessions a user has."""
        return sum(live.session.owner == owner and live.session.state in LIVE_STATES for live in self._live.values())

    # -- changing ------------------------------------------------------------------------------------

    def create(
        self,
        owner: str,
        name: str,
        request: ResourceRequest,
        *,
        cwd: str = "",
        machine: str = "",
        env: Mapping[str, str] | None = None,
        restore: str = "",
    ) -> LiveSession:
        """A new session at the end of the queue; with ``restore`` it begins with this checkpoint.

        Whether its owner may have one more is for the caller to know.
        """
        now_s = time.time()
        session = GpuSession(
            id=uuid.uuid4().hex,
            name=name,
            owner=owner,
            state=SessionState.QUEUED,
            epoch=0,
            request=request,
            created_s=now_s,
            since_s=now_s,
        )
        record = SessionRecord(
            session=session,
            secret=secrets.token_hex(32),
            cwd=cwd,
            machine=machine,
            env=dict(env or {}),
            restore=restore,
        )
        record = self._database.store(
            record,
            new=True,
            kind="transition",
            target=session.state.value,
            cause="asked for by its user",
        )
        live = self._live[session.id] = LiveSession(record)
        self.news.ring()
        return live

    def advance(
        self,
        live: LiveSession,
        event: SessionEvent,
        cause: str = "",
        *,
        record: Mapping[str, Any] | None = None,
        detail: Mapping[str, Any] | None = None,
        swap: bool = False,
        **changes: Any,
    ) -> None:
        """Let an event happen to a session, and order what follows from it.

        Parameters
        ----------
        record
            Fields of its record that change in the same transaction.
        detail
            What is told with it beside words.
        swap
            Only if nothing has happened to it in the database that is not known here.
        changes
            Fields of the session that change with its state.

        Raises
        ------
        InvalidTransition
            The event is not possible now. Nothing has changed.
        StaleEpoch
            With ``swap``: something else has happened to it. Nothing has changed.
        """
        before = live.session
        target, commands = step(before.state, event)
        if live.record.kept is not None and target not in WITHOUT_DEVICES:
            record = {**(record or {}), "kept": None}
        session = msgspec.structs.replace(before, state=target, cause=cause, **changes)
        if target is not SessionState.QUEUED:
            session = msgspec.structs.replace(session, queue_place=0)
        if target is not before.state:
            session = msgspec.structs.replace(session, since_s=time.time())
        self._store(
            live,
            session,
            kind="transition",
            source=before.state.value,
            target=target.value,
            cause=cause,
            detail={"event": event.value, **(detail or {})},
            more=record,
            swap=swap,
        )
        if live.ended() and not live.lease:
            self._live.pop(session.id, None)
        if commands:
            self.order(live, commands)

    def stay(self, live: LiveSession, cause: str) -> None:
        """Let a session be its host's on that was to become another's."""
        self.advance(live, SessionEvent.STAYED, cause)
        # In the middle of a cell, perhaps. Its host says what changes, and may have said all while that did not count.
        if live.report is not None:
            self.reported(live, live.report)

    def start_failed(self, live: LiveSession, cause: str) -> None:
        """Its host did not become the session's: another one tries it, where there is something to come back from."""
        incoming = live.record.incoming
        if incoming is None or live.session.state is not SessionState.STARTING:
            event, told = after_failure(cause, 0)
            self.advance(live, event, told)
            return
        incoming = msgspec.structs.replace(incoming, failures=incoming.failures + 1)
        event, told = after_failure(cause, incoming.failures)
        self.advance(live, event, told, record={"incoming": incoming})

    def note(self, live: LiveSession, cause: str, detail: dict[str, Any], /, **changes: Any) -> None:
        """Change fields of a session within its state, and announce it."""
        session = msgspec.structs.replace(live.session, **changes)
        self._store(live, session, kind="session", cause=cause, detail=detail)
        if live.ended() and not live.lease:
            self._live.pop(session.id, None)

    def announce(self, kind: str, cause: str, **detail: Any) -> None:
        """Tell everybody something that is not about one session; if it cannot be written, only the log."""
        try:
            self._database.announce(kind=kind, cause=cause, detail=detail)
        except GpuaasError as error:
            # Whoever announces has work to do that must not stop for this.
            log.error("not announced: %s (%s)", cause, error)
            return
        self.news.ring()

    def reported(self, live: LiveSession, report: HostReport) -> None:
        """Follow what the agent says about a session's host."""
        lease = live.lease
        if lease is None or report.lease.epoch != lease.epoch:
            return  # Of a host that the session has left.
        live.report, live.stands_still = report, report.stands_still
        if not live.has_host or report.state is HostState.STANDBY:
            return
        live.hosted = True
        live.in_jail, live.suspended, live.no_suspend = report.in_jail, report.suspended, report.no_suspend
        starts = live.record.kernel_starts
        session = msgspec.structs.replace(
            live.session, clients=report.clients, unattended_since_s=report.unattended_since_s
        )
        live.record = msgspec.structs.replace(
            live.record, session=session, kernel_starts=max(starts, report.kernel_starts)
        )
        try:
            for event, cause in happened(session.state, starts, report):
                if event is SessionEvent.START_FAILED or (event is SessionEvent.HOST_DIED and _comes_back(live)):
                    self.start_failed(live, cause)
                else:
                    self.advance(live, event, cause)
        except GpuaasError:
            # Not stored, so not seen: the next report tells it again.
            live.record = msgspec.structs.replace(live.record, kernel_starts=starts)
            raise
        if report.warning != live.warning:
            live.warning = report.warning
            if report.warning:
                self.note(live, report.warning, {"warning": True})
        self._checkpointed(live, report.checkpoints)
        if report.wish is not None and report.wish.number > live.record.wished:
            self.keep(live, wished=report.wish.number)
            self.on_wish(live, report.wish)
        self.on_report(live)

    def _checkpointed(self, live: LiveSession, now: CheckpointStatus | None) -> None:
        before, live.checkpoints = live.checkpoints, now
        if now is None or before == now:
            return
        live.bell.ring()
        if live.knows_checkpoints:
            for kind, cause, detail in checkpoint_news(before, now):
                self.tell(live.session, kind, cause, detail)
        live.knows_checkpoints = True

    def tell(self, session: GpuSession, kind: str, cause: str, detail: dict[str, Any]) -> None:
        """Announce something about a session that leaves it as it is."""
        news = {"session_id": session.id, "owner": session.owner, "epoch": session.epoch}
        try:
            self._database.announce(kind=kind, cause=cause, detail=detail, **news)
        except GpuaasError as error:
            log.error("not announced: %s (%s)", cause, error)
            return
        self.news.ring()

    def tell_user(self, user: str, kind: str, cause: str, detail: dict[str, Any]) -> None:
        """Announce something to one user that is about none of the sessions."""
        try:
            self._database.announce(kind=kind, cause=cause, detail=detail, owner=user)
        except GpuaasError as error:
            log.error("not announced: %s (%s)", cause, error)
            return
        self.news.ring()

    def keep(self, live: LiveSession, **fields: Any) -> None:
        """Change fields of a session's record that its story does not tell of."""
        record = msgspec.structs.replace(live.record, **fields)
        self._database.keep(record)
        live.record = record

    def _store(
        self,
        live: LiveSession,
        session: GpuSession,
        *,
        more: Mapping[str, Any] | None = None,
        swap: bool = False,
        **news: Any,
    ) -> None:
        record = msgspec.structs.replace(live.record, session=session, **(more or {}))
        if session.lease != live.session.lease:
            news["detail"] = {**news.get("detail", {}), **_holds(session.lease)}
        expected = live.session.last_event if swap else None
        live.record = self._database.store(record, expected_event=expected, **news)
        log.debug("session %s: %s %s", session.id, session.state, news.get("cause", ""))
        live.bell.ring()
        self.news.ring()


def _comes_back(live: LiveSession) -> bool:
    """Whether its host is about to bring it back, or to take it over."""
    return live.session.state is SessionState.STARTING and live.record.incoming is not None


def _holds(lease: Lease | None) -> dict[str, Any]:
    """The devices that a session has from now on, as its story tells it."""
    return {"node": lease.node_id, "devices": list(lease.device_ids)} if lease else {"node": "", "devices": []}


def _nobody(live: LiveSession, commands: tuple[Command, ...]) -> None:
    raise RuntimeError("nobody carries out commands")
