"""The service below a path of somebody else's address, as behind the proxy of a Hub or an ingress."""

from __future__ import annotations

from urllib.parse import quote

from starlette.types import ASGIApp, Receive, Scope, Send


class Below:
    """Serves what comes to paths below ``prefix`` as if that were not there, and everything else as it comes."""

    def __init__(self, app: ASGIApp, *, prefix: str) -> None:
        self._app = app
        self._prefix = "/" + prefix.strip("/")
        self._raw = quote(self._prefix).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        if path == self._prefix or path.startswith(self._prefix + "/"):
            # In place, as those outside look at what those inside have written into it.
            scope["path"] = path[len(self._prefix) :] or "/"
            raw: bytes = scope.get("raw_path") or b""
            # Quoted in a way of its own, it is not needed: the path is what it means.
            scope["raw_path"] = raw[len(self._raw) :] or b"/" if raw.startswith(self._raw) else b""
            scope["root_path"] = scope.get("root_path", "") + self._prefix
        await self._app(scope, receive, send)
