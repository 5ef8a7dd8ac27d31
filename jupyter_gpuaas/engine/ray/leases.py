"""Leases of a Ray cluster's devices: our own queue, and one actor in Ray for each lease.

What we have granted is in a file; Ray's accounting follows it. The queue decides where there is room as far as we
know, and asks Ray for devices there, on each node for one waiter at a time: Ray serves whom it likes first. Where
others use the cluster as well, Ray may have less than we think. Then the waiter takes what comes free on any node that
would do, and those behind it that want the same nodes wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from jupyter_gpuaas.engine.base import LeaseMeta
from jupyter_gpuaas.engine.ray import plan
from jupyter_gpuaas.engine.ray.cluster import Cluster, Held, Holder
from jupyter_gpuaas.errors import AllocationError, GpuaasError, LeaseError, LeaseNotWritten, NotAsked, TransportError
from jupyter_gpuaas.lifecycle.placement import Waiting
from jupyter_gpuaas.lifecycle.room import used_of
from jupyter_gpuaas.model import Lease, Node, ResourceRequest

log = logging.getLogger(__name__)

PAUSE_S = 1.0
PAUSE_MOST_S = 30.0


class _Waiter:
    def __init__(self, request: ResourceRequest, meta: LeaseMeta) -> None:
        self.id = uuid.uuid4().hex
        self.request = request
        self.meta = meta
        self.granted: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        #: Ray did not have what we thought.
        self.stuck = False
        self.left = False


class Pool(Protocol):
    """What the queue has to know of nodes."""

    def nodes(self) -> Sequence[Node]: ...

    def ray_id(self, node_id: str) -> str | None:
        """Ray's id of a node that is there now."""

    def node_of(self, ray_id: str) -> Node | None:
        """The node that Ray calls so."""


class _Changes:
    """Wakes everybody who waits for the next change."""

    def __init__(self) -> None:
        self._next: asyncio.Future[None] | None = None

    def next(self) -> asyncio.Future[None]:
        """Done with the next change; not to be cancelled."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        return self._next

    def tell(self) -> None:
        if self._next is not None:
            self._next.set_result(None)
            self._next = None


class RayLeases:
    """First come, first served, over what the cluster has.

    Parameters
    ----------
    file
        Takes what was granted.
    renew_s
        Pause between two renewals.
    grant_s
        Where we think there is room, Ray may take so long to say so; then others seem to use it.
    """

    def __init__(self, file: Path, cluster: Cluster, pool: Pool, *, renew_s: float, grant_s: float) -> None:
        self._file = file
        self._cluster = cluster
        self._pool = pool
        self._renew_s = renew_s
        self._grant_s = grant_s
        self._held: dict[str, Lease] = {}
        #: Their actors; a lease without one is held anew.
        self._holders: dict[str, Any] = {}
        self._waiting: list[_Waiter] = []
        self._changes = _Changes()
        #: Actors that could not be ended; by themselves they end, too, but not so soon.
        self._unfreed: list[Any] = []
        self._tasks: list[asyncio.Task[None]] = []
        #: One for each who waits.
        self._serving: set[asyncio.Task[None]] = set()
        self._freeing: set[asyncio.Task[None]] = set()
        self.on_change: Callable[[], None] = lambda: None

    # -- begin and end -----------------------------------------------------------------------------------------

    def load(self) -> None:
        """Take over the leases that the file names."""
        with contextlib.suppress(FileNotFoundError):
            self._held = {each.id: each for each in msgspec.json.decode(self._file.read_bytes(), type=list[Lease])}

    async def adopt(self) -> None:
        """Find the actors of leases; nodes are known by now, but for those whose agents hang."""
        found = await self._cluster.holders()
        for name, what in (await self._said(found)).items():
            lease = self._lease(plan.lease_of(name), what) if isinstance(what, Held) else None
            known = self._held.get(lease.id) if lease is not None else None
            if lease is None or (known is not None and known.device_ids != lease.device_ids):
                # Still waiting for a service that is gone, or had only been made to get at another device.
                log.info("Ray actor %s is of no use any more", name)
                self._free(found[name])
                continue
            self._held.setdefault(lease.id, lease)
            self._holders[lease.id] = found[name]
        with contextlib.suppress(OSError):
            self._save(self._held)

    async def _said(self, holders: Mapping[str, Any]) -> dict[str, Held | GpuaasError | None]:
        """What they say of themselves; one that is slow to answer may hold what no file here names."""
        until_s = asyncio.get_running_loop().time() + self._grant_s
        said: dict[str, Held | GpuaasError | None] = {}
        silent = list(holders)
        while True:
            answers = await self._cluster.renew([holders[name] for name in silent])
            said.update(zip(silent, answers, strict=True))
            silent = [name for name in silent if isinstance(said[name], GpuaasError)]
            if not silent or asyncio.get_running_loop().time() >= until_s:
                return said
            await asyncio.sleep(PAUSE_S)

    def open(self) -> None:
        """Begin to look after what is held."""
        self._tasks = [asyncio.create_task(each) for each in (self._renew(), self._hold_again())]

    async def close(self, *, give_back: bool) -> None:
        """Stop; with ``give_back``, nothing is held any more."""
        tasks = [*self._tasks, *self._serving]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks = []
        if give_back:
            for actor in self._holders.values():
                self._free(actor)
            self._held, self._holders = {}, {}
            self._file.unlink(missing_ok=True)
        await asyncio.gather(*self._freeing, return_exceptions=True)

    # -- for the engine ----------------------------------------------------------------------------------------

    def held(self) -> list[Lease]:
        """All leases, oldest first."""
        return list(self._held.values())

    def waiting(self) -> list[ResourceRequest]:
        """What those who wait ask for, in order."""
        return [waiter.request for waiter in self._waiting]

    def get(self, lease_id: str) -> Lease:
        """The lease, if it is held."""
        try:
            return self._held[lease_id]
        except KeyError:
            raise LeaseError(f"lease {lease_id} is not held.") from None

    def kick(self) -> None:
        """Something has changed: nodes, leases, who waits."""
        self._changes.tell()
        self.on_change()

    async def acquire(self, request: ResourceRequest, meta: LeaseMeta, timeout: float | None) -> Lease:
        """See ``Engine.acquire``."""
        waiter = _Waiter(request, meta)
        self._waiting.append(waiter)
        serving = asyncio.create_task(self._serve(waiter), name=f"devices for {meta.session_id}")
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        self.kick()
        try:
            await asyncio.wait([waiter.granted], timeout=timeout)
            until_s = asyncio.get_running_loop().time() + self._grant_s
            while not waiter.granted.done() and self._is_next(waiter):
                # There is room, and Ray is about to say so, or not. With its head away, it says nothing at all.
                left_s = until_s - asyncio.get_running_loop().time()
                if left_s <= 0:
                    break
                either: list[asyncio.Future[Any]] = [waiter.granted, self._changes.next()]
                await asyncio.wait(either, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if not waiter.granted.done():
                kind = NotAsked if self._is_behind(waiter) else AllocationError
                raise kind(f"nothing became free for session {meta.session_id} in {timeout:g} s.")
            return waiter.granted.result()
        except asyncio.CancelledError:
            if waiter.granted.done() and waiter.granted.exception() is None:
                # Nobody who could give it back knows of it.
                self._let_go(waiter.granted.result().id)
            raise
        finally:
            waiter.left = True
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            self.kick()

    def _is_next(self, waiter: _Waiter) -> bool:
        if waiter not in self._waiting:
            return False
        place = self._waiting.index(waiter)
        stuck = {number for number, each in enumerate(self._waiting) if each.stuck}
        return plan.is_served(place, _queue(self._waiting), self._pool.nodes(), self.held(), self._unsettled(), stuck)

    def _taken_before(self, waiter: _Waiter) -> frozenset[str]:
        """Nodes that somebody before this one in the queue could go to: nothing there is for it."""
        before = self._waiting[: self._waiting.index(waiter)]
        return plan.could_go(_queue(before), self._pool.nodes())

    def _is_behind(self, waiter: _Waiter) -> bool:
        return bool(plan.could_go(_queue([waiter]), self._pool.nodes()) & self._taken_before(waiter))

    def release(self, lease_id: str) -> asyncio.Task[None] | None:
        """Give a lease back; what is returned ends when Ray knows, too.

        Raises
        ------
        LeaseNotWritten
            This could not be written, so the lease is still held.
        """
        if lease_id not in self._held:
            return None
        try:
            self._save({key: lease for key, lease in self._held.items() if key != lease_id})
        except OSError as error:
            raise LeaseNotWritten(f"lease {lease_id} not given back, which could not be written: {error}.") from error
        return self._let_go(lease_id)

    def _let_go(self, lease_id: str) -> asyncio.Task[None] | None:
        self._held.pop(lease_id, None)
        actor = self._holders.pop(lease_id, None)
        freeing = None if actor is None else self._free(actor)
        self.kick()
        return freeing

    def _free(self, actor: Any) -> asyncio.Task[None]:
        task = asyncio.create_task(self._end(actor), name="free a lease")
        self._freeing.add(task)
        task.add_done_callback(self._freeing.discard)
        return task

    async def _end(self, actor: Any) -> None:
        try:
            await self._cluster.free(actor)
        except GpuaasError as error:
            log.warning("a lease is given back later: %s", error)
            self._unfreed.append(actor)

    # -- the queue ---------------------------------------------------------------------------------------------

    async def _serve(self, waiter: _Waiter) -> None:
        while not waiter.left:
            changed = self._changes.next()
            try:
                if await self._try(waiter):
                    return
                await asyncio.wait([changed])
            except Exception as error:
                log.error("session %s has no devices yet: %s", waiter.meta.session_id, error, exc_info=_odd(error))
                await asyncio.sleep(PAUSE_S)

    async def _try(self, waiter: _Waiter) -> bool:
        """Bring one to devices; False when there is nothing for it now."""
        holder: Holder | None = None
        chosen: tuple[str, ...] = ()
        others: list[Holder] = []
        try:
            while not waiter.left:
                changed = self._changes.next()
                targets = tuple(self._targets(waiter))
                if not targets:
                    return False
                wanted = targets if waiter.stuck else targets[:1]
                if holder is not None and (not set(chosen) <= set(targets) or (len(wanted) > 1 and wanted != chosen)):
                    self._free(holder.actor)
                    holder = None
                if holder is None:
                    chosen = wanted
                    ray_ids = [ray_id for ray_id in map(self._pool.ray_id, chosen) if ray_id]
                    meta = self._told(waiter.meta, waiter.request.share, ray_ids)
                    gpus = plan.gpus_of(waiter.request)
                    holder = await self._cluster.hold(waiter.id, meta, gpus, ray_ids, suffix=_suffix())
                limit_s = None if waiter.stuck and not others else self._grant_s
                either: list[asyncio.Future[Any]] = [holder.first, changed]
                done, _ = await asyncio.wait(either, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    waiter.stuck = True
                    self._changes.tell()
                if holder.first.done():
                    held, mine = await holder.first, holder
                    if waiter not in self._waiting:  # it has left meanwhile
                        return True
                    lease, holder = self._lease(waiter.id, held), None
                    if lease is not None and not self._does(waiter, lease):
                        # Not those that it can use. These are kept from Ray until it gives others.
                        others.append(mine)
                        continue
                    self._grant(waiter, lease, held, mine)
                    return True
                if not done and others:
                    # What it can use is not free in Ray. Others may want what was kept meanwhile.
                    for other in others:
                        self._free(other.actor)
                    others.clear()
            return True
        finally:
            for each in (*others, *([holder] if holder is not None else [])):
                self._free(each.actor)

    def _does(self, waiter: _Waiter, lease: Lease) -> bool:
        return plan.does(waiter.request, waiter.meta.kept, lease, self._pool.nodes())

    def _targets(self, waiter: _Waiter) -> list[str]:
        used, kept = used_of(self.held()), waiter.meta.kept
        found = plan.candidates(waiter.request, self._pool.nodes(), used, self._unsettled(), kept)
        taken = self._taken_before(waiter)
        return [node_id for node_id in found if node_id not in taken and self._pool.ray_id(node_id)]

    def _grant(self, waiter: _Waiter, lease: Lease | None, held: Held, holder: Holder) -> None:
        self._waiting.remove(waiter)
        if lease is None or plan.clashes(lease, self.held()):
            self._free(holder.actor)
            why = "Ray has handed out devices that are not free" if lease else "Ray has handed out devices of no node"
            log.error("%s: %s", why, held)
            waiter.granted.set_exception(AllocationError(f"{why} ({', '.join(held.ids)})."))
            return
        try:
            self._save({**self._held, lease.id: lease})
        except OSError as error:
            self._free(holder.actor)
            waiter.granted.set_exception(LeaseNotWritten(f"lease not written: {error}."))
            return
        self._held[lease.id] = lease
        self._holders[lease.id] = holder.actor
        waiter.granted.set_result(lease)
        self.on_change()

    def _told(self, whose: LeaseMeta | Lease, share: float, ray_ids: Sequence[str]) -> dict[str, Any]:
        """What an actor says of its lease to who adopts it, which may not know the node."""
        nodes = {ray_id: self._pool.node_of(ray_id) for ray_id in ray_ids}
        return {
            "session_id": whose.session_id,
            "epoch": whose.epoch,
            "share": share,
            "nodes": msgspec.to_builtins(nodes),
        }

    def _lease(self, lease_id: str, held: Held) -> Lease | None:
        told = held.meta.get("nodes", {}).get(held.ray_id)  # actors of an earlier version say nothing of it
        node = self._pool.node_of(held.ray_id) or (msgspec.convert(told, Node) if told else None)
        if node is None:
            return None
        try:
            device_ids = plan.devices_of(held.ids, node.devices)
        except LookupError as error:
            log.error("node %s: %s", node.id, error)
            return None
        meta = held.meta
        share = float(meta.get("share", 1.0))
        return Lease(lease_id, str(meta["session_id"]), node.id, device_ids, int(meta["epoch"]), share)

    # -- what is held stays held -------------------------------------------------------------------------------

    def _unsettled(self) -> frozenset[str]:
        """Nodes on which we hold what Ray does not know of."""
        return frozenset(lease.node_id for lease in self._held.values() if lease.id not in self._holders)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._renew_s)
            unfreed, self._unfreed = self._unfreed, []
            for actor in unfreed:
                self._free(actor)
            actors = dict(self._holders)
            try:
                said = await self._cluster.renew(list(actors.values()))
            except GpuaasError as error:
                log.warning("leases are not renewed now: %s", error)
                continue
            for (lease_id, actor), what in zip(actors.items(), said, strict=True):
                if what is None and self._holders.get(lease_id) is actor:
                    self.lost(lease_id)

    def lost(self, lease_id: str) -> None:
        """The actor of a lease is gone, with its node or by itself."""
        actor = self._holders.pop(lease_id, None)
        if actor is not None:
            log.warning("lease %s has lost its actor in Ray", lease_id)
            # Should it live after all, it has what the lease is to be held by again.
            self._free(actor)
            self.kick()

    def node_left(self, node_id: str) -> None:
        """A node is not in Ray any more, nor are the actors on it."""
        for lease in self.held():
            if lease.node_id == node_id:
                self.lost(lease.id)

    async def _hold_again(self) -> None:
        """Make Ray know again of what is held: its raylet was started again, or its head without a memory."""
        pause_s = PAUSE_S
        while True:
            changed = self._changes.next()
            again = False
            for lease in self.held():
                if lease.id in self._holders or not self._pool.ray_id(lease.node_id):
                    continue
                try:
                    await self._hold_one(lease)
                except GpuaasError as error:
                    log.warning("lease %s: %s", lease.id, error)
                    again = True
            pause_s = min(2 * pause_s, PAUSE_MOST_S) if again else PAUSE_S
            await asyncio.wait([changed], timeout=pause_s if again else None)

    async def _hold_one(self, lease: Lease) -> None:
        """Get exactly the devices of a lease. Ray gives which it likes, so others are taken until these come."""
        gpus = lease.share if lease.share < 1 else float(len(lease.device_ids))
        others: list[Holder] = []
        mine: Holder | None = None
        try:
            while mine is None:
                ray_id = self._pool.ray_id(lease.node_id)
                if ray_id is None or self._pool.node_of(ray_id) is None or lease.id not in self._held:
                    return
                meta = self._told(lease, lease.share, [ray_id])
                holder = await self._cluster.hold(lease.id, meta, gpus, [ray_id], suffix=_suffix())
                others.append(holder)
                await asyncio.wait({holder.first}, timeout=self._grant_s)
                if not holder.first.done():
                    names = ", ".join(lease.device_ids)
                    raise TransportError(f"its devices {names} on {lease.node_id} are not free in Ray.")
                found = self._lease(lease.id, holder.first.result())
                if found is not None and set(found.device_ids) == set(lease.device_ids):
                    mine = holder
            if lease.id in self._held:
                self._holders[lease.id] = mine.actor
                others.remove(mine)
                log.info("lease %s is held in Ray again", lease.id)
        finally:
            for other in others:
                self._free(other.actor)
            if mine is not None:
                self.kick()

    def _save(self, held: Mapping[str, Lease]) -> None:
        draft = self._file.with_suffix(".new")
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, "wb") as file:
            file.write(msgspec.json.encode(list(held.values())))
        draft.replace(self._file)


def _queue(waiters: Iterable[_Waiter]) -> list[Waiting]:
    return [Waiting(each.id, each.request, each.meta.kept) for each in waiters]


def _suffix() -> str:
    """Each actor has a name of its own, even while one of the same lease is on its way out."""
    return f".{os.urandom(3).hex()}"


def _odd(error: Exception) -> bool:
    return not isinstance(error, GpuaasError)
