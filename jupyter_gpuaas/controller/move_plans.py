"""Whether and how a session can be moved, and what that would do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from jupyter_gpuaas.controller.means import Means
from jupyter_gpuaas.controller.sessions import LiveSession
from jupyter_gpuaas.controller.standbys import Standbys
from jupyter_gpuaas.errors import AllocationError, GpuaasError, InvalidRequest, MigrationError, NamesLost
from jupyter_gpuaas.lifecycle.migration import Asked, way
from jupyter_gpuaas.lifecycle.placement import targets
from jupyter_gpuaas.lifecycle.room import used_of
from jupyter_gpuaas.model import (
    CPU,
    CheckpointView,
    HostReport,
    HostState,
    Lease,
    MigrationPlan,
    Phase,
    SessionState,
    Via,
)

log = logging.getLogger(__name__)

MOVABLE = (SessionState.IDLE, SessionState.BUSY)
#: What estimates go by where nothing was measured yet.
ASSUMED_BYTES_S = 400e6
ASSUMED_STOP_S = 0.3
#: A host that does not say at once whether it runs a cell is taken at its last word.
LOOK_S = 5.0


class MovePlans:
    """Looks at sessions and nodes; changes nothing.

    Parameters
    ----------
    newest
        A session's newest checkpoint by owner and id, read from the store; for threads.
    """

    def __init__(self, means: Means, standbys: Standbys, newest: Callable[[str, str], CheckpointView | None]) -> None:
        self._endings = means.endings
        self._engine = means.engine
        self._others = means.others
        self._agents = means.agents
        self._standbys = standbys
        self._newest = newest
        #: Ids of sessions that are being parked or suspended; set by the controller.
        self.giving_up: Callable[[], frozenset[str]] = frozenset

    async def plan(self, live: LiveSession, target: str | None) -> MigrationPlan:
        """What a migration would do.

        Raises
        ------
        InvalidRequest, AllocationError, MigrationError
            It cannot be done.
        """
        source, node_id = self.check(live, target)
        session, busy = live.session, await self.runs_cell(live)
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
        by_image = not self.no_images(live, source.node_id, node_id)
        if busy:
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
            moves=view.names if view is not None else 0,
            rebuilt=view.rebuilt if view is not None else {},
            lost=view.lost if view is not None else {},
            bytes_estimate=size,
            total_s_estimate=size / rate + 1.0,
            downtime_s_estimate=last.downtime_s if last is not None and last.downtime_s else ASSUMED_STOP_S,
            remarks=tuple(remarks),
        )

    async def runs_cell(self, live: LiveSession) -> bool:
        """Whether the session runs a cell at this moment: its host is asked, whose reports come a little later."""
        lease = live.lease
        if live.session.state in MOVABLE and lease is not None:
            try:
                asking = self._agents.of(lease.node_id).op(live.session.id, lease.epoch, "look", {})
                report = msgspec.convert(await asyncio.wait_for(asking, LOOK_S), HostReport)
                return report.state is HostState.BUSY
            except (GpuaasError, asyncio.TimeoutError, TimeoutError) as error:
                log.info("session %s is not looked at: %s", live.session.id, error or "its host takes too long")
        return live.session.state is SessionState.BUSY

    def check(self, live: LiveSession, target: str | None) -> tuple[Lease, str]:
        """The session's lease, and the node that it can go to.

        Raises
        ------
        InvalidRequest, AllocationError, MigrationError
            It cannot be moved there now.
        """
        session, lease = live.session, live.lease
        if live.record.move is not None:
            raise MigrationError(f"session {session.name!r} is being moved already.")
        if session.id in self.giving_up():
            hint = "It can be moved when it has come back."
            raise MigrationError(f"session {session.name!r} is being parked or suspended.", hint=hint)
        if session.state not in MOVABLE or lease is None:
            hint = "Ask again when its turn has come." if session.state is SessionState.SUSPENDED else ""
            raise MigrationError(
                f"session {session.name!r} is {session.state}: only one that runs can be moved.", hint=hint
            )
        nodes, leases = self._engine.nodes(), self._engine.leases()
        if target is not None and all(node.id != target for node in nodes):
            known = ", ".join(node.id for node in nodes)
            raise InvalidRequest(f"target: there is no node {target!r} (nodes: {known}).")
        if target == lease.node_id:
            raise InvalidRequest(f"target: the session is on {target} already.")
        # What standbys hold is given back for it, and so is what the session has just left.
        free = self._standbys.leases() | self._endings.giving_back()
        if (left := live.record.incoming) is not None and left.lease is not None:
            free |= {left.lease}  # which is about to be given back: the session has begun where it is now
        taken = used_of([*(held for held in leases if held not in free), *self._others.held()])
        request = msgspec.structs.replace(session.request, node=target)
        found = [node_id for node_id in targets(request, nodes, taken) if node_id != lease.node_id]
        found.sort(key=lambda node_id: self._standbys.take(live, node_id) is None)
        if not found:
            where = f"{target} has no room" if target else "no other node has room"
            raise AllocationError(
                f"target: {where} for {request.devices} device(s) of {request.kind or 'any kind'}.",
                hint="`jupyter gpuaas nodes` shows what is free.",
            )
        return lease, found[0]

    def no_images(self, live: LiveSession, source: str, target: str, *, wished: bool = False) -> str:
        """Why the session cannot go from one node to the other as a process image; empty if it can.

        Parameters
        ----------
        wished
            Whether its user has asked for one.
        """
        for node in self._engine.nodes():
            if node.id in (source, target) and node.no_images:
                return f"{node.id}: {node.no_images}"
        # Not tried on a GPU (docs/gpus.md), so it is nobody's choice but the user's.
        on_cpu = live.lease is None or all(device.startswith(f"{CPU}:") for device in live.lease.device_ids)
        if not (on_cpu or wished):
            return "a session with device memory moves so only when that is asked for (--via image)"
        return "" if live.in_jail else "its kernel was not started in a jail (the log of its host says why)"

    async def asked(
        self, live: LiveSession, plan: MigrationPlan, via: Via, *, wait: bool, accept_loss: bool, between_cells: bool
    ) -> Asked:
        """What the way goes by, as it is now."""
        busy = await self.runs_cell(live)
        return Asked(
            via=via,
            wait=wait,
            accept_loss=accept_loss,
            between_cells=between_cells,
            busy=busy,
            lost=tuple(plan.lost),
            no_image=self.no_images(live, plan.source, plan.target, wished=via == "image"),
        )

    @staticmethod
    def way(asked: Asked, plan: MigrationPlan) -> Via:
        """Which way it goes. Raises MigrationError where it cannot so."""
        found, why_not = way(asked)
        if not why_not:
            return found
        if found == "image":
            raise MigrationError(
                f"via: the session cannot move as a process image: {why_not}", hint="`portable` moves the variables."
            )
        if asked.busy and not asked.wait:
            told = f"; as a process image it cannot move: {asked.no_image}" if asked.via == "auto" else ""
            raise MigrationError(f"{why_not}{told}.", hint="Without --no-wait the move waits for its end.")
        raise NamesLost(
            f"{why_not}: {'; '.join(f'{k}: {v}' for k, v in plan.lost.items())}.",
            hint="--accept-loss moves the session without.",
        )
