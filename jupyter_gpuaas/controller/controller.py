"""The controller without its HTTP face: the parts put together, and what begins and ends with it."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import msgspec

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.agents import Agents
from jupyter_gpuaas.controller.audit import Audit
from jupyter_gpuaas.controller.auth import Tokens, User
from jupyter_gpuaas.controller.catalogue.cordons import CordonRows
from jupyter_gpuaas.controller.catalogue.database import Database
from jupyter_gpuaas.controller.catalogue.drains import DrainRows
from jupyter_gpuaas.controller.catalogue.records import SessionRecord
from jupyter_gpuaas.controller.catalogue.reservations import ReservationRows
from jupyter_gpuaas.controller.catalogue.usage import UsageRows
from jupyter_gpuaas.controller.checkpoint_desk import CheckpointDesk
from jupyter_gpuaas.controller.commands import Commands
from jupyter_gpuaas.controller.drains import Drains
from jupyter_gpuaas.controller.endings import Endings
from jupyter_gpuaas.controller.fair_use import WAITING, FairUse
from jupyter_gpuaas.controller.identity import Identity
from jupyter_gpuaas.controller.leases import ACTING_STATES, NodeLeases
from jupyter_gpuaas.controller.limits import UserLimits
from jupyter_gpuaas.controller.means import Means
from jupyter_gpuaas.controller.metering import Meter, MeteredEngine
from jupyter_gpuaas.controller.migrations import Migrations
from jupyter_gpuaas.controller.others import Others
from jupyter_gpuaas.controller.outlook import Outlook
from jupyter_gpuaas.controller.parking import Parking
from jupyter_gpuaas.controller.recoveries import Recoveries
from jupyter_gpuaas.controller.reports import HOSTED_STATES, KEPT_STATES
from jupyter_gpuaas.controller.scheduler import Scheduler
from jupyter_gpuaas.controller.sessions import LiveSession, Sessions
from jupyter_gpuaas.controller.standbys import Standbys, check
from jupyter_gpuaas.controller.turns import Turns
from jupyter_gpuaas.controller.unattended import Unattended
from jupyter_gpuaas.controller.watcher import Watcher
from jupyter_gpuaas.controller.wishes import Wishes
from jupyter_gpuaas.engine.base import Engine
from jupyter_gpuaas.errors import GpuaasError, InvalidRequest, NoHostNow, NoSuchSession, SessionEnded, TransportError
from jupyter_gpuaas.lifecycle.session import Command, SessionEvent
from jupyter_gpuaas.model import (
    LIVE_STATES,
    ChannelInfo,
    Event,
    GpuSession,
    Lease,
    ResourceRequest,
    SessionState,
    SessionView,
)
from jupyter_gpuaas.wire import ticket

log = logging.getLogger(__name__)

#: What a restarted controller orders again; every command may be carried out twice.
_UNFINISHED: Mapping[SessionState, tuple[Command, ...]] = {
    SessionState.STARTING: (Command.START_HOST,),
    SessionState.SUSPENDED: (Command.FREE_DEVICES, Command.PLACE),
    SessionState.PARKED: (Command.STOP_HOST, Command.RELEASE_LEASE),
    SessionState.LOST: (Command.STAND_IN, Command.STOP_HOST, Command.RECOVER),
    SessionState.RESTORING: (Command.RELEASE_LEASE, Command.PLACE),
    SessionState.CLOSING: (Command.STOP_HOST, Command.DROP_REMAINS, Command.RELEASE_LEASE),
}


class Controller:
    """Sessions, their devices and their story. It keeps nothing that its database does not hold."""

    def __init__(self, settings: Settings, engine: Engine, database: Database | None = None) -> None:
        folder = settings.make_folder()
        self.settings = settings
        self.database = database or Database(settings.database, events_kept=settings.events_kept)
        self.meter = Meter(UsageRows(self.database), self.owner_of)
        self.engine: Engine = (engine := MeteredEngine(engine, self.meter))
        self.agents = Agents(engine)
        self.tokens = Tokens(self.database)
        self.tokens.ensure_file(folder / "token")
        self.identity = Identity(self.tokens, settings)
        self.audit = Audit(self.database, kept=settings.audit_kept)
        self.sessions = Sessions(self.database, settings)
        self.limits = UserLimits(self.tokens, self.meter, settings)
        self.checkpoints = CheckpointDesk(self.database, settings, self.limits.checkpoint_bytes)
        plan, way_back = self.checkpoints.plan, self.checkpoints.way_back
        self.node_leases = NodeLeases(self.sessions, engine, self.agents, settings)
        self.endings = Endings(self.sessions, engine, self.agents, settings, self.node_leases)
        self.recoveries = Recoveries(self.sessions, self.agents, settings, self.node_leases, self.endings, way_back)
        self.commands = Commands(
            self.sessions, engine, self.agents, settings, self.node_leases, self.endings, self.recoveries, plan
        )
        others = Others(engine)
        means = Means(self.sessions, self.commands, self.endings, engine, others, self.agents, settings)
        rows = ReservationRows(self.database)
        self.fair = FairUse(self.sessions, engine, others, self.limits, rows, settings)
        self.scheduler = Scheduler(self.sessions, engine, others, self.fair)
        self.fair.changed = self.scheduler.look
        engine.on_free = self.scheduler.look
        self.outlook = Outlook(self.sessions, engine, self.meter, settings)
        self.standbys = Standbys(means, self.node_leases, self.limits.standing)
        self.migrations = Migrations(means, self.standbys, self.checkpoints.newest_view)
        self.unattended = Unattended(self.sessions, settings.unattended_s, self._end)
        self.watcher = Watcher(means)
        self.watcher.standbys = self.standbys
        self.watcher.on_nodes = self.scheduler.look
        self.scheduler.on_waiting = self.standbys.make_room
        self.endings.on_freed = self.standbys.changed
        self.recoveries.hurry = self.standbys.hurry
        self.node_leases.give_up = self.migrations.give_up
        self.node_leases.heard = self.watcher.heard
        self.parking = Parking(means)
        self.parking.waiting = self.scheduler.queue
        self.parking.pushed_out = lambda: self.fair.push_out(self.scheduler.left_waiting())
        self.parking.over = self.fair.over
        self.fair.idle_s = self.parking.idle_s
        self.turns = Turns(means, self.scheduler, self.fair, self.parking)
        self.parking.suspending = lambda: self.turns.under_way
        self.migrations.plans.giving_up = lambda: self.parking.under_way | self.turns.under_way
        self.fair.standbys = self.standbys.leases
        self.turns.leaving = lambda: self.endings.giving_back() | self.standbys.leases()
        cordons = CordonRows(self.database)
        cordons.take_over(folder / "cordons.json")
        self.drains = Drains(means, self.migrations, self.parking, self.scheduler, DrainRows(self.database), cordons)
        self.wishes = Wishes(means, self.migrations, self.parking)
        self.sessions.on_wish = self.wishes.heard
        self.sessions.order = self._order
        self.commands.place = self.scheduler.submit
        self.sessions.on_report = self.unattended.look
        #: Ends the process that serves; set by the server.
        self.on_stop: Callable[[], None] = lambda: None
        self.is_closing = False

    async def open(self) -> None:
        """Bring up the nodes, then go on with what an earlier controller left."""
        await self.engine.open(self.drains.cordoned())
        self.sessions.load()
        self.meter.open(self.engine.leases)
        held = {lease.id: lease for lease in self.engine.leases()}
        wanted = {lease.id for live in self.sessions.all() for lease in _needed(live.record)}
        hosts = {(live.session.id, live.lease.node_id, live.lease.epoch) for live in self.sessions.all() if live.lease}
        for lease_id, lease in held.items():
            if lease_id in wanted:
                continue
            if (lease.session_id, lease.node_id, lease.epoch) in hosts:
                # It was to have these devices again, and knows nothing of it yet: its host is not to be ended.
                await self.engine.release(lease_id)
            else:
                self.endings.give_back(lease)
        self.fair.open()
        self.scheduler.open()
        self.sessions.announce("service", "the service has started")
        # One without a place came last: the service ended before it was counted.
        for live in sorted(self.sessions.all(), key=lambda each: each.session.queue_place or math.inf):
            self._take_up(live, held)
        self.watcher.open()
        self.node_leases.open()
        self.parking.open()
        self.turns.open()
        self.standbys.open()
        self.unattended.open()
        self.drains.open()

    def _take_up(self, live: LiveSession, held: Mapping[str, Lease]) -> None:
        state = live.session.state
        if state is SessionState.QUEUED:
            self.scheduler.submit(live)
        elif state in ACTING_STATES - {SessionState.SUSPENDED} and (live.lease is None or live.lease.id not in held):
            self.sessions.advance(live, SessionEvent.HOST_DIED, "the engine has lost its lease")
        elif live.kept is not None and state in KEPT_STATES:
            parked = state is SessionState.PARKED
            self.commands.order(live, (Command.FREE_DEVICES,) if parked else (Command.FREE_DEVICES, Command.PLACE))
        elif state in _UNFINISHED:
            self.commands.order(live, _UNFINISHED[state])
        elif state in HOSTED_STATES and live.record.incoming is not None:
            self.commands.order(live, (Command.START_HOST,))  # it has; its former host is still to go
        if live.record.move is not None:
            self.migrations.take_up(live)
        elif state is SessionState.MIGRATING:
            self.parking.take_up(live, "the service was restarted")

    async def close(self, *, end_sessions: bool, keep_database: bool = False) -> None:
        """Stop; sessions and agents go on unless ``end_sessions``."""
        self.interrupt_waits()
        try:
            if end_sessions:
                await self._end_all()
            await self.identity.close()
            await self.drains.close()
            await self.wishes.close()
            await self.turns.close()
            await self.parking.close()
            await self.standbys.close()
            await self.migrations.close()
            await self.node_leases.close()
            await self.watcher.close()
            await self.fair.close()
            await self.scheduler.close()
            await self.endings.close()
            await self.meter.close()
            self.unattended.close()
            cause = "the service ends with its sessions" if end_sessions else "the service ends"
            self.sessions.announce("service", cause)
            await self.agents.close()
        finally:
            # Whatever failed: no process of a session or node may be left.
            try:
                await self.engine.close(stop_nodes=end_sessions)
            finally:
                self.checkpoints.close()
                if not keep_database:
                    self.database.close()

    def _order(self, live: LiveSession, commands: tuple[Command, ...]) -> None:
        if Command.STOP_HOST in commands:
            self.scheduler.forget(live)  # whatever it waited for was for that host
        self.commands.order(live, commands)

    def stop(self) -> None:
        """Ask for the end of the service and its sessions."""
        self.on_stop()

    def interrupt_waits(self) -> None:
        """Answer those who wait for news: the service is about to end."""
        self.is_closing = True
        self.sessions.news.ring()
        for live in self.sessions.all():
            live.bell.ring()

    async def _end_all(self) -> None:
        ending = []
        for live in self.sessions.all():
            try:
                self._end(live, "the service was shut down")
                ending.append(live)
            except GpuaasError as error:
                # Its host ends with its node, and a later service learns that from the node.
                log.error("session %s not ended in the catalogue: %s", live.session.id, error)
        deadline = time.monotonic() + self.settings.stop_timeout_s + 10.0
        for live in ending:
            await live.bell.until(live.ended, max(0.0, deadline - time.monotonic()))

    # -- sessions ------------------------------------------------------------------------------------

    def find(self, user: User, session: str) -> LiveSession:
        """A live session by id or, among the user's own, by name.

        Raises
        ------
        NoSuchSession, SessionEnded, Forbidden
        """
        live = self.sessions.get(session) or self.sessions.named(user.name, session)
        if live is None:
            ended = self.database.session(session)
            if ended is None:
                raise NoSuchSession(f"there is no session {session!r}.", hint="`jupyter gpuaas sessions` lists them.")
            user.may_touch(ended.session)
            raise SessionEnded(f"session {session} is {ended.session.state}: {ended.session.cause or 'it was ended'}.")
        user.may_touch(live.session)
        return live

    def find_record(self, user: User, session: str) -> SessionRecord:
        """A session by id or, among the user's own, by name: the live one, else the newest that has ended.

        Raises
        ------
        NoSuchSession, Forbidden
        """
        live = self.sessions.get(session) or self.sessions.named(user.name, session)
        record = live.record if live is not None else self.database.session(session)
        if record is None:
            ended = self.database.ended(user.name)
            record = next((each for each in ended if each.session.name == session), None)
        if record is None:
            raise NoSuchSession(f"there is no session {session!r}.", hint="`jupyter gpuaas sessions --all` lists them.")
        user.may_touch(record.session)
        return record

    def begin_from(self, record: SessionRecord, name: str, checkpoint: str, by: User) -> LiveSession:
        """A new session of the same owner, like this one, that begins with a checkpoint.

        Its priority is no higher than who asks may ask for now.

        Raises
        ------
        InvalidRequest
            A session of this name lives.
        """
        session = record.session
        if self.sessions.named(session.owner, name) is not None:
            raise InvalidRequest(f"new: a session named {name!r} lives already.", hint="Choose another name.")
        if self.is_closing:
            raise TransportError("the service is shutting down.")
        request = self.limits.lowered(by, session.request)
        self.limits.check(session.owner, request, sessions=self.sessions.count(session.owner))
        self.scheduler.check(request)
        live = self.sessions.create(
            session.owner,
            name,
            request,
            cwd=record.cwd,
            machine=record.machine,
            env=record.env,
            restore=checkpoint,
        )
        if request.priority != session.request.priority:
            told = f"begins with priority {request.priority}: {by.name} may ask for no more"
            self.sessions.tell(live.session, "session", told, {"priority": request.priority})
        self.scheduler.submit(live)
        self.standbys.look(live)
        return live

    def get_or_create(
        self,
        user: User,
        name: str,
        request: ResourceRequest,
        *,
        cwd: str,
        machine: str,
        env: Mapping[str, str],
    ) -> tuple[LiveSession, bool]:
        """The user's live session of this name, and whether it was made just now."""
        live = self.sessions.named(user.name, name)
        if live is not None:
            return live, False
        if self.is_closing:
            raise TransportError("the service is shutting down.")
        check(request)
        self.limits.check_priority(user, request)
        self.limits.check(user.name, request, sessions=self.sessions.count(user.name))
        self.scheduler.check(request)
        live = self.sessions.create(user.name, name, request, cwd=cwd, machine=machine, env=env)
        self.scheduler.submit(live)
        self.standbys.look(live)
        return live, True

    def rank(self, live: LiveSession, user: User, priority: int) -> None:
        """Give a session another priority.

        Raises
        ------
        Forbidden
            The user may not ask for one as high.
        """
        request = msgspec.structs.replace(live.session.request, priority=priority)
        self.limits.check_priority(user, request)
        if request != live.session.request:
            told = f"{user.name} gives it priority {priority}"
            self.sessions.note(live, told, {"priority": priority}, request=request)
        self.scheduler.look()

    async def release(self, live: LiveSession, cause: str, *, timeout_s: float) -> bool:
        """End a session and wait until nothing of it is left; False when that takes longer."""
        self._end(live, cause)
        return await live.bell.until(live.ended, timeout_s)

    def _end(self, live: LiveSession, cause: str) -> None:
        state = live.session.state
        if state in WAITING:
            self.scheduler.forget(live)
        if state in LIVE_STATES:
            self.migrations.give_up(live, cause)
            self.sessions.advance(live, SessionEvent.RELEASE, cause)

    # -- users ---------------------------------------------------------------------------------------

    async def forget_user(self, name: str, by: str) -> int:
        """Forget a user, and what somebody else of that name must not find; returns how many checkpoints there were.

        Raises
        ------
        InvalidRequest
            There is no such user, or sessions of the user live. Nothing was changed.
        StoreError
            The checkpoints cannot be removed now. The user stays, blocked; it can be asked for again.
        """
        self.tokens.check_drop(name)
        self._check_no_sessions(name)
        # Nobody is to begin anything with checkpoints that are about to go.
        self.tokens.put_user(name, blocked=True)
        count = await asyncio.to_thread(self.checkpoints.forget_owner, name)
        self._check_no_sessions(name)  # asked for before the user was blocked
        for each in self.fair.reservations(name):
            self.fair.cancel(each.id, by)
        self.database.forget_owner(name)
        self.tokens.drop_user(name)
        return count

    def _check_no_sessions(self, owner: str) -> None:
        # One that is being ended counts, too: its kernel may still write a checkpoint.
        count = sum(live.session.owner == owner for live in self.sessions.all())
        if count:
            raise InvalidRequest(f"user: {owner} has {count} live sessions.", hint="End them, or block the user.")

    # -- what clients see ----------------------------------------------------------------------------

    def view(self, live: LiveSession, user: User, base_url: str) -> SessionView:
        """The session with the way to its channel, where it has one by now."""
        channel: ChannelInfo | None = None
        if user.may_use and live.hosted and live.session.state in HOSTED_STATES:
            try:
                channel = self.channel(live, user, base_url)
            except GpuaasError:
                channel = None
        move = live.record.move
        (session,) = self.outlook.told([live.session])
        return SessionView(
            session=session,
            channel=channel,
            checkpoints=live.checkpoints,
            migration=move.view if move is not None else live.record.last_migration,
            standby=self.standbys.view(live),
            device_seconds=round(self.meter.device_seconds(live.session.id), 3),
        )

    def channel(self, live: LiveSession, user: User, base_url: str, *, inside: bool = False) -> ChannelInfo:
        """Addresses and a fresh ticket.

        Parameters
        ----------
        inside
            For the service's own use: the direct address is the agent's, not the advertised one.

        Raises
        ------
        TransportError
            The session has no host that answers now.
        """
        lease = live.lease
        if lease is None or live.session.state not in HOSTED_STATES:
            raise NoHostNow(f"session {live.session.id} is {live.session.state}: no host yet.")
        base, agent = base_url.rstrip("/"), self.engine.agent(lease.node_id).url
        if self.settings.advertise and not inside:
            port = str(urlsplit(agent).port)
            agent = self.settings.advertise.replace("{node}", lease.node_id).replace("{port}", port).rstrip("/")
        expires_s = time.time() + self.settings.ticket_s
        if user.expires_s:
            expires_s = min(expires_s, user.expires_s)
        path = f"/sessions/{live.session.id}"
        return ChannelInfo(
            direct_url=_websocket(f"{agent}/v1{path}/channel"),
            relay_url=_websocket(f"{base}{path}/channel"),
            bundle_url=f"{agent}/v1{path}/bundles",
            relay_bundle_url=f"{base}{path}/bundles",
            ticket=ticket.issue(
                live.record.secret,
                session_id=live.session.id,
                epoch=lease.epoch,
                user=user.name,
                expires_s=expires_s,
            ),
            epoch=lease.epoch,
            expires_s=expires_s,
        )

    def epoch_of(self, session_id: str) -> int | None:
        """The epoch of a live session."""
        live = self.sessions.get(session_id)
        return live.session.epoch if live is not None else None

    def list_sessions(self, user: User, *, ended: bool) -> list[GpuSession]:
        """The sessions that the user sees, oldest first."""
        live = [each.session for each in self.sessions.all()]
        seen = [session for session in live if user.sees in (None, session.owner)]
        if ended:
            known = {session.id for session in seen}
            past = [record.session for record in self.database.ended(user.sees)]
            seen += [session for session in past if session.id not in known]
            seen.sort(key=lambda session: session.created_s)
        return seen

    def page_of_sessions(self, user: User, *, ended: bool, name: str, after: str, limit: int) -> list[GpuSession]:
        """A part of the sessions that the user sees, oldest first, behind one of them; for threads."""
        found = []
        for session_id, stored in self.database.page(user.sees, ended=ended, name=name, after=after, limit=limit):
            # One that ends meanwhile stays in its page: a page that is not full is the last one.
            live = self.sessions.get(session_id)
            found.append(live.session if live is not None else self.database.record_of(stored).session)
        return found

    def list_events(self, user: User, *, after: int, limit: int, session_id: str) -> list[Event]:
        """Events that concern the user; for threads."""
        return self.database.events(after=after, limit=limit, session_id=session_id, owner=user.sees)

    def owner_of(self, session_id: str) -> str:
        """Whose session it is, or was; empty where nobody knows it."""
        live = self.sessions.get(session_id)
        record = live.record if live is not None else self.database.session(session_id)
        return record.session.owner if record is not None else ""


def _needed(record: SessionRecord) -> list[Lease]:
    """Leases that a session counts on."""
    former = record.incoming.lease if record.incoming is not None else None
    aside = record.aside.lease if record.aside is not None else None
    return [lease for lease in (record.session.lease, former, aside) if lease is not None]


def _websocket(url: str) -> str:
    # http -> ws, https -> wss
    return "ws" + url.removeprefix("http")
