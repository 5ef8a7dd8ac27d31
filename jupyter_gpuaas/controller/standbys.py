"""Keeps the standbys of sessions: made where there is room, let follow the checkpoints, dropped for whoever waits.

One task a session that wants one. What follows from what is in ``lifecycle.standby``. That there is a standby is in the
session's record, with the lease that it holds; what it has so far, a restarted controller finds out by letting it
follow. Who lets it take the session over is ``commands``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from jupyter_gpuaas.controller.catalogue.records import Aside, Incoming
from jupyter_gpuaas.controller.leases import NodeLeases
from jupyter_gpuaas.controller.means import Means
from jupyter_gpuaas.controller.patience import unless_lost
from jupyter_gpuaas.controller.peers import TICKET_S
from jupyter_gpuaas.controller.sessions import LiveSession
from jupyter_gpuaas.engine.base import LeaseMeta
from jupyter_gpuaas.errors import (
    AllocationError,
    CatalogueError,
    GpuaasError,
    InvalidRequest,
    LeaseNotWritten,
    NoSuchSession,
    StaleEpoch,
)
from jupyter_gpuaas.lifecycle.fairness import Standing, beyond_quota
from jupyter_gpuaas.lifecycle.migration import SLOWEST_BYTES_S
from jupyter_gpuaas.lifecycle.placement import Waiting
from jupyter_gpuaas.lifecycle.room import Held, amount, used_of
from jupyter_gpuaas.lifecycle.standby import Facts, Step, beyond_quotas, decide, where, who_gives_way
from jupyter_gpuaas.model import (
    CheckpointView,
    HostReport,
    HostState,
    Lease,
    Loaded,
    NodeState,
    Peer,
    ResourceRequest,
    SessionState,
    StandbyView,
)

log = logging.getLogger(__name__)

STEP_S = 60.0
#: For what goes by the size of the state: so much, and the time that the slowest link needs.
COPY_S = 120.0
#: A standby follows no more often than this, and no longer than it rests.
PACE_S = 0.2
#: Where a lease could not be written, it is tried again after this long: each try takes an epoch and, of Ray, an actor.
AGAIN_S = 60.0
#: Where nothing is to be had; a host that takes a session over gets another way to what its former host has left.
NOWHERE = Peer(url="", ticket="")


class _Followed(msgspec.Struct):
    """What is known of a standby, beside what is in the session's record."""

    epoch: int
    view: StandbyView
    #: Its host was started, or found started.
    started: bool = False
    #: The way to its source: node's address, epoch, and since when its ticket is good.
    way: tuple[str, int, float] = ("", 0, 0.0)


class Standbys:
    """One standby each for the sessions that want one."""

    def __init__(self, means: Means, node_leases: NodeLeases, standing: Callable[[str], Standing]) -> None:
        self._sessions = means.sessions
        self._commands = means.commands
        self._endings = means.endings
        self._engine = means.engine
        self._others = means.others
        self._agents = means.agents
        self._settings = means.settings
        self._node_leases = node_leases
        self._standing = standing
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._known: dict[str, _Followed] = {}
        self._why: dict[str, str] = {}
        #: What dropped ones held, as long as it is on its way back.
        self._dropped: set[Lease] = set()
        #: Sessions whose last standby failed by itself.
        self._failed: set[str] = set()
        #: Those who wait for devices, in their order.
        self._waiting: list[Waiting] = []
        self._closing = False

    def open(self) -> None:
        """Begin with all sessions."""
        for live in self._sessions.all():
            self.look(live)

    async def close(self) -> None:
        """Let all go on as they are."""
        self._closing = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- what is asked for -------------------------------------------------------------------------------------

    def want(self, live: LiveSession, count: int) -> None:
        """So many standbys for a session from now on.

        Raises
        ------
        InvalidRequest
            It cannot have one.
        """
        request = msgspec.structs.replace(live.session.request, standby=count)
        check(request)
        told = "a standby is wanted" if count else "no standby is wanted any more"
        if request != live.session.request:
            self._sessions.note(live, told, {"standby": count}, request=request)
        if not count:
            self._drop(live, told)
        self.look(live)

    def look(self, live: LiveSession) -> None:
        """See to the standby of a session from now on, if it wants one or has one."""
        wanted = live.session.request.standby or live.record.aside is not None
        if wanted and live.session.id not in self._tasks and not self._closing:
            task = asyncio.create_task(self._keep(live), name=f"standby of {live.session.id}")
            self._tasks[live.session.id] = task
            task.add_done_callback(lambda _: self._tasks.pop(live.session.id, None))

    def view(self, live: LiveSession) -> StandbyView | None:
        """How the standby of a session stands; None where it wants none."""
        known = self._known.get(live.session.id)
        aside = live.record.aside
        if aside is not None:
            if known is not None and known.epoch == aside.lease.epoch:
                return known.view
            return _starts(aside.lease)
        if not live.session.request.standby:
            return None
        return StandbyView(state="waits", cause=self._why.get(live.session.id, ""))

    # -- who else has to do with them --------------------------------------------------------------------------

    def make_room(self, waiting: Sequence[Waiting]) -> None:
        """Drop as many standbys as keep those from being served who wait, or take their users beyond a quota."""
        self._waiting = list(waiting)
        self._keep_quotas()
        if not waiting:
            self.changed()
            return
        self.give_way(waiting)

    def give_way(self, waiting: Sequence[Waiting]) -> None:
        """Drop standbys for these, as few as that takes."""
        leaving = self._endings.giving_back()
        held: list[Held] = [lease for lease in self._engine.leases() if lease not in leaving]
        held += self._others.held()
        standbys = {
            live.session.id: live.record.aside.lease for live in self._sessions.all() if live.record.aside is not None
        }
        for session_id in who_gives_way(waiting, standbys, self._engine.nodes(), held):
            found = self._sessions.get(session_id)
            if found is not None:
                self._drop(found, "it gives way to a session that waits for a device")

    def _keep_quotas(self) -> None:
        """Drop those that take their users beyond a quota: what a session wants comes first."""
        asides = [(live, live.record.aside.lease) for live in self._sessions.all() if live.record.aside is not None]
        # One that is about to take its session over holds what the session will.
        asides = [(live, lease) for live, lease in asides if live.session.state is not SessionState.LOST]
        if not asides:
            return
        standbys = [(live.session.owner, lease) for live, lease in asides]
        standings = {owner: self._standing(owner) for owner, _ in standbys}
        for place, why in beyond_quotas(standbys, self._held(), standings):
            self._drop(asides[place][0], why)

    def _held(self) -> Mapping[str, float]:
        """By owner, what sessions and their standbys hold; not what is held for a move, or on its way back."""
        held: dict[str, float] = {}
        for live in self._sessions.all():
            aside, owner = live.record.aside, live.session.owner
            for lease in (live.lease, aside.lease if aside is not None else None):
                if lease is not None:
                    held[owner] = held.get(owner, 0.0) + len(lease.device_ids) * lease.share
        return held

    def leases(self) -> frozenset[Lease]:
        """What standbys hold, which is as good as free to others."""
        self._dropped &= self._endings.giving_back()
        held = {live.record.aside.lease for live in self._sessions.all() if live.record.aside is not None}
        return frozenset(held | self._dropped)

    def changed(self) -> None:
        """Something has changed in the pool: a node, a lease, or who waits."""
        for live in self._sessions.all():
            if live.session.id in self._tasks:
                live.bell.ring()

    def heard(self, live: LiveSession, report: HostReport) -> None:
        """What its node says of a standby."""
        if report.state in (HostState.DEAD, HostState.FAILED):
            self._failed.add(live.session.id)
            self._drop(live, report.cause or "its host is gone")

    def gone(self, live: LiveSession, cause: str) -> None:
        """The standby's host is not there any more."""
        known = self._known.get(live.session.id)
        aside = live.record.aside
        if aside is not None and known is not None and known.epoch == aside.lease.epoch and known.started:
            self._drop(live, cause)

    def take(self, live: LiveSession, node_id: str) -> Lease | None:
        """What the standby on this node holds, for whoever lets it take the session over; None where there is none."""
        aside = live.record.aside
        if aside is None or aside.lease.node_id != node_id or aside.lease.epoch <= live.session.epoch:
            return None
        return aside.lease

    def drop(self, live: LiveSession, cause: str) -> None:
        """End the standby of a session; another may be made."""
        self._drop(live, cause)

    # -- one of them -------------------------------------------------------------------------------------------

    async def _keep(self, live: LiveSession) -> None:
        pause_s, rests_until_s, makes_from_s = self._settings.retry_first_s, 0.0, 0.0
        while True:
            rung, failed, rest_s = live.bell.next(), False, None
            try:
                step, why = decide(self._facts(live))
                if step is Step.DROP:
                    self._drop(live, why)
                elif step is Step.MAKE:
                    rest_s = makes_from_s - time.monotonic()
                    if rest_s <= 0:
                        if live.session.id in self._failed:
                            self._failed.discard(live.session.id)
                            await self._agents.pause(self._settings.retry_most_s)  # what ended it may end the next one
                        rest_s = await self._make(live)
                        makes_from_s = time.monotonic() + (rest_s or 0.0)
                elif step is Step.FOLLOW:
                    left_s = rests_until_s - time.monotonic()
                    if left_s <= 0:
                        rests_until_s = await self._follow(live) + time.monotonic()
                    rest_s = max(0.0, left_s)
                pause_s = self._settings.retry_first_s
            except (NoSuchSession, StaleEpoch) as error:
                self._failed.add(live.session.id)
                self._drop(live, str(error))
                failed = True
            except (GpuaasError, asyncio.TimeoutError, TimeoutError) as error:
                log.info("standby of session %s: %s", live.session.id, error or "its host takes too long")
                failed = True
            except Exception:
                log.exception("standby of session %s", live.session.id)
                failed = True
            if live.record.aside is None and (live.ended() or not live.session.request.standby):
                return
            if failed:
                await self._agents.pause(pause_s)
                pause_s = min(2 * pause_s, self._settings.retry_most_s)
                continue
            with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
                await asyncio.wait_for(rung.wait(), rest_s)

    def _facts(self, live: LiveSession) -> Facts:
        aside, newest = live.record.aside, _newest(live)
        known = self._known.get(live.session.id)
        ours = aside is not None and known is not None and known.epoch == aside.lease.epoch
        return Facts(
            wanted=bool(live.session.request.standby),
            state=live.session.state,
            epoch=live.session.epoch,
            standby_epoch=aside.lease.epoch if aside is not None else 0,
            node=self._node(aside.lease.node_id) if aside is not None else None,
            moving=live.record.move is not None,
            newest=newest.id if newest is not None else "",
            followed=known.view.checkpoint if known is not None and ours else "",
        )

    def _node(self, node_id: str) -> NodeState | None:
        if self._node_leases.lost(node_id):
            return None
        return next((node.state for node in self._engine.nodes() if node.id == node_id), None)

    async def _make(self, live: LiveSession) -> float | None:
        """Make one, if there is room; answers with when to try again, None: when something has changed."""
        own, again_s = live.lease, None
        if own is None or decide(self._facts(live))[0] is not Step.MAKE:
            return None
        owner, standing = live.session.owner, self._standing(live.session.owner)
        held = self._held().get(owner, 0.0) if standing.limits.devices is not None else 0.0
        why = beyond_quota(owner, standing, held=held, more=amount(live.session.request))
        try:
            lease, why = (None, why) if why else await self._lease(live, own)
        except LeaseNotWritten as error:
            # The devices are there, and nobody else uses them: this is for the admin to mend.
            log.error("no standby of session %s: %s", live.session.id, error)
            lease, why, again_s = None, error.message.rstrip("."), AGAIN_S
        if lease is None:
            if why and why != self._why.get(live.session.id):
                self._why[live.session.id] = why
                self._sessions.tell(live.session, "standby", f"no standby: {why}", {})
            return again_s
        self._why.pop(live.session.id, None)
        incoming = Incoming(checkpoint="", node=own.node_id, epoch=own.epoch)
        await self._begin(live, lease, incoming, f"a standby starts on {lease.node_id}")
        return None

    async def hurry(self, live: LiveSession) -> Aside | None:
        """Start a host elsewhere for a session that is lost, while the node that it was on is waited for.

        What its host has left is there, and nobody gives that away before the agent of the node has been started
        again. It is a standby in all but that nobody has asked for it. None where there is no room.
        """
        own = live.lease
        if own is None or live.session.state is not SessionState.LOST or live.record.aside is not None:
            return None
        try:
            lease, _ = await self._lease(live, own)
        except GpuaasError as error:
            log.error("no host ahead of session %s: %s", live.session.id, error)
            return None
        if lease is None:
            return None
        try:
            told = f"a host starts on {lease.node_id}, while what is left on {own.node_id} is waited for"
            await self._begin(live, lease, None, told)
        except (GpuaasError, asyncio.TimeoutError, TimeoutError) as error:
            log.info("host ahead of session %s: %s", live.session.id, error or "it takes too long")
            self._drop(live, str(error) or "its host takes too long")
        self.look(live)
        return live.record.aside

    async def _lease(self, live: LiveSession, own: Lease) -> tuple[Lease | None, str]:
        """Devices on another node than that of ``own``, which are the session's from now on; None, and why."""
        taken = used_of([*self._engine.leases(), *self._others.held()])
        node_id, why = where(live.session.request, own.node_id, self._engine.nodes(), taken, self._waiting)
        if node_id is None:
            return None, why
        # First, so that nobody else gives this epoch to another host.
        epoch, state = live.next_epoch, live.session.state
        self._sessions.keep(live, epochs=epoch)
        request = msgspec.structs.replace(live.session.request, node=node_id)
        try:
            lease = await self._engine.acquire(request, LeaseMeta(live.session.id, epoch), timeout=0.0)
        except AllocationError:
            return None, ""  # somebody was quicker; whatever is given back is told
        lost = SessionState.LOST in (state, live.session.state) and live.session.state is not state
        if lost or live.lease != own or live.record.aside is not None or live.record.move is not None:
            self._endings.give_back(lease)
            return None, ""
        try:
            self._sessions.keep(live, aside=Aside(lease=lease))
        except CatalogueError:
            self._endings.give_back(lease)  # nobody else knows of it
            raise
        self._known[live.session.id] = _Followed(epoch, _starts(lease))
        live.bell.ring()
        return lease, ""

    async def _begin(self, live: LiveSession, lease: Lease, incoming: Incoming | None, told: str) -> None:
        """Start the host of a standby."""
        known, node_id = self._known[live.session.id], lease.node_id
        self._sessions.tell(live.session, "standby", told, {"node": node_id, "epoch": lease.epoch})
        spec = self._commands.spec(live.record, lease, incoming)
        if spec.peer is None:
            spec = msgspec.structs.replace(spec, peer=NOWHERE)
        starting = asyncio.wait_for(self._agents.of(node_id).start_host(spec), STEP_S)
        report = await unless_lost(self._node_leases, node_id, starting)
        known.started = True
        if report.state is HostState.FAILED:
            self._failed.add(live.session.id)
            self._drop(live, report.cause or "its kernel did not start")
        live.bell.ring()

    async def _follow(self, live: LiveSession) -> float:
        """Bring the newest checkpoint to the standby; answers with how long it may rest then."""
        aside, own, newest = live.record.aside, live.lease, _newest(live)
        assert aside is not None and own is not None and newest is not None
        known = self._known.get(live.session.id)
        if known is None or known.epoch != aside.lease.epoch:
            known = self._known[live.session.id] = _Followed(aside.lease.epoch, _starts(aside.lease))
        content = {
            "checkpoint": newest.id,
            # Whoever takes the session over needs the store anyway, and the session is not held up by it.
            "from_store": True,
            "most_bytes": self._settings.standby_bytes,
        }
        now = time.monotonic()
        url, epoch, since_s = known.way
        address = self._agents.of(own.node_id).endpoint.url
        if (url, epoch) != (address, own.epoch) or now - since_s > TICKET_S / 2:
            known.way = address, own.epoch, now
            source = Incoming(checkpoint="", node=own.node_id, epoch=own.epoch)
            content |= self._commands.way(live.record, source)
        asking = self._agents.of(aside.lease.node_id).op(live.session.id, aside.lease.epoch, "preload", content)
        limit_s = COPY_S + (newest.host_bytes + newest.device_bytes) / SLOWEST_BYTES_S
        try:
            loaded = msgspec.convert(await asyncio.wait_for(asking, limit_s), Loaded)
        except BaseException:
            known.way = ("", 0, 0.0)
            raise
        first = not known.view.checkpoint
        known.started = True
        known.view = msgspec.structs.replace(
            known.view,
            state="follows",
            checkpoint=newest.id,
            cell=newest.cell,
            state_bytes=loaded.state_bytes,
            took_s=loaded.took_s,
            cause="",
        )
        if first and live.record.aside == aside:
            cause = f"the standby on {aside.lease.node_id} has checkpoint {newest.short}, and follows"
            self._sessions.tell(live.session, "standby", cause, {"node": aside.lease.node_id, "checkpoint": newest.id})
        return max(PACE_S, loaded.took_s)

    def _drop(self, live: LiveSession, why: str) -> None:
        aside = live.record.aside
        if aside is None:
            return
        self._known.pop(live.session.id, None)
        self._sessions.keep(live, aside=None)
        self._endings.give_back(aside.lease)
        self._dropped.add(aside.lease)
        node_id = aside.lease.node_id
        self._sessions.tell(live.session, "standby", f"no standby on {node_id} any more: {why}", {"node": node_id})
        live.bell.ring()


def check(request: ResourceRequest) -> None:
    """Raise InvalidRequest where a request wants a standby that it cannot have."""
    if request.standby not in (0, 1):
        raise InvalidRequest(f"request.standby: {request.standby} is neither 0 nor 1.")
    if request.standby and request.node is not None:
        raise InvalidRequest(
            f"request.standby: a session that wants node {request.node} and no other cannot have a standby on another."
        )


def _newest(live: LiveSession) -> CheckpointView | None:
    return live.checkpoints.last if live.checkpoints is not None else None


def _starts(lease: Lease) -> StandbyView:
    return StandbyView(state="starts", node=lease.node_id, device_ids=lease.device_ids)
