"""REST: checkpoints of sessions."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from jupyter_gpuaas.controller.answers import Facts, responses
from jupyter_gpuaas.controller.callers import Caller, TheController, TheRecord, TheSession
from jupyter_gpuaas.controller.controller import Controller
from jupyter_gpuaas.controller.gate import segment
from jupyter_gpuaas.controller.routes_sessions import Text, agent_of
from jupyter_gpuaas.controller.sessions import LiveSession
from jupyter_gpuaas.model import (
    LIVE_STATES,
    CheckpointDiff,
    CheckpointStatus,
    CheckpointView,
    Replay,
    RestoreReport,
    check_label,
    check_name,
)

router = APIRouter(tags=["checkpoints"])

Request = Annotated[
    str, Field(max_length=64, pattern="^[A-Za-z0-9_-]*$", description="Name of this request, to give it up by.")
]
Which = Annotated[Text, Field(min_length=1, max_length=128, description="Id, end of an id, name, or `-1`.")]


class NewCheckpoint(BaseModel):
    """A checkpoint to take now."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[Text, AfterValidator(check_label)] = Field("", description="The user's name for it.")
    request: Request = ""


class NewName(BaseModel):
    """What a checkpoint is to be called."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[Text, AfterValidator(check_label)] = Field(description="Empty to take its name away.")


class Pace(BaseModel):
    """How often checkpoints are taken."""

    model_config = ConfigDict(extra="forbid")

    every: int = Field(ge=0, le=10**6, description="After so many cells; 0 for none by itself.")


class NewRestore(BaseModel):
    """A checkpoint to restore."""

    model_config = ConfigDict(extra="forbid")

    checkpoint: Which
    new: Annotated[Text, AfterValidator(check_name)] | None = Field(
        None, description="Name of a new session that begins with it; null restores the session itself."
    )
    replay: Replay = Field(
        "safe",
        description="Which cells may run again for what could not be stored: `never`, `safe` for those without visible "
        "side effects, `all`. A new session: always `safe`.",
    )
    request: Request = ""


@router.get("/sessions/{session}/checkpoints", summary="List", responses=responses(CheckpointView, many=True))
async def listed(controller: TheController, record: TheRecord) -> Response:
    """A session's checkpoints, oldest first; of a session that has ended, too."""
    session = record.session
    return Facts(await asyncio.to_thread(controller.checkpoints.listed, session.owner, session.id))


@router.post("/sessions/{session}/checkpoints", summary="Take one", responses=responses(CheckpointView, status=201))
async def taken(wanted: NewCheckpoint, controller: TheController, live: TheSession) -> Response:
    """Takes a checkpoint when the cells that run have ended; answers when it is durable."""
    asked = {"op": "take", "label": wanted.name, "request": wanted.request}
    return Facts(await _ask(controller, live, asked), status_code=201)


@router.patch("/sessions/{session}/checkpoints", summary="How often", responses=responses(CheckpointStatus))
async def paced(wanted: Pace, controller: TheController, live: TheSession) -> Response:
    """Sets how often this session's kernel takes checkpoints by itself."""
    return Facts(await _ask(controller, live, {"op": "every", "every": wanted.every}))


@router.post("/sessions/{session}/restores", summary="Restore", responses=responses(RestoreReport))
async def restored(wanted: NewRestore, controller: TheController, record: TheRecord, user: Caller) -> Response:
    """Makes the variables those of a checkpoint when the cells that run have ended, or begins a new session with it.

    In the answer about a new session (201), what cannot be restored is what was known when the checkpoint was taken.
    """
    session = record.session
    desk = controller.checkpoints
    view = await asyncio.to_thread(desk.find, session.owner, session.id, wanted.checkpoint)
    if wanted.new is None:
        live = controller.find(user, session.id)
        asked = {"op": "restore", "checkpoint": view.id, "replay": wanted.replay, "request": wanted.request}
        return Facts(await _ask(controller, live, asked))
    live = controller.begin_from(record, wanted.new, view.id, user)
    report = RestoreReport(
        checkpoint=view,
        names=view.names,
        lost=view.lost,
        rebuilt=view.rebuilt,
        session=live.session.id,
    )
    return Facts(report, status_code=201)


@router.get(
    "/sessions/{session}/checkpoints/{one}/diff/{other}", summary="Compare", responses=responses(CheckpointDiff)
)
async def compared(controller: TheController, record: TheRecord, one: str, other: str) -> Response:
    """Names that differ between two checkpoints."""
    session, names = record.session, (segment(one), segment(other))
    return Facts(await asyncio.to_thread(controller.checkpoints.diff, session.owner, session.id, *names))


@router.patch("/sessions/{session}/checkpoints/{checkpoint}", summary="Name", responses=responses(CheckpointView))
async def named(wanted: NewName, controller: TheController, record: TheRecord, checkpoint: str) -> Response:
    """Gives a checkpoint a name, by which it is found and with which it is kept, or another one, or none.

    No other checkpoint of the session may have it.
    """
    session, which = record.session, segment(checkpoint)
    view = await asyncio.to_thread(controller.checkpoints.name, session.owner, session.id, which, wanted.name)
    cause = f"checkpoint {view.short} is called {view.label!r}" if view.label else f"{view.short} has no name any more"
    detail = {"id": view.id, "cell": view.cell, "name": view.label}
    controller.sessions.tell(session, "checkpoint_named", cause, detail)
    return Facts(view)


@router.delete("/sessions/{session}/checkpoints/{checkpoint}", summary="Remove", responses=responses(CheckpointView))
async def forgotten(controller: TheController, record: TheRecord, checkpoint: str) -> Response:
    """Removes a checkpoint; the newest one of a session that lives stays."""
    session = record.session
    desk, lives = controller.checkpoints, session.state in LIVE_STATES
    view = await asyncio.to_thread(desk.forget, session.owner, session.id, segment(checkpoint), lives=lives)
    cause = f"checkpoint {view.short} was removed"
    controller.sessions.tell(session, "checkpoint_forgotten", cause, {"id": view.id})
    return Facts(view)


@router.delete("/sessions/{session}/requests/{request}", summary="Give up", responses=responses(None))
async def given_up(controller: TheController, live: TheSession, request: str) -> Response:
    """Gives up what was asked for under this name and is not done yet."""
    await _ask(controller, live, {"op": "stop", "request": segment(request)})
    return Facts({})


async def _ask(controller: Controller, live: LiveSession, content: dict[str, Any]) -> Any:
    return await agent_of(controller, live).checkpoints(live.session.id, content)
