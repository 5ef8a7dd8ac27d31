"""What a controller that stands by does itself: it carries channels and bundles, so that the one that acts need not.

It decides nothing. It asks the one that acts, by the same request with the client's own token, and shows beside it the
key that the database holds for it. The answer is what the client would have got, but for the content: in its place come
the agent's address and a ticket. For a channel the question is a WebSocket as well, here a *permit*, and stays open:

1. The one that acts closes it when the token is not valid any more. The channel ends with it.
2. It is lost when nobody acts any more. The channel goes on, and whoever acts next is asked again, be it this process.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import ssl
from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import unquote, urlsplit

import httpx
import msgspec
from fastapi import Request, Response, WebSocket
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.answers import failure
from jupyter_gpuaas.controller.carrying import carry_bundle, carry_channel
from jupyter_gpuaas.controller.gate import POLICY_VIOLATION, while_valid
from jupyter_gpuaas.errors import GpuaasError, ServiceUnreachable
from jupyter_gpuaas.model import ChannelInfo
from jupyter_gpuaas.wire.tls import client_context, of_service

log = logging.getLogger(__name__)

#: Shows that a controller asks.
KEY_HEADER = "gpuaas-controller-key"
#: Until there is an answer: who acts may have to ask a Hub before.
ANSWER_TIMEOUT_S = 10.0
#: Pause between two times that one who may act is asked whether a channel may go on.
ASK_AGAIN_S = 1.0
#: What says so of a token that is not valid any more: a status, or the code of a WebSocket.
_VOID = frozenset({401, 403, POLICY_VIOLATION})
#: Not of dots alone: those lead elsewhere.
_SEGMENT = rb"(?!\.{1,2}(?:/|$))[^/#]+"
#: A session, below whatever path the service is at. What a client sends as its path need not be one.
_SESSION = rb"(?:/%b)*/sessions/%b" % (_SEGMENT, _SEGMENT)
_CARRIED = re.compile(rb"GET %b/channel|(?:GET|PUT) %b/bundles/%b" % (_SESSION, _SESSION, _SEGMENT))
_AWAY = (
    OSError,
    ssl.SSLError,
    WebSocketException,
    httpx.HTTPError,
    httpx.InvalidURL,
    TimeoutError,
    asyncio.TimeoutError,
    ValueError,
    msgspec.MsgspecError,
    GpuaasError,
)


class WhoActs(Protocol):
    """What is known of the controller that acts."""

    #: Of this process, once it acts itself.
    app: ASGIApp | None

    @property
    def passes_to(self) -> str:
        """Address of another one that acts; empty when there is none."""

    @property
    def key(self) -> str:
        """What is shown to the one that acts; empty when that is from before there was such a thing."""


def carries(method: bytes, path: bytes) -> bool:
    """Whether this is for one that stands by; the path as it was sent, without its query."""
    return _CARRIED.fullmatch(method + b" " + path) is not None


def url_at(service: str, path: str) -> str:
    """Where a path is at a controller, and nowhere else: it comes from strangers.

    Raises
    ------
    ValueError
        It is no path, or the controller's address is none.
    """
    parts = urlsplit(service)
    if not path.startswith("/") or not parts.hostname:
        raise ValueError(f"{path!r} is no path at {service!r}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = "" if parts.port is None else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{path}"


class Sharing:
    """Answers requests for channels and bundles as the controller that acts would.

    Parameters
    ----------
    refusal
        What is answered when nobody acts that can be asked.
    """

    def __init__(self, settings: Settings, who: WhoActs, refusal: Callable[[], Response]) -> None:
        self._settings = settings
        self._who = who
        self._refusal = refusal
        self._permits: set[ClientConnection] = set()

    def takes(self, scope: Scope) -> bool:
        """Whether a request is for this, and not another controller's: who asks here does not know yet who acts."""
        method = scope.get("method", "GET").encode()
        asks = any(name == KEY_HEADER.encode() for name, _ in scope["headers"])
        return bool(self._who.passes_to and self._who.key) and not asks and carries(method, scope["raw_path"])

    def cut(self) -> None:
        """Ask again whether channels may go on: who acted does so no more."""
        for permit in self._permits:
            permit.transport.abort()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._channel(scope, receive, send)
        else:
            answer = await self._bundle(Request(scope, receive))
            await answer(scope, receive, send)

    async def _channel(self, scope: Scope, receive: Receive, send: Send) -> None:
        question, socket = dict(scope), WebSocket(scope, receive, send)
        try:
            permit = await self._ask(question)
        except InvalidStatus as refused:
            answer = refused.response
            await socket.send_denial_response(_as_said(answer.status_code, answer.headers, bytes(answer.body or b"")))
            return
        except _AWAY as error:
            await socket.send_denial_response(self._refused(error))
            return
        async with permit:
            try:
                info = _read(await asyncio.wait_for(permit.recv(), ANSWER_TIMEOUT_S))
            except _AWAY as error:
                await socket.send_denial_response(self._refused(error))
                return
            carried = carry_channel(socket, info, self._settings)
            await while_valid(carried, self._void(permit, question), scope, send)

    async def _void(self, permit: ClientConnection, question: Scope) -> None:
        """Return when who acts would not carry the channel any more."""
        said = await self._end_of(permit)
        while said not in _VOID:
            # Not all at once; and whoever cannot answer has not said no.
            await asyncio.sleep(ASK_AGAIN_S * random.uniform(0.5, 1.5))
            try:
                if self._who.app is not None:
                    said = await _ask_here(self._who.app, question, self._who.key)
                else:
                    said = await self._end_of(await self._ask(question))
            except InvalidStatus as refused:
                said = refused.response.status_code
            except _AWAY as error:
                log.debug("nobody can be asked whether a channel may go on: %s", error)
            except Exception:
                log.exception("it cannot be asked whether a channel may go on")

    async def _end_of(self, permit: ClientConnection) -> int:
        """The code with which it ends."""
        self._permits.add(permit)
        try:
            async with permit:
                await permit.wait_closed()
        finally:
            self._permits.discard(permit)
        return permit.close_code or 0

    async def _ask(self, question: Scope) -> ClientConnection:
        url = self._url(question)
        return await connect(
            "ws" + url.removeprefix("http"),
            additional_headers=self._headers(question),
            compression=None,
            proxy=None,
            ssl=self._context(url),
            open_timeout=ANSWER_TIMEOUT_S,
            close_timeout=ASK_AGAIN_S,
            ping_interval=self._settings.ping_s,
            ping_timeout=self._settings.silence_s,
        )

    async def _bundle(self, request: Request) -> Response:
        try:
            url = self._url(request.scope)
            async with httpx.AsyncClient(
                trust_env=False, timeout=ANSWER_TIMEOUT_S, verify=self._context(url) or False
            ) as http:
                answer = await http.request(request.method, url, headers=self._headers(request.scope))
            if answer.status_code != 200:
                return _as_said(answer.status_code, answer.headers, answer.content)
            info = _read(answer.content)
        except _AWAY as error:
            return self._refused(error)
        bundle = unquote(request.scope["raw_path"].rpartition(b"/")[2])
        try:
            return await carry_bundle(request, info, bundle, self._settings)
        except GpuaasError as error:
            return failure(error)

    def _url(self, question: Scope) -> str:
        if not self._who.passes_to:
            raise ServiceUnreachable("nobody acts.")
        return url_at(self._who.passes_to, question["raw_path"].decode("ascii"))

    def _headers(self, question: Scope) -> dict[str, str]:
        headers = {KEY_HEADER: self._who.key}
        shown = dict(question["headers"]).get(b"authorization")
        if shown is not None:
            # What is no ASCII must not become a token that is one.
            headers["Authorization"] = shown.decode("ascii", "backslashreplace")
        if question["client"] is not None:
            headers["X-Forwarded-For"] = question["client"][0]
        return headers

    def _context(self, url: str) -> ssl.SSLContext | None:
        return client_context(of_service(self._settings)) if url.startswith("https:") else None

    def _refused(self, error: BaseException) -> Response:
        log.warning("%s cannot be asked for a client: %s", self._who.passes_to, str(error) or "it does not answer")
        return self._refusal()


async def _ask_here(app: ASGIApp, question: Scope, key: str) -> int:
    """Ask the application of this process, as one that stands by would; returns with what it ends that."""
    said, connected = 0, False

    async def receive() -> Message:
        nonlocal connected
        if connected:
            await asyncio.Event().wait()
        connected = True
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        nonlocal said
        said = message.get("status") or message.get("code") or said

    headers = [*question["headers"], (KEY_HEADER.encode(), key.encode())]
    await app({**question, "headers": headers, "state": {}}, receive, send)
    return said


def _read(answer: str | bytes) -> ChannelInfo:
    return msgspec.json.decode(answer, type=ChannelInfo)


def _as_said(status: int, headers: Mapping[str, str], body: bytes) -> Response:
    kept = {name: headers[name] for name in ("content-type", "retry-after") if name in headers}
    return Response(body, status, headers=kept)
