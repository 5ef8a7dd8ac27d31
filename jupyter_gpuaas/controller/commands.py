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
from jupyter_gpuaas.controller.catalogue.records import Incoming, SessionRecord
from jupyter_gpuaas.controller.peers import peer_of
from jupyter_gpuaas.controller.sessions import LiveSession, Sessions
from jupyter_gpuaas.engine.base import Engine
from jupyter_gpuaas.errors import GpuaasError, NoSuchSession, StaleEpoch, StoreError
from jupyter_gpuaas.lifecycle.session import Command, SessionEvent
from jupyter_gpuaas.model import CheckpointPlan, HostReport, HostSpec, Lease, Loaded, SessionState, short_id

log = logging.getLogger(__name__)


class Commands:
    """Each list of commands is one task; those of one session never overlap."""

    def __init__(
        self,
        sessions: Sessions,
        engine: Engine,
        agents: Agents,
        settings: Settings,
        plan: Callable[[SessionRecord], CheckpointPlan | None] = lambda record: None,
        newest: Callable[[str, str], str] = lambda owner, session: "",
    ) -> None:
        self._sessions = sessions
        #: How a session takes checkpoints.
        self._plan = plan
        #: Id of a session's newest checkpoint, read from the store in a thread; empty where there is none.
        self._newest = newest
        #: Puts a session into the queue; set by the controller.
        self.place: Callable[[LiveSession], None] = lambda live: None
        self._engine = engine
        self._agents = agents
        self._settings = settings
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping: set[Lease] = set()
        self._handlers: dict[Command, Callable[[LiveSession], Awaitable[None]]] = {
            Command.START_HOST: self._start_host,
            Command.STOP_HOST: self._stop_host,
            Command.RELEASE_LEASE: self._release_lease,
            Command.RECOVER: self._recover,
            Command.PLACE: self._place,
            Command.DROP_REMAINS: self._drop_remains,
        }

    def order(self, live: LiveSession, commands: tuple[Command, ...]) -> None:
        """Begin to carry out the commands, after those that were ordered before."""
        self._spawn(self._carry_out(live, commands), f"{'+'.join(commands)} {live.session.id}")

    def give_back(self, lease: Lease) -> None:
        """End a host that no session wants, then free its devices."""
        if lease not in self._stopping:
            self._stopping.add(lease)
            self._spawn(self._give_back(lease), f"give back {lease.session_id}")

    async def close(self) -> None:
        """Stop working; a restarted controller begins again with what is left to do."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

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

    def spec(self, record: SessionRecord, lease: Lease, incoming: Incoming | None) -> HostSpec:
        """What a host is told that is to act for a session with this lease.

        Raises
        ------
        TransportError
            The node of its former host does not answer now.
        """
        peer = None
        if incoming is not None and incoming.node:
            peer = peer_of(record, self._engine, incoming.node, incoming.epoch)
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
        )

    async def _start_host(self, live: LiveSession) -> None:
        lease = live.lease
        assert lease is not None
        deadline = time.monotonic() + self._settings.start_timeout_s
        pause_s = self._settings.retry_first_s
        while live.session.state is SessionState.STARTING:
            try:
                incoming = live.record.incoming
                report = await self._agents.of(lease.node_id).start_host(self.spec(live.record, lease, incoming))
                if incoming is not None and incoming.node:
                    report = await self._take_over(live, lease, incoming)
            except GpuaasError as error:
                # The same order again is safe: the agent knows it by session and epoch.
                if error.retryable and time.monotonic() < deadline:
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, self._settings.retry_most_s)
                    continue
                if live.session.state is SessionState.STARTING:
                    self._sessions.advance(live, SessionEvent.START_FAILED, str(error))
                return
            self._taken_over(live)
            self._sessions.reported(live, report)
            return

    async def _take_over(self, live: LiveSession, lease: Lease, incoming: Incoming) -> HostReport:
        """Let the host in standby become the session's."""
        client, session_id = self._agents.of(lease.node_id), live.session.id
        if not incoming.ready:
            loaded = await client.op(session_id, lease.epoch, "load", {"checkpoint": incoming.checkpoint})
            lost = msgspec.convert(loaded, Loaded).lost
            if lost:
                cause = f"not restored: {', '.join(lost)}"
                self._sessions.tell(live.session, "restored", cause, {"lost": lost})
            await client.op(session_id, lease.epoch, "succeed", {})
            self._sessions.keep(live, incoming=msgspec.structs.replace(incoming, ready=True))
        return msgspec.convert(await client.op(session_id, lease.epoch, "live", {}), HostReport)

    def _taken_over(self, live: LiveSession) -> None:
        """The session has its new host: its former one, and what it left, is not needed any more."""
        incoming = live.record.incoming
        if incoming is None:
            return
        self._sessions.keep(live, incoming=None)
        if incoming.lease is not None:
            self.give_back(incoming.lease)
        elif incoming.node:
            self._spawn(self._drop(incoming.node, live.session.id), f"drop remains of {live.session.id}")

    async def _place(self, live: LiveSession) -> None:
        if live.session.state is SessionState.RESTORING:
            self.place(live)

    async def _drop_remains(self, live: LiveSession) -> None:
        incoming = live.record.incoming
        if incoming is not None and incoming.node:
            if incoming.lease is not None:
                self.give_back(incoming.lease)
            else:
                self._spawn(self._drop(incoming.node, live.session.id), f"drop remains of {live.session.id}")
            self._sessions.keep(live, incoming=None)

    async def _drop(self, node_id: str, session_id: str) -> None:
        # Once: where the agent does not answer, it clears away by itself what nobody asks for.
        try:
            await self._agents.of(node_id).drop_remains(session_id)
        except GpuaasError as error:
            log.info("remains of session %s on %s: %s", session_id, node_id, error)

    async def _stop_host(self, live: LiveSession) -> None:
        if live.lease is not None:
            keep = live.session.state in (SessionState.PARKED, SessionState.LOST)
            await self._end(live.lease, live.session.cause or "released", keep=keep)

    async def _end(self, lease: Lease, reason: str, *, keep: bool = False) -> None:
        """Return only when no process of the host can be left: its devices go to others next."""
        pause_s = self._settings.retry_first_s
        while any(node.id == lease.node_id for node in self._engine.nodes()):
            try:
                client = self._agents.of(lease.node_id)
                await client.stop_host(lease.session_id, epoch=lease.epoch, reason=reason, keep=keep)
                return
            except NoSuchSession:
                return
            except StaleEpoch:
                return  # A newer host of the session is there; ours is gone.
            except GpuaasError as error:
                log.warning("host of session %s not stopped yet: %s", lease.session_id, error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, self._settings.retry_most_s)

    async def _release_lease(self, live: LiveSession) -> None:
        if live.lease is not None:
            await self._engine.release(live.lease.id)
        if live.session.state is SessionState.CLOSING:
            self._sessions.advance(live, SessionEvent.RELEASED, live.session.cause, lease=None)
        elif live.lease is not None:
            self._sessions.note(live, "its devices were given back", {}, lease=None)

    async def _recover(self, live: LiveSession) -> None:
        session = live.session
        newest = ""
        with contextlib.suppress(StoreError):
            newest = await asyncio.to_thread(self._newest, session.owner, session.id)
        if live.session.state is not SessionState.LOST:
            return  # meanwhile its user has ended it
        if not newest:
            cause = f"{session.cause}; there is no checkpoint to restore it from"
            self._sessions.advance(live, SessionEvent.GIVEN_UP, cause)
            return
        cause = f"{session.cause}; checkpoint {short_id(newest)} is restored"
        incoming = live.record.incoming
        if incoming is None:
            # What the lost host has left on its disk, its agent gives to the next one, if it still can.
            lease = live.lease
            here = lease is not None and await self._has_remains(lease)
            node, epoch = (lease.node_id, lease.epoch) if here and lease is not None else ("", 0)
            incoming = Incoming(checkpoint=newest, node=node, epoch=epoch)
        changed = {"incoming": msgspec.structs.replace(incoming, checkpoint=newest, ready=False), "kernel_starts": 0}
        self._sessions.advance(live, SessionEvent.RESTORABLE, cause, record=changed)

    async def _has_remains(self, lease: Lease) -> bool:
        try:
            return await self._agents.of(lease.node_id).has_remains(lease.session_id, epoch=lease.epoch)
        except GpuaasError:
            return False

    async def _give_back(self, lease: Lease) -> None:
        try:
            await self._end(lease, "the service knows no such session")
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
