"""REST: reservations."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from jupyter_gpuaas.controller.answers import Facts, responses
from jupyter_gpuaas.controller.callers import Admin, Caller, TheController
from jupyter_gpuaas.controller.fields import Amount, UserName
from jupyter_gpuaas.controller.gate import segment
from jupyter_gpuaas.controller.routes_sessions import Text
from jupyter_gpuaas.model import Reservation

router = APIRouter(tags=["pool"])


class ReservationWanted(BaseModel):
    """Devices to keep for a user."""

    model_config = ConfigDict(extra="forbid")

    user: UserName
    devices: int = Field(ge=1, le=2**20)
    from_s: Amount = Field(0.0, description="When it begins, in seconds since the epoch; 0 is now.")
    until_s: Amount = Field(description="When it ends.")
    kind: Text | None = Field(None, max_length=64, description="`cuda`, `cpu`, or null for whatever there is.")
    node: Text | None = Field(None, max_length=256, description="Id of the node whose devices they are; null for any.")
    label: Text = Field("", max_length=256, description="A note.")


@router.get("/reservations", summary="List reservations", responses=responses(Reservation, many=True))
async def listed(controller: TheController, user: Caller) -> Response:
    """Those of the caller that run or are to come, the earliest first; of all users for an admin."""
    return Facts(controller.fair.reservations(user.sees))


@router.post("/reservations", summary="Reserve", status_code=201, responses=responses(Reservation, status=201))
async def reserved(wanted: ReservationWanted, request: Request, controller: TheController, user: Admin) -> Response:
    """For admins. Keeps devices for a user's sessions; others are parked for them if need be."""
    made = controller.fair.reserve(
        wanted.user,
        wanted.devices,
        from_s=wanted.from_s,
        until_s=wanted.until_s,
        kind=wanted.kind,
        node=wanted.node,
        label=wanted.label,
        made_by=user.name,
    )
    request.state.note = f"reservation {made.id}: {made.devices} for {made.user}"
    return Facts(made, status_code=201)


@router.delete("/reservations/{reservation}", summary="Cancel", responses=responses(Reservation))
async def cancelled(reservation: str, request: Request, controller: TheController, user: Admin) -> Response:
    """For admins. Keeps the devices no longer; sessions that use them go on."""
    gone = controller.fair.cancel(segment(reservation), user.name)
    request.state.note = f"reservation {gone.id} of {gone.user}"
    return Facts(gone)
