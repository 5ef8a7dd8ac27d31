"""Carries out what the lifecycle orders: hosts started and stopped, leases given back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.agents import Agents
from jupyter_gpuaas.controller.bell import Bell
from jupyter_gpuaas.controller.catalogue.records import Aside, Incoming, SessionRecord
from jupyter_gpuaas.controller.leases import NodeLeases
from jupyter_gpuaas.controller.patience import HOSTLESS, in_time, unless_lost
from jupyter_gpuaas.controller.peers import peer_of
from jupyter_gpuaas.controller.sessions import LiveSession, Sessions
from jupyter_gpuaas.engine.base import Engine
from jupyter_gpuaas.errors import GpuaasError, NoSuchSession, StaleEpoch, StoreError, TransportError
from jupyter_gpuaas.lifecycle.node_loss import back_words, notice
from jupyter_gpuaas.lifecycle.recovery import asks_former_host, limit_s
from jupyter_gpuaas.lifecycle.session import Command, SessionEvent
from jupyter_gpuaas.model import (
    CheckpointPlan,
    CheckpointView,
    HostReport,
    HostSpec,
    Lease,
    Loaded,
    Peer,
    SessionState,
)

log = logging.getLogger(__name__)

S = SessionState
#: A node whose host died and that does not give what the host has left in this time is not waited for by a standby.
SOON_S = 2.0
#: How it is told, behind why a session was lost, that it cannot come back yet.
UNREADABLE = "its checkpoints cannot be read now"


class Commands:
    """Each list of commands is one task; those of one session never overlap."""

    def __init__(
        self,
        sessions: Sessions,
        engine: Engine,
        agents: Agents,
        settings: Settings,
        node_leases: NodeLeases,
        plan: Callable[[SessionRecord], CheckpointPlan | None] = lambda record: None,
        way_back: Callable[[SessionRecord], CheckpointView | None] = lambda record: None,
    ) -> None:
        self._sessions = sessions
        #: How a session takes checkpoints.
        self._plan = plan
        #: The checkpoint that a session comes back with, read from the store in a thread; None where there is none.
        self._way_back = way_back
        #: Puts a session into the queue; set by the controller.
        self.place: Callable[[LiveSession], None] = lambda live: None
        self._engine = engine
        self._agents = agents
        self._settings = settings
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping: set[Lease] = set()
        self._node_leases = node_leases
        #: Leases whose hosts could not be ended, as their node was lost.
        self._unended: set[Lease] = set()
        #: Starts a host on another node for a session whose own one is waited for; set by the controller.
        self.hurry: Callable[[LiveSession], Awaitable[Aside | None]] = _nobody
        self._hurried: dict[str, asyncio.Task[None]] = {}
        #: Told when a lease was given back; set by the controller.
        self.on_freed: Callable[[], None] = lambda: None
        self._freed = Bell()
        self._handlers: dict[Command, Callable[[LiveSession], Awaitable[None]]] = {
            Command.START_HOST: self._start_host,
            Command.STOP_HOST: self._stop_host,
            Command.RELEASE_LEASE: self._release_lease,
            Command.STAND_IN: self._stand_in,
            Command.RECOVER: self._recover,
            Command.PLACE: self._place,
            Command.DROP_REMAINS: self._drop_remains,
            Command.FREE_DEVICES: self._free_devices,
            Command.GO_ON: self._go_on,
        }

    def order(self, live: LiveSession, commands: tuple[Command, ...]) -> None:
        """Begin to carry out the commands, after those that were ordered before."""
        self._spawn(self._carry_out(live, commands), f"{'+'.join(commands)} {live.session.id}")

    def give_back(self, lease: Lease, *, for_good: bool = False) -> None:
        """End a host that no session wants, then free its devices.

        Parameters
        ----------
        for_good
            What it has left, should it be dead, is not wanted either.
        """
        if lease not in self._stopping:
            self._stopping.add(lease)
            self._spawn(self._give_back(lease, for_good), f"give back {lease.session_id}")

    def giving_back(self) -> frozenset[Lease]:
        """Leases that are about to be given back."""
        return frozenset(self._stopping)

    async def left(self, session_id: str, node_id: str, timeout_s: float) -> bool:
        """Wait until a session has left a node that it was on before; False when that takes longer."""

        def gone() -> bool:
            return all((lease.session_id, lease.node_id) != (session_id, node_id) for lease in self._stopping)

        return await self._freed.until(gone, timeout_s)

    def _is_free(self) -> None:
        self._freed.ring()
        self.on_freed()

    async def close(self) -> None:
        """Stop working; a restarted controller begins again with what is left to do."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("%s failed", task.get_name(), exc_info=task.exception())

    async def _carry_out(self, live: LiveSession, commands: tuple[Command, ...]) -> None:
        async with live.orders:
            for command in commands:
                await self._until_done(command, live)

    async def _until_done(self, command: Command, live: LiveSession) -> None:
        pause_s = self._settings.retry_first_s
        while True:
            try:
                await self._handlers[command](live)
                return
            except (GpuaasError, OSError) as error:
                # Of the catalogue, mostly: a full disk must not leave a session half ended.
                log.error("%s of session %s: %s", command, live.session.id, error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, self._settings.retry_most_s)

    def spec(self, record: SessionRecord, lease: Lease, incoming: Incoming | None, *, image: bool = False) -> HostSpec:
        """What a host is told that is to act for a session with this lease.

        Parameters
        ----------
        image
            Its kernel comes from the former host, as an image.

        Raises
        ------
        TransportError
            The node of its former host does not answer now.
        """
        peer = self.peer(record, incoming)
        plan = self._plan(record)
        if plan is not None and incoming is not None:
            plan = msgspec.structs.replace(plan, restore="" if peer else incoming.checkpoint)
        return HostSpec(
            session_id=record.session.id,
            name=record.session.name,
            owner=record.session.owner,
            lease=lease,
            secret=record.secret,
            cwd=record.cwd,
            machine=record.machine,
            env=record.env,
            checkpoints=plan,
            peer=peer,
            image=image,
            on_node_loss=record.session.request.on_node_loss or self._settings.on_node_loss,
        )

    def peer(self, record: SessionRecord, incoming: Incoming | None) -> Peer | None:
        """Where what the former host has is to be had; None where nothing is left of it.

        Raises
        ------
        TransportError
            Its node does not answer now.
        """
        if incoming is None or not incoming.node:
            return None
        return peer_of(record, self._engine, incoming.node, incoming.epoch)

    async def _start_host(self, live: LiveSession) -> None:
        lease = live.lease
        assert lease is not None
        deadline = time.monotonic() + self._settings.start_timeout_s
        pause_s = self._settings.retry_first_s
        stands_by = False
        while live.session.state is SessionState.STARTING:
            try:
                incoming = self._incoming(live)
                comes = incoming is not None and (bool(incoming.node) or incoming.stands_by)
                if stands_by and not comes:
                    # It was started to take the session over from a node that is lost now.
                    self._sessions.advance(live, SessionEvent.HOST_DIED, f"{incoming.why if incoming else 'no peer'}")
                    return
                stands_by = comes
                most_s = await self._limit_s(live, incoming) if incoming is not None else 0.0
                # One that is there is not started again: what its former host's node says of that would be asked for.
                if incoming is None or not (incoming.stands_by or incoming.ready):
                    starting = self._agents.of(lease.node_id).start_host(self.spec(live.record, lease, incoming))
                    report = await unless_lost(self._node_leases, lease.node_id, starting)
                if incoming is not None and comes:
                    taking = in_time(live, self._take_over(live, lease, incoming), most_s)
                    taking = unless_lost(self._node_leases, lease.node_id, taking)
                    whole = incoming.ready or not incoming.node
                    report = await (taking if whole else unless_lost(self._node_leases, incoming.node, taking))
            except GpuaasError as error:
                # The same order again is safe: the agent knows it by session and epoch.
                if error.retryable and time.monotonic() < deadline:
                    await self._agents.pause(pause_s)
                    pause_s = min(2 * pause_s, self._settings.retry_most_s)
                    continue
                if live.session.state is SessionState.STARTING:
                    late = incoming is not None and incoming.stands_by
                    self._sessions.start_failed(live, f"its standby failed: {error}" if late else str(error))
                break
            if comes:
                self._taken_over(live, report)
            self._sessions.reported(live, report)
            if incoming is None or comes:
                return
            await self._until_restored(live, most_s)
            break
        if live.session.state in (SessionState.IDLE, SessionState.BUSY) and live.lease is lease:
            # It made the variables by itself, or:
            # 1. The host becomes the session's, and its agent reports so.  2. The answer to us is lost.
            self._taken_over(live)

    async def _limit_s(self, live: LiveSession, incoming: Incoming) -> float:
        """How long a host may take until it is that of a session which comes back."""
        view = live.checkpoints.last if live.checkpoints is not None else None
        if view is None and not incoming.ready:
            with contextlib.suppress(StoreError):  # its host reads them, too, and says what is wrong
                view = await self._newest_of(live)
        state_bytes = view.host_bytes + view.device_bytes if view is not None else 0
        return limit_s(self._settings.start_timeout_s, state_bytes, incoming.failures)

    async def _until_restored(self, live: LiveSession, most_s: float) -> None:
        """Wait for a host that makes the variables by itself; until then it may fail, and another is to try it."""
        if not await live.bell.until(lambda: live.session.state is not SessionState.STARTING, most_s):
            self._sessions.start_failed(live, f"the session was not there after {most_s:.0f} s")

    def _incoming(self, live: LiveSession) -> Incoming | None:
        """Where the session comes from; not from a node that is lost."""
        incoming = live.record.incoming
        if incoming is None or not incoming.node or incoming.ready or not self._node_leases.lost(incoming.node):
            return incoming
        self._leave(live, incoming)
        why = f"node {incoming.node} does not answer"
        incoming = msgspec.structs.replace(incoming, node="", epoch=0, lease=None, ready=False, why=why)
        self._sessions.keep(live, incoming=incoming)
        return incoming

    def _leave(self, live: LiveSession, incoming: Incoming) -> None:
        """What the session's former host has is not needed any more."""
        if incoming.lease is not None:
            self.give_back(incoming.lease, for_good=True)
        elif incoming.node:
            self._spawn(self._drop(incoming.node, live.session.id), f"drop remains of {live.session.id}")

    async def _take_over(self, live: LiveSession, lease: Lease, incoming: Incoming) -> HostReport:
        """Let the host in standby become the session's."""
        client, session_id = self._agents.of(lease.node_id), live.session.id
        if not incoming.ready:
            content = {"checkpoint": incoming.checkpoint, **self.way(live.record, incoming)}
            loaded = await client.op(session_id, lease.epoch, "load", content)
            lost = msgspec.convert(loaded, Loaded).lost
            if lost:
                cause = f"not restored: {', '.join(lost)}"
                self._sessions.tell(live.session, "restored", cause, {"lost": lost})
            await client.op(session_id, lease.epoch, "succeed", {})
            self._sessions.keep(live, incoming=msgspec.structs.replace(incoming, ready=True))
        return msgspec.convert(await client.op(session_id, lease.epoch, "live", {}), HostReport)

    def way(self, record: SessionRecord, incoming: Incoming) -> dict[str, Any]:
        """What a host that stands by is told of where the session's state is."""
        peer = self.peer(record, incoming)
        return {"alone": True} if peer is None else {"peer": {"url": peer.url, "ticket": peer.ticket}}

    def _taken_over(self, live: LiveSession, report: HostReport | None = None) -> None:
        """The session has its new host: its former one, and what it left, is not needed any more."""
        incoming = live.record.incoming
        if incoming is None:
            return
        self._sessions.keep(live, incoming=None)
        self._leave(live, incoming)
        if not incoming.why:
            return
        # Where the journal is gone only clients know which cells there were.
        lost = list(report.lost_cells) if incoming.node and report is not None else None
        told = {"checkpoint": incoming.checkpoint, "cell": incoming.cell, "lost_cells": lost}
        self._sessions.tell(live.session, "recovered", back_words(lost or (), incoming.cell), told)
        if not incoming.node and live.lease is not None:
            text = notice((), incoming.cell, incoming.why)
            self._spawn(self._explain(live.lease, text), f"tell {live.session.id} of its loss")

    async def _explain(self, lease: Lease, text: str) -> None:
        """Say in the notebook why the session begins with a checkpoint, whoever reads it and when."""
        try:
            await self._agents.of(lease.node_id).op(lease.session_id, lease.epoch, "notice", {"text": text})
        except GpuaasError as error:
            log.info("session %s not told of its loss: %s", lease.session_id, error)

    async def _place(self, live: LiveSession) -> None:
        if live.session.state in (S.RESTORING, S.SUSPENDED):
            self.place(live)

    async def _free_devices(self, live: LiveSession) -> None:
        """The host stays, and is found by the lease that names it; its devices are for others."""
        lease = live.lease
        if lease is None or live.session.state not in (S.SUSPENDED, S.PARKED, S.RESTORING):
            return
        await self._engine.release(lease.id)
        if lease.device_ids:
            told = "its devices are free for others"
            self._sessions.note(live, told, {}, lease=msgspec.structs.replace(lease, device_ids=()))
        self._is_free()

    async def _go_on(self, live: LiveSession) -> None:
        lease = live.lease
        if lease is None:
            return
        pause_s = self._settings.retry_first_s
        while live.session.state in (S.STARTING, S.IDLE, S.BUSY) and live.lease == lease:
            try:
                asked = {"devices": list(lease.device_ids)}
                going_on = self._agents.of(lease.node_id).op(live.session.id, lease.epoch, "go_on", asked)
                # Should the node be lost meanwhile, the session's recovery waits for the end of this.
                await unless_lost(self._node_leases, lease.node_id, going_on)
                return
            except (NoSuchSession, StaleEpoch):
                return  # its end is reported
            except GpuaasError as error:
                # Of the driver, perhaps: who had the device before has not left it yet.
                log.warning("session %s does not go on yet: %s", live.session.id, error)
            await self._agents.pause(pause_s)
            pause_s = min(2 * pause_s, self._settings.retry_most_s)

    async def _drop_remains(self, live: LiveSession) -> None:
        incoming = live.record.incoming
        if incoming is not None and incoming.node:
            self._leave(live, incoming)
            self._sessions.keep(live, incoming=None)

    async def _drop(self, node_id: str, session_id: str) -> None:
        while True:
            try:
                await self._agents.of(node_id).drop_remains(session_id)
                return
            except GpuaasError as error:
                log.info("remains of session %s on %s: %s", session_id, node_id, error)
            if not self._node_leases.lost(node_id):
                return  # Once: otherwise the agent clears away by itself what nobody asks for.
            await asyncio.sleep(self._settings.retry_most_s)

    async def _stop_host(self, live: LiveSession) -> None:
        if live.lease is not None and live.session.state in HOSTLESS:
            # It may be wanted again already, since it was parked.
            keep = live.session.state in (S.PARKED, S.LOST, S.RESTORING)
            ending = self._end(live.lease, live.session.cause or "released", keep=keep)
            try:
                await unless_lost(self._node_leases, live.lease.node_id, ending)
            except TransportError:
                # It stands still there, and is ended when the node is back.
                self._unended.add(live.lease)
                self._incoming(live)
            else:
                if not keep:
                    await self._drop(live.lease.node_id, live.session.id)

    async def _end(self, lease: Lease, reason: str, *, keep: bool = False, moved: bool = False) -> None:
        """Return only when no process of the host can be left: its devices go to others next.

        Parameters
        ----------
        moved
            Clients that are attached to it all the same are to ask where their session is; it has not ended.
        """
        pause_s = self._settings.retry_first_s
        while any(node.id == lease.node_id for node in self._engine.nodes()):
            try:
                client = self._agents.of(lease.node_id)
                await client.stop_host(lease.session_id, epoch=lease.epoch, reason=reason, keep=keep, moved=moved)
                return
            except NoSuchSession:
                return
            except StaleEpoch:
                return  # A newer host of the session is there; ours is gone.
            except GpuaasError as error:
                log.warning("host of session %s not stopped yet: %s", lease.session_id, error)
            await self._agents.pause(pause_s)
            pause_s = min(2 * pause_s, self._settings.retry_most_s)

    async def _release_lease(self, live: LiveSession) -> None:
        lease = live.lease
        if lease is not None and (lease in self._unended or live.session.state is SessionState.RESTORING):
            # With RESTORING, it may have been an earlier controller that could not end its host.
            self._unended.discard(lease)
            self.give_back(lease)
        elif lease is not None:
            await self._engine.release(lease.id)
            self._is_free()
        if live.session.state is SessionState.CLOSING:
            self._sessions.advance(live, SessionEvent.RELEASED, live.session.cause, lease=None)
        elif lease is not None:
            self._sessions.note(live, "its devices were given back", {}, lease=None)

    async def _newest_of(self, live: LiveSession) -> CheckpointView | None:
        """The checkpoint that the session comes back with, mostly its newest; None where there is none.

        Raises
        ------
        StoreError
            It cannot be read now.
        """
        found = await asyncio.to_thread(self._way_back, live.record)
        known = live.checkpoints.last if live.checkpoints is not None else None
        if found is None and known is not None:
            # The newest one of a session that lives stays, so this is not the store as it was: not mounted, perhaps.
            raise StoreError(f"checkpoint {known.short}, which has been written, is not in the store.")
        return found

    async def _newest_readable(self, live: LiveSession) -> CheckpointView | None:
        """The newest checkpoint of a lost session; while the store cannot be read, that is waited for.

        None where it has none, or is not lost any more.
        """
        pause_s = self._settings.retry_first_s
        while _lost(live):
            try:
                return await self._newest_of(live)
            except StoreError as error:
                log.warning("checkpoints of session %s: %s", live.session.id, error)
                cause, told = live.session.cause, f"{UNREADABLE}: {error}"
                if UNREADABLE not in cause:
                    self._sessions.note(live, told, {"warning": True}, cause=f"{cause}; {told}")
            await live.bell.until(lambda: not _lost(live), pause_s)
            pause_s = min(2 * pause_s, self._settings.retry_most_s)
        return None

    def stands_by(self, aside: Aside) -> bool:
        """Whether a standby can be asked to take its session over."""
        try:
            self._agents.of(aside.lease.node_id)
        except GpuaasError:
            return False
        return not self._node_leases.lost(aside.lease.node_id)

    async def _stand_in(self, live: LiveSession) -> None:
        """Let the standby take the session over, whose host is dead, or fenced: its node is not waited for."""
        aside, lease = live.record.aside, live.lease
        if lease is None or live.record.incoming is not None:
            return
        if aside is None:
            if not self._answers(lease.node_id):
                self._hurried[live.session.id] = self._spawn(self._hurry(live), f"hurry {live.session.id}")
            return
        if not self.stands_by(aside):
            return
        newest = await self._newest_readable(live)
        if newest is None or _begins(live, newest):
            return
        left = await self._left_soon(lease)
        if _lost(live) and live.record.aside == aside:
            self._stood_in(live, aside, newest, left=left)

    def _stood_in(self, live: LiveSession, aside: Aside, newest: CheckpointView, *, left: bool) -> None:
        """The session is its standby's; ``left`` tells whether what its former host has left is to be had."""
        lease, why = live.lease, _lost_by(live)
        assert lease is not None
        incoming = Incoming(checkpoint=newest.id, why=why, stands_by=True, cell=newest.cell)
        if left:
            incoming = msgspec.structs.replace(incoming, node=lease.node_id, epoch=lease.epoch, lease=lease)
        cause = f"{why}; its standby on {aside.lease.node_id} goes on from checkpoint {newest.short}"
        live.hosted = False
        changed = {"incoming": incoming, "aside": None, "kernel_starts": 0}
        mine = {"lease": aside.lease, "epoch": aside.lease.epoch}
        told = _told(newest)
        self._sessions.advance(live, SessionEvent.STOOD_IN, cause, record=changed, detail=told, swap=True, **mine)
        self._unended.discard(lease)
        if not left:
            self.give_back(lease, for_good=True)

    def _answers(self, node_id: str) -> bool:
        """Whether there is an agent that can be asked; that of a lost node is not waited for."""
        try:
            self._agents.of(node_id)
        except GpuaasError:
            return self._node_leases.lost(node_id)
        return True

    async def _hurry(self, live: LiveSession) -> None:
        """Have a host ready elsewhere when the session's own node gives away what is left there."""
        newest = await self._newest_readable(live)
        if newest is None or _begins(live, newest):
            return
        aside = await self.hurry(live)
        if aside is not None:
            self._spawn(self._fill(aside.lease, newest.id), f"fill ahead {live.session.id}")

    async def _fill(self, lease: Lease, checkpoint: str) -> None:
        """Let a host ahead bring the variables from their store; what is not there when it begins, comes then."""
        content = {"checkpoint": checkpoint, "from_store": True, "alone": True}
        content["most_bytes"] = self._settings.standby_bytes
        try:
            await self._agents.of(lease.node_id).op(lease.session_id, lease.epoch, "preload", content)
        except GpuaasError as error:
            log.info("session %s is not brought to %s ahead: %s", lease.session_id, lease.node_id, error)

    async def _left_soon(self, lease: Lease) -> bool:
        """Whether the node of a dead host gives away at once what that has left."""
        if self._node_leases.lost(lease.node_id):
            return False
        try:
            client = self._agents.of(lease.node_id)
            ending = client.stop_host(lease.session_id, epoch=lease.epoch, reason="lost", keep=True)
            await asyncio.wait_for(ending, SOON_S)
            return await asyncio.wait_for(client.has_remains(lease.session_id, epoch=lease.epoch), SOON_S)
        except (GpuaasError, asyncio.TimeoutError, TimeoutError):
            return False

    async def _recover(self, live: LiveSession) -> None:
        if not _lost(live):
            self._hurried.pop(live.session.id, None)
            return  # it is with its standby
        newest = await self._newest_readable(live)
        if not _lost(live):
            return  # meanwhile its user has ended it
        lost_by = _lost_by(live)
        if newest is None:
            cause = f"{lost_by}; there is no checkpoint to restore it from"
            self._sessions.advance(live, SessionEvent.GIVEN_UP, cause)
            return
        cause = f"{lost_by}; checkpoint {newest.short} is restored"
        incoming, lease = self._incoming(live), live.lease
        # What a host fails at that is to bring it back is not what its user has lost it by.
        failures, why = (incoming.failures, incoming.why) if incoming is not None else (0, "")
        why = why or lost_by
        begins = _begins(live, newest)
        if begins and lease is not None:
            self._spawn(self._drop(lease.node_id, live.session.id), f"drop remains of {live.session.id}")
        left = lease is not None and not begins and await self._has_remains(lease)
        aside = await self._ahead(live)
        if aside is not None and lease is not None and incoming is None and not begins:
            self._stood_in(live, aside, newest, left=left)
            return
        if not _lost(live):
            return
        if lease is not None and left:
            # What the lost host has left on its disk, its agent gives to the next one. It was the session's host, even
            # if nobody has heard that it had become that: then what its predecessor has is out of date.
            if incoming is not None:
                self._leave(live, incoming)
            incoming = Incoming(checkpoint=newest.id, node=lease.node_id, epoch=lease.epoch)
        elif incoming is not None and incoming.node and not asks_former_host(failures):
            self._leave(live, incoming)
            incoming = None
        now = {"checkpoint": newest.id, "cell": newest.cell, "why": why, "failures": failures}
        incoming = incoming or Incoming(checkpoint=newest.id)
        incoming = msgspec.structs.replace(incoming, **now, ready=False, stands_by=False)
        changed = {"incoming": incoming, "kernel_starts": 0}
        self._sessions.advance(live, SessionEvent.RESTORABLE, cause, record=changed, detail=_told(newest))

    async def _ahead(self, live: LiveSession) -> Aside | None:
        """The host that was started ahead for a session which is still lost, if it can take it over."""
        hurried = self._hurried.pop(live.session.id, None)
        if hurried is not None:
            await asyncio.wait({hurried})
        aside = live.record.aside
        return aside if aside is not None and _lost(live) and self.stands_by(aside) else None

    async def _has_remains(self, lease: Lease) -> bool:
        try:
            asking = self._agents.of(lease.node_id).has_remains(lease.session_id, epoch=lease.epoch)
            return await unless_lost(self._node_leases, lease.node_id, asking)
        except GpuaasError:
            return False

    async def _give_back(self, lease: Lease, for_good: bool) -> None:
        try:
            await self._end(lease, "the service knows no such session", moved=True)
            if for_good:
                await self._drop(lease.node_id, lease.session_id)
            pause_s = self._settings.retry_first_s
            while True:
                try:
                    await self._engine.release(lease.id)
                    return
                except (GpuaasError, OSError) as error:
                    log.error("lease of session %s: %s", lease.session_id, error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, self._settings.retry_most_s)
        finally:
            self._stopping.discard(lease)
            self._is_free()


async def _nobody(live: LiveSession) -> Aside | None:
    return None


def _told(checkpoint: CheckpointView) -> dict[str, Any]:
    """The checkpoint that a session comes back with, as its story tells it."""
    return {"checkpoint": checkpoint.id, "cell": checkpoint.cell}


def _lost(live: LiveSession) -> bool:
    return live.session.state is S.LOST


def _begins(live: LiveSession, checkpoint: CheckpointView) -> bool:
    """Whether it begins once more, with another session's checkpoint: a host makes that by itself, and nobody else."""
    return checkpoint.session != live.session.id


def _lost_by(live: LiveSession) -> str:
    """Why it was lost."""
    return live.session.cause.partition(f"; {UNREADABLE}")[0]
