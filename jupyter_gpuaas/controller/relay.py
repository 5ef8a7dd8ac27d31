"""The relay: channels and bundles through the controller, for clients that cannot reach the node itself.

A controller that stands by carries them as well (see ``sharing``). It asks by the same routes, with the client's token,
and is lent the address and a ticket: the same is decided about it, and the same written into the audit log.
"""

from __future__ import annotations

import hmac
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Request, Response, WebSocket
from starlette.requests import HTTPConnection

from jupyter_gpuaas.controller.answers import Facts, failure, responses, text
from jupyter_gpuaas.controller.callers import Caller, TheController, TheSession
from jupyter_gpuaas.controller.carrying import carry_bundle, carry_channel
from jupyter_gpuaas.controller.gate import segment
from jupyter_gpuaas.controller.sharing import KEY_HEADER
from jupyter_gpuaas.errors import GpuaasError, ServiceUnreachable
from jupyter_gpuaas.model import ChannelInfo

router = APIRouter(tags=["relay"])


def _lends(connection: HTTPConnection) -> bool:
    """Whether another controller asks, which alone may know where agents are inside.

    Raises
    ------
    ServiceUnreachable
        Somebody who is none, or one that does not know yet that this one acts.
    """
    shown, key = connection.headers.get(KEY_HEADER), connection.app.state.key
    if shown is None:
        return False
    if not key or not hmac.compare_digest(shown.encode(), key.encode()):
        raise ServiceUnreachable("this is not the key of the controller that acts.", hint="Try again in a moment.")
    return True


@router.websocket("/sessions/{session}/channel")
async def channel(
    socket: WebSocket,
    controller: TheController,
    user: Caller,
    session: str,
) -> None:
    """The session's channel at its node, with the caller's token in place of a ticket."""
    try:
        live = controller.find(user, segment(session))
        info = controller.channel(live, user, str(socket.base_url), inside=True)
        lends = _lends(socket)
    except GpuaasError as error:
        await socket.send_denial_response(failure(error))
        return
    if lends:
        await _lend(socket, info)
    else:
        await carry_channel(socket, info, controller.settings)


async def _lend(socket: WebSocket, info: ChannelInfo) -> None:
    """Say where the channel is. As long as this goes on, the token is valid: the gate sees to that."""
    socket.state.note = "carried by a controller that stands by"
    await socket.accept()
    await socket.send_bytes(msgspec.json.encode(info))
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


@router.api_route(
    "/sessions/{session}/bundles/{bundle_id}",
    methods=["PUT"],
    summary="Send variables",
    responses=responses(None, status=201),
    operation_id="put_bundle",
)
@router.api_route(
    "/sessions/{session}/bundles/{bundle_id}",
    methods=["GET"],
    summary="Fetch variables",
    responses=text("application/octet-stream"),
    operation_id="get_bundle",
)
async def bundle(
    request: Request,
    controller: TheController,
    user: Caller,
    live: TheSession,
    bundle_id: str,
    lends: Annotated[bool, Depends(_lends)],
) -> Response:
    """A bundle of variables to or from the session's kernel, streamed."""
    info = controller.channel(live, user, str(request.base_url), inside=True)
    if lends:
        return Facts(info)
    return await carry_bundle(request, info, segment(bundle_id), controller.settings)
