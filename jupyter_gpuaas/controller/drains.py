"""Cordons nodes, empties them by a deadline, and proposes moves that make room."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

import msgspec

from jupyter_gpuaas.controller.catalogue.cordons import CordonRows
from jupyter_gpuaas.controller.catalogue.drains import Drain, DrainRows
from jupyter_gpuaas.controller.means import Means
from jupyter_gpuaas.controller.migrations import Migrations
from jupyter_gpuaas.controller.move_plans import MOVABLE
from jupyter_gpuaas.controller.parking import Parking
from jupyter_gpuaas.controller.scheduler import Scheduler
from jupyter_gpuaas.controller.sessions import LiveSession
from jupyter_gpuaas.errors import CatalogueError, GpuaasError, InvalidRequest, MigrationError
from jupyter_gpuaas.lifecycle.placement import Leaving, Waiting, leaving_order, room_for
from jupyter_gpuaas.lifecycle.room import used_of
from jupyter_gpuaas.model import DrainView, Phase, Proposal, SessionState

log = logging.getLogger(__name__)

#: Sessions that move off a node at a time: more share the link, and all of them stand still for longer. Those that only
#: wait for the end of their cell are not counted: that may be hours away, and others could be gone by then.
AT_A_TIME = 2
#: Until a session that could not be moved is tried again.
AGAIN_S = 2.0
LOOK_S = 0.5
#: How long the host of a session that has devices again may take to let it go on.
GO_ON_S = 60.0


class Drains:
    """One task for each node that is emptied. What has to outlive this process is in the database."""

    def __init__(
        self,
        means: Means,
        migrations: Migrations,
        parking: Parking,
        scheduler: Scheduler,
        rows: DrainRows,
        cordons: CordonRows,
    ) -> None:
        self._sessions = means.sessions
        self._engine = means.engine
        self._others = means.others
        self._migrations = migrations
        self._parking = parking
        self._scheduler = scheduler
        self._rows = rows
        self._cordons = cordons
        self._drains: dict[str, Drain] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def cordoned(self) -> frozenset[str]:
        """Nodes that take no new sessions, for an engine that opens."""
        for drain in self._rows.all():
            if not drain.view.done:
                # It may have been begun by an earlier version, whose cordon is in a file that is not here.
                self._cordons.set(drain.view.node, cordoned=True)
        return self._cordons.all()

    def open(self) -> None:
        """Go on to empty the nodes that an earlier controller was emptying."""
        cordoned = self._cordons.all()
        for drain in self._rows.all():
            node_id = drain.view.node
            if not drain.view.done:
                self._start(drain)
                told = f"{node_id}: goes on, {len(self._left(node_id))} sessions to move"
                self._sessions.announce("drain", told, node=node_id)
            elif node_id in cordoned:
                self._drains[node_id] = drain
            else:
                self._rows.forget(node_id)

    def cordon(self, node_id: str, *, cordoned: bool) -> None:
        """Take no new sessions on a node, or take them again. Raises InvalidRequest where there is no such node."""
        self._check(node_id)
        if not cordoned:
            self._end(node_id, "the node takes sessions again")
        self._cordon(node_id, cordoned=cordoned)

    def begin(self, node_id: str, deadline_s: float, *, accept_loss: bool, cause: str) -> DrainView:
        """Begin to empty a node; returns at once."""
        self._check(node_id)
        self._end(node_id, "asked for again")
        self._cordon(node_id, cordoned=True)
        view = DrainView(node=node_id, deadline_s=time.time() + deadline_s, left=self._left(node_id), cause=cause)
        drain = Drain(view=view, cause=cause, accept_loss=accept_loss)
        self._rows.keep(drain)
        self._sessions.announce("drain", f"{node_id}: {cause}, {len(view.left)} sessions to move", node=node_id)
        self._start(drain)
        return view

    def known(self, node_id: str) -> DrainView | None:
        """The last time that the node was emptied, or is."""
        found = self._drains.get(node_id)
        return found.view if found is not None else None

    def view(self, node_id: str) -> DrainView:
        """How far it is. Raises InvalidRequest where the node is not emptied."""
        found = self.known(node_id)
        if found is None:
            raise InvalidRequest(f"node: {node_id!r} is not being drained.")
        return found

    def stop(self, node_id: str) -> DrainView:
        """Move no further session; what moves now is moved to its end."""
        self.view(node_id)
        self._end(node_id, "stopped")
        return self.view(node_id)

    async def close(self) -> None:
        """Stop working; a restarted controller goes on."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def proposals(self) -> list[Proposal]:
        """Moves that would make room for one that waits, the first of the queue whom moves help."""
        waiting = []
        for each in self._scheduler.waits():
            live = self._sessions.get(each.session_id)
            if live is not None:
                waiting.append(Waiting(each.session_id, each.request, each.kept, live.session.name))
        held = [
            live.session for live in self._sessions.all() if live.session.state in MOVABLE and live.record.move is None
        ]
        taken = used_of([*self._engine.leases(), *self._others.held()])
        return room_for(waiting, held, self._engine.nodes(), taken)

    def _cordon(self, node_id: str, *, cordoned: bool) -> None:
        # First: what could not be written down has not happened.
        self._cordons.set(node_id, cordoned=cordoned)
        self._engine.cordon(node_id, cordoned=cordoned)

    def _check(self, node_id: str) -> None:
        known = [node.id for node in self._engine.nodes()]
        if node_id not in known:
            raise InvalidRequest(f"node: there is no node {node_id!r} (nodes: {', '.join(known)}).")

    def _left(self, node_id: str) -> tuple[str, ...]:
        return tuple(live.session.id for live in self._on(node_id))

    def _on(self, node_id: str) -> list[LiveSession]:
        return [live for live in self._sessions.all() if live.lease is not None and live.lease.node_id == node_id]

    def _start(self, drain: Drain) -> None:
        node_id = drain.view.node
        self._drains[node_id] = drain
        self._tasks[node_id] = asyncio.create_task(self._run(drain), name=f"drain {node_id}")

    def _end(self, node_id: str, why: str) -> None:
        task = self._tasks.pop(node_id, None)
        if task is not None and not task.done():
            task.cancel()
            self._over(node_id, why)

    def _change(self, node_id: str, **fields: object) -> None:
        drain = self._drains[node_id]
        view = msgspec.structs.replace(drain.view, left=self._left(node_id), **fields)
        self._drains[node_id] = msgspec.structs.replace(drain, view=view)

    def _over(self, node_id: str, why: str, **fields: object) -> None:
        self._change(node_id, done=True, cause=why, **fields)
        try:
            self._rows.keep(self._drains[node_id])
        except CatalogueError as error:
            # A restarted controller goes on then, and finds that there is nothing left to do.
            log.error("end of the drain of %s not written: %s", node_id, error)

    async def _run(self, drain: Drain) -> None:
        node_id, trip = drain.view.node, _Trip()
        while True:
            present = self._on(node_id)
            if not present:
                self._over(node_id, "the node is empty", refused={})
                self._sessions.announce("drain", f"{node_id} is empty", node=node_id)
                return
            if time.time() >= drain.view.deadline_s:
                break
            self._wake(node_id, drain.cause, present, trip)
            await self._move(drain, present, trip)
            for live in present:
                last = live.record.last_migration
                if live.record.move is None and last is not None and last.phase is Phase.FAILED:
                    trip.refused.setdefault(live.session.id, last.cause)
            left = self._left(node_id)
            self._change(node_id, refused={key: why for key, why in trip.refused.items() if key in left})
            await asyncio.sleep(LOOK_S)
        for live in self._on(node_id):
            if live.session.id in trip.woken and live.session.state is SessionState.IDLE:
                with contextlib.suppress(GpuaasError):
                    await self._parking.park(live, f"{node_id} was to be emptied, and it could not leave", process=True)
        remaining = self._on(node_id)
        on_the_way = sum(live.record.move is not None for live in remaining)
        told = f"at the deadline {len(remaining)} of its sessions are still there"
        told += f", {on_the_way} of them on the way" if on_the_way else ""
        told += "; they go on, and no new ones come"
        self._over(node_id, told)
        self._sessions.announce("drain", f"{node_id}: {told}", node=node_id)

    def _wake(self, node_id: str, cause: str, present: list[LiveSession], trip: _Trip) -> None:
        """What sessions have that were parked here is in this node's memory: they run once more, to be put away."""
        for live in present:
            session_id = live.session.id
            # One that is parked as a checkpoint leaves by itself.
            if live.session.state is not SessionState.PARKED or live.kept is None:
                continue
            trip.woken.add(session_id)
            trip.refused[session_id] = "it was parked with its process, and waits for a device here"
            try:
                self._parking.wake(live, f"its process leaves {node_id}: {cause}")
            except GpuaasError as error:
                trip.refused[session_id] = str(error)

    async def _move(self, drain: Drain, present: list[LiveSession], trip: _Trip) -> None:
        """Begin as many moves as may be under way at a time."""
        moves = [live for live in present if live.record.move is not None]
        room = AT_A_TIME - sum(not self._migrations.waits_for_cell(live) for live in moves)
        now_s = time.monotonic()
        ready = {
            live.session.id: live
            for live in present
            if live.record.move is None
            and live.session.state in MOVABLE
            and trip.not_before.get(live.session.id, 0.0) <= now_s
        }
        for session_id in leaving_order([_leaving(live) for live in ready.values()]):
            if room <= 0:
                break
            live = ready[session_id]
            trip.not_before[session_id] = time.monotonic() + AGAIN_S
            try:
                if session_id in trip.woken - trip.stuck:
                    await self._put_away(live, drain.accept_loss, drain.cause)
                else:
                    await self._migrations.begin(
                        live, None, via="auto", accept_loss=drain.accept_loss, cause=drain.cause
                    )
                    room -= 1
                trip.refused.pop(session_id, None)
            except GpuaasError as error:
                if session_id in trip.woken:
                    trip.stuck.add(session_id)
                trip.refused[session_id] = str(error)

    async def _put_away(self, live: LiveSession, accept_loss: bool, cause: str) -> None:
        """Park a session that was parked with its process as a checkpoint, which goes on anywhere.

        Raises
        ------
        GpuaasError
            It cannot be.
        """
        try:
            await asyncio.wait_for(live.settled(), GO_ON_S)
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise MigrationError("its host takes too long.") from error
        await self._parking.park(live, cause, accept_loss=accept_loss, process=False)


class _Trip:
    """What is known while a node is emptied, by session."""

    def __init__(self) -> None:
        #: Why it could not be moved at the last try.
        self.refused: dict[str, str] = {}
        #: When it may be tried again, by the monotonic clock.
        self.not_before: dict[str, float] = {}
        #: Those that were parked here with their processes, and of these, those that cannot be parked without.
        self.woken: set[str] = set()
        self.stuck: set[str] = set()


def _leaving(live: LiveSession) -> Leaving:
    last = live.checkpoints.last if live.checkpoints is not None else None
    return Leaving(
        session_id=live.session.id,
        state_bytes=last.host_bytes + last.device_bytes if last is not None else 0,
        busy=live.session.state is SessionState.BUSY,
    )
