"""REST: sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from jupyter_gpuaas.controller.answers import Facts, responses, text
from jupyter_gpuaas.controller.callers import Caller, TheController, TheSession
from jupyter_gpuaas.controller.controller import Controller
from jupyter_gpuaas.controller.sessions import LiveSession
from jupyter_gpuaas.engine.agent_client import AgentClient
from jupyter_gpuaas.errors import InvalidRequest, NoHostNow, TransportError
from jupyter_gpuaas.lifecycle.labels import parse
from jupyter_gpuaas.model import (
    CellRuns,
    ChannelInfo,
    GpuSession,
    ResourceRequest,
    SessionState,
    SessionView,
    check_name,
)

router = APIRouter(tags=["sessions"])

LONGEST_WAIT_S = 3600.0
#: Sessions that one answer may list.
MOST_A_PAGE = 1000
#: Of how long a client waits for a session to end; longer, and it is told to look again.
RELEASE_WAIT_S = 25.0

Wait = Annotated[float, Field(ge=0, le=LONGEST_WAIT_S, allow_inf_nan=False)]


def _text(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not contain NUL")
    try:
        value.encode()
    except UnicodeEncodeError:
        # JSON can spell half a surrogate pair, which neither the database nor a process can take.
        raise ValueError("is not valid Unicode") from None
    return value


def _variable_name(value: str) -> str:
    if not value or "=" in value:
        raise ValueError(f"{value!r} cannot name an environment variable")
    return value


Text = Annotated[str, AfterValidator(_text)]
VariableName = Annotated[Text, AfterValidator(_variable_name)]


class Wanted(BaseModel):
    """What the session needs."""

    model_config = ConfigDict(extra="forbid")

    devices: int = Field(default=1, ge=1, le=1024, description="Devices, all on one node.")
    kind: Text | None = Field(default=None, description="`cuda`, `cpu`, or null for whatever there is.")
    memory_bytes: int = Field(default=0, ge=0, le=2**60, description="Least memory of each device.")
    node: Text | None = Field(default=None, description="Id of the one node that will do.")
    standby: int = Field(default=0, ge=0, le=1, description="Standbys on other nodes, which follow its checkpoints.")
    on_node_loss: Literal["", "ask", "rerun", "restore_only"] = Field(
        default="",
        description="What becomes of a cell that is cut off when its host is lost; else as the service has it.",
    )
    priority: int = Field(
        default=0, ge=-100, le=100, description="Higher ones are served first; lower ones are parked for them."
    )
    share: float = Field(default=1.0, gt=0, le=1, description="Part of one device, where it need not be the whole one.")
    labels: dict[Text, Text] = Field(
        default_factory=dict,
        max_length=32,
        description="Selectors of the node's labels: `a100`, `!a100`, `in(a100,h100)`, `!in(a100,h100)`.",
    )
    avoid: list[Text] = Field(default_factory=list, max_length=256, description="Ids of nodes that will not do.")

    def plain(self) -> ResourceRequest:
        """The request as the rest of the service has it."""
        for selector in self.labels.values():
            try:
                parse(selector)
            except ValueError as error:
                raise InvalidRequest(f"request.labels: {error}.") from None
        return ResourceRequest(**{**self.model_dump(), "avoid": tuple(self.avoid)})


class NewSession(BaseModel):
    """A session to find or to make."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[Text, AfterValidator(check_name)]
    request: Wanted = Wanted()
    cwd: Text = Field("", description="Folder to work in, where the node shares the client's machine.")
    machine: Text = Field("", description="Which machine the client is on.")
    env: dict[VariableName, Text] = Field(default_factory=dict, description="Environment variables for the kernel.")
    wait_s: Wait = Field(0.0, description="How long to wait until it can be used.")


@router.post(
    "/sessions",
    summary="Find or make a session",
    responses=responses(SessionView) | responses(SessionView, status=201),
)
async def create(wanted: NewSession, request: Request, controller: TheController, user: Caller) -> Response:
    """The caller's live session of this name; made, if there is none (201)."""
    live, is_new = controller.get_or_create(
        user,
        wanted.name,
        wanted.request.plain(),
        cwd=wanted.cwd,
        machine=wanted.machine,
        env=wanted.env,
    )
    place = live.session.queue_place

    def settled() -> bool:
        session = live.session
        waits = session.state in (SessionState.QUEUED, SessionState.STARTING)
        return not waits or controller.is_closing or session.queue_place not in (place, 0)

    await live.bell.until(settled, wanted.wait_s)
    view = controller.view(live, user, str(request.base_url))
    return Facts(view, status_code=201 if is_new else 200)


@router.get("/sessions", summary="List sessions", responses=responses(GpuSession, many=True))
async def listed(
    controller: TheController,
    user: Caller,
    all: Annotated[bool, Query(description="Ended sessions too.")] = False,
    name: Annotated[Text, Query(max_length=4096, description="Only those of this name.")] = "",
    limit: Annotated[int, Query(ge=0, le=MOST_A_PAGE, description="Most of a page; 0: all that there are.")] = 0,
    after: Annotated[Text, Query(max_length=64, description="Id of the last session of the page before.")] = "",
) -> Response:
    """The sessions that the caller may see, oldest first.

    With a `limit`, a page of them: the last one has fewer. Without, all that live, and the newest 1,000 ended ones.
    """
    if limit:
        found = await asyncio.to_thread(
            controller.page_of_sessions, user, ended=all, name=name, after=after, limit=limit
        )
    elif after:
        raise InvalidRequest("after: needs a limit.")
    else:
        found = await asyncio.to_thread(controller.list_sessions, user, ended=all)
        found = [session for session in found if name in ("", session.name)]
    return Facts(controller.outlook.told(found))


@router.get("/sessions/{session}", summary="Look at a session", responses=responses(SessionView))
async def looked_at(
    request: Request,
    controller: TheController,
    user: Caller,
    live: TheSession,
    after: Annotated[int | None, Query(ge=0, le=2**63 - 1)] = None,
    wait_s: Annotated[Wait, Query()] = 0.0,
) -> Response:
    """With `after`, a `last_event`, the answer comes when something newer has happened."""
    if after is not None:
        seen = after
        await live.bell.until(lambda: live.session.last_event > seen or controller.is_closing, wait_s)
    return Facts(controller.view(live, user, str(request.base_url)))


class NewPriority(BaseModel):
    """What a session's priority is to be."""

    model_config = ConfigDict(extra="forbid")

    priority: int = Field(ge=-100, le=100, description="Higher ones are served first; lower ones are parked for them.")


@router.put("/sessions/{session}/priority", summary="Priority", responses=responses(SessionView))
async def ranked(
    wanted: NewPriority, request: Request, controller: TheController, user: Caller, live: TheSession
) -> Response:
    """Changes who is served before whom, and who makes room for whom."""
    controller.rank(live, user, wanted.priority)
    return Facts(controller.view(live, user, str(request.base_url)))


@router.delete("/sessions/{session}", summary="End a session", responses=responses(SessionView))
async def released(controller: TheController, user: Caller, live: TheSession) -> Response:
    """Answers when no process of it is left and its devices are free."""
    cause = f"released by {user.name}"
    if not await controller.release(live, cause, timeout_s=RELEASE_WAIT_S):
        raise TransportError(f"session {live.session.id} is still being ended.", hint="Look again in a while.")
    return Facts(SessionView(session=live.session))


@router.post("/sessions/{session}/interrupt", summary="Interrupt", responses=responses(None))
async def interrupted(controller: TheController, live: TheSession) -> Response:
    """Interrupts the cell that runs."""
    await agent_of(controller, live).interrupt(live.session.id)
    return Facts({})


@router.post("/sessions/{session}/restart", summary="Restart", responses=responses(None))
async def restarted(controller: TheController, live: TheSession) -> Response:
    """Replaces the kernel by a fresh one; its variables are gone."""
    await agent_of(controller, live).restart(live.session.id)
    return Facts({})


@router.post("/sessions/{session}/ticket", summary="Ticket", responses=responses(ChannelInfo))
async def ticketed(request: Request, controller: TheController, user: Caller, live: TheSession) -> Response:
    """A fresh ticket for the session's channel, with the addresses to use it at."""
    return Facts(controller.channel(live, user, str(request.base_url)))


@router.get("/sessions/{session}/log", summary="Log", response_class=StreamingResponse, responses=text())
async def logged(
    controller: TheController,
    live: TheSession,
    kind: Literal["output", "system"] = "output",
    tail: Annotated[int, Query(ge=0, le=10**9)] = 0,
    follow: bool = False,
) -> Response:
    """What the session printed (`output`), or what its host and kernel logged (`system`), as text."""
    agent = agent_of(controller, live)
    opened = agent.log(live.session.id, kind=kind, tail=tail, follow=follow)
    # Entered here and not in the stream, so that a refusal is answered as one.
    pieces = await opened.__aenter__()

    async def stream() -> AsyncIterator[bytes]:
        try:
            async for piece in pieces:
                yield piece
        finally:
            await opened.__aexit__(None, None, None)

    return StreamingResponse(stream(), media_type="text/plain; charset=utf-8")


@router.get("/sessions/{session}/cells", summary="Cells", responses=responses(CellRuns))
async def ran(
    controller: TheController,
    live: TheSession,
    after: Annotated[str, Query(max_length=512, description="Record, or `msg_id` of a request; empty for all.")] = "",
    journal: Annotated[str, Query(max_length=64, description="Which journal the record is of.")] = "",
) -> Response:
    """The newest execution of each cell of the notebook, with its outputs, as far as the journal keeps them."""
    incoming = live.record.incoming
    # Parked, or between two hosts: the journal is where the last one was.
    left = incoming.node if incoming is not None and not live.has_host else ""
    agent = controller.agents.of(left) if left else agent_of(controller, live)
    found = await agent.cells(live.session.id, after=after, journal=journal)
    return Response(found, media_type="application/json")


def agent_of(controller: Controller, live: LiveSession) -> AgentClient:
    """The agent that hosts the session; raises TransportError when there is none."""
    if live.lease is None or not live.has_host:
        raise NoHostNow(f"session {live.session.id} is {live.session.state}: no host now.")
    return controller.agents.of(live.lease.node_id)
