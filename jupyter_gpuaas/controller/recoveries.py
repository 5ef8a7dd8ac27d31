"""Brings lost sessions back: with a host that stands by, by what a dead host has left, or from a checkpoint."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.agents import Agents
from jupyter_gpuaas.controller.catalogue.records import Aside, Incoming, SessionRecord
from jupyter_gpuaas.controller.endings import Endings
from jupyter_gpuaas.controller.leases import NodeLeases
from jupyter_gpuaas.controller.patience import unless_lost
from jupyter_gpuaas.controller.sessions import LiveSession, Sessions
from jupyter_gpuaas.errors import GpuaasError, StoreError
from jupyter_gpuaas.lifecycle.recovery import asks_former_host
from jupyter_gpuaas.lifecycle.session import SessionEvent
from jupyter_gpuaas.model import CheckpointView, Lease, SessionState

log = logging.getLogger(__name__)

#: A node whose host died and that does not give what the host has left in this time is not waited for by a standby.
SOON_S = 2.0
#: How it is told, behind why a session was lost, that it cannot come back yet.
UNREADABLE = "its checkpoints cannot be read now"


class Recoveries:
    """What `Commands` orders of them, one after the other for each session."""

    def __init__(
        self,
        sessions: Sessions,
        agents: Agents,
        settings: Settings,
        node_leases: NodeLeases,
        endings: Endings,
        way_back: Callable[[SessionRecord], CheckpointView | None] = lambda record: None,
    ) -> None:
        self._sessions = sessions
        self._agents = agents
        self._settings = settings
        self._node_leases = node_leases
        self._endings = endings
        #: The checkpoint that a session comes back with, read from the store in a thread; None where there is none.
        self._way_back = way_back
        #: Starts a host on another node for a session whose own one is waited for; set by the controller.
        self.hurry: Callable[[LiveSession], Awaitable[Aside | None]] = _nobody
        self._hurried: dict[str, asyncio.Task[None]] = {}

    async def newest_of(self, live: LiveSession) -> CheckpointView | None:
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
                return await self.newest_of(live)
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

    async def stand_in(self, live: LiveSession) -> None:
        """Let the standby take the session over, whose host is dead, or fenced: its node is not waited for."""
        aside, lease = live.record.aside, live.lease
        if lease is None or live.record.incoming is not None:
            return
        if aside is None:
            if not self._answers(lease.node_id):
                self._hurried[live.session.id] = self._endings.spawn(self._hurry(live), f"hurry {live.session.id}")
            return
        if not self.stands_by(aside) or self._node_leases.unheard(lease.node_id):
            return  # an unheard one may still act: the standby is for later, when it is fenced
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
        self._endings.unended.discard(lease)
        if not left:
            self._endings.give_back(lease, for_good=True)

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
            self._endings.spawn(self._fill(aside.lease, newest.id), f"fill ahead {live.session.id}")

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

    async def recover(self, live: LiveSession) -> None:
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
        incoming, lease = self._endings.incoming(live), live.lease
        # What a host fails at that is to bring it back is not what its user has lost it by.
        failures, why = (incoming.failures, incoming.why) if incoming is not None else (0, "")
        why = why or lost_by
        begins = _begins(live, newest)
        if begins and lease is not None:
            self._endings.clear_away(lease.node_id, live.session.id, lease.epoch)
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
                self._endings.leave(live, incoming)
            incoming = Incoming(checkpoint=newest.id, node=lease.node_id, epoch=lease.epoch)
        elif incoming is not None and incoming.node and not asks_former_host(failures):
            self._endings.leave(live, incoming)
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


async def _nobody(live: LiveSession) -> Aside | None:
    return None


def _told(checkpoint: CheckpointView) -> dict[str, Any]:
    """The checkpoint that a session comes back with, as its story tells it."""
    return {"checkpoint": checkpoint.id, "cell": checkpoint.cell}


def _lost(live: LiveSession) -> bool:
    return live.session.state is SessionState.LOST


def _begins(live: LiveSession, checkpoint: CheckpointView) -> bool:
    """Whether it begins once more, with another session's checkpoint: a host makes that by itself, and nobody else."""
    return checkpoint.session != live.session.id


def _lost_by(live: LiveSession) -> str:
    """Why it was lost."""
    return live.session.cause.partition(f"; {UNREADABLE}")[0]
