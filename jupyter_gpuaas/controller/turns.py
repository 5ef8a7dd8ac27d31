"""Lets sessions take turns where more want devices than there are; whose turn is over, ``lifecycle.turns`` decides.

Idle ones are parked. One in the middle of a cell is suspended: its host stays, with its processes standing still, and
the devices go to whoever waits. It is in the queue then, like those, and goes on where it was when its turn comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from jupyter_gpuaas.controller.fair_use import FairUse
from jupyter_gpuaas.controller.means import Means
from jupyter_gpuaas.controller.parking import Parking
from jupyter_gpuaas.controller.scheduler import Scheduler
from jupyter_gpuaas.controller.sessions import LiveSession
from jupyter_gpuaas.errors import GpuaasError, InvalidTransition, MigrationError, NoSuchSession
from jupyter_gpuaas.lifecycle.room import used_of
from jupyter_gpuaas.lifecycle.session import Command, SessionEvent
from jupyter_gpuaas.lifecycle.turns import Holds, Limits, Over, over
from jupyter_gpuaas.model import Lease, SessionState

log = logging.getLogger(__name__)

#: How often it is looked whose turn is over.
LOOK_S = 1.0
#: Device work that was submitted is waited for by the driver; everything else is a matter of milliseconds.
SUSPEND_S = 60.0
#: A session that could not give its devices up is left alone for this long.
AGAIN_S = 60.0
#: One that stands still although it has devices is told to go on again after this long.
REMIND_S = 10.0

S = SessionState


class Turns:
    """The turns of all sessions."""

    def __init__(self, means: Means, scheduler: Scheduler, fair: FairUse, parking: Parking) -> None:
        self._sessions = means.sessions
        self._commands = means.commands
        self._engine = means.engine
        self._others = means.others
        self._agents = means.agents
        self._settings = means.settings
        self._scheduler = scheduler
        self._fair = fair
        self._parking = parking
        #: By the monotonic clock: since when sessions are idle, and since when leases are held.
        self._idle_since: dict[str, float] = {}
        self._held_since: dict[str, float] = {}
        self._not_before: dict[str, float] = {}
        self._reminded: dict[str, float] = {}
        self._refused: dict[str, str] = {}
        self._under_way: set[str] = set()
        #: Leases that are as good as given back; set by the controller.
        self.leaving: Callable[[], frozenset[Lease]] = frozenset
        self._looking: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Begin to look."""
        self._looking = asyncio.create_task(self._look_again(), name="turns")

    async def close(self) -> None:
        """Stop."""
        tasks = [task for task in (self._looking, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def under_way(self) -> frozenset[str]:
        """Ids of sessions that are being suspended."""
        return frozenset(self._under_way)

    async def suspend(self, live: LiveSession, why: str) -> None:
        """Let a session give its devices up in the middle of its cell; returns when it stands still.

        Raises
        ------
        GpuaasError
            It cannot; it goes on.
        """
        session, lease = live.session, live.lease
        if session.state not in (S.IDLE, S.BUSY) or lease is None or live.record.move is not None:
            raise MigrationError(f"session {session.name!r} is {session.state}, or being moved.")
        self._under_way.add(session.id)
        try:
            asked = self._agents.of(lease.node_id).op(session.id, lease.epoch, "suspend", {})
            await asyncio.wait_for(asked, SUSPEND_S)
            if live.lease == lease and live.record.move is None:
                self._sessions.advance(live, SessionEvent.SUSPENDED, why, record={"kept": lease}, swap=True)
        except asyncio.CancelledError:
            # The service ends, and does not carry out what is ordered now.
            self._parking.take_up(live, "the service ends", suspended=True)
            raise
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise MigrationError("its host takes too long.") from error
        except InvalidTransition as error:
            raise MigrationError(f"the session is {live.session.state}.") from error
        finally:
            self._under_way.discard(session.id)
            if live.session.state is not S.SUSPENDED and not live.ended():
                # Whatever has become of it, it does not stand still for others.
                self._commands.order(live, (Command.GO_ON,))

    # -- by itself -------------------------------------------------------------------------------------------

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                self._look(time.monotonic())
            except GpuaasError as error:
                log.error("turns: %s", error)

    def _look(self, now_s: float) -> None:
        busy = self._under_way | self._parking.under_way
        holding = self._holding(now_s, busy)
        leaving = {lease.id for lease in self.leaving()}
        stays = (each for each in self._engine.leases() if each.id not in leaving and each.session_id not in busy)
        taken = used_of([*stays, *self._others.held()])
        settings = self._settings
        # Those that rest for long, ``parking`` parks by itself.
        limits = Limits(settings.turn_s, 0.0)
        waits = self._scheduler.waits()
        waiting = [live for live in map(self._sessions.get, [each.session_id for each in waits]) if live is not None]
        for each in over(waits, holding, self._engine.nodes(), taken, limits):
            live = self._sessions.get(each.session_id)
            # Whoever is served first by the rules of fair use would have its devices again at once.
            if live is not None and self._fair.gives_turn(live, waiting):
                self._spawn(self._give_up(live, each))

    def _holding(self, now_s: float, busy: set[str]) -> list[Holds]:
        holding: list[Holds] = []
        present: set[str] = set()
        for live in self._sessions.all():
            session, lease = live.session, live.lease
            present.add(session.id)
            if session.state is not S.IDLE:
                self._idle_since.pop(session.id, None)
            if lease is None or not lease.device_ids or session.state not in (S.IDLE, S.BUSY):
                continue
            present.add(lease.id)
            held_s = now_s - self._held_since.setdefault(lease.id, now_s)
            if live.record.move is not None or session.id in busy:
                continue
            if live.suspended and now_s >= self._reminded.get(session.id, 0.0):
                self._reminded[session.id] = now_s + REMIND_S
                self._commands.order(live, (Command.GO_ON,))
            if now_s < self._not_before.get(session.id, 0.0):
                continue
            idle = session.state is S.IDLE
            idle_s = now_s - self._idle_since.setdefault(session.id, now_s) if idle else None
            holding.append(
                Holds(session_id=session.id, lease=lease, held_s=held_s, idle_s=idle_s, stuck=live.no_suspend)
            )
        for known in (self._idle_since, self._held_since, self._not_before, self._reminded, self._refused):
            for gone in [each for each in known if each not in present]:
                known.pop(gone)
        return holding

    async def _give_up(self, live: LiveSession, what: Over) -> None:
        session_id = live.session.id
        if session_id in self._parking.under_way:
            return  # somebody else's reason was sooner
        self._not_before[session_id] = time.monotonic() + AGAIN_S
        with contextlib.suppress(NoSuchSession):
            try:
                if what.in_cell:
                    await self.suspend(live, what.why)
                else:
                    await self._parking.park(live, what.why)
            except GpuaasError as error:
                doing = "suspended" if what.in_cell else "parked"
                log.info("session %s is not %s: %s", session_id, doing, error)
                if self._refused.get(session_id) != str(error):
                    # Others wait for it, and this is why they wait on.
                    self._refused[session_id] = str(error)
                    self._sessions.tell(live.session, "refused", f"not {doing}: {error}", {"why": what.why})
            else:
                self._not_before.pop(session_id, None)
                self._refused.pop(session_id, None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
