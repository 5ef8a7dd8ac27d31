"""REST: moving sessions, parking them, and emptying nodes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from jupyter_gpuaas.controller.answers import Facts, responses
from jupyter_gpuaas.controller.callers import Caller, TheController, TheSession
from jupyter_gpuaas.controller.gate import segment
from jupyter_gpuaas.controller.routes_sessions import Text, Wait
from jupyter_gpuaas.controller.sessions import LiveSession
from jupyter_gpuaas.errors import InvalidRequest
from jupyter_gpuaas.model import DrainView, MigrationPlan, MigrationView, Proposal, SessionView, Via

router = APIRouter(tags=["migrations"])


class NewMigration(BaseModel):
    """A session to move."""

    model_config = ConfigDict(extra="forbid")

    target: Text | None = Field(None, description="Id of the node to move to; null for the best other one with room.")
    via: Via = Field(
        "auto", description="`portable` moves the variables, `image` the process; `auto` whichever loses nothing."
    )
    accept_loss: bool = Field(False, description="Move although some names do not survive it.")
    wait: bool = Field(
        True, description="Wait for the end of a cell that runs, where the session cannot move in the middle of it."
    )
    dry_run: bool = Field(False, description="Only tell what it would do (200).")


class NewDrain(BaseModel):
    """A node to empty."""

    model_config = ConfigDict(extra="forbid")

    deadline_s: float = Field(600.0, gt=0, le=7 * 86400, description="Seconds in which its sessions should be gone.")
    accept_loss: bool = Field(False, description="Move sessions although some of their names do not survive it.")


@router.post(
    "/sessions/{session}/migrations",
    summary="Move a session",
    responses=responses(MigrationView, status=202) | responses(MigrationPlan),
)
async def begun(wanted: NewMigration, controller: TheController, user: Caller, live: TheSession) -> Response:
    """Begins to move the session to another node while it is used (202), or tells what that would do."""
    if wanted.dry_run:
        return Facts(await controller.migrations.plan(live, wanted.target))
    cause = f"asked for by {user.name}"
    view = await controller.migrations.begin(
        live, wanted.target, via=wanted.via, accept_loss=wanted.accept_loss, cause=cause, wait=wanted.wait
    )
    return Facts(view, status_code=202)


@router.get(
    "/sessions/{session}/migrations/{migration}", summary="Look at a migration", responses=responses(MigrationView)
)
async def looked_at(
    controller: TheController,
    live: TheSession,
    migration: str,
    phase: Annotated[str, Query(max_length=32, description="The phase that the caller knows.")] = "",
    rounds: Annotated[int, Query(ge=0, le=10**6, description="The rounds that the caller knows.")] = 0,
    wait_s: Annotated[Wait, Query()] = 0.0,
) -> Response:
    """With `phase`, the answer comes when something has changed, or after `wait_s`."""
    wanted = segment(migration)

    def news() -> bool:
        view = _view(live, wanted)
        return view.phase != phase or len(view.rounds) != rounds or controller.is_closing

    await live.bell.until(news, wait_s)
    return Facts(_view(live, wanted))


@router.delete("/sessions/{session}/migrations/{migration}", summary="Cancel", responses=responses(MigrationView))
async def cancelled(controller: TheController, user: Caller, live: TheSession, migration: str) -> Response:
    """Gives a migration up, if the session is not on its new node yet; it goes on where it was."""
    return Facts(controller.migrations.cancel(live, segment(migration), f"cancelled by {user.name}"))


@router.post("/sessions/{session}/park", summary="Park", responses=responses(SessionView))
async def parked(
    request: Request,
    controller: TheController,
    user: Caller,
    live: TheSession,
    accept_loss: Annotated[bool, Query(description="Park although some names do not survive it.")] = False,
) -> Response:
    """Keeps the session and gives its devices back; the next cell, or `wake`, brings it back."""
    await controller.parking.park(live, f"parked by {user.name}", accept_loss=accept_loss)
    return Facts(controller.view(live, user, str(request.base_url)))


@router.post("/sessions/{session}/wake", summary="Wake", responses=responses(SessionView))
async def woken(request: Request, controller: TheController, user: Caller, live: TheSession) -> Response:
    """Brings a parked session back as soon as there are devices for it; any other is left alone."""
    controller.parking.wake(live, f"wanted by {user.name}")
    return Facts(controller.view(live, user, str(request.base_url)))


class NewStandby(BaseModel):
    """Whether a session has a standby."""

    model_config = ConfigDict(extra="forbid")

    standby: int = Field(ge=0, le=1, description="Standbys on other nodes, which follow its checkpoints.")


@router.put("/sessions/{session}/standby", summary="Standby", responses=responses(SessionView))
async def stood_by(
    wanted: NewStandby, request: Request, controller: TheController, user: Caller, live: TheSession
) -> Response:
    """Gives the session a standby as soon as there is room for one, or takes it away."""
    controller.standbys.want(live, wanted.standby)
    return Facts(controller.view(live, user, str(request.base_url)))


@router.post("/nodes/{node}/cordon", summary="Cordon", responses=responses(None))
async def cordoned(controller: TheController, user: Caller, node: str) -> Response:
    """For admins: takes no new sessions on the node; those that it has stay."""
    user.must_be_admin()
    controller.drains.cordon(segment(node), cordoned=True)
    return Facts({})


@router.delete("/nodes/{node}/cordon", summary="Uncordon", responses=responses(None))
async def uncordoned(controller: TheController, user: Caller, node: str) -> Response:
    """For admins: takes sessions on the node again."""
    user.must_be_admin()
    controller.drains.cordon(segment(node), cordoned=False)
    return Facts({})


@router.post("/nodes/{node}/drain", summary="Drain", responses=responses(DrainView, status=202))
async def drained(wanted: NewDrain, controller: TheController, user: Caller, node: str) -> Response:
    """For admins: takes no new sessions on the node, and moves those that it has to others."""
    user.must_be_admin()
    cause = f"the node is drained by {user.name}"
    view = controller.drains.begin(segment(node), wanted.deadline_s, accept_loss=wanted.accept_loss, cause=cause)
    return Facts(view, status_code=202)


@router.get("/nodes/{node}/drain", summary="Look at a drain", responses=responses(DrainView))
async def drain_looked_at(controller: TheController, user: Caller, node: str) -> Response:
    """For admins: how far the emptying of a node is."""
    user.must_be_admin()
    return Facts(controller.drains.view(segment(node)))


@router.delete("/nodes/{node}/drain", summary="Stop a drain", responses=responses(DrainView))
async def drain_stopped(controller: TheController, user: Caller, node: str) -> Response:
    """For admins: moves no further session; the node stays cordoned."""
    user.must_be_admin()
    return Facts(controller.drains.stop(segment(node)))


@router.get("/rebalance", summary="Propose moves", responses=responses(Proposal, many=True))
async def proposed(controller: TheController, user: Caller) -> Response:
    """For admins: moves that would make room for the requests that wait, and why. Nothing is moved."""
    user.must_be_admin()
    return Facts(controller.drains.proposals())


def _view(live: LiveSession, migration: str) -> MigrationView:
    move, last = live.record.move, live.record.last_migration
    for view in (move.view if move is not None else None, last):
        if view is not None and view.id == migration:
            return view
    raise InvalidRequest(f"migration: the session has none {migration[:64]!r} that is remembered.")
