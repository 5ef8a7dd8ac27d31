"""Moves sessions: one task a migration. What follows from what is in ``lifecycle.migration``; here it is carried out.

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

import msgspec

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.agents import Agents
from jupyter_gpuaas.controller.catalogue.records import Incoming, Move
from jupyter_gpuaas.controller.commands import Commands
from jupyter_gpuaas.controller.sessions import LiveSession, Sessions
from jupyter_gpuaas.engine.base import Engine, LeaseMeta
from jupyter_gpuaas.errors import (
    AllocationError,
    CatalogueError,
    CheckpointError,
    GpuaasError,
    InvalidRequest,
    MigrationError,
    NoSuchSession,
    QuiesceTimeout,
    StaleEpoch,
    TransportError,
)
from jupyter_gpuaas.lifecycle.migration import (
    ENDED,
    REVERSIBLE,
    SLOWEST_BYTES_S,
    MigrationEvent,
    Pass,
    patience_s,
    settled,
    step,
    way,
)
from jupyter_gpuaas.lifecycle.placement import targets
from jupyter_gpuaas.lifecycle.session import SessionEvent
from jupyter_gpuaas.model import (
    CPU,
    CheckpointView,
    HostState,
    Imaged,
    Lease,
    Loaded,
    MigrationPlan,
    MigrationView,
    Phase,
    Quiet,
    Round,
    SessionState,
    Via,
    short_id,
)

log = logging.getLogger(__name__)

E = MigrationEvent
MOVABLE = (SessionState.IDLE, SessionState.BUSY)
#: A running cell that ends within this time is waited for at each try; meanwhile further ones are held back.
PATIENCE_S = 2.0
#: For what a host does at once. A host that takes longer hangs.
STEP_S = 60.0
#: For what goes by the size of the state: so much, and the time that this rate needs.
COPY_S = 120.0
#: For an image, whose size nobody knows before.
IMAGE_S = 900.0
#: Until a migration whose task has ended too early is brought to its end.
AGAIN_S = 0.5
#: What estimates go by where nothing was measured yet.
ASSUMED_BYTES_S = 400e6
ASSUMED_STOP_S = 0.3


class Migrations:
    """Begins, follows and ends migrations.

    Parameters
    ----------
    newest
        A session's newest checkpoint by owner and id, read from the store; for threads.
    """

    def __init__(
        self,
        sessions: Sessions,
        commands: Commands,
        engine: Engine,
        agents: Agents,
        settings: Settings,
        newest: Callable[[str, str], CheckpointView | None],
    ) -> None:
        self._sessions = sessions
        self._commands = commands
        self._engine = engine
        self._agents = agents
        self._settings = settings
        self._newest = newest
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._reasons: dict[str, str] = {}
        self._closing = False

    # -- what is asked for -----------------------------------------------------------------------------------

    async def plan(self, live: LiveSession, target: str | None) -> MigrationPlan:
        """What a migration would do.

        Raises
        ------
        InvalidRequest, AllocationError, MigrationError
            It cannot be done.
        """
        source, node_id = self._check(live, target)
        session = live.session
        view = await asyncio.to_thread(self._newest, session.owner, session.id)
        remarks = []
        if view is None:
            remarks.append("there is no checkpoint yet, so the size is not known")
        last = live.record.last_migration
        rate = ASSUMED_BYTES_S
        if last is not None and last.phase is Phase.DONE and last.rounds:
            took_s = sum(each.took_s for each in last.rounds)
            rate = max(1.0, last.bytes_sent / max(took_s, 1e-3))
        else:
            remarks.append(f"times are assumed from {ASSUMED_BYTES_S / 1e6:.0f} MB/s; no migration was measured yet")
        by_image = not self._no_images(live, source.node_id, node_id)
        if session.state is SessionState.BUSY:
            remarks.append(
                "it moves in the middle of the cell that runs, as a process image"
                if by_image
                else "the cell that runs is waited for"
            )
        elif by_image and view is not None and view.lost:
            remarks.append("as a process image, nothing of this is lost")
        size = view.host_bytes + view.device_bytes if view is not None else 0
        return MigrationPlan(
            source=source.node_id,
            target=node_id,
            moves=view.names - len(view.lost) if view is not None else 0,
            rebuilt=view.rebuilt if view is not None else {},
            lost=view.lost if view is not None else {},
            bytes_estimate=size,
            total_s_estimate=size / rate + 1.0,
            downtime_s_estimate=last.downtime_s if last is not None and last.downtime_s else ASSUMED_STOP_S,
            remarks=tuple(remarks),
        )

    async def begin(
        self, live: LiveSession, target: str | None, *, via: Via, accept_loss: bool, cause: str
    ) -> MigrationView:
        """Start to move a session; returns at once.

        Parameters
        ----------
        target
            Node to move to; None for the best other one with room.
        accept_loss
            Move although names are lost by it.

        Raises
        ------
        InvalidRequest, AllocationError, MigrationError
            It cannot be done. Nothing has changed.
        """
        plan = await self.plan(live, target)
        way = self._way(live, plan, via)
        if plan.lost and not accept_loss and way == "portable":
            raise MigrationError(
                f"{', '.join(plan.lost)} would be lost: {'; '.join(f'{k}: {v}' for k, v in plan.lost.items())}.",
                hint="--accept-loss moves the session without.",
            )
        self._check(live, plan.target)
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
        self._sessions.keep(live, move=Move(view=view), epochs=live.next_epoch)
        moving = _Moving(live, view, live.record.epochs, accept_loss)
        how = ", as a process image" if way == "image" else ""
        self._tell(moving, f"moves from {plan.source} to {plan.target}{how}: {cause}")
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
                self._commands.give_back(move.lease)
            self._sessions.keep(live, move=None)
            return
        moving = _Moving(live, move.view, live.record.epochs, accept_loss=True)
        moving.lease = move.lease
        if move.view.phase in REVERSIBLE:
            moving.view = self._phase(moving, E.FAILED, why)
        work = self._lead_back(moving) if moving.view.phase in ENDED else self._finish(moving)
        self._start(live, work)

    async def close(self) -> None:
        """Stop working; a restarted controller takes up what is left."""
        self._closing = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _check(self, live: LiveSession, target: str | None) -> tuple[Lease, str]:
        """The session's lease, and the node that it can go to."""
        session, lease = live.session, live.lease
        if live.record.move is not None:
            raise MigrationError(f"session {session.name!r} is being moved already.")
        if session.state not in MOVABLE or lease is None:
            raise MigrationError(f"session {session.name!r} is {session.state}: only one that runs can be moved.")
        if self._closing:
            raise TransportError("the service is shutting down.")
        nodes, leases = self._engine.nodes(), self._engine.leases()
        if target is not None and all(node.id != target for node in nodes):
            known = ", ".join(node.id for node in nodes)
            raise InvalidRequest(f"target: there is no node {target!r} (nodes: {known}).")
        if target == lease.node_id:
            raise InvalidRequest(f"target: the session is on {target} already.")
        taken: dict[str, frozenset[str]] = {}
        for held in leases:
            taken[held.node_id] = taken.get(held.node_id, frozenset()) | set(held.device_ids)
        request = msgspec.structs.replace(session.request, node=target)
        found = [node_id for node_id in targets(request, nodes, taken) if node_id != lease.node_id]
        if not found:
            where = f"{target} has no room" if target else "no other node has room"
            raise AllocationError(
                f"target: {where} for {request.devices} device(s) of {request.kind or 'any kind'}.",
                hint="`jupyter gpuaas nodes` shows what is free.",
            )
        return lease, found[0]

    def _no_images(self, live: LiveSession, source: str, target: str) -> str:
        """Why the session cannot go from one node to the other as a process image; empty if it can."""
        for node in self._engine.nodes():
            if node.id in (source, target) and node.no_images:
                return f"{node.id}: {node.no_images}"
        if live.lease is not None and not all(device.startswith(f"{CPU}:") for device in live.lease.device_ids):
            return "sessions with device memory do not move so yet"
        return "" if live.in_jail else "its kernel was not started in a jail (the log of its host says why)"

    def _way(self, live: LiveSession, plan: MigrationPlan, via: Via) -> Via:
        """Which way it goes. Raises MigrationError where it is to go as an image, and cannot."""
        why_not = self._no_images(live, plan.source, plan.target)
        if via == "image" and why_not:
            raise MigrationError(
                f"via: the session cannot move as a process image: {why_not}", hint="`portable` moves the variables."
            )
        return way(via, busy=live.session.state is SessionState.BUSY, loses=bool(plan.lost), images=not why_not)

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

    async def _run(self, moving: _Moving) -> None:
        try:
            await self._reserve(moving)
            await self._copy_and_stop(moving)
            await self._restore(moving)
            self._cut_over(moving)
        except asyncio.CancelledError:
            if self._closing:
                raise
            cause = self._reasons.get(moving.live.session.id, "given up")
            moving.view = self._phase(moving, E.CANCELLED, cause)
        except (GpuaasError, asyncio.TimeoutError, TimeoutError) as error:
            cause = str(error) or "a step took too long"
            log.info("migration of session %s: %s", moving.live.session.id, cause)
            moving.view = self._phase(moving, E.FAILED, f"{_in_words(moving.view.phase)}: {cause}")
        except Exception as error:
            log.exception("migration of session %s", moving.live.session.id)
            moving.view = self._phase(moving, E.FAILED, f"{type(error).__name__}: {error}")
        else:
            await self._finish(moving)
            return
        await self._lead_back(moving)

    async def _reserve(self, moving: _Moving) -> None:
        live, view = moving.live, moving.view
        request = msgspec.structs.replace(live.session.request, node=view.target)
        meta = LeaseMeta(live.session.id, moving.epoch)
        moving.lease = await self._engine.acquire(request, meta, timeout=STEP_S)
        self._sessions.keep(live, move=Move(view=moving.view, lease=moving.lease))
        incoming = self._incoming(moving, "")
        spec = self._commands.spec(live.record, moving.lease, incoming, image=moving.by_image)
        report = await asyncio.wait_for(self._target(moving).start_host(spec), STEP_S)
        if report.state is HostState.FAILED:
            raise MigrationError(report.cause or "the target's kernel did not start.")
        told = "a host stands by" if moving.by_image else "a kernel starts"
        self._advance(moving, E.RESERVED, f"{told} on {view.target}")

    async def _copy_and_stop(self, moving: _Moving) -> None:
        """Rounds of copying until the session stands still, and its last state is on the target."""
        live = moving.live
        if moving.by_image:
            await self._take_image(moving)
            return
        while True:
            await self._pre_copy(moving)
            try:
                asked_s = time.monotonic()
                reply = await self._op(moving, "quiesce", {"wait_s": PATIENCE_S}, PATIENCE_S + STEP_S, source=True)
                quiet = msgspec.convert(reply, Quiet)
                break
            except QuiesceTimeout:
                self._advance(moving, E.STILL_BUSY, "a cell runs: the session moves when it has ended")
                await self._next_checkpoint(moving)
        moving.stopped_s = max(asked_s, time.monotonic() - quiet.took_s)
        moving.checkpoint = quiet.checkpoint.id
        if quiet.checkpoint.lost and not moving.accept_loss:
            raise MigrationError(
                f"{', '.join(quiet.checkpoint.lost)} would be lost.", hint="--accept-loss moves the session without."
            )
        self._advance(moving, E.QUIET, f"stands still after cell {quiet.checkpoint.cell}")
        # From here on, each step holds the user up.
        passes = [Pass(each.sent_bytes, each.took_s) for each in moving.view.rounds]
        moving.patience_s = patience_s(passes, quiet.checkpoint.host_bytes + quiet.checkpoint.device_bytes)
        await self._round(moving, quiet.checkpoint, moving.patience_s)
        self._advance(moving, E.COPIED, f"checkpoint {quiet.checkpoint.short} is on {moving.view.target}")
        if live.session.state not in MOVABLE:
            raise MigrationError(f"the session is {live.session.state}.")

    async def _take_image(self, moving: _Moving) -> None:
        """Stop the session wherever it is, and put its process into an image that the target can read."""
        image = moving.view.id
        before = await self._bring_beside(moving, image)
        self._advance(moving, E.SETTLED, f"files and outputs so far are there: {before.sent_bytes / 1e6:.1f} MB")
        reply = await self._op(moving, "take_image", {"image": image}, IMAGE_S, source=True)
        imaged = msgspec.convert(reply, Imaged)
        moving.stopped_s = time.monotonic() - imaged.took_s
        moving.checkpoint = image
        moving.view = msgspec.structs.replace(
            moving.view, bytes_sent=moving.view.bytes_sent + imaged.image_bytes, lost=_closed(imaged.lost)
        )
        told = f"stopped where it was, and put into an image of {imaged.image_bytes / 1e6:.0f} MB"
        self._advance(moving, E.QUIET, f"{told}; {len(imaged.lost)} connections are closed" if imaged.lost else told)
        await self._bring_beside(moving, image)
        self._advance(moving, E.COPIED, f"files and outputs are on {moving.view.target}")
        if moving.live.session.state not in MOVABLE:
            raise MigrationError(f"the session is {moving.live.session.state}.")

    async def _bring_beside(self, moving: _Moving, image: str) -> Loaded:
        """What an image does not hold."""
        done = msgspec.convert(await self._op(moving, "preload", {"checkpoint": image}, IMAGE_S), Loaded)
        moving.view = msgspec.structs.replace(moving.view, bytes_sent=moving.view.bytes_sent + done.sent_bytes)
        return done

    async def _pre_copy(self, moving: _Moving) -> None:
        passes: list[Pass] = []
        view = self._newest_of(moving) or await self._first(moving)
        while True:
            done = await self._round(moving, view)
            passes.append(Pass(done.sent_bytes, done.took_s))
            newer = self._newest_of(moving) or view
            ready, why = settled(passes, newer.id != view.id)
            if ready:
                self._advance(moving, E.SETTLED, why)
                return
            view = newer

    @staticmethod
    def _newest_of(moving: _Moving) -> CheckpointView | None:
        status = moving.live.checkpoints
        return status.last if status is not None else None

    async def _first(self, moving: _Moving) -> CheckpointView:
        """A checkpoint of a session that has none: else all that it has would go over while it stands still."""
        if moving.live.session.state is SessionState.BUSY:
            self._tell(moving, "a cell runs: the first checkpoint is taken when it has ended")
        asked = {"op": "take", "label": "", "request": ""}
        try:
            taken = await self._source(moving).checkpoints(moving.live.session.id, asked)
        except CheckpointError as error:
            raise MigrationError(f"no checkpoint can be taken: {error}") from error
        return msgspec.convert(taken, CheckpointView)

    async def _next_checkpoint(self, moving: _Moving) -> None:
        """Wait until the cell that runs has ended."""
        live = moving.live
        known = self._newest_of(moving)

        def changed() -> bool:
            last = self._newest_of(moving)
            return live.session.state is not SessionState.BUSY or (last is not None and last != known)

        await live.bell.until(changed, 24 * 3600.0)
        if live.session.state not in MOVABLE:
            raise MigrationError(f"the session is {live.session.state}.")

    async def _round(self, moving: _Moving, view: CheckpointView, timeout_s: float = 0.0) -> Loaded:
        timeout_s = timeout_s or COPY_S + (view.host_bytes + view.device_bytes) / SLOWEST_BYTES_S
        reply = await self._op(moving, "preload", {"checkpoint": view.id}, timeout_s)
        done = msgspec.convert(reply, Loaded)
        this = Round(checkpoint=view.id, sent_bytes=done.sent_bytes, took_s=done.took_s)
        moving.view = msgspec.structs.replace(
            moving.view,
            rounds=(*moving.view.rounds, this),
            bytes_sent=moving.view.bytes_sent + done.sent_bytes,
        )
        cause = f"round {len(moving.view.rounds)}: {done.sent_bytes / 1e6:.1f} MB in {done.took_s:.2f} s"
        self._tell(moving, cause, checkpoint=short_id(view.id))
        return done

    async def _restore(self, moving: _Moving) -> None:
        limit_s = IMAGE_S if moving.by_image else moving.patience_s
        reply = await self._op(moving, "load", {"checkpoint": moving.checkpoint}, limit_s)
        loaded = msgspec.convert(reply, Loaded)
        if loaded.lost and not moving.accept_loss:
            told = "; ".join(f"{name}: {why}" for name, why in loaded.lost.items())
            raise MigrationError(f"not restored there: {told}.", hint="--accept-loss moves the session without.")
        moving.view = msgspec.structs.replace(
            moving.view,
            bytes_sent=moving.view.bytes_sent + loaded.sent_bytes,
            lost={**moving.view.lost, **loaded.lost} if moving.by_image else loaded.lost,
        )
        told = "the process is" if moving.by_image else "the variables are"
        self._advance(moving, E.RESTORED, f"{told} on {moving.view.target}")
        self._sessions.advance(moving.live, SessionEvent.MOVING, f"becomes {moving.view.target}'s")
        await self._op(moving, "hand_over", {}, moving.patience_s, source=True)
        done = await self._op(moving, "succeed", {}, moving.patience_s)
        sent = int(done.get("bytes", 0))
        moving.view = msgspec.structs.replace(moving.view, bytes_sent=moving.view.bytes_sent + sent)

    def _cut_over(self, moving: _Moving) -> None:
        """Compare and swap (host, epoch): before it the session is the source's, after it the target's."""
        live, lease = moving.live, moving.lease
        assert lease is not None
        if live.lease is None or live.lease.epoch != moving.source_epoch:
            raise StaleEpoch(moving.source_epoch, live.session.epoch)
        view = self._changed(moving, E.VERIFIED)
        request = live.session.request
        if request.node is not None:
            request = msgspec.structs.replace(request, node=lease.node_id)
        before = live.hosted
        live.hosted = False
        try:
            self._sessions.advance(
                live,
                SessionEvent.MOVED,
                f"is {lease.node_id}'s now",
                record={
                    "incoming": self._incoming(moving, moving.checkpoint, ready=True),
                    "move": Move(view=view, lease=lease),
                },
                swap=True,
                lease=lease,
                epoch=lease.epoch,
                request=request,
            )
        except GpuaasError:
            live.hosted = before
            raise
        moving.view = view
        self._tell(moving, f"the session is {lease.node_id}'s")

    async def _finish(self, moving: _Moving) -> None:
        """Behind the cutover: the command that was ordered with it makes the target live."""
        live = moving.live

        def settled_now() -> bool:
            return live.record.incoming is None or live.session.state not in (SessionState.STARTING,)

        while not await live.bell.until(settled_now, STEP_S):
            log.warning("session %s is not live on %s yet", live.session.id, moving.view.target)
        now = time.monotonic()
        moving.view = msgspec.structs.replace(
            moving.view,
            downtime_s=now - moving.stopped_s if moving.stopped_s else 0.0,
            total_s=time.time() - moving.view.started_s,
        )
        moving.view = self._changed(moving, E.LIVE)
        if live.session.state not in MOVABLE:
            told = f"moved to {moving.view.target}, and then: {live.session.cause or live.session.state}"
        else:
            told = (
                f"moved from {moving.view.source} to {moving.view.target} in {moving.view.total_s:.2f} s, "
                f"stood still for {moving.view.downtime_s:.2f} s, {moving.view.bytes_sent / 1e6:.1f} MB sent"
            )
        moving.view = msgspec.structs.replace(moving.view, cause=told)
        self._end(moving, told)

    async def _lead_back(self, moving: _Moving) -> None:
        """The session goes on where it was, and nothing is left on the target."""
        live = moving.live
        pause_s = self._settings.retry_first_s
        while live.lease is not None and live.lease.epoch == moving.source_epoch:
            try:
                await asyncio.wait_for(self._op(moving, "resume", {}, STEP_S, source=True), STEP_S)
                if live.session.state is SessionState.MIGRATING:
                    self._sessions.advance(live, SessionEvent.STAYED, moving.view.cause)
                break
            except (NoSuchSession, StaleEpoch):
                if live.session.state is SessionState.MIGRATING:
                    self._sessions.advance(live, SessionEvent.HOST_DIED, "its host is gone")
                break
            except (GpuaasError, asyncio.TimeoutError, TimeoutError) as error:
                log.warning("session %s does not go on yet: %s", live.session.id, error)
            if live.ended() or live.session.state not in (*MOVABLE, SessionState.MIGRATING):
                break
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, self._settings.retry_most_s)
        if moving.lease is not None:
            self._commands.give_back(moving.lease)
        moving.view = msgspec.structs.replace(moving.view, total_s=time.time() - moving.view.started_s)
        where = (
            f"it goes on on {moving.view.source}" if live.session.state in MOVABLE else f"it is {live.session.state}"
        )
        self._end(moving, f"not moved to {moving.view.target}: {moving.view.cause}; {where}")

    # -- small parts -----------------------------------------------------------------------------------------

    def _incoming(self, moving: _Moving, checkpoint: str, *, ready: bool = False) -> Incoming:
        lease = moving.source
        return Incoming(checkpoint=checkpoint, node=lease.node_id, epoch=lease.epoch, lease=lease, ready=ready)

    def _source(self, moving: _Moving) -> Any:
        return self._agents.of(moving.source.node_id)

    def _target(self, moving: _Moving) -> Any:
        assert moving.lease is not None
        return self._agents.of(moving.lease.node_id)

    async def _op(
        self, moving: _Moving, op: str, content: dict[str, Any], timeout_s: float, *, source: bool = False
    ) -> Any:
        client = self._source(moving) if source else self._target(moving)
        epoch = moving.source_epoch if source else moving.epoch
        return await asyncio.wait_for(client.op(moving.live.session.id, epoch, op, content), timeout_s)

    def _advance(self, moving: _Moving, event: MigrationEvent, cause: str) -> None:
        moving.view = self._phase(moving, event, cause)
        self._sessions.keep(moving.live, move=Move(view=moving.view, lease=moving.lease))

    def _phase(self, moving: _Moving, event: MigrationEvent, cause: str) -> MigrationView:
        """The view after an event, which is announced."""
        moving.view = msgspec.structs.replace(self._changed(moving, event), cause=cause)
        self._tell(moving, cause)
        return moving.view

    @staticmethod
    def _changed(moving: _Moving, event: MigrationEvent) -> MigrationView:
        view, now = moving.view, time.monotonic()
        target = step(view.phase, event)
        spent = {**view.phases_s, view.phase.value: view.phases_s.get(view.phase.value, 0.0) + now - moving.since_s}
        moving.since_s = now
        return msgspec.structs.replace(view, phase=target, phases_s=spent)

    def _tell(self, moving: _Moving, cause: str, **more: Any) -> None:
        view = moving.view
        detail = {
            "migration": view.id,
            "phase": view.phase.value,
            "source": view.source,
            "target": view.target,
            "bytes_sent": view.bytes_sent,
            "rounds": len(view.rounds),
            **more,
        }
        if view.phase in ENDED:
            detail |= {"downtime_s": view.downtime_s, "total_s": view.total_s, "phases_s": view.phases_s}
        self._sessions.tell(moving.live.session, "migration", cause, detail)
        moving.live.bell.ring()

    def _end(self, moving: _Moving, cause: str) -> None:
        try:
            self._sessions.keep(moving.live, move=None, last_migration=moving.view)
        except CatalogueError as error:
            # The next controller leads back once more, which changes nothing.
            log.error("migration of session %s not written: %s", moving.live.session.id, error)
            moving.live.record = msgspec.structs.replace(moving.live.record, move=None, last_migration=moving.view)
        self._tell(moving, cause)


class _Moving:
    """A migration that is carried out: what of it need not be remembered."""

    def __init__(self, live: LiveSession, view: MigrationView, epoch: int, accept_loss: bool) -> None:
        assert live.lease is not None
        self.live = live
        self.view = view
        #: Of the target; the source's is that of its lease.
        self.epoch = epoch
        self.source: Lease = live.lease
        self.lease: Lease | None = None
        self.accept_loss = accept_loss
        self.checkpoint = ""
        self.since_s = time.monotonic()
        #: How long a step may hold the session up.
        self.patience_s = STEP_S
        #: When the session began to stand still, by the monotonic clock; 0 before.
        self.stopped_s = 0.0

    @property
    def by_image(self) -> bool:
        return self.view.via == "image"

    @property
    def source_epoch(self) -> int:
        return self.source.epoch


def _closed(connections: tuple[str, ...]) -> dict[str, str]:
    return {each: "connections are closed by the move" for each in connections}


def _in_words(phase: Phase) -> str:
    return {
        Phase.RESERVE: "while room was made there",
        Phase.PRE_COPY: "while its state was copied",
        Phase.QUIESCE: "while it was to stand still",
        Phase.STOP_COPY: "while its last changes were copied",
        Phase.RESTORE: "while its variables were made there",
        Phase.VERIFY: "while it was handed over",
    }.get(phase, phase.value)
