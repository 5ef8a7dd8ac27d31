"""REST: health, nodes, allocations, and the end of the service."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
from fastapi import APIRouter, Response

from jupyter_gpuaas import __version__
from jupyter_gpuaas.controller.answers import Facts, responses
from jupyter_gpuaas.controller.auth import User
from jupyter_gpuaas.controller.callers import Caller, TheController
from jupyter_gpuaas.controller.controller import Controller
from jupyter_gpuaas.errors import GpuaasError
from jupyter_gpuaas.lifecycle.room import used_of
from jupyter_gpuaas.model import DeviceSample, DrainView, Lease, Node, NodeState, NodeView

router = APIRouter(tags=["pool"])

SAMPLE_TIMEOUT_S = 2.0


@router.get("/health", summary="Health", responses=responses(None))
async def health() -> Response:
    """Whether the service answers; needs no token."""
    return Facts({"status": "ok", "version": __version__})


@router.get("/nodes", summary="List nodes", responses=responses(NodeView, many=True))
async def nodes(controller: TheController, user: Caller) -> Response:
    """The pool, with what its devices do now."""
    pool = controller.engine.nodes()
    samples = await asyncio.gather(*(_samples(controller, node) for node in pool))
    used = used_of(controller.engine.leases())
    return Facts(
        [
            NodeView(
                **msgspec.structs.asdict(node),
                samples=tuple(measured),
                leased=tuple(used.get(node.id, ())),
                used={device_id: min(1.0, round(part, 6)) for device_id, part in used.get(node.id, {}).items()},
                clock_ahead_s=_clock_ahead_s(controller, node),
                drain=_drain(controller, node, user),
            )
            for node, measured in zip(pool, samples, strict=True)
        ]
    )


def _clock_ahead_s(controller: Controller, node: Node) -> float | None:
    with contextlib.suppress(GpuaasError):
        return controller.agents.of(node.id).clock_ahead_s
    return None


def _drain(controller: Controller, node: Node, user: User) -> DrainView | None:
    view = controller.drains.known(node.id) if node.state is NodeState.CORDONED else None
    if view is None or user.is_admin:
        return view
    return msgspec.structs.replace(view, left=(), refused={})


async def _samples(controller: Controller, node: Node) -> list[DeviceSample]:
    try:
        return await asyncio.wait_for(controller.agents.of(node.id).devices(), SAMPLE_TIMEOUT_S)
    except (GpuaasError, asyncio.TimeoutError, TimeoutError):
        return []  # The node's state says that it does not answer.


@router.get("/allocations", summary="List leases", responses=responses(Lease, many=True))
async def allocations(controller: TheController, user: Caller) -> Response:
    """Devices that are held now, by the sessions that the caller may see."""
    leases = controller.engine.leases()
    if not user.is_admin:
        mine = {session.id for session in controller.list_sessions(user, ended=False)}
        leases = [lease for lease in leases if lease.session_id in mine]
    return Facts(leases)


@router.post("/stop", summary="End the service", responses=responses(None))
async def stop(controller: TheController, user: Caller) -> Response:
    """For admins. Ends all sessions, then the nodes, then the service; answers at once."""
    user.must_be_admin()
    controller.stop()
    return Facts({})
