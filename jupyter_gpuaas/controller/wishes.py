"""What a session's notebook asks the service for, by way of its kernel and host."""

from __future__ import annotations

import asyncio
import logging
import time

from jupyter_gpuaas.controller.means import Means
from jupyter_gpuaas.controller.migrations import Migrations
from jupyter_gpuaas.controller.parking import Parking
from jupyter_gpuaas.controller.sessions import LiveSession
from jupyter_gpuaas.errors import GpuaasError, MigrationError
from jupyter_gpuaas.model import SessionState, Wish

log = logging.getLogger(__name__)

#: How long the cell that asked may go on. Who asks and then computes for an hour has changed his mind.
CELL_S = 600.0
#: A wish that is older was meant for a service that did not run.
FRESH_S = 60.0


class Wishes:
    """Carries out what notebooks ask for, and tells them where that cannot be done."""

    def __init__(self, means: Means, migrations: Migrations, parking: Parking) -> None:
        self._sessions = means.sessions
        self._agents = means.agents
        self._migrations = migrations
        self._parking = parking
        self._tasks: set[asyncio.Task[None]] = set()

    def heard(self, live: LiveSession, wish: Wish) -> None:
        """A session's notebook asks for something."""
        if time.time() - wish.number / 1e9 > FRESH_S:
            return
        task = asyncio.create_task(self._grant(live, wish), name=f"{wish.op} {live.session.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Stop."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _grant(self, live: LiveSession, wish: Wish) -> None:
        cause = "asked for by its notebook"
        try:
            if wish.op == "migrate":
                # Moving waits for the cell that asks by itself.
                await self._migrations.begin(
                    live, wish.target, via="auto", accept_loss=wish.accept_loss, cause=cause, between_cells=True
                )
            elif wish.op == "park":
                await live.bell.until(lambda: live.session.state is not SessionState.BUSY, CELL_S)
                await self._parking.park(live, cause, accept_loss=wish.accept_loss)
            else:
                raise MigrationError(f"op: {wish.op[:40]!r} is unknown.")
        except GpuaasError as error:
            log.info("wish of session %s: %s", live.session.id, error)
            self._sessions.tell(live.session, "refused", f"{wish.op}: {error}", {"op": wish.op})
            await self._say(live, f"{wish.op}: {error}")

    async def _say(self, live: LiveSession, text: str) -> None:
        lease = live.lease
        if lease is None:
            return
        try:
            content = {"text": f"[remote GPU] {text}\n"}
            await self._agents.of(lease.node_id).op(live.session.id, lease.epoch, "notice", content)
        except GpuaasError as error:
            log.info("session %s not told: %s", live.session.id, error)
