"""Brings queued sessions to devices, in the order of fair use, and tells each its place."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from jupyter_gpuaas.controller.fair_use import WAITING, FairUse, asked_for
from jupyter_gpuaas.controller.others import Others
from jupyter_gpuaas.controller.sessions import LiveSession, Sessions
from jupyter_gpuaas.engine.base import Engine, LeaseMeta
from jupyter_gpuaas.errors import AllocationError, CatalogueError, GpuaasError, LeaseNotWritten, NoCapacity, NotAsked
from jupyter_gpuaas.lifecycle.fairness import Outlook
from jupyter_gpuaas.lifecycle.placement import Placement, Waiting, place
from jupyter_gpuaas.lifecycle.room import Held, used_of
from jupyter_gpuaas.lifecycle.session import SessionEvent
from jupyter_gpuaas.lifecycle.turns import Waits, place_words
from jupyter_gpuaas.model import Lease, NodeState, ResourceRequest, SessionState
from jupyter_gpuaas.model.words import held

log = logging.getLogger(__name__)

RETRY_S = 2.0
#: How long an engine may take to give devices that are free, as far as is known; then the rules are asked again.
GIVE_S = 10.0
#: How often it is looked again, whatever nobody has told.
LOOK_S = 5.0


class Scheduler:
    """The queue. Who waits is in the database; who is next, the rules say; the engine is asked for no one else."""

    def __init__(self, sessions: Sessions, engine: Engine, others: Others, fair: FairUse) -> None:
        self._sessions = sessions
        self._engine = engine
        self._others = others
        self._fair = fair
        #: Those who wait, in the order in which they came.
        self._waiting: dict[str, LiveSession] = {}
        #: Those for whom the engine was asked.
        self._placing: dict[str, tuple[Placement, asyncio.Task[None]]] = {}
        self._order: list[LiveSession] = []
        #: Since when each waits, by the monotonic clock.
        self._since_s: dict[str, float] = {}
        #: Why some of these wait although there may be room.
        self._why: Mapping[str, str] = {}
        #: What some of these wait for, where that is less than they ask for.
        self._wants: Mapping[str, ResourceRequest] = {}
        #: Those of whom it was not looked yet whether any node could serve them.
        self._new: set[str] = set()
        self._looking: asyncio.Task[None] | None = None
        self._tending: asyncio.Task[None] | None = None
        self._again = False
        self._closing = False
        #: Hears who waits, in order; set by the controller.
        self.on_waiting: Callable[[Sequence[Waiting]], None] = lambda waiting: None

    def open(self) -> None:
        """Look from time to time, for what nobody tells."""
        self._tending = asyncio.create_task(self._tend(), name="queue")

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            if self._waiting:
                self.look()

    def check(self, request: ResourceRequest) -> None:
        """Raise NoCapacity where no node could ever serve the request."""
        never = self._engine.why_never(request)
        if never:
            raise NoCapacity(f"{never}.", hint="`jupyter gpuaas nodes` shows what there is.")

    def submit(self, live: LiveSession) -> None:
        """Put a session into the queue; on a free pool it is placed in this turn of the loop."""
        self._waiting[live.session.id] = live
        self._since_s[live.session.id] = time.monotonic()
        self._new.add(live.session.id)
        self.look()

    def forget(self, live: LiveSession) -> None:
        """Take a session out of the queue."""
        self._waiting.pop(live.session.id, None)
        placing = self._placing.pop(live.session.id, None)
        if placing is not None:
            placing[1].cancel()
        self.look()

    def left_waiting(self) -> list[LiveSession]:
        """Those who wait, and for whom nothing is on its way, in the order of service; not those whom a quota keeps."""
        asked = (live for live in self._order if live.session.id not in self._why)
        return [live for live in asked if live.session.state in WAITING]

    def queue(self) -> list[Waiting]:
        """Who waits, and what they are to have, in the order of service; not those whom a quota keeps waiting."""
        return [self._waits(live) for live in self._order if live.session.id not in self._why]

    def waits(self) -> list[Waits]:
        """The same with all that turns go by."""
        now_s = time.monotonic()
        return [
            Waits(
                session_id=live.session.id,
                request=self._wanted(live),
                waited_s=now_s - self._since_s.get(live.session.id, now_s),
                kept=live.kept,
                in_cell=live.session.state is SessionState.SUSPENDED,
            )
            for live in self._order
            if live.session.id not in self._why and live.session.state in WAITING
        ]

    def _waits(self, live: LiveSession) -> Waiting:
        return Waiting(live.session.id, self._wanted(live), live.kept, live.session.name)

    def _wanted(self, live: LiveSession) -> ResourceRequest:
        return self._wants.get(live.session.id) or asked_for(live)

    def look(self) -> None:
        """Something has changed: who waits, what is free, or what the rules are fed with."""
        self._again = True
        if (self._looking is None or self._looking.done()) and not self._closing:
            self._looking = asyncio.create_task(self._look(), name="place sessions")

    async def close(self) -> None:
        """Stop placing; the queue stays in the database."""
        self._closing = True
        placing = [task for _, task in self._placing.values()]
        tasks = [task for task in (self._tending, self._looking, *placing) if task is not None]
        self._waiting, self._placing = {}, {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self) -> None:
        while self._again:
            self._again = False
            try:
                self._round()
            except GpuaasError as error:
                log.error("queue: %s", error)
            # The tasks that the round has begun run their first step before places are counted: who is served at once
            # never had one.
            await asyncio.sleep(0)
            self._count()

    def _round(self) -> None:
        for session_id in self._new & self._waiting.keys():
            live = self._waiting[session_id]
            why = self._engine.why_never(asked_for(live))
            if why:
                event = SessionEvent.HOST_DIED if live.kept is not None else SessionEvent.START_FAILED
                self._sessions.advance(live, event, why)
                self._waiting.pop(session_id, None)
            self._new.discard(session_id)
        self._new &= self._waiting.keys()
        self._since_s = {key: since_s for key, since_s in self._since_s.items() if key in self._waiting}
        free = [live for session_id, live in self._waiting.items() if session_id not in self._placing]
        coming = [(self._waiting[each].session.owner, placement) for each, (placement, _) in self._placing.items()]
        outlook = self._fair.serve(free, coming) if free else Outlook()
        self._why, self._wants = outlook.why, outlook.wants
        self._order = [self._waiting[each] for each in outlook.waiting]
        for placement in (*outlook.placements, *self._home()):
            live = self._waiting[placement.session_id]
            task = asyncio.create_task(self._place(live, placement), name=f"place {placement.session_id}")
            self._placing[placement.session_id] = placement, task

    def _home(self) -> list[Placement]:
        """Devices for sessions whose processes stand still on a node that takes no others any more."""
        nodes = [node for node in self._engine.nodes() if node.state is NodeState.CORDONED]
        there = {node.id for node in nodes}
        back = [live for live in self._order if live.kept is not None and live.kept.node_id in there]
        if not back:
            return []
        coming = (placement for placement, _ in self._placing.values())
        given: list[Held] = [*self._engine.leases(), *coming, *self._others.held()]
        return place([self._waits(live) for live in back], nodes, used_of(given))

    async def _place(self, live: LiveSession, placement: Placement) -> None:
        session_id = live.session.id
        lease: Lease | None = None
        try:
            request = msgspec.structs.replace(live.session.request, node=placement.node_id)
            kept = live.kept
            meta = LeaseMeta(session_id, kept.epoch if kept is not None else live.next_epoch, kept)
            lease = await self._engine.acquire(request, meta, timeout=GIVE_S)
            where = f"on {lease.node_id} with {held(lease)}"
            if kept is not None:
                self._sessions.advance(live, SessionEvent.ITS_TURN, f"its turn {where}", lease=lease)
            else:
                live.hosted = False
                self._sessions.advance(live, SessionEvent.PLACED, where, lease=lease, epoch=lease.epoch)
            self._waiting.pop(session_id, None)
        except (NoCapacity, NotAsked) as error:
            log.info("session %s not placed on %s: %s", session_id, placement.node_id, error)
            await asyncio.sleep(RETRY_S)
        except AllocationError as error:
            # The rules are asked again at once, and know of it: they do not choose the same devices again.
            log.info("session %s not placed on %s: %s", session_id, placement.node_id, error)
            coming = [each for key, (each, _) in self._placing.items() if key != session_id]
            self._others.refused(self._waits(live), placement.node_id, coming)
        except LeaseNotWritten as error:
            # The devices are there, and nobody else uses them: this is for the admin to mend.
            log.error("session %s not placed on %s: %s", session_id, placement.node_id, error)
            self._tell(live, 1, error.message.rstrip("."))
            await asyncio.sleep(RETRY_S)
        except CatalogueError as error:
            # The session does not know of its devices, so it has none.
            log.error("session %s not placed: %s", session_id, error)
            if lease is not None:
                await self._give_back(lease)
            await asyncio.sleep(RETRY_S)
        finally:
            self._placing.pop(session_id, None)
        self.look()

    async def _give_back(self, lease: Lease) -> None:
        while True:
            try:
                await self._engine.release(lease.id)
                return
            except GpuaasError as error:
                log.error("lease of session %s: %s", lease.session_id, error)
            await asyncio.sleep(RETRY_S)

    def _count(self) -> None:
        for number, live in enumerate(self._order, start=1):
            if live.session.state not in WAITING:
                continue
            self._tell(live, number, self._why.get(live.session.id) or self._others.why(self._waits(live)))
        queue = self.queue()
        self._engine.want([each.request for each in queue])
        self.on_waiting(queue)

    def _tell(self, live: LiveSession, number: int, why: str) -> None:
        """Tell one its place in the queue, and why it waits, where there is more to say than who is before it."""
        suspended = live.session.state is SessionState.SUSPENDED
        told = place_words(number) if suspended else f"place {number} in the queue"
        told += f": {why}" if why else ""
        causes = bool(why) or live.session.cause.startswith("place ")
        if live.session.queue_place == number and (not causes or live.session.cause == told):
            return
        # Only what is shown: where it cannot be written, the next count tells it.
        with contextlib.suppress(CatalogueError):
            changes = {"cause": told} if causes else {}
            self._sessions.note(live, told, {"queue_place": number}, queue_place=number, **changes)
