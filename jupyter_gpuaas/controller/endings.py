"""Ends hosts that no session wants, frees their devices, and clears away what they have left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.agents import Agents
from jupyter_gpuaas.controller.bell import Bell
from jupyter_gpuaas.controller.catalogue.records import Incoming
from jupyter_gpuaas.controller.leases import NodeLeases
from jupyter_gpuaas.controller.sessions import LiveSession, Sessions
from jupyter_gpuaas.engine.base import Engine
from jupyter_gpuaas.errors import GpuaasError, NoSuchSession, StaleEpoch
from jupyter_gpuaas.model import Lease

log = logging.getLogger(__name__)


class Endings:
    """Each is a task of its own, and goes on until it is done."""

    def __init__(
        self, sessions: Sessions, engine: Engine, agents: Agents, settings: Settings, node_leases: NodeLeases
    ) -> None:
        self._sessions = sessions
        self._engine = engine
        self._agents = agents
        self._settings = settings
        self._node_leases = node_leases
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping: set[Lease] = set()
        #: Remains that are being cleared away: node, session, epoch.
        self._clearing: set[tuple[str, str, int]] = set()
        #: Those on nodes that have gone, which may come back with their disks. The next controller does not know of
        #: them: then they stay there until their session leaves something on that node once more.
        self._left_behind: set[tuple[str, str, int]] = set()
        #: Leases whose hosts could not be ended, as their node was lost.
        self.unended: set[Lease] = set()
        #: Told when a lease was given back; set by the controller.
        self.on_freed: Callable[[], None] = lambda: None
        self._freed = Bell()

    def give_back(self, lease: Lease, *, for_good: bool = False) -> None:
        """End a host that no session wants, then free its devices.

        Parameters
        ----------
        for_good
            What it has left, should it be dead, is not wanted either.
        """
        if lease not in self._stopping:
            self._stopping.add(lease)
            self.spawn(self._give_back(lease, for_good), f"give back {lease.session_id}")

    def giving_back(self) -> frozenset[Lease]:
        """Leases that are about to be given back."""
        return frozenset(self._stopping)

    def makes_room(self, lease: Lease) -> bool:
        """Whether others can have the devices once the lease is given back; nobody can have those of a lost node."""
        return bool(lease.device_ids) and not self._node_leases.lost(lease.node_id)

    async def left(self, session_id: str, node_id: str, timeout_s: float) -> bool:
        """Wait until a session has left a node that it was on before; False when that takes longer."""

        def gone() -> bool:
            return all((lease.session_id, lease.node_id) != (session_id, node_id) for lease in self._stopping)

        return await self._freed.until(gone, timeout_s)

    def is_free(self) -> None:
        """Devices are free for others."""
        self._freed.ring()
        self.on_freed()

    async def close(self) -> None:
        """Stop working; a restarted controller begins again with what is left to do."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Begin a task that ends with the service at the latest; how it failed is logged under its name."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("%s failed", task.get_name(), exc_info=task.exception())

    def incoming(self, live: LiveSession) -> Incoming | None:
        """Where the session comes from; not from a node that is lost."""
        incoming = live.record.incoming
        if incoming is None or not incoming.node or incoming.ready or not self._node_leases.lost(incoming.node):
            return incoming
        self.leave(live, incoming)
        why = f"node {incoming.node} does not answer"
        incoming = msgspec.structs.replace(incoming, node="", epoch=0, lease=None, ready=False, why=why)
        self._sessions.keep(live, incoming=incoming)
        return incoming

    def leave(self, live: LiveSession, incoming: Incoming) -> None:
        """What the session's former host has is not needed any more."""
        if incoming.lease is not None:
            self.give_back(incoming.lease, for_good=True)
        elif incoming.node:
            self.clear_away(incoming.node, live.session.id, incoming.epoch)

    def clear_away(self, node_id: str, session_id: str, epoch: int) -> None:
        """What hosts of a session up to this epoch have left on a node is not needed any more."""
        if (node_id, session_id, epoch) not in self._clearing:
            self._clearing.add((node_id, session_id, epoch))
            self.spawn(self._clear_away(node_id, session_id, epoch), f"drop remains of {session_id}")

    async def _clear_away(self, node_id: str, session_id: str, epoch: int) -> None:
        remains = (node_id, session_id, epoch)
        pause_s = self._settings.retry_first_s
        try:
            # What was ordered to be kept, an agent keeps until it is told that it may go: nobody else tells it.
            while not await self._dropped(node_id, session_id, epoch):
                if not self._knows(node_id):
                    self._left_behind.add(remains)
                    return
                await self._agents.pause(pause_s)
                pause_s = min(2 * pause_s, self._settings.retry_most_s)
        finally:
            self._clearing.discard(remains)

    def met(self, node_id: str) -> None:
        """The node's agent answers: if it had gone, it is back."""
        for remains in [each for each in self._left_behind if each[0] == node_id]:
            self._left_behind.discard(remains)
            self.clear_away(*remains)

    async def drop(self, node_id: str, session_id: str, epoch: int) -> None:
        """As `clear_away`; return when that was tried, which is not waited for where the node is lost."""
        if self._node_leases.lost(node_id) or not await self._dropped(node_id, session_id, epoch):
            self.clear_away(node_id, session_id, epoch)

    async def _dropped(self, node_id: str, session_id: str, epoch: int) -> bool:
        try:
            await self._agents.of(node_id).drop_remains(session_id, epoch=epoch)
        except GpuaasError as error:
            log.info("remains of session %s on %s: %s", session_id, node_id, error)
            return False
        return True

    def _knows(self, node_id: str) -> bool:
        return any(node.id == node_id for node in self._engine.nodes())

    async def end(self, lease: Lease, reason: str, *, keep: bool = False, moved: bool = False) -> None:
        """Return only when no process of the host can be left: its devices go to others next.

        Parameters
        ----------
        moved
            Clients that are attached to it all the same are to ask where their session is; it has not ended.
        """
        pause_s = self._settings.retry_first_s
        while self._may_run_on(lease.node_id):
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

    def _may_run_on(self, node_id: str) -> bool:
        """Whether the engine knows the node, or may come to know it before its lease has run out."""
        return self._knows(node_id) or self._node_leases.unheard(node_id)

    async def _give_back(self, lease: Lease, for_good: bool) -> None:
        try:
            await self.end(lease, "the service knows no such session", moved=True)
            if for_good:
                await self.drop(lease.node_id, lease.session_id, lease.epoch)
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
            self.is_free()
