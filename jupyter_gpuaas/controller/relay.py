"""Passes channels and bundles on, for clients that cannot reach the node itself. Nothing is looked at."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from urllib.parse import quote, urlsplit

import httpx
from fastapi import APIRouter, Request, Response, WebSocket
from fastapi.responses import StreamingResponse
from starlette.websockets import WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from jupyter_gpuaas.controller.answers import failure, responses, text
from jupyter_gpuaas.controller.callers import Caller, TheController, TheSession
from jupyter_gpuaas.controller.controller import Controller
from jupyter_gpuaas.controller.gate import segment
from jupyter_gpuaas.errors import GpuaasError, TransportError
from jupyter_gpuaas.model import ChannelInfo
from jupyter_gpuaas.wire.tls import Credentials, client_context, explain, of_service

router = APIRouter(tags=["relay"])

CONNECT_TIMEOUT_S = 5.0
_GOING_AWAY = 1001
#: Codes that a peer may not send, but that a library uses to say what it saw.
_NOT_TO_BE_SENT = frozenset({1005, 1006, 1015})


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
        agent = await _open(info, controller, socket)
    except GpuaasError as error:
        await socket.send_denial_response(failure(error))
        return
    if agent is None:
        return
    async with agent:
        await socket.accept()
        pumps = [
            asyncio.create_task(_to_agent(socket, agent)),
            asyncio.create_task(_to_client(socket, agent)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)


async def _open(info: ChannelInfo, controller: Controller, socket: WebSocket) -> ClientConnection | None:
    url = f"{info.direct_url}?{socket.url.query}"
    credentials = of_service(controller.settings)
    try:
        return await connect(
            url,
            additional_headers={"Authorization": f"Bearer {info.ticket}"},
            # Frames are passed on as they are; on the same machine or network compressing only costs.
            compression=None,
            proxy=None,
            max_size=controller.settings.frame_bytes,
            ssl=client_context(credentials) if url.startswith("wss:") else None,
            open_timeout=CONNECT_TIMEOUT_S,
            # Small: what waits here is not seen by either end's own flow control.
            max_queue=4,
        )
    except InvalidStatus as error:
        # The agent's own words, so that a client need not know that it is relayed.
        answer = error.response
        await socket.send_denial_response(
            Response(bytes(answer.body or b""), answer.status_code, media_type="application/json")
        )
        return None
    except (OSError, WebSocketException, TimeoutError, asyncio.TimeoutError) as error:
        raise _trouble(error, info, credentials) from error


def _trouble(error: Exception, info: ChannelInfo, credentials: Credentials) -> TransportError:
    trouble = explain(error, urlsplit(info.bundle_url).netloc, credentials.ca)
    if trouble is not None:
        return TransportError(f"the session's node is not trusted: {trouble.says}.", hint=trouble.do)
    return TransportError(f"the session's node does not answer: {error}.")


async def _to_agent(socket: WebSocket, agent: ClientConnection) -> None:
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            code = message.get("code") or 1000
            await agent.close(1001 if code in _NOT_TO_BE_SENT else code)
            return
        data = message.get("bytes")
        try:
            # send() returns when the connection can take more: that is the back-pressure.
            await agent.send(message["text"] if data is None else data)
        except ConnectionClosed:
            return


async def _to_client(socket: WebSocket, agent: ClientConnection) -> None:
    try:
        while True:
            data = await agent.recv()
            if isinstance(data, str):
                await socket.send_text(data)
            else:
                await socket.send_bytes(data)
    except ConnectionClosed as closed:
        code = closed.rcvd.code if closed.rcvd is not None else _GOING_AWAY
        reason = closed.rcvd.reason if closed.rcvd is not None else "the node went away"
        await socket.close(_GOING_AWAY if code in _NOT_TO_BE_SENT else code, reason)
    except (WebSocketDisconnect, RuntimeError):
        return  # The client went first.


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
    request: Request, controller: TheController, user: Caller, live: TheSession, bundle_id: str
) -> Response:
    """A bundle of variables to or from the session's kernel, streamed."""
    info = controller.channel(live, user, str(request.base_url), inside=True)
    headers = {"Authorization": f"Bearer {info.ticket}"}
    for name in ("content-length", "content-type"):
        if name in request.headers:
            headers[name] = request.headers[name]
    credentials = of_service(controller.settings)
    http = httpx.AsyncClient(
        trust_env=False,
        timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
        verify=client_context(credentials) if info.bundle_url.startswith("https:") else False,
    )
    try:
        outgoing = http.build_request(
            request.method,
            # Quoted whole: what a caller has put into it must not lead anywhere else at the node.
            f"{info.bundle_url}/{quote(segment(bundle_id), safe='')}",
            headers=headers,
            content=request.stream() if request.method == "PUT" else None,
        )
        answer = await http.send(outgoing, stream=True)
    except (httpx.HTTPError, ssl.SSLError) as error:
        await http.aclose()
        raise _trouble(error, info, credentials) from error
    except BaseException:
        await http.aclose()
        raise
    kept = {name: value for name, value in answer.headers.items() if name in ("content-length", "content-type")}

    async def stream() -> AsyncIterator[bytes]:
        try:
            async for piece in answer.aiter_raw():
                yield piece
        finally:
            await answer.aclose()
            await http.aclose()

    return StreamingResponse(stream(), answer.status_code, headers=kept)
