"""REST: health, nodes, allocations, tokens, and the end of the service."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from jupyter_gpuaas import __version__
from jupyter_gpuaas.controller.answers import Facts, responses
from jupyter_gpuaas.controller.callers import Caller, TheController
from jupyter_gpuaas.controller.catalogue.records import Role
from jupyter_gpuaas.controller.controller import Controller
from jupyter_gpuaas.errors import GpuaasError
from jupyter_gpuaas.model import DeviceSample, Lease, NewToken, Node, NodeView, UserView

router = APIRouter(tags=["pool"])

SAMPLE_TIMEOUT_S = 2.0


class TokenWanted(BaseModel):
    """A token to make."""

    model_config = ConfigDict(extra="forbid")

    user: str = Field(min_length=1, max_length=256)
    role: Role = Role.USER
    ttl_s: Annotated[float, Field(ge=0, le=1e10, allow_inf_nan=False)] = Field(
        0.0, description="Seconds until it ends; 0 means that it does not."
    )


@router.get("/health", summary="Health", responses=responses(None))
async def health() -> Response:
    """Whether the service answers; needs no token."""
    return Facts({"status": "ok", "version": __version__})


@router.get("/me", summary="Who calls", responses=responses(UserView))
async def me(user: Caller) -> Response:
    """Whose token it is."""
    return Facts(UserView(user=user.name, role=user.role.value))


@router.get("/nodes", summary="List nodes", responses=responses(NodeView, many=True))
async def nodes(controller: TheController, user: Caller) -> Response:
    """The pool, with what its devices do now."""
    pool = controller.engine.nodes()
    samples = await asyncio.gather(*(_samples(controller, node) for node in pool))
    leases = controller.engine.leases()
    return Facts(
        [
            NodeView(
                **msgspec.structs.asdict(node),
                samples=tuple(measured),
                leased=tuple(device for lease in leases if lease.node_id == node.id for device in lease.device_ids),
            )
            for node, measured in zip(pool, samples, strict=True)
        ]
    )


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


@router.post("/tokens", summary="Make a token", status_code=201, responses=responses(NewToken, status=201))
async def new_token(wanted: TokenWanted, controller: TheController, user: Caller) -> Response:
    """For admins. The answer is the only place where the token can be read."""
    user.must_be_admin()
    made = controller.tokens.create(wanted.user, wanted.role, ttl_s=wanted.ttl_s)
    return Facts(made, status_code=201)


@router.post("/stop", summary="End the service", responses=responses(None))
async def stop(controller: TheController, user: Caller) -> Response:
    """For admins. Ends all sessions, then the nodes, then the service; answers at once."""
    user.must_be_admin()
    controller.stop()
    return Facts({})
