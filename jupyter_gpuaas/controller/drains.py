"""Empties nodes by a deadline, and proposes moves that make room."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

import msgspec

from jupyter_gpuaas.controller.means import Means
from jupyter_gpuaas.controller.migrations import Migrations
from jupyter_gpuaas.controller.move_plans import MOVABLE
from jupyter_gpuaas.controller.parking import Parking
from jupyter_gpuaas.controller.sessions import LiveSession
from jupyter_gpuaas.errors import GpuaasError, InvalidRequest, MigrationError
from jupyter_gpuaas.lifecycle.placement import Leaving, leaving_order, room_for
from jupyter_gpuaas.model import DrainView, Phase, Proposal, SessionState

log = logging.getLogger(__name__)

#: Sessions that move off a node at a time: more share the link, and all of them stand still for longer.
AT_A_TIME = 2
#: Until a session that could not be moved is tried again.
AGAIN_S = 2.0
LOOK_S = 0.5
#: How long the host of a session that has devices again may take to let it go on.
GO_ON_S = 60.0


class Drains:
    """One task for each node that is emptied."""

    def __init__(self, means: Means, migrations: Migrations, parking: Parking) -> None:
        self._sessions = means.sessions
        self._engine = means.engine
        self._migrations = migrations
        self._parking = parking
        self._views: dict[str, DrainView] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def cordon(self, node_id: str, *, cordoned: bool) -> None:
        """Take no new sessions on a node, or take them again. Raises InvalidRequest where there is no such node."""
        self._check(node_id)
        if not cordoned:
            self._end(node_id, "the node takes sessions again")
        self._engine.cordon(node_id, cordoned=cordoned)

    def begin(self, node_id: str, deadline_s: float, *, accept_loss: bool, cause: str) -> DrainView:
        """Begin to empty a node; returns at once."""
        self._check(node_id)
        self._end(node_id, "asked for again")
        self._engine.cordon(node_id, cordoned=True)
        now_s = time.time()
        view = DrainView(node=node_id, deadline_s=now_s + deadline_s, left=self._left(node_id), cause=cause)
        self._views[node_id] = view
        self._sessions.announce("drain", f"{node_id}: {cause}, {len(view.left)} sessions to move", node=node_id)
        work = self._run(node_id, now_s + deadline_s, accept_loss, cause)
        self._tasks[node_id] = asyncio.create_task(work, name=f"drain {node_id}")
        return view

    def known(self, node_id: str) -> DrainView | None:
        """The last time that the node was emptied, or is."""
        return self._views.get(node_id)

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
        """Stop all; cordons go on as long as the engine keeps them."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def proposals(self) -> list[Proposal]:
        """Moves that would make room for the first request that waits."""
        waiting = [
            live.session
            for live in self._sessions.all()
            if live.session.state in (SessionState.QUEUED, SessionState.RESTORING)
        ]
        held = [live.session for live in self._sessions.all() if live.session.state in MOVABLE]
        return room_for(waiting, held, self._engine.nodes(), self._engine.leases())

    def _check(self, node_id: str) -> None:
        known = [node.id for node in self._engine.nodes()]
        if node_id not in known:
            raise InvalidRequest(f"node: there is no node {node_id!r} (nodes: {', '.join(known)}).")

    def _left(self, node_id: str) -> tuple[str, ...]:
        return tuple(live.session.id for live in self._on(node_id))

    def _on(self, node_id: str) -> list[LiveSession]:
        return [live for live in self._sessions.all() if live.lease is not None and live.lease.node_id == node_id]

    def _end(self, node_id: str, why: str) -> None:
        task = self._tasks.pop(node_id, None)
        if task is not None and not task.done():
            task.cancel()
            self._change(node_id, done=True, cause=why)

    def _change(self, node_id: str, **fields: object) -> None:
        self._views[node_id] = msgspec.structs.replace(self._views[node_id], left=self._left(node_id), **fields)

    async def _run(self, node_id: str, deadline_s: float, accept_loss: bool, cause: str) -> None:
        refused: dict[str, str] = {}
        not_before: dict[str, float] = {}
        #: Sessions that were parked here with their processes, and of these, those that cannot be parked without.
        woken: set[str] = set()
        stuck: set[str] = set()
        while time.time() < deadline_s:
            present = self._on(node_id)
            if not present:
                self._change(node_id, done=True, refused={}, cause="the node is empty")
                self._sessions.announce("drain", f"{node_id} is empty", node=node_id)
                return
            for live in present:
                if live.session.state is SessionState.PARKED:
                    # What it has is in this node's memory. It has to run once more to be put into its store.
                    woken.add(live.session.id)
                    refused[live.session.id] = "it was parked with its process, and waits for a device here"
                    self._parking.wake(live, f"its process leaves {node_id}: {cause}")
            moving = [live for live in present if live.record.move is not None]
            ready = [
                live
                for live in present
                if live.record.move is None
                and live.session.state in MOVABLE
                and not_before.get(live.session.id, 0.0) <= time.monotonic()
            ]
            by_id = {live.session.id: live for live in ready}
            order = leaving_order([_leaving(live) for live in ready])
            for session_id in order[: max(0, AT_A_TIME - len(moving))]:
                not_before[session_id] = time.monotonic() + AGAIN_S
                live = by_id[session_id]
                try:
                    if session_id in woken - stuck:
                        await self._put_away(live, accept_loss, cause)
                    else:
                        await self._migrations.begin(live, None, via="auto", accept_loss=accept_loss, cause=cause)
                    refused.pop(session_id, None)
                except GpuaasError as error:
                    if session_id in woken:
                        stuck.add(session_id)
                    refused[session_id] = str(error)
            for live in present:
                last = live.record.last_migration
                if live.record.move is None and last is not None and last.phase is Phase.FAILED:
                    refused.setdefault(live.session.id, last.cause)
            self._change(node_id, refused={key: why for key, why in refused.items() if key in self._left(node_id)})
            await asyncio.sleep(LOOK_S)
        for live in self._on(node_id):
            if live.session.id in woken and live.session.state is SessionState.IDLE:
                with contextlib.suppress(GpuaasError):
                    await self._parking.park(live, f"{node_id} was to be emptied, and it could not leave", process=True)
        left = self._on(node_id)
        on_the_way = sum(live.record.move is not None for live in left)
        told = f"at the deadline {len(left)} of its sessions are still there"
        told += f", {on_the_way} of them on the way" if on_the_way else ""
        told += "; they go on, and no new ones come"
        self._change(node_id, done=True, cause=told)
        self._sessions.announce("drain", f"{node_id}: {told}", node=node_id)

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


def _leaving(live: LiveSession) -> Leaving:
    last = live.checkpoints.last if live.checkpoints is not None else None
    return Leaving(
        session_id=live.session.id,
        state_bytes=last.host_bytes + last.device_bytes if last is not None else 0,
        busy=live.session.state is SessionState.BUSY,
    )
