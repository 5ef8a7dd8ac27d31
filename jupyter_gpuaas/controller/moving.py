"""The steps of a migration, carried out; in which order, ``migrations`` says by ``lifecycle.migration``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from jupyter_gpuaas.controller.catalogue.records import Incoming, Move
from jupyter_gpuaas.controller.leases import ACTING_STATES
from jupyter_gpuaas.controller.means import Means
from jupyter_gpuaas.controller.move_plans import MOVABLE
from jupyter_gpuaas.controller.sessions import LiveSession
from jupyter_gpuaas.controller.standbys import Standbys
from jupyter_gpuaas.engine.base import LeaseMeta
from jupyter_gpuaas.errors import (
    CatalogueError,
    CheckpointError,
    GpuaasError,
    MigrationError,
    NoSuchSession,
    QuiesceTimeout,
    StaleEpoch,
)
from jupyter_gpuaas.lifecycle.migration import (
    ENDED,
    SLOWEST_BYTES_S,
    TABLE,
    Asked,
    MigrationEvent,
    Pass,
    patience_s,
    settled,
    step,
    way,
    without_image,
)
from jupyter_gpuaas.lifecycle.placement import Waiting
from jupyter_gpuaas.lifecycle.session import SessionEvent
from jupyter_gpuaas.model import (
    CheckpointView,
    HostReport,
    HostState,
    Imaged,
    ImageRound,
    Lease,
    Loaded,
    MigrationView,
    Outdated,
    Part,
    Phase,
    Quiet,
    Round,
    SessionState,
    Via,
    short_id,
)

log = logging.getLogger(__name__)

E = MigrationEvent
#: A running cell that ends within this time is waited for at each try; meanwhile further ones are held back.
PATIENCE_S = 2.0
#: For what a host does at once. A host that takes longer hangs.
STEP_S = 60.0
#: For what goes by the size of the state: so much, and the time that this rate needs.
COPY_S = 120.0
#: How long a session is asked for what of its checkpoint is out of date, and how large that is at least.
OUTDATED_S = 1.0
WORTH_ASKING_BYTES = 64 * 1024**2
#: How long a newer checkpoint is waited for that is being written.
NEWER_S = 5.0
#: For an image, whose size nobody knows before.
IMAGE_S = 900.0


class Moving:
    """A migration that is carried out: what of it need not be remembered."""

    def __init__(self, live: LiveSession, view: MigrationView, epoch: int, asked: Asked) -> None:
        assert live.lease is not None
        self.live = live
        self.view = view
        #: Of the target; the source's is that of its lease.
        self.epoch = epoch
        self.source: Lease = live.lease
        self.lease: Lease | None = None
        self.asked = asked
        self.accept_loss = asked.accept_loss
        #: Why it did not go as a process image, where that was tried first.
        self.no_image = ""
        self.checkpoint = ""
        self.since_s = time.monotonic()
        #: How long a step may hold the session up.
        self.patience_s = STEP_S
        #: When the session began to stand still, by the monotonic clock; 0 before.
        self.stopped_s = 0.0

    def noted(self) -> Move:
        """What of it has to be remembered, in case that another controller brings it to its end."""
        stopped_s = time.time() - (time.monotonic() - self.stopped_s) if self.stopped_s else 0.0
        return Move(view=self.view, lease=self.lease, stopped_s=stopped_s)

    @property
    def by_image(self) -> bool:
        return self.view.via == "image"

    @property
    def source_epoch(self) -> int:
        return self.source.epoch


class Mover:
    """Takes the steps of migrations, and tells of each."""

    def __init__(self, means: Means, standbys: Standbys) -> None:
        self._sessions = means.sessions
        self._commands = means.commands
        self._endings = means.endings
        self._engine = means.engine
        self._agents = means.agents
        self._settings = means.settings
        self._standbys = standbys
        #: Ids of sessions whose move has nothing to do until their cell has ended.
        self.waiting: set[str] = set()

    async def reserve(self, moving: Moving) -> None:
        live, view = moving.live, moving.view
        if moving.lease is None:
            request = msgspec.structs.replace(live.session.request, node=view.target)
            meta = LeaseMeta(live.session.id, moving.epoch)
            self._standbys.give_way([Waiting(live.session.id, request)])
            # It may have come from there just now.
            await self._endings.left(live.session.id, view.target, STEP_S)
            moving.lease = await self._engine.acquire(request, meta, timeout=STEP_S)
            self._sessions.keep(live, move=moving.noted())
        incoming = self._incoming(moving, "")
        spec = self._commands.spec(live.record, moving.lease, incoming, image=moving.by_image)
        report = await asyncio.wait_for(self._target(moving).start_host(spec), STEP_S)
        if report.state is HostState.FAILED:
            raise MigrationError(report.cause or "the target's kernel did not start.")
        told = "a host stands by" if moving.by_image else "a kernel starts"
        self._advance(moving, E.RESERVED, f"{told} on {view.target}")

    async def copy_and_stop(self, moving: Moving) -> bool:
        """Rounds of copying until the session stands still, and its last state is on the target.

        Returns
        -------
        Whether it does. Else a cell was found that runs: the session moves as an image instead, and nothing is
        reserved for that yet.
        """
        live = moving.live
        if moving.by_image:
            await self._take_image(moving)
            return True
        while True:
            if not await self._pre_copy(moving):
                return False
            try:
                asked_s = time.monotonic()
                reply = await self._op(moving, "quiesce", {"wait_s": PATIENCE_S}, PATIENCE_S + STEP_S, source=True)
                quiet = msgspec.convert(reply, Quiet)
                break
            except QuiesceTimeout:
                # Whatever was known of the session when it was asked for: now its host says so.
                if await self._found_busy(moving):
                    return False
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
        return True

    async def _found_busy(self, moving: Moving) -> bool:
        """A cell runs, and goes on. Whether the session moves as an image because of that; else it is waited for.

        Raises
        ------
        MigrationError
            It is not to be waited for.
        """
        found, _ = way(self._asked_now(moving, busy=True))
        if found == "image":
            self._begin_anew(moving, "image", E.FOUND_BUSY, "a cell runs: the session moves in the middle of it")
            return True
        if not moving.asked.wait:
            raise MigrationError("a cell runs, and is not to be waited for.")
        return False

    async def _take_image(self, moving: Moving) -> None:
        """Stop the session wherever it is, and put its process into an image that the target can read."""
        image = moving.view.id
        before = await self._bring_beside(moving, image)
        self.tell(moving, f"files and outputs so far are there: {before.sent_bytes / 1e6:.1f} MB")
        self._advance(moving, E.SETTLED, await self._image_rounds(moving, image))
        reply = await self._op(moving, "take_image", {"image": image}, IMAGE_S, source=True)
        imaged = msgspec.convert(reply, Imaged)
        moving.stopped_s = time.monotonic() - imaged.took_s
        moving.checkpoint = image
        moving.view = msgspec.structs.replace(moving.view, lost=_closed(imaged.lost))
        told = f"stopped where it was, and put into an image of {imaged.image_bytes / 1e6:.0f} MB"
        self._advance(moving, E.QUIET, f"{told}; {len(imaged.lost)} connections are closed" if imaged.lost else told)
        await self._bring_beside(moving, image)
        self._advance(moving, E.COPIED, f"files and outputs are on {moving.view.target}")
        if moving.live.session.state not in MOVABLE:
            raise MigrationError(f"the session is {moving.live.session.state}.")

    async def _image_rounds(self, moving: Moving, image: str) -> str:
        """Memory that goes while the cell runs, where Linux marks what is written; gives why no more of it does."""
        passes: list[Pass] = []
        while True:
            began = time.monotonic()
            reply = await self._op(moving, "image_round", {"image": image}, IMAGE_S, source=True)
            made = msgspec.convert(reply, ImageRound)
            if made.none:
                return f"memory goes in one stop: {made.none}"
            brought = await self._bring_beside(moving, image)
            self._was_round(moving, image, brought.sent_bytes, time.monotonic() - began)
            passes.append(Pass(brought.sent_bytes, time.monotonic() - began))
            ready, why = settled(passes, dirty=True)
            if ready:
                return why

    async def _bring_beside(self, moving: Moving, image: str) -> Loaded:
        """What an image does not hold, and of the image what there is."""
        done = msgspec.convert(await self._op(moving, "preload", {"checkpoint": image}, IMAGE_S), Loaded)
        moving.view = msgspec.structs.replace(moving.view, bytes_sent=moving.view.bytes_sent + done.sent_bytes)
        return done

    async def _pre_copy(self, moving: Moving) -> bool:
        """Copy until another round would not help; False as of ``copy_and_stop``."""
        passes: list[Pass] = []
        view = self._newest_of(moving) or await self._first(moving)
        if view is None:
            return False
        while True:
            view, without = await self._outdated(moving, view)
            done = await self._round(moving, view, without=without)
            passes.append(Pass(done.sent_bytes, done.took_s))
            newer = self._newest_of(moving) or view
            ready, why = settled(passes, newer.id != view.id)
            if ready:
                self._advance(moving, E.SETTLED, why)
                return True
            view = newer

    @staticmethod
    def _newest_of(moving: Moving) -> CheckpointView | None:
        status = moving.live.checkpoints
        return status.last if status is not None else None

    async def _first(self, moving: Moving) -> CheckpointView | None:
        """A checkpoint of a session that has none: else all that it has would go over while it stands still.

        None where a cell runs in whose middle the session moves.
        """
        asked = {"op": "take", "label": "", "request": ""}
        taking = asyncio.ensure_future(self._source(moving).checkpoints(moving.live.session.id, asked))
        try:
            await asyncio.wait({taking}, timeout=PATIENCE_S)
            if not taking.done():
                report = msgspec.convert(await self._op(moving, "look", {}, STEP_S, source=True), HostReport)
                if report.state is HostState.BUSY:
                    if await self._found_busy(moving):
                        return None
                    self.tell(moving, "a cell runs: the first checkpoint is taken when it has ended")
                    with self._waits(moving):
                        await asyncio.wait({taking})
            taken = await taking
        except CheckpointError as error:
            raise MigrationError(f"no checkpoint can be taken: {error}") from error
        finally:
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)
        return msgspec.convert(taken, CheckpointView)

    async def _next_checkpoint(self, moving: Moving) -> None:
        """Wait until the cell that runs has ended."""
        live = moving.live
        known = self._newest_of(moving)

        def changed() -> bool:
            last = self._newest_of(moving)
            return live.session.state is not SessionState.BUSY or (last is not None and last != known)

        with self._waits(moving):
            await live.bell.until(changed, 24 * 3600.0)
        if live.session.state not in MOVABLE:
            raise MigrationError(f"the session is {live.session.state}.")

    @contextlib.contextmanager
    def _waits(self, moving: Moving) -> Iterator[None]:
        """It waits for the end of a cell, until the end of the block."""
        self.waiting.add(moving.live.session.id)
        try:
            yield
        finally:
            self.waiting.discard(moving.live.session.id)

    async def _outdated(self, moving: Moving, view: CheckpointView) -> tuple[CheckpointView, tuple[Part, ...]]:
        """The newest checkpoint, and what of it need not be sent, as the session has something else there by now."""
        if view.host_bytes + view.device_bytes < WORTH_ASKING_BYTES:
            return view, ()
        found = await self._ask_outdated(moving)
        if found.writing or found.newest not in ("", view.id):
            # A newer one is there, or is about to be, and is worth more.
            await moving.live.bell.until(lambda: self._newest_of(moving) not in (None, view), NEWER_S)
            view = self._newest_of(moving) or view
            found = await self._ask_outdated(moving)
        if found.checkpoint != view.id or not found.parts:
            return view, ()
        size = sum(part.nbytes for part in found.parts)
        cause = f"{size / 1e6:.0f} MB have changed since the newest checkpoint: they go when the session stands still"
        self.tell(moving, cause, checkpoint=view.short)
        return view, found.parts

    async def _ask_outdated(self, moving: Moving) -> Outdated:
        """What the session says, if it does so at once; nothing depends on it."""
        try:
            asking = self._source(moving).checkpoints(moving.live.session.id, {"op": "outdated"})
            return msgspec.convert(await asyncio.wait_for(asking, OUTDATED_S), Outdated)
        except (asyncio.TimeoutError, TimeoutError, GpuaasError, msgspec.ValidationError):
            return Outdated()  # a cell runs, perhaps

    async def _round(
        self, moving: Moving, view: CheckpointView, timeout_s: float = 0.0, *, without: Sequence[Part] = ()
    ) -> Loaded:
        timeout_s = timeout_s or COPY_S + (view.host_bytes + view.device_bytes) / SLOWEST_BYTES_S
        asked = {"checkpoint": view.id, "without": msgspec.to_builtins(without)}
        reply = await self._op(moving, "preload", asked, timeout_s)
        done = msgspec.convert(reply, Loaded)
        moving.view = msgspec.structs.replace(moving.view, bytes_sent=moving.view.bytes_sent + done.sent_bytes)
        self._was_round(moving, view.id, done.sent_bytes, done.took_s)
        return done

    def _was_round(self, moving: Moving, what: str, sent_bytes: int, took_s: float) -> None:
        this = Round(checkpoint=what, sent_bytes=sent_bytes, took_s=took_s)
        moving.view = msgspec.structs.replace(moving.view, rounds=(*moving.view.rounds, this))
        cause = f"round {len(moving.view.rounds)}: {sent_bytes / 1e6:.1f} MB in {took_s:.2f} s"
        self.tell(moving, cause, checkpoint=short_id(what))

    async def restore(self, moving: Moving) -> None:
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

    def cut_over(self, moving: Moving) -> None:
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
                    "move": msgspec.structs.replace(moving.noted(), view=view),
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
        self.tell(moving, f"the session is {lease.node_id}'s")

    async def finish(self, moving: Moving) -> None:
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

    def may_fall_back(self, moving: Moving) -> bool:
        """Whether a move that cannot go as a process image goes with the variables alone: nothing is lost by that."""
        if not moving.by_image or E.FELL_BACK not in TABLE[moving.view.phase]:
            return False
        busy = moving.live.session.state is SessionState.BUSY
        return moving.live.session.state in MOVABLE and not without_image(self._asked_now(moving, busy=busy))

    def _asked_now(self, moving: Moving, *, busy: bool) -> Asked:
        """What the way goes by, as it is now."""
        newest = self._newest_of(moving)
        return msgspec.structs.replace(
            moving.asked,
            busy=busy,
            lost=tuple(newest.lost) if newest is not None else (),
            no_image=moving.no_image or moving.asked.no_image,
        )

    async def fall_back(self, moving: Moving, why: str) -> None:
        """Begin anew, with the variables alone; the source goes on, and what was made on the target goes.

        Raises
        ------
        MigrationError
            The session does not run any more.
        """
        live = moving.live
        moving.no_image = why.rstrip(".")
        await self._source_goes_on(moving)
        if live.session.state not in MOVABLE:
            raise MigrationError(f"the session is {live.session.state}.")
        told = f"not as a process image: {moving.no_image}; nothing is lost without, so its variables move"
        self._begin_anew(moving, "portable", E.FELL_BACK, told)

    def _begin_anew(self, moving: Moving, via: Via, event: MigrationEvent, told: str) -> None:
        """The same migration by another way; what was made on the target for the former one goes."""
        live = moving.live
        if moving.lease is not None:
            self._endings.give_back(moving.lease)
        moving.lease, moving.checkpoint, moving.stopped_s = None, "", 0.0
        moving.view = msgspec.structs.replace(moving.view, via=via, rounds=(), lost={})
        # First, so that nobody else gives this epoch to another host.
        moving.epoch = live.next_epoch
        self._sessions.keep(live, epochs=moving.epoch)
        self._advance(moving, event, told)

    async def lead_back(self, moving: Moving) -> None:
        """The session goes on where it was, and nothing is left on the target."""
        live = moving.live
        await self._source_goes_on(moving)
        if moving.lease is not None:
            self._endings.give_back(moving.lease)
        moving.view = msgspec.structs.replace(moving.view, total_s=time.time() - moving.view.started_s)
        where = (
            f"it goes on on {moving.view.source}" if live.session.state in MOVABLE else f"it is {live.session.state}"
        )
        self._end(moving, f"not moved to {moving.view.target}: {moving.view.cause}; {where}")

    async def _source_goes_on(self, moving: Moving) -> None:
        live = moving.live
        pause_s = self._settings.retry_first_s
        # One that is lost or ended has no source any more, and its node may be silent.
        while (
            live.lease is not None and live.lease.epoch == moving.source_epoch and live.session.state in ACTING_STATES
        ):
            try:
                await asyncio.wait_for(self._op(moving, "resume", {}, STEP_S, source=True), STEP_S)
                if live.session.state is SessionState.MIGRATING:
                    self._sessions.stay(live, moving.view.cause)
                break
            except (NoSuchSession, StaleEpoch):
                if live.session.state is SessionState.MIGRATING:
                    self._sessions.advance(live, SessionEvent.HOST_DIED, "its host is gone")
                break
            except (GpuaasError, asyncio.TimeoutError, TimeoutError) as error:
                log.warning("session %s does not go on yet: %s", live.session.id, error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, self._settings.retry_most_s)

    def _incoming(self, moving: Moving, checkpoint: str, *, ready: bool = False) -> Incoming:
        lease = moving.source
        return Incoming(checkpoint=checkpoint, node=lease.node_id, epoch=lease.epoch, lease=lease, ready=ready)

    def _source(self, moving: Moving) -> Any:
        return self._agents.of(moving.source.node_id)

    def _target(self, moving: Moving) -> Any:
        assert moving.lease is not None
        return self._agents.of(moving.lease.node_id)

    async def _op(
        self, moving: Moving, op: str, content: dict[str, Any], timeout_s: float, *, source: bool = False
    ) -> Any:
        client = self._source(moving) if source else self._target(moving)
        epoch = moving.source_epoch if source else moving.epoch
        return await asyncio.wait_for(client.op(moving.live.session.id, epoch, op, content), timeout_s)

    def _advance(self, moving: Moving, event: MigrationEvent, cause: str) -> None:
        moving.view = self.phase(moving, event, cause)
        self._sessions.keep(moving.live, move=moving.noted())

    def phase(self, moving: Moving, event: MigrationEvent, cause: str) -> MigrationView:
        """The view after an event, which is announced."""
        moving.view = msgspec.structs.replace(self._changed(moving, event), cause=cause)
        self.tell(moving, cause)
        return moving.view

    @staticmethod
    def _changed(moving: Moving, event: MigrationEvent) -> MigrationView:
        view, now = moving.view, time.monotonic()
        target = step(view.phase, event)
        spent = {**view.phases_s, view.phase.value: view.phases_s.get(view.phase.value, 0.0) + now - moving.since_s}
        moving.since_s = now
        return msgspec.structs.replace(view, phase=target, phases_s=spent)

    def tell(self, moving: Moving, cause: str, **more: Any) -> None:
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

    def _end(self, moving: Moving, cause: str) -> None:
        try:
            self._sessions.keep(moving.live, move=None, last_migration=moving.view)
        except CatalogueError as error:
            # The next controller leads back once more, which changes nothing.
            log.error("migration of session %s not written: %s", moving.live.session.id, error)
            moving.live.record = msgspec.structs.replace(moving.live.record, move=None, last_migration=moving.view)
        self.tell(moving, cause)


def _closed(connections: tuple[str, ...]) -> dict[str, str]:
    return {each: "connections are closed by the move" for each in connections}


def in_words(phase: Phase) -> str:
    return {
        Phase.RESERVE: "while room was made there",
        Phase.PRE_COPY: "while its state was copied",
        Phase.QUIESCE: "while it was to stand still",
        Phase.STOP_COPY: "while its last changes were copied",
        Phase.RESTORE: "while its variables were made there",
        Phase.VERIFY: "while it was handed over",
    }.get(phase, phase.value)
