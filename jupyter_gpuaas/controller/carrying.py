"""Carries channels and bundles between clients and the agents of sessions' nodes. Nothing is looked at.

For clients that cannot reach the node itself; by the controller that acts, and by those that stand by.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from urllib.parse import quote, urlsplit

import httpx
from fastapi import Request, Response, WebSocket
from fastapi.responses import StreamingResponse
from starlette.websockets import WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.answers import failure
from jupyter_gpuaas.errors import GpuaasError, TransportError
from jupyter_gpuaas.model import ChannelInfo
from jupyter_gpuaas.wire.tls import Credentials, client_context, explain, of_service

CONNECT_TIMEOUT_S = 5.0
_GOING_AWAY = 1001
#: Codes that a peer may not send, but that a library uses to say what it saw.
_NOT_TO_BE_SENT = frozenset({1005, 1006, 1015})


async def carry_channel(socket: WebSocket, info: ChannelInfo, settings: Settings) -> None:
    """Answer a client with the channel at the node, until either end closes it.

    Parameters
    ----------
    info
        With the agent's own address.
    """
    try:
        agent = await _open(info, settings, socket.url.query)
    except InvalidStatus as error:
        # The agent's own words, so that a client need not know that it is relayed.
        answer = error.response
        await socket.send_denial_response(
            Response(bytes(answer.body or b""), answer.status_code, media_type="application/json")
        )
        return
    except GpuaasError as error:
        await socket.send_denial_response(failure(error))
        return
    async with agent:
        await socket.accept()
        quiet = _Quiet()
        pumps = [
            asyncio.create_task(_to_agent(socket, agent)),
            asyncio.create_task(_to_client(socket, agent, quiet)),
            asyncio.create_task(_ping(agent, quiet, settings.ping_s)),
            asyncio.create_task(_until_silent(socket, agent, quiet, settings.silence_s)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)


class _Quiet:
    """How long nothing has come of an agent although it was listened to: not while a client has to take something."""

    _since_s: float | None = None

    def begins(self) -> None:
        self._since_s = time.monotonic()

    def is_over(self) -> None:
        self._since_s = None

    def heard(self, pong: object) -> None:
        if self._since_s is not None:
            self.begins()

    def lasts_s(self) -> float:
        return 0.0 if self._since_s is None else time.monotonic() - self._since_s


async def _ping(agent: ClientConnection, quiet: _Quiet, every_s: float) -> None:
    """Not by the library's own pings: their answers wait behind what a slow client has not taken yet."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await asyncio.sleep(every_s)
            asyncio.ensure_future(await agent.ping()).add_done_callback(quiet.heard)


async def _until_silent(socket: WebSocket, agent: ClientConnection, quiet: _Quiet, silence_s: float) -> None:
    """Return when the agent has been silent for too long, and let the client ask where its session is."""
    while (silent_s := quiet.lasts_s()) < silence_s:
        await asyncio.sleep(silence_s - silent_s)
    # In this order: an agent that hangs does not answer a goodbye.
    agent.transport.abort()
    await socket.close(_GOING_AWAY, f"the node has been silent for {silence_s:.0f} s")


async def _open(info: ChannelInfo, settings: Settings, query: str) -> ClientConnection:
    credentials = of_service(settings)
    try:
        return await connect(
            f"{info.direct_url}?{query}",
            additional_headers={"Authorization": f"Bearer {info.ticket}"},
            # Frames are passed on as they are; on the same machine or network compressing only costs.
            compression=None,
            proxy=None,
            max_size=settings.frame_bytes,
            ssl=client_context(credentials) if info.direct_url.startswith("wss:") else None,
            open_timeout=CONNECT_TIMEOUT_S,
            ping_interval=None,
            # Small: what waits here is not seen by either end's own flow control.
            max_queue=4,
        )
    except InvalidStatus:
        raise
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


async def _to_client(socket: WebSocket, agent: ClientConnection, quiet: _Quiet) -> None:
    try:
        while True:
            quiet.begins()
            data = await agent.recv()
            quiet.is_over()
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


async def carry_bundle(request: Request, info: ChannelInfo, bundle: str, settings: Settings) -> Response:
    """Answer a client with a bundle of the node, or with what that says to one of the client's, streamed.

    Parameters
    ----------
    info
        With the agent's own address.

    Raises
    ------
    TransportError
        The agent does not answer, or is not trusted.
    """
    headers = {"Authorization": f"Bearer {info.ticket}"}
    for name in ("content-length", "content-type"):
        if name in request.headers:
            headers[name] = request.headers[name]
    credentials = of_service(settings)
    http = httpx.AsyncClient(
        trust_env=False,
        timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
        verify=client_context(credentials) if info.bundle_url.startswith("https:") else False,
    )
    try:
        outgoing = http.build_request(
            request.method,
            # Quoted whole: what a caller has put into it must not lead anywhere else at the node.
            f"{info.bundle_url}/{quote(bundle, safe='')}",
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
