"""Counts requests by route and status, outside of everything else. Labels are of the routes, never of a request."""

from __future__ import annotations

import time
from collections import Counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Route of what no route was found for.
NONE = "none"
#: Others are words of whoever asks.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
Key = tuple[str, str, str]


class HttpFigures:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp, *, figures: Figures) -> None:
        self._app = app
        self._figures = figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s, status = time.monotonic(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", NONE)
            method = scope["method"] if scope["method"] in METHODS else "other"
            key = (method if route != NONE else "", route, f"{status // 100}xx")
            self._figures.requests[key] += 1
            self._figures.request_s[key] += time.monotonic() - began_s


class Figures:
    """What was counted since the service has started."""

    def __init__(self) -> None:
        self.requests: Counter[Key] = Counter()
        self.request_s: dict[Key, float] = _Sums()


class _Sums(dict[Key, float]):
    def __missing__(self, key: Key) -> float:
        return 0.0
