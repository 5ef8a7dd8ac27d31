"""Leases of one pool: who holds what, who waits, kept in a file. No processes, no network."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from jupyter_gpuaas.engine.base import LeaseMeta
from jupyter_gpuaas.errors import AllocationError, LeaseError, LeaseNotWritten, NoCapacity
from jupyter_gpuaas.lifecycle.placement import Waiting, place, why_never
from jupyter_gpuaas.lifecycle.room import used_of
from jupyter_gpuaas.model import Lease, Node, ResourceRequest


class _Waiter:
    def __init__(self, request: ResourceRequest, meta: LeaseMeta) -> None:
        self.id = uuid.uuid4().hex
        self.request = request
        self.meta = meta
        self.granted: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()


class LeaseQueue:
    """First come, first served leases over the nodes that ``nodes`` gives, durable in ``file``."""

    def __init__(self, file: Path, nodes: Callable[[], Sequence[Node]]) -> None:
        self._file = file
        self._nodes = nodes
        self._held: dict[str, Lease] = {}
        self._waiting: list[_Waiter] = []

    def load(self) -> None:
        """Take over the leases that the file names."""
        try:
            held = msgspec.json.decode(self._file.read_bytes(), type=list[Lease])
        except FileNotFoundError:
            held = []
        self._held = {lease.id: lease for lease in held}

    def held(self) -> list[Lease]:
        """All leases, oldest first."""
        return list(self._held.values())

    def get(self, lease_id: str) -> Lease:
        """The lease, if it is held."""
        try:
            return self._held[lease_id]
        except KeyError:
            raise LeaseError(f"lease {lease_id} is not held.") from None

    async def acquire(self, request: ResourceRequest, meta: LeaseMeta, timeout: float | None) -> Lease:
        """See ``Engine.acquire``."""
        never = why_never(request, self._nodes())
        if never:
            raise NoCapacity(f"{never}.", hint="`jupyter gpuaas nodes` shows what there is.")
        waiter = _Waiter(request, meta)
        self._waiting.append(waiter)
        try:
            self.serve()
            if not waiter.granted.done():
                await asyncio.wait([waiter.granted], timeout=timeout)
        except asyncio.CancelledError:
            # 1. serve() writes the lease and sets the result.  2. Before the caller runs again, it is
            # cancelled.  Now the lease is held, and nobody who could give it back knows of it.
            with contextlib.suppress(LeaseError):
                self.release(waiter.id)
            # If that could not be written, the next writing leaves it out; a service that starts before
            # then finds a lease that no session has, and gives it back.
            self._held.pop(waiter.id, None)
            raise
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
                # Whoever stood behind may be served now.
                self.serve()
        if not waiter.granted.done():
            raise AllocationError(f"nothing became free for session {meta.session_id} in {timeout:g} s.")
        return waiter.granted.result()

    def serve(self) -> None:
        """Give what is free to those who wait, in their order."""
        if not self._waiting:
            return
        queue = [Waiting(waiter.id, waiter.request, waiter.meta.kept) for waiter in self._waiting]
        by_id = {waiter.id: waiter for waiter in self._waiting}
        placements = place(queue, self._nodes(), used_of(self._held.values()))
        if not placements:
            return
        served: list[tuple[_Waiter, Lease]] = []
        for placement in placements:
            waiter = by_id[placement.session_id]
            lease = Lease(
                id=waiter.id,
                session_id=waiter.meta.session_id,
                node_id=placement.node_id,
                device_ids=placement.device_ids,
                epoch=waiter.meta.epoch,
                share=placement.share,
            )
            served.append((waiter, lease))
            self._held[lease.id] = lease
            self._waiting.remove(waiter)
        try:
            self._save()
        except OSError as error:
            # A lease that a restart would forget must not be handed out.
            for waiter, lease in served:
                del self._held[lease.id]
                waiter.granted.set_exception(LeaseNotWritten(f"lease not written: {error}."))
            return
        for waiter, lease in served:
            waiter.granted.set_result(lease)

    def release(self, lease_id: str) -> None:
        """Give a lease back; one that is not held is no error.

        Raises
        ------
        LeaseNotWritten
            This could not be written, so the lease is still held.
        """
        if lease_id not in self._held:
            return
        held = self._held
        self._held = {key: lease for key, lease in held.items() if key != lease_id}
        try:
            self._save()
        except OSError as error:
            self._held = held
            raise LeaseNotWritten(f"lease {lease_id} not given back, which could not be written: {error}.") from error
        self.serve()

    def _save(self) -> None:
        # No fsync: what must survive is this process; a machine that goes down takes the hosts along.
        draft = self._file.with_suffix(".new")
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, "wb") as file:
            file.write(msgspec.json.encode(self.held()))
        draft.replace(self._file)
