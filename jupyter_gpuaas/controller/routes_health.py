"""REST: whether this controller lives, and whether it can serve. Both need no token, and tell of nobody."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Response

from jupyter_gpuaas import __version__
from jupyter_gpuaas.controller.answers import Facts, responses
from jupyter_gpuaas.controller.callers import TheController
from jupyter_gpuaas.controller.controller import Controller
from jupyter_gpuaas.errors import GpuaasError
from jupyter_gpuaas.model import NodeState

router = APIRouter(tags=["pool"])

#: A database that does not answer in this time does not serve anybody.
DATABASE_S = 3.0


@router.get("/healthz", summary="Liveness", responses=responses(None))
async def lives() -> Response:
    """200 as long as the process answers: who gets none may kill it."""
    return Facts({"status": "ok", "version": __version__})


@router.get("/readyz", summary="Readiness", responses=responses(None) | responses(None, status=503))
async def is_ready(controller: TheController) -> Response:
    """200 when sessions can be had from here, else 503 with what is missing."""
    checks = {
        "acts": "the service is shutting down" if controller.is_closing else "",
        "database": await _database(controller),
        "nodes": _nodes(controller),
    }
    ready = not any(checks.values())
    body: dict[str, Any] = {"status": "ready" if ready else "not ready"}
    body["checks"] = {name: why or "ok" for name, why in checks.items()}
    return Facts(body, status_code=200 if ready else 503)


async def _database(controller: Controller) -> str:
    try:
        await asyncio.wait_for(asyncio.to_thread(controller.database.lasting), DATABASE_S)
    except (GpuaasError, asyncio.TimeoutError, TimeoutError):
        return "does not answer"  # what exactly is for the log, not for everybody
    return ""


def _nodes(controller: Controller) -> str:
    engine = controller.engine
    # Where nodes are made for who waits, there has to be somebody who waits: that gets through.
    if engine.grows or any(node.state is not NodeState.LOST for node in engine.nodes()):
        return ""
    return "none answers"
