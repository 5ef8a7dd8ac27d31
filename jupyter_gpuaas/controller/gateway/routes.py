"""REST and WebSocket of Jupyter's kernel gateway: `jupyter lab --gateway-url` needs nothing else."""

from __future__ import annotations

import secrets
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Query, Response, WebSocket
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import HTTPConnection

from jupyter_gpuaas import __version__
from jupyter_gpuaas.controller.answers import Facts, failure, responses
from jupyter_gpuaas.controller.callers import Caller, TheController, note_access
from jupyter_gpuaas.controller.gate import segment
from jupyter_gpuaas.controller.gateway.front_end import FrontEnd
from jupyter_gpuaas.controller.gateway.kernels import KERNEL_NAME, NAMES, SPEC, Kernels, session_of
from jupyter_gpuaas.controller.reports import HOSTED_STATES
from jupyter_gpuaas.controller.routes_sessions import RELEASE_WAIT_S, Text, VariableName, agent_of
from jupyter_gpuaas.controller.sessions import LiveSession
from jupyter_gpuaas.errors import GpuaasError, InvalidRequest, NoSuchSession, SessionEnded
from jupyter_gpuaas.model import LIVE_STATES, ResourceRequest
from jupyter_gpuaas.model.session import MAX_NAME_BYTES, MAX_NAME_CHARS

router = APIRouter(tags=["gateway"], prefix="/api")


class NewKernel(BaseModel):
    """A kernel to start; what else front ends send is not looked at."""

    model_config = ConfigDict(extra="ignore")

    name: Text | None = None
    path: Text | None = Field(None, description="The notebook's, for the name of the session.")
    env: dict[VariableName, Text] = Field(default_factory=dict)


def _kernels(connection: HTTPConnection) -> Kernels:
    return cast(Kernels, connection.app.state.kernels)


def _live(connection: HTTPConnection, controller: TheController, user: Caller, session: str) -> LiveSession:
    live = _find(controller, user, session)
    note_access(connection, live.record)
    return live


def _find(controller: TheController, user: Caller, session: str) -> LiveSession:
    try:
        live = controller.find(user, session_of(segment(session)))
    except SessionEnded as error:
        # Which is what a gateway says of a kernel that is gone.
        raise NoSuchSession(error.message) from error
    if live.session.state not in LIVE_STATES:
        raise NoSuchSession(f"session {live.session.id} is {live.session.state}.")
    return live


TheKernels = Annotated[Kernels, Depends(_kernels)]
TheKernel = Annotated[LiveSession, Depends(_live)]


@router.get("", summary="Version", responses=responses(None))
async def version(user: Caller) -> Response:
    """Of the service."""
    return Facts({"version": __version__})


@router.get("/kernelspecs", summary="Kernelspecs", responses=responses(None))
async def specs(user: Caller) -> Response:
    """The one kind of kernel that there is."""
    return Facts({"default": KERNEL_NAME, "kernelspecs": {KERNEL_NAME: SPEC}})


@router.get("/kernelspecs/{name}", summary="Kernelspec", responses=responses(None))
async def spec(name: str, user: Caller) -> Response:
    """By its name."""
    if name not in NAMES:
        raise NoSuchSession(f"there is no kernelspec {name!r}.", hint=f"There is {KERNEL_NAME}.")
    return Facts(SPEC)


@router.get("/kernels", summary="List kernels", responses=responses(None, many=True))
async def listed(controller: TheController, kernels: TheKernels, user: Caller) -> Response:
    """The caller's live sessions, whoever has begun them."""
    mine = [live for live in controller.sessions.all() if live.session.owner == user.name]
    return Facts([kernels.model(live) for live in mine if live.session.state in LIVE_STATES])


@router.post("/kernels", summary="Start a kernel", status_code=201, responses=responses(None, status=201))
async def started(wanted: NewKernel, controller: TheController, kernels: TheKernels, user: Caller) -> Response:
    """A new session; with `JPY_SESSION_NAME` in `env`, the live one of that name, if there is one."""
    if (wanted.name or "") not in NAMES:
        raise InvalidRequest(f"name: there is no kernelspec {wanted.name!r}.", hint=f"There is {KERNEL_NAME}.")
    live, _ = controller.get_or_create(
        user,
        session_name(wanted),
        ResourceRequest(),
        cwd="",
        machine="",
        env=wanted.env,
    )
    return Facts(kernels.model(live), status_code=201)


def session_name(wanted: NewKernel) -> str:
    """What the session of a new kernel is called."""
    known = wanted.env.get("JPY_SESSION_NAME", "").strip()
    if known:
        return _fitting(known)
    # A front end that starts a kernel twice wants two.
    mark = f"#{secrets.token_hex(4)}"
    path = "".join(each for each in wanted.path or "gateway" if each.isprintable()).strip() or "gateway"
    return _fitting(path, mark)


def _fitting(text: str, mark: str = "") -> str:
    """As much of the end of a text as can name a session with a mark behind it."""
    end = text[-(MAX_NAME_CHARS - len(mark)) :].encode()[-(MAX_NAME_BYTES - len(mark)) :]
    return end.decode(errors="ignore") + mark


@router.get("/kernels/{session}", summary="Look at a kernel", responses=responses(None))
async def looked_at(live: TheKernel, kernels: TheKernels) -> Response:
    """By its id, or by the name of its session."""
    return Facts(kernels.model(live))


@router.delete("/kernels/{session}", summary="End a kernel", status_code=204, responses=responses(None, status=204))
async def ended(controller: TheController, live: TheKernel, kernels: TheKernels, user: Caller) -> Response:
    """Ends its session."""
    await controller.release(live, f"shut down by {user.name}", timeout_s=RELEASE_WAIT_S)
    kernels.forget(live.session.id)
    return Response(status_code=204)


@router.post(
    "/kernels/{session}/interrupt", summary="Interrupt", status_code=204, responses=responses(None, status=204)
)
async def interrupted(controller: TheController, live: TheKernel) -> Response:
    """Interrupts the cell that runs; where none can run, nothing happens."""
    if live.session.state in HOSTED_STATES:
        await agent_of(controller, live).interrupt(live.session.id)
    return Response(status_code=204)


@router.post("/kernels/{session}/restart", summary="Restart", responses=responses(None))
async def restarted(controller: TheController, live: TheKernel, kernels: TheKernels) -> Response:
    """Replaces the kernel by a fresh one; its variables are gone."""
    await agent_of(controller, live).restart(live.session.id)
    return Facts(kernels.model(live))


@router.websocket("/kernels/{session}/channels")
async def channels(
    socket: WebSocket,
    controller: TheController,
    kernels: TheKernels,
    user: Caller,
    session: str,
    session_id: Annotated[str, Query(max_length=512)] = "",
) -> None:
    """All channels of a kernel; `session_id` is what a front end comes back under."""
    try:
        live = _live(socket, controller, user, session)
    except GpuaasError as error:
        await socket.send_denial_response(failure(error))
        return
    name = f"{user.name}/{session_id or secrets.token_hex(16)}"
    await FrontEnd(controller, kernels, live, user, socket, name).run()
