"""Parks sessions: what they had is kept, their devices are given back, and the next cell brings them back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec

from jupyter_gpuaas.controller.catalogue.records import Incoming
from jupyter_gpuaas.controller.means import Means
from jupyter_gpuaas.controller.sessions import LiveSession
from jupyter_gpuaas.errors import GpuaasError, ImageError, MigrationError, NamesLost, NoSuchSession, StaleEpoch
from jupyter_gpuaas.lifecycle.placement import Idle, Waiting, whom_to_park
from jupyter_gpuaas.lifecycle.room import used_of
from jupyter_gpuaas.lifecycle.session import SessionEvent
from jupyter_gpuaas.lifecycle.turns import keeps_process
from jupyter_gpuaas.model import Lease, Quiet, SessionState

log = logging.getLogger(__name__)

#: How long a cell that runs is waited for.
PATIENCE_S = 2.0
#: The same where somebody of higher priority waits for the devices.
PUSH_PATIENCE_S = 30.0
STEP_S = 60.0
#: How often idle times are looked at.
LOOK_S = 1.0
#: A session that could not be parked is left alone for this long.
AGAIN_S = 60.0
#: How long a service that ends waits for hosts that it tells to go on. They do so without it, too.
LAST_WORD_S = 2.0

#: States in which what a session still holds is about to be given back.
_LEAVING = (SessionState.PARKED, SessionState.RESTORING, SessionState.CLOSING, SessionState.FAILED)
#: States in which a session can be parked, and those in which it may stand still for that.
_RUNNING = (SessionState.IDLE, SessionState.BUSY)
_STANDING = (*_RUNNING, SessionState.MIGRATING)


class Parking:
    """Parks by hand, after idle time, and for those who wait."""

    def __init__(self, means: Means) -> None:
        self._sessions = means.sessions
        self._endings = means.endings
        self._engine = means.engine
        self._agents = means.agents
        self._settings = means.settings
        #: Since when each session is idle, by the monotonic clock.
        self._idle_since: dict[str, float] = {}
        self._not_before: dict[str, float] = {}
        #: Sessions that are being parked, and by which task.
        self._busy: dict[str, asyncio.Task[Any] | None] = {}
        #: Sessions that are told to go on, as nobody parks them any more.
        self._leading_back: dict[str, asyncio.Task[None]] = {}
        #: Those who wait, in order; set by the controller.
        self.waiting: Callable[[], Sequence[Waiting]] = lambda: ()
        #: Sessions that are to make room for those in front, with the reason; set by the controller.
        self.pushed_out: Callable[[], Sequence[tuple[str, str]]] = lambda: ()
        #: Sessions that are being suspended as their turn is over; set by the controller.
        self.suspending: Callable[[], frozenset[str]] = frozenset
        #: Why a session may not keep its devices, mostly empty; set by the controller.
        self.over: Callable[[LiveSession], str] = lambda live: ""
        #: Sessions that are being parked for somebody of higher priority.
        self._pushing: set[str] = set()
        self._looking: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Begin to look after idle sessions."""
        self._looking = asyncio.create_task(self._look_after(), name="park idle sessions")

    async def close(self) -> None:
        """Stop."""
        tasks = [task for task in (self._looking, *self._tasks, *self._busy.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Of those that were about to be parked, the cells would wait for the next service, whenever that comes.
        last = set(self._leading_back.values())
        if last:
            await asyncio.wait(last, timeout=LAST_WORD_S)
            for task in last:
                task.cancel()
            await asyncio.gather(*last, return_exceptions=True)

    @property
    def under_way(self) -> frozenset[str]:
        """Ids of sessions that are being parked."""
        return frozenset(self._busy.keys() | self._leading_back.keys())

    def idle_s(self, live: LiveSession) -> float | None:
        """For how long a session has run no cell, 0 while it runs one; None where it cannot be parked now."""
        session, now_s = live.session, time.monotonic()
        runs = session.state in _RUNNING and live.hosted
        if not runs or live.record.move is not None or session.id in self.under_way:
            return None
        if now_s < self._not_before.get(session.id, 0.0):
            return None
        if session.state is SessionState.BUSY:
            return 0.0
        return max(0.001, now_s - self._idle_since.get(session.id, now_s))

    async def park(
        self,
        live: LiveSession,
        cause: str,
        *,
        accept_loss: bool = False,
        patience_s: float = PATIENCE_S,
        come_back: bool = False,
        process: bool | None = None,
    ) -> None:
        """Park a session; returns when it is.

        Parameters
        ----------
        patience_s
            How long a cell that runs is waited for.
        come_back
            Park it although cells wait in it; it goes back into the queue at once, and they run when it has devices.
        process
            Whether its process stays, if it can, in the memory of its node; None for what ``keeps_process`` says.

        Raises
        ------
        MigrationError
            It cannot be parked. It goes on.
        """
        session, lease = live.session, live.lease
        if session.state is SessionState.PARKED:
            return
        if live.record.move is not None or session.id in self.under_way | self.suspending():
            raise MigrationError(f"session {session.name!r} is being moved or parked already.")
        if session.state not in _RUNNING or lease is None:
            raise MigrationError(f"session {session.name!r} is {session.state}: only one that runs can be parked.")
        self._busy[session.id] = asyncio.current_task()
        try:
            if process is None:
                process = keeps_process(session.request, lease, self._engine.nodes(), live.no_suspend)
            if process and await self._keep(live, lease, cause):
                return
            client = self._agents.of(lease.node_id)
            asked = client.op(session.id, lease.epoch, "quiesce", {"wait_s": patience_s})
            quiet = msgspec.convert(await asyncio.wait_for(asked, patience_s + STEP_S), Quiet)
            _check_still(live, lease, _RUNNING)
            view = quiet.checkpoint
            if view.lost and not accept_loss:
                told = "; ".join(f"{name}: {why}" for name, why in view.lost.items())
                raise NamesLost(
                    f"{', '.join(view.lost)} would be lost: {told}.", hint="--accept-loss parks the session without."
                )
            self._sessions.advance(live, SessionEvent.MOVING, cause)
            handed = await asyncio.wait_for(client.op(session.id, lease.epoch, "hand_over", {}), STEP_S)
            _check_still(live, lease, (SessionState.MIGRATING,))
            if handed.get("held") and not come_back:
                raise MigrationError("a cell came meanwhile.")
            incoming = Incoming(checkpoint=view.id, node=lease.node_id, epoch=lease.epoch)
            told = f"{cause}; its devices are free, and checkpoint {view.short} is what it goes on from"
            self._sessions.advance(live, SessionEvent.PARKED, told, record={"incoming": incoming}, swap=True)
            if handed.get("held"):
                self.wake(live, "its cells wait for devices again")
        except asyncio.CancelledError:
            self.take_up(live, "it was given up", suspended=True)
            raise
        except BaseException as error:
            if live.session.state is not SessionState.PARKED:
                await self._lead_back(live, lease, str(error) or type(error).__name__, True)
            if isinstance(error, (asyncio.TimeoutError, TimeoutError)):
                raise MigrationError("its host takes too long.") from error
            raise
        finally:
            self._busy.pop(session.id, None)

    async def _keep(self, live: LiveSession, lease: Lease, cause: str) -> bool:
        """Park a session with its process, if it can be; whether it was."""
        await live.bell.until(lambda: live.session.state is not SessionState.BUSY, PATIENCE_S)
        _check_still(live, lease, _RUNNING)
        if live.session.state is not SessionState.IDLE:
            return False  # which is told by the other way
        client = self._agents.of(lease.node_id)
        try:
            await asyncio.wait_for(client.op(live.session.id, lease.epoch, "suspend", {"asleep": True}), STEP_S)
        except (MigrationError, ImageError) as error:
            log.info("session %s is not parked with its process: %s", live.session.id, error)
            return False
        _check_still(live, lease, _RUNNING)
        told = f"{cause}; its devices are free, and its process stays in the memory of {lease.node_id}"
        self._sessions.advance(live, SessionEvent.KEPT, told, record={"kept": lease}, swap=True)
        return True

    def take_up(self, live: LiveSession, cause: str, *, suspended: bool = False) -> None:
        """Begin to let a session go on that was about to be parked, by this service or an earlier one.

        Parameters
        ----------
        suspended
            Its processes may stand still, too, and nobody else looks after that.
        """
        session_id, lease = live.session.id, live.lease
        if session_id not in self._leading_back and lease is not None:
            log.info("session %s is told to go on: %s", session_id, cause)
            task = asyncio.create_task(self._lead_back(live, lease, cause, suspended), name=f"lead back {session_id}")
            self._leading_back[session_id] = task
            task.add_done_callback(lambda _: self._leading_back.pop(session_id, None))

    async def _lead_back(self, live: LiveSession, lease: Lease, cause: str, suspended: bool) -> None:
        pause_s = self._settings.retry_first_s
        while live.lease == lease and live.record.move is None and live.session.state in _STANDING:
            try:
                client = self._agents.of(lease.node_id)
                for op in ("go_on", "resume") if suspended else ("resume",):
                    await asyncio.wait_for(client.op(live.session.id, lease.epoch, op, {}), STEP_S)
                if live.session.state is SessionState.MIGRATING:
                    self._sessions.stay(live, f"not parked: {cause}")
                return
            except (NoSuchSession, StaleEpoch):
                if live.session.state is SessionState.MIGRATING:
                    self._sessions.advance(live, SessionEvent.HOST_DIED, "its host is gone")
                return
            except (GpuaasError, asyncio.TimeoutError, TimeoutError) as error:
                log.warning("session %s does not go on yet: %s", live.session.id, error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, self._settings.retry_most_s)

    def wake(self, live: LiveSession, cause: str) -> None:
        """Bring a parked session back; any other is left alone."""
        if live.session.state is SessionState.PARKED:
            # With its process it has the same kernel, else the first one of another host.
            changed = {} if live.kept is not None else {"kernel_starts": 0}
            self._sessions.advance(live, SessionEvent.WAKE, cause, record=changed)

    # -- by itself -------------------------------------------------------------------------------------------

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                self._look(time.monotonic())
            except GpuaasError as error:
                log.error("idle sessions: %s", error)

    def _look(self, now_s: float) -> None:
        idle: list[Idle] = []
        # Whether devices are about to be given back, for which those who wait can wait.
        room_comes = any(map(self._endings.makes_room, self._endings.giving_back()))
        present = set()
        for live in self._sessions.all():
            session = live.session
            present.add(session.id)
            if self._left_standing(live):
                self.take_up(live, "nobody parks it any more")
            if session.state in _LEAVING and live.lease is not None and self._endings.makes_room(live.lease):
                room_comes = True
            if session.state is not SessionState.IDLE or live.lease is None or live.record.move is not None:
                self._idle_since.pop(session.id, None)
                continue
            since_s = self._idle_since.setdefault(session.id, now_s)
            if now_s >= self._not_before.get(session.id, 0.0) and session.id not in self.under_way:
                idle.append(Idle(session.id, live.lease, now_s - since_s))
        for gone in self._idle_since.keys() - present:
            del self._idle_since[gone]
        settings = self._settings
        for session_id, why in whom_to_park(
            [] if room_comes else self.waiting(),
            idle,
            self._engine.nodes(),
            used_of(self._engine.leases()),
            idle_s=settings.park_idle_s,
            waiting_s=settings.park_for_waiting_s,
        ):
            found = self._sessions.get(session_id)
            if found is not None:
                room_comes = True
                self._spawn(self._try(found, why))
        for each in idle:
            found = self._sessions.get(each.session_id)
            over = self.over(found) if found is not None else ""
            if found is not None and over and found.session.id not in self.under_way:
                self._spawn(self._try(found, over))
        if not room_comes and not self._pushing:
            for session_id, why in self.pushed_out():
                found = self._sessions.get(session_id)
                if found is not None:
                    self._pushing.add(session_id)
                    self._spawn(self._push_out(found, why))

    def _left_standing(self, live: LiveSession) -> bool:
        """Whether a session stands still for nobody: who was to park or move it was ended, or has lost the answer."""
        state = live.session.state
        stands = state is SessionState.MIGRATING or (live.stands_still and state in _STANDING)
        return stands and live.record.move is None and live.session.id not in self._busy

    async def _push_out(self, live: LiveSession, why: str) -> None:
        try:
            await self._try(live, why, patience_s=PUSH_PATIENCE_S, come_back=True)
        finally:
            self._pushing.discard(live.session.id)

    async def _try(
        self, live: LiveSession, why: str, *, patience_s: float = PATIENCE_S, come_back: bool = False
    ) -> None:
        if live.session.id in self.under_way:
            return  # somebody else's reason was sooner
        self._not_before[live.session.id] = time.monotonic() + AGAIN_S
        with contextlib.suppress(NoSuchSession):
            try:
                await self.park(live, why, patience_s=patience_s, come_back=come_back)
                self._not_before.pop(live.session.id, None)
            except GpuaasError as error:
                log.info("session %s is not parked: %s", live.session.id, error)

    def _spawn(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _check_still(live: LiveSession, lease: Lease, states: Collection[SessionState]) -> None:
    """Raise MigrationError where a session is not any more what it was when its host was asked for something.

    1. Its node is cut off before the answer comes.  2. The session comes back elsewhere.  3. The answer comes.
    """
    if live.lease != lease or live.session.state not in states:
        raise MigrationError(
            f"session {live.session.name!r} has come to something else meanwhile: {live.session.state}."
        )
