"""The gate in front of all routes: a token for everything, a bound for every body.

It stands before the router, so that a route cannot be added that forgets to ask.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from jupyter_gpuaas.controller.answers import failure
from jupyter_gpuaas.controller.auth import Tokens
from jupyter_gpuaas.errors import Unauthorized

#: Paths that need no token: they tell nothing about anybody.
OPEN_PATHS = frozenset({"/health", "/docs", "/openapi.json"})

_BUNDLE = re.compile(r"/sessions/[^/]+/bundles/[^/]+")
_QUOTED_SLASH = re.compile(rb"%2f", re.IGNORECASE)
#: Stands for a slash inside a path segment; no name of a session can contain it.
_SLASH = "\x1f"


class Gate:
    """Puts the caller's `User` into ``request.state.user``, or answers 401."""

    def __init__(self, app: ASGIApp, *, tokens: Tokens, body_bytes: int) -> None:
        self._app = app
        self._tokens = tokens
        self._body_bytes = body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        raw = scope.get("raw_path") or b""
        if _QUOTED_SLASH.search(raw):
            # Names are often paths: `%2F` must not divide the segment that holds one.
            path = _QUOTED_SLASH.sub(_SLASH.encode(), raw)
            scope["path"] = unquote_to_bytes(path).decode("utf-8", "replace")
        if scope["path"] not in OPEN_PATHS:
            headers = dict(scope["headers"])
            try:
                user = self._tokens.check(headers.get(b"authorization", b"").decode("latin-1"))
            except Unauthorized as error:
                if scope["type"] == "websocket":
                    await WebSocket(scope, receive, send).send_denial_response(failure(error))
                else:
                    await failure(error)(scope, receive, send)
                return
            scope.setdefault("state", {})["user"] = user
        if scope["type"] == "http" and not _BUNDLE.fullmatch(scope["path"]):
            receive = self._bounded(receive)
        await self._app(scope, receive, send)

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


def segment(value: str) -> str:
    """A path parameter as its sender meant it."""
    return value.replace(_SLASH, "/")
