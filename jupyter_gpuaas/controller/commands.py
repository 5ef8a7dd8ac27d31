"""Carries out what the lifecycle orders: hosts started and stopped, leases given back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.agents import Agents
from jupyter_gpuaas.controller.catalogue.records import SessionRecord
from jupyter_gpuaas.controller.sessions import LiveSession, Sessions
from jupyter_gpuaas.engine.base import Engine
from jupyter_gpuaas.errors import GpuaasError, NoSuchSession, StaleEpoch
from jupyter_gpuaas.lifecycle.session import Command, SessionEvent
from jupyter_gpuaas.model import CheckpointPlan, HostSpec, Lease, SessionState

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
    ) -> None:
        self._sessions = sessions
        #: How a session takes checkpoints.
        self._plan = plan
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

    async def _start_host(self, live: LiveSession) -> None:
        record, lease = live.record, live.lease
        assert lease is not None
        spec = HostSpec(
            session_id=live.session.id,
            name=live.session.name,
            owner=live.session.owner,
            lease=lease,
            secret=record.secret,
            cwd=record.cwd,
            machine=record.machine,
            env=record.env,
            checkpoints=self._plan(record),
        )
        deadline = time.monotonic() + self._settings.start_timeout_s
        pause_s = self._settings.retry_first_s
        while live.session.state is SessionState.STARTING:
            try:
                report = await self._agents.of(lease.node_id).start_host(spec)
            except GpuaasError as error:
                # The same order again is safe: the agent knows it by session and epoch.
                if error.retryable and time.monotonic() < deadline:
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, self._settings.retry_most_s)
                    continue
                if live.session.state is SessionState.STARTING:
                    self._sessions.advance(live, SessionEvent.START_FAILED, str(error))
                return
            self._sessions.reported(live, report)
            return

    async def _stop_host(self, live: LiveSession) -> None:
        if live.lease is not None:
            await self._end(live.lease, live.session.cause or "released")

    async def _end(self, lease: Lease, reason: str) -> None:
        """Return only when no process of the host can be left: its devices go to others next."""
        pause_s = self._settings.retry_first_s
        while any(node.id == lease.node_id for node in self._engine.nodes()):
            try:
                client = self._agents.of(lease.node_id)
                await client.stop_host(lease.session_id, epoch=lease.epoch, reason=reason)
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
        # Meanwhile its user may have ended it.
        if live.session.state is SessionState.LOST:
            last = live.checkpoints.last if live.checkpoints is not None else None
            way_back = "there is no checkpoint to restore it from"
            if last is not None:
                way_back = (
                    f"`jupyter gpuaas restore {live.session.id[:12]} {last.short} --new` begins a new one with it"
                )
            cause = f"{live.session.cause}; {way_back}"
            self._sessions.advance(live, SessionEvent.GIVEN_UP, cause)

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
