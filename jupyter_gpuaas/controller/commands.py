"""Carries out what the lifecycle orders: hosts started and stopped, leases given back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.agents import Agents
from jupyter_gpuaas.controller.catalogue.records import Incoming, SessionRecord
from jupyter_gpuaas.controller.endings import Endings
from jupyter_gpuaas.controller.leases import NodeLeases
from jupyter_gpuaas.controller.patience import HOSTLESS, in_time, unless_lost
from jupyter_gpuaas.controller.peers import peer_of
from jupyter_gpuaas.controller.recoveries import Recoveries
from jupyter_gpuaas.controller.sessions import LiveSession, Sessions
from jupyter_gpuaas.engine.base import Engine
from jupyter_gpuaas.errors import GpuaasError, NoSuchSession, StaleEpoch, StoreError, TransportError
from jupyter_gpuaas.lifecycle.node_loss import back_words, notice
from jupyter_gpuaas.lifecycle.recovery import limit_s
from jupyter_gpuaas.lifecycle.session import Command, SessionEvent
from jupyter_gpuaas.model import (
    CheckpointPlan,
    HostReport,
    HostSpec,
    Lease,
    Loaded,
    Peer,
    SessionState,
)

log = logging.getLogger(__name__)

S = SessionState


class Commands:
    """Each list of commands is one task; those of one session never overlap."""

    def __init__(
        self,
        sessions: Sessions,
        engine: Engine,
        agents: Agents,
        settings: Settings,
        node_leases: NodeLeases,
        endings: Endings,
        recoveries: Recoveries,
        plan: Callable[[SessionRecord], CheckpointPlan | None] = lambda record: None,
    ) -> None:
        self._sessions = sessions
        #: How a session takes checkpoints.
        self._plan = plan
        #: Puts a session into the queue; set by the controller.
        self.place: Callable[[LiveSession], None] = lambda live: None
        self._engine = engine
        self._agents = agents
        self._settings = settings
        self._node_leases = node_leases
        self._endings = endings
        self._recoveries = recoveries
        self._handlers: dict[Command, Callable[[LiveSession], Awaitable[None]]] = {
            Command.START_HOST: self._start_host,
            Command.STOP_HOST: self._stop_host,
            Command.RELEASE_LEASE: self._release_lease,
            Command.STAND_IN: self._recoveries.stand_in,
            Command.RECOVER: self._recoveries.recover,
            Command.PLACE: self._place,
            Command.DROP_REMAINS: self._drop_remains,
            Command.FREE_DEVICES: self._free_devices,
            Command.GO_ON: self._go_on,
        }

    def order(self, live: LiveSession, commands: tuple[Command, ...]) -> None:
        """Begin to carry out the commands, after those that were ordered before."""
        self._endings.spawn(self._carry_out(live, commands), f"{'+'.join(commands)} {live.session.id}")

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
                incoming = self._endings.incoming(live)
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
                view = await self._recoveries.newest_of(live)
        state_bytes = view.host_bytes + view.device_bytes if view is not None else 0
        return limit_s(self._settings.start_timeout_s, state_bytes, incoming.failures)

    async def _until_restored(self, live: LiveSession, most_s: float) -> None:
        """Wait for a host that makes the variables by itself; until then it may fail, and another is to try it."""
        if not await live.bell.until(lambda: live.session.state is not SessionState.STARTING, most_s):
            self._sessions.start_failed(live, f"the session was not there after {most_s:.0f} s")

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
        self._endings.leave(live, incoming)
        if not incoming.why:
            return
        # Where the journal is gone only clients know which cells there were.
        lost = list(report.lost_cells) if incoming.node and report is not None else None
        told = {"checkpoint": incoming.checkpoint, "cell": incoming.cell, "lost_cells": lost}
        self._sessions.tell(live.session, "recovered", back_words(lost or (), incoming.cell), told)
        if not incoming.node and live.lease is not None:
            text = notice((), incoming.cell, incoming.why)
            self._endings.spawn(self._explain(live.lease, text), f"tell {live.session.id} of its loss")

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
        self._endings.is_free()

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
            self._endings.leave(live, incoming)
            self._sessions.keep(live, incoming=None)

    async def _stop_host(self, live: LiveSession) -> None:
        if live.lease is not None and live.session.state in HOSTLESS:
            # It may be wanted again already, since it was parked.
            keep = live.session.state in (S.PARKED, S.LOST, S.RESTORING)
            ending = self._endings.end(live.lease, live.session.cause or "released", keep=keep)
            try:
                await unless_lost(self._node_leases, live.lease.node_id, ending)
            except TransportError:
                # It stands still there, and is ended when the node is back.
                self._endings.unended.add(live.lease)
                self._endings.incoming(live)
            else:
                if not keep:
                    await self._endings.drop(live.lease.node_id, live.session.id, live.lease.epoch)

    async def _release_lease(self, live: LiveSession) -> None:
        lease = live.lease
        if lease is not None and (lease in self._endings.unended or live.session.state is SessionState.RESTORING):
            # With RESTORING, it may have been an earlier controller that could not end its host.
            self._endings.unended.discard(lease)
            self._endings.give_back(lease)
        elif lease is not None:
            await self._engine.release(lease.id)
            self._endings.is_free()
        if live.session.state is SessionState.CLOSING:
            self._sessions.advance(live, SessionEvent.RELEASED, live.session.cause, lease=None)
        elif lease is not None:
            self._sessions.note(live, "its devices were given back", {}, lease=None)
