"""The gate in front of all routes: a token for everything, with the scope for it, and a bound for every body.

It stands before the router, so that a route cannot be added that forgets to ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable
from urllib.parse import unquote_to_bytes

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from jupyter_gpuaas.controller.answers import failure
from jupyter_gpuaas.controller.audit import GONE, Audit
from jupyter_gpuaas.controller.auth import User
from jupyter_gpuaas.controller.below import inside
from jupyter_gpuaas.controller.hub.page import VISITS
from jupyter_gpuaas.controller.identity import Identity
from jupyter_gpuaas.controller.scopes import WEBSOCKET, needed
from jupyter_gpuaas.errors import Forbidden, GpuaasError, NoSuchSession, ServiceUnreachable, Unauthorized

#: Paths that need no token: they tell nothing about anybody.
OPEN_PATHS = frozenset({"/health", "/healthz", "/readyz", "/docs", "/openapi.json", *VISITS})

_BUNDLE = re.compile(r"/sessions/[^/]+/bundles/[^/]+")
#: What may go on for hours beside WebSockets.
_LASTING = re.compile(r"/sessions/[^/]+/log")
_QUOTED_SLASH = re.compile(rb"%2f", re.IGNORECASE)
#: Stands for a slash inside a path segment; no name of a session can contain it.
_SLASH = "\x1f"
#: First messages of an answer -> its status, where they do not tell one.
_ANSWERS = {
    "http.response.start": 0,
    "websocket.http.response.start": 0,
    "websocket.accept": 101,
    "websocket.close": 403,
}
#: With this code a WebSocket ends whose token is not valid any more.
POLICY_VIOLATION = 1008


class Gate:
    """Puts the caller's `User` into ``request.state.user``, or answers 401 or 403. Tells the audit log."""

    def __init__(self, app: ASGIApp, *, identity: Identity, audit: Audit, body_bytes: int) -> None:
        self._app = app
        self._identity = identity
        self._audit = audit
        self._body_bytes = body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        raw = scope.get("raw_path") or b""
        if _QUOTED_SLASH.search(raw):
            # Names are often paths: `%2F` must not divide the segment that holds one.
            quoted = _QUOTED_SLASH.sub(_SLASH.encode(), raw)
            scope["path"] = unquote_to_bytes(quoted).decode("utf-8", "replace")
        path = inside(scope)
        if scope["type"] == "http" and not _BUNDLE.fullmatch(path):
            receive = self._bounded(receive)
        if path in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        user: User | None = None
        try:
            user = await self._identity.check(headers.get(b"authorization", b"").decode("latin-1"))
            user.must_have(needed(scope.get("method", WEBSOCKET), path))
            if "\0" in path:
                # Not every database can even be asked for such a name.
                raise NoSuchSession("path: there is nothing whose name contains NUL.")
        except (Unauthorized, Forbidden, ServiceUnreachable, NoSuchSession) as error:
            if user is None:
                self._audit.refused(scope, error.status, error.message)
            else:
                scope.setdefault("state", {})["note"] = error.message
                self._audit.answered(scope, user, error.status)
            await _refuse(error, scope, receive, send)
            return
        scope.setdefault("state", {})["user"] = user
        await self._serve(scope, receive, send, user)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, user: User) -> None:
        told = False

        def tell(status: int) -> None:
            nonlocal told
            if not told:
                told = True
                self._audit.answered(scope, user, status)

        async def watched(message: Message) -> None:
            if message["type"] in _ANSWERS:
                tell(message.get("status", _ANSWERS[message["type"]]))
            await send(message)

        try:
            if scope["type"] == "websocket" or _LASTING.fullmatch(inside(scope)):
                await while_valid(self._app(scope, receive, watched), self._identity.void(user), scope, watched)
            else:
                await self._app(scope, receive, watched)
        except Exception:
            tell(500)
            raise
        finally:
            tell(GONE)

    def _bounded(self, receive: Receive) -> Receive:
        got = 0

        async def bounded() -> Message:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > self._body_bytes:
                raise HTTPException(413, f"body: more than {self._body_bytes} bytes (setting request_body_bytes)")
            return message

        return bounded


async def while_valid(serving: Awaitable[None], void: Awaitable[None], scope: Scope, send: Send) -> None:
    """Serve what lasts, but not longer than the token that it was begun with; ``void`` returns at its end."""
    served, voided = asyncio.ensure_future(serving), asyncio.ensure_future(void)
    try:
        await asyncio.wait((served, voided), return_when=asyncio.FIRST_COMPLETED)
        if served.done():
            await served
    finally:
        ended = served.done()
        for task in (served, voided):
            task.cancel()
        await asyncio.gather(served, voided, return_exceptions=True)
    if not ended and scope["type"] == "websocket":
        with contextlib.suppress(Exception):
            reason = "the token is not valid any more"
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": reason})


async def _refuse(error: GpuaasError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await WebSocket(scope, receive, send).send_denial_response(failure(error))
    else:
        await failure(error)(scope, receive, send)


def segment(value: str) -> str:
    """A path parameter as its sender meant it."""
    return value.replace(_SLASH, "/")
