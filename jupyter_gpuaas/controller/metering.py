"""Measures who holds devices for how long.

The engine is the only place where a device is given and taken back, so what is measured there can be summed up: the
spans of one device never overlap, whatever sessions do meanwhile, and the sum is never above wall time times devices.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

import msgspec

from jupyter_gpuaas.controller.catalogue.usage import Held, UsageRows
from jupyter_gpuaas.engine.base import AgentEndpoint, Engine, LeaseMeta, NodeEvent
from jupyter_gpuaas.errors import CatalogueError, GpuaasError
from jupyter_gpuaas.lifecycle.usage import Span, by_session, by_user
from jupyter_gpuaas.model import Lease, Node, ResourceRequest, UsageView

log = logging.getLogger(__name__)

#: How often what is written down is compared with what the engine knows.
LOOK_S = 5.0
#: How long the use of devices is remembered.
KEPT_S = 400 * 86400.0
#: Sums of ended leases that are kept in memory.
SUMS = 10_000


class _Running:
    def __init__(self, held: Held, begun_s: float, written: bool) -> None:
        self.held = held
        #: By the monotonic clock: the other may be set meanwhile.
        self.begun_s = begun_s
        self.written = written


class Meter:
    """The spans for which leases run: in memory while they do, in the database always."""

    def __init__(
        self,
        rows: UsageRows,
        owner_of: Callable[[str], str],
        *,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rows = rows
        self._wall = wall
        self._clock = clock
        #: Owner of a session; empty for one that is not known.
        self._owner_of = owner_of
        self._running: dict[str, _Running] = {}
        #: Ended leases whose end could not be written yet.
        self._unwritten: dict[str, tuple[Held, float]] = {}
        self._sums: dict[str, float] = {}
        #: Leases that are just being given back.
        self.leaving: set[str] = set()
        self._looking: asyncio.Task[None] | None = None

    def open(self, leases: Callable[[], Sequence[Lease]]) -> None:
        """Begin to measure what an engine holds."""
        self._load(leases())
        self._looking = asyncio.create_task(self._look(leases), name="use of devices")

    async def close(self) -> None:
        """Stop; what runs goes on, and is measured by the next controller."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        self.flush()

    async def _look(self, leases: Callable[[], Sequence[Lease]]) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                self.reconcile(leases())
            except GpuaasError as error:
                log.error("use of devices: %s", error)

    def _load(self, leases: Sequence[Lease]) -> None:
        """Go on with what an earlier controller has left; a lease that is gone meanwhile ended at this moment."""
        now_s, present = self._wall(), {lease.id for lease in leases}
        self._rows.forget(now_s - KEPT_S)
        for held in self._rows.running():
            running = _Running(held, self._clock() - max(0.0, now_s - held.from_s), True)
            self._running[held.lease_id] = running
            if held.lease_id not in present:
                self.end(held.lease_id)
        for lease in leases:
            self.begin(lease)

    def begin(self, lease: Lease) -> None:
        """A lease was given.

        Where its owner is not known and the database does not answer, it is measured from a later look on: whoever has
        asked for the lease is held up, or left without it, by nothing of this.
        """
        if lease.id in self._running:
            return
        try:
            owner = self._owner_of(lease.session_id)
        except CatalogueError as error:
            log.error("use of devices of session %s not measured yet: %s", lease.session_id, error)
            return
        held = Held(
            lease_id=lease.id,
            session_id=lease.session_id,
            owner=owner,
            devices=len(lease.device_ids) * lease.share,
            from_s=self._wall(),
        )
        running = self._running[lease.id] = _Running(held, self._clock(), False)
        self._write(running)

    def end(self, lease_id: str) -> Held | None:
        """A lease ends now: before anybody else can have its devices. Answers with what has ended, for `go_on`."""
        running = self._running.pop(lease_id, None)
        if running is None:
            return None
        held, elapsed_s = running.held, self._clock() - running.begun_s
        if held.session_id in self._sums:
            self._sums[held.session_id] += held.devices * elapsed_s
        self._unwritten[lease_id] = (held, held.from_s + elapsed_s)
        self.flush()
        return held

    def go_on(self, held: Held) -> None:
        """A lease that was about to end is held still, as if nothing had been."""
        self._unwritten.pop(held.lease_id, None)
        self._sums.pop(held.session_id, None)
        begun_s = self._clock() - max(0.0, self._wall() - held.from_s)
        running = self._running[held.lease_id] = _Running(held, begun_s, False)
        self._write(running)

    def reconcile(self, leases: Sequence[Lease]) -> None:
        """End what an engine has taken back by itself, and write what could not be written."""
        present = {lease.id for lease in leases}
        for lease_id in self._running.keys() - present:
            self.end(lease_id)
        for lease in leases:
            if lease.id not in self.leaving:
                self.begin(lease)
        self.flush()

    def flush(self) -> None:
        """Write what is not written; a database that cannot be written to holds nobody up."""
        for running in self._running.values():
            if not running.written:
                self._write(running)
        for lease_id, (held, until_s) in list(self._unwritten.items()):
            try:
                self._rows.begin(held)
                self._rows.end(lease_id, until_s)
                del self._unwritten[lease_id]
            except CatalogueError as error:
                log.error("use of devices not written: %s", error)
                return

    def _write(self, running: _Running) -> None:
        try:
            self._rows.begin(running.held)
            running.written = True
        except CatalogueError as error:
            log.error("use of devices not written: %s", error)

    # -- looking ---------------------------------------------------------------------------------------------

    def _ended_seconds(self, session_ids: Collection[str]) -> dict[str, float]:
        missing = [each for each in session_ids if each not in self._sums]
        if len(self._sums) + len(missing) > SUMS:
            self._sums.clear()
            missing = list(session_ids)
        self._sums |= self._rows.ended_seconds(missing)
        return {each: self._sums[each] for each in session_ids}

    def accounts(self, leases: Mapping[str, str]) -> dict[str, tuple[float, float]]:
        """What sessions have used without one lease of theirs, and since when that one runs; 0 where it does not.

        Parameters
        ----------
        leases
            Session -> id of the lease; empty for none.
        """
        now_s = self._clock()
        found = {session_id: (used_s, 0.0) for session_id, used_s in self._ended_seconds(leases).items()}
        for lease_id, running in self._running.items():
            held = running.held
            used_s, since_s = found.get(held.session_id, (0.0, 0.0))
            if leases.get(held.session_id) == lease_id:
                found[held.session_id] = used_s, held.from_s
            elif held.session_id in found:
                found[held.session_id] = used_s + held.devices * (now_s - running.begun_s), since_s
        return found

    def device_seconds(self, session_id: str) -> float:
        """What a session has used until now."""
        now_s = self._clock()
        return self._ended_seconds([session_id])[session_id] + sum(
            running.held.devices * (now_s - running.begun_s)
            for running in self._running.values()
            if running.held.session_id == session_id
        )

    def devices(self, owner: str) -> float:
        """Devices that an owner's sessions hold now."""
        return sum(running.held.devices for running in self._running.values() if running.held.owner == owner)

    def spans(self, *, after_s: float, owner: str | None = None) -> list[Span]:
        """Spans that reach beyond a time; of leases that run, they end where the clock of this process says."""
        now_s, running = self._wall(), dict(self._running)
        found = self._rows.spans(after_s=after_s, owner=owner, running=running.keys())
        return [span if span.until_s is not None else _cut(span, now_s) for span in found]

    def view(self, owner: str | None, from_s: float) -> UsageView:
        """Use since a time; ``owner`` None means everybody's. For threads."""
        until_s = self._wall()
        sessions = by_session(self.spans(after_s=from_s, owner=owner), from_s, until_s)
        return UsageView(from_s=from_s, until_s=until_s, users=tuple(by_user(sessions)), sessions=tuple(sessions))


def _cut(span: Span, now_s: float) -> Span:
    # A clock that was set back must not make it negative.
    return msgspec.structs.replace(span, from_s=min(span.from_s, now_s))


class MeteredEngine:
    """An engine whose leases are measured. It decides nothing."""

    def __init__(self, engine: Engine, meter: Meter) -> None:
        self._engine = engine
        self._meter = meter
        #: Called when devices have become free; set by the controller.
        self.on_free: Callable[[], None] = lambda: None

    @property
    def grows(self) -> bool:
        """See ``Engine.grows``."""
        return self._engine.grows

    async def open(self, cordoned: Collection[str] = ()) -> None:
        """See ``Engine.open``."""
        await self._engine.open(cordoned)

    async def close(self, *, stop_nodes: bool) -> None:
        """See ``Engine.close``."""
        await self._engine.close(stop_nodes=stop_nodes)

    def nodes(self) -> list[Node]:
        """See ``Engine.nodes``."""
        return self._engine.nodes()

    def events(self) -> AsyncIterator[NodeEvent]:
        """See ``Engine.events``."""
        return self._engine.events()

    async def acquire(self, request: ResourceRequest, meta: LeaseMeta, timeout: float | None = None) -> Lease:
        """See ``Engine.acquire``."""
        lease = await self._engine.acquire(request, meta, timeout)
        self._meter.begin(lease)
        return lease

    async def release(self, lease_id: str) -> None:
        """See ``Engine.release``."""
        # Before: the engine may give the devices to others before this is called back.
        ended = self._meter.end(lease_id)
        self._meter.leaving.add(lease_id)
        try:
            await self._engine.release(lease_id)
        finally:
            self._meter.leaving.discard(lease_id)
            if ended is not None and any(lease.id == lease_id for lease in self._engine.leases()):
                self._meter.go_on(ended)
        self.on_free()

    async def renew(self, lease_id: str) -> Lease:
        """See ``Engine.renew``."""
        return await self._engine.renew(lease_id)

    def leases(self) -> list[Lease]:
        """See ``Engine.leases``."""
        return self._engine.leases()

    def agent(self, node_id: str) -> AgentEndpoint:
        """See ``Engine.agent``."""
        return self._engine.agent(node_id)

    def cordon(self, node_id: str, *, cordoned: bool) -> None:
        """See ``Engine.cordon``."""
        self._engine.cordon(node_id, cordoned=cordoned)

    def silent(self, node_id: str, cause: str) -> None:
        """See ``Engine.silent``."""
        self._engine.silent(node_id, cause)

    def why_never(self, request: ResourceRequest) -> str:
        """See ``Engine.why_never``."""
        return self._engine.why_never(request)

    def want(self, requests: Sequence[ResourceRequest]) -> None:
        """See ``Engine.want``."""
        self._engine.want(requests)
