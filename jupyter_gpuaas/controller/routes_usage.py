"""REST: what was used of devices."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Response

from jupyter_gpuaas.controller.answers import Facts, responses
from jupyter_gpuaas.controller.callers import Caller, TheController
from jupyter_gpuaas.model import UsageView

router = APIRouter(tags=["pool"])


@router.get("/usage", summary="Use of devices", responses=responses(UsageView))
async def used(
    controller: TheController,
    user: Caller,
    from_s: Annotated[
        float, Query(ge=0, le=1e12, allow_inf_nan=False, description="Since this time; 0 for all that is remembered.")
    ] = 0.0,
) -> Response:
    """Device-seconds of the caller's sessions since a time, and of all users for an admin."""
    return Facts(await asyncio.to_thread(controller.meter.view, user.sees, from_s))
