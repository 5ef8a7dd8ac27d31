"""Brings queued sessions to devices, in their order, and tells each its place."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from jupyter_gpuaas.controller.sessions import LiveSession, Sessions
from jupyter_gpuaas.engine.base import Engine, LeaseMeta
from jupyter_gpuaas.errors import AllocationError, CatalogueError, GpuaasError, NoCapacity
from jupyter_gpuaas.lifecycle.placement import why_never
from jupyter_gpuaas.lifecycle.session import SessionEvent
from jupyter_gpuaas.model import Lease, ResourceRequest

log = logging.getLogger(__name__)

RETRY_S = 2.0


class Scheduler:
    """The queue. Who waits is in the database; this only asks the engine in the same order."""

    def __init__(self, sessions: Sessions, engine: Engine) -> None:
        self._sessions = sessions
        self._engine = engine
        self._waiting: dict[str, tuple[LiveSession, asyncio.Task[None]]] = {}
        #: Hears who waits, in order; set by the controller.
        self.on_waiting: Callable[[Sequence[ResourceRequest]], None] = lambda waiting: None

    def check(self, request: ResourceRequest) -> None:
        """Raise NoCapacity where no node could ever serve the request."""
        never = why_never(request, self._engine.nodes())
        if never:
            raise NoCapacity(never, hint="`jupyter gpuaas nodes` shows what there is.")

    def submit(self, live: LiveSession) -> None:
        """Put a session at the end of the queue; on a free pool it is placed in this turn of the loop."""
        task = asyncio.create_task(self._serve(live), name=f"place {live.session.id}")
        self._waiting[live.session.id] = live, task
        # After the task's first step: who is served at once never had a place in the queue.
        asyncio.get_running_loop().call_soon(self._count)

    def forget(self, live: LiveSession) -> None:
        """Take a session out of the queue."""
        found = self._waiting.pop(live.session.id, None)
        if found is not None:
            found[1].cancel()
            self._count()

    async def close(self) -> None:
        """Stop placing; the queue stays in the database."""
        tasks = [task for _, task in self._waiting.values()]
        self._waiting = {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, live: LiveSession) -> None:
        while True:
            lease: Lease | None = None
            try:
                try:
                    meta = LeaseMeta(live.session.id, live.next_epoch)
                    lease = await self._engine.acquire(live.session.request, meta)
                except AllocationError as error:
                    self._sessions.advance(live, SessionEvent.START_FAILED, str(error))
                    break
                where = f"on {lease.node_id} with {', '.join(lease.device_ids)}"
                live.hosted = False
                self._sessions.advance(live, SessionEvent.PLACED, where, lease=lease, epoch=lease.epoch)
                break
            except CatalogueError as error:
                # The session does not know of its devices, so it has none. It loses its place: no other way is safe.
                log.error("session %s not placed: %s", live.session.id, error)
                if lease is not None:
                    await self._give_back(lease)
                await asyncio.sleep(RETRY_S)
        self._waiting.pop(live.session.id, None)
        self._count()

    async def _give_back(self, lease: Lease) -> None:
        while True:
            try:
                await self._engine.release(lease.id)
                return
            except GpuaasError as error:
                log.error("lease of session %s: %s", lease.session_id, error)
            await asyncio.sleep(RETRY_S)

    def _count(self) -> None:
        waiting = [live for live, _ in self._waiting.values()]
        for place, live in enumerate(waiting, start=1):
            if live.session.queue_place == place:
                continue
            try:
                self._sessions.note(live, f"place {place} in the queue", {"queue_place": place}, queue_place=place)
            except CatalogueError as error:
                # Only what is shown: the next count tells it.
                log.error("place of session %s not told: %s", live.session.id, error)
        requests = [live.session.request for live in waiting]
        self._engine.want(requests)
        self.on_waiting(requests)
