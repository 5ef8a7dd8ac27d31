"""Begins, follows and ends migrations: one task each. What follows from what is in ``lifecycle.migration``.

What must survive this process is in the session's record: the lease on the target and the phase. A restarted
controller leads back whatever has not been cut over, and goes on with what has.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from typing import Any

from jupyter_gpuaas.controller.catalogue.records import Move
from jupyter_gpuaas.controller.means import Means
from jupyter_gpuaas.controller.move_plans import MovePlans
from jupyter_gpuaas.controller.moving import Mover, Moving, in_words
from jupyter_gpuaas.controller.sessions import LiveSession
from jupyter_gpuaas.controller.standbys import Standbys
from jupyter_gpuaas.errors import GpuaasError, InvalidRequest, MigrationError, TransportError
from jupyter_gpuaas.lifecycle.migration import ENDED, REVERSIBLE, Asked, MigrationEvent
from jupyter_gpuaas.model import CheckpointView, MigrationPlan, MigrationView, Phase, Via

log = logging.getLogger(__name__)

E = MigrationEvent
#: Until a migration whose task has ended too early is brought to its end.
AGAIN_S = 0.5
#: Of a move that an earlier controller has begun: only its end is left to do.
AS_IT_WAS = Asked(via="portable", wait=True, accept_loss=True, busy=False, lost=(), no_image="")


class Migrations:
    """All migrations that are under way.

    Parameters
    ----------
    newest
        A session's newest checkpoint by owner and id, read from the store; for threads.
    """

    def __init__(self, means: Means, standbys: Standbys, newest: Callable[[str, str], CheckpointView | None]) -> None:
        self._sessions = means.sessions
        self._endings = means.endings
        self._standbys = standbys
        self.plans = MovePlans(means, standbys, newest)
        self._mover = Mover(means, standbys)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._reasons: dict[str, str] = {}
        self._closing = False

    async def plan(self, live: LiveSession, target: str | None) -> MigrationPlan:
        """What a migration would do.

        Raises
        ------
        InvalidRequest, AllocationError, MigrationError, TransportError
            It cannot be done.
        """
        if self._closing:
            raise TransportError("the service is shutting down.")
        return await self.plans.plan(live, target)

    async def begin(
        self,
        live: LiveSession,
        target: str | None,
        *,
        via: Via,
        accept_loss: bool,
        cause: str,
        wait: bool = True,
        between_cells: bool = False,
    ) -> MigrationView:
        """Start to move a session; returns at once.

        Parameters
        ----------
        target
            Node to move to; None for the best other one with room.
        accept_loss
            Move although names are lost by it.
        wait
            For the end of a cell that runs, where the session cannot move in the middle of it; else it stays.
        between_cells
            Not in the middle of a cell for its own sake: it is the cell that asks.

        Raises
        ------
        InvalidRequest, AllocationError, MigrationError
            It cannot be done. Nothing has changed.
        """
        plan = await self.plan(live, target)
        asked = await self.plans.asked(live, plan, via, wait=wait, accept_loss=accept_loss, between_cells=between_cells)
        way = self.plans.way(asked, plan)
        self.plans.check(live, plan.target)  # once more: the store was read meanwhile, and the host was asked
        view = MigrationView(
            id=uuid.uuid4().hex,
            session_id=live.session.id,
            source=plan.source,
            target=plan.target,
            phase=Phase.RESERVE,
            via=way,
            cause=cause,
            started_s=time.time(),
            lost=plan.lost if way == "portable" else {},
        )
        lease = self._standbys.take(live, plan.target)
        if lease is not None and way == "portable":
            # Its kernel is started there, and has most of the state.
            self._sessions.keep(live, move=Move(view=view, lease=lease), aside=None)
            moving = Moving(live, view, lease.epoch, asked)
            moving.lease = lease
        else:
            self._sessions.keep(live, move=Move(view=view), epochs=live.next_epoch)
            moving = Moving(live, view, live.record.epochs, asked)
            if lease is not None:
                self._standbys.drop(live, "the session comes to its node as a process image")
        how = ", as a process image" if way == "image" else ""
        self._mover.tell(moving, f"moves from {plan.source} to {plan.target}{how}: {cause}")
        self._start(live, self._run(moving))
        return view

    def cancel(self, live: LiveSession, migration: str, cause: str) -> MigrationView:
        """Give a migration up, unless it has been cut over.

        Raises
        ------
        InvalidRequest
            No such migration is under way.
        MigrationError
            The session is the target's already.
        """
        move = live.record.move
        if move is None or move.view.id != migration:
            raise InvalidRequest(f"migration: {migration[:64]!r} is not under way.")
        if move.view.phase not in REVERSIBLE:
            raise MigrationError("it has been cut over: the session is on its new node.")
        self.give_up(live, cause)
        return move.view

    def waits_for_cell(self, live: LiveSession) -> bool:
        """Whether a session is moved, and nothing is done for that before its cell has ended."""
        return live.session.id in self._mover.waiting

    def give_up(self, live: LiveSession, cause: str) -> None:
        """Give the migration of a session up, if there is one that can be."""
        move, task = live.record.move, self._tasks.get(live.session.id)
        if move is not None and move.view.phase in REVERSIBLE and task is not None:
            self._reasons[live.session.id] = cause
            task.cancel()

    def take_up(self, live: LiveSession, why: str = "the service was restarted") -> None:
        """Bring to an end what was begun, by an earlier controller or by a task that is over."""
        move = live.record.move
        assert move is not None
        if live.lease is None:  # lost meanwhile, and given up
            if move.lease is not None:
                self._endings.give_back(move.lease)
            self._sessions.keep(live, move=None)
            return
        epoch = move.lease.epoch if move.lease is not None else live.record.epochs
        moving = Moving(live, move.view, epoch, AS_IT_WAS)
        moving.lease = move.lease
        if move.stopped_s:
            moving.stopped_s = time.monotonic() - max(0.0, time.time() - move.stopped_s)
        if move.view.phase in REVERSIBLE:
            moving.view = self._mover.phase(moving, E.FAILED, why)
        work = self._mover.lead_back(moving) if moving.view.phase in ENDED else self._mover.finish(moving)
        self._start(live, work)

    async def close(self) -> None:
        """Stop working; a restarted controller takes up what is left."""
        self._closing = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- one migration ---------------------------------------------------------------------------------------

    def _start(self, live: LiveSession, work: Any) -> None:
        session_id = live.session.id
        task = asyncio.create_task(work, name=f"migrate {session_id}")
        self._tasks[session_id] = task
        task.add_done_callback(lambda done: self._done(live, done))

    def _done(self, live: LiveSession, task: asyncio.Task[None]) -> None:
        session_id = live.session.id
        if self._tasks.get(session_id) is task:
            del self._tasks[session_id]
        why = self._reasons.pop(session_id, "given up")
        if not task.cancelled() and task.exception() is not None:
            why = f"{type(task.exception()).__name__}: {task.exception()}"
            log.error("%s failed", task.get_name(), exc_info=task.exception())
        if live.record.move is not None and not self._closing:
            # 1. Somebody gives the move up.  2. Its task has not begun, or has just cut over.  Now it is over, and no
            # task brings to an end what it had begun, without which the session could never be moved again.
            asyncio.get_running_loop().call_later(AGAIN_S, self._again, live, why)

    def _again(self, live: LiveSession, why: str) -> None:
        if live.record.move is not None and not self._closing and live.session.id not in self._tasks:
            self.take_up(live, why)

    async def _run(self, moving: Moving) -> None:
        try:
            try:
                await self._attempt(moving)
            except (GpuaasError, asyncio.TimeoutError, TimeoutError) as error:
                if not self._mover.may_fall_back(moving):
                    raise
                await self._mover.fall_back(moving, str(error) or "a step took too long")
                await self._attempt(moving)
        except asyncio.CancelledError:
            if self._closing:
                raise
            cause = self._reasons.get(moving.live.session.id, "given up")
            moving.view = self._mover.phase(moving, E.CANCELLED, cause)
        except (GpuaasError, asyncio.TimeoutError, TimeoutError) as error:
            cause = f"{in_words(moving.view.phase)}: {str(error) or 'a step took too long'}"
            if moving.no_image:
                cause += f" (and not as a process image, {moving.no_image})"
            log.info("migration of session %s: %s", moving.live.session.id, cause)
            moving.view = self._mover.phase(moving, E.FAILED, cause)
        except Exception as error:
            log.exception("migration of session %s", moving.live.session.id)
            moving.view = self._mover.phase(moving, E.FAILED, f"{type(error).__name__}: {error}")
        else:
            await self._mover.finish(moving)
            return
        await self._mover.lead_back(moving)

    async def _attempt(self, moving: Moving) -> None:
        await self._mover.reserve(moving)
        while not await self._mover.copy_and_stop(moving):
            await self._mover.reserve(moving)
        await self._mover.restore(moving)
        self._mover.cut_over(moving)
