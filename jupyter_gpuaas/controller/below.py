"""The service below a path of somebody else's address, as behind the proxy of a Hub or an ingress."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send


class Below:
    """Serves what comes to paths below ``prefix`` as if that were not there, and everything else as it comes.

    The path stays whole, as ASGI has it: the router takes ``root_path`` off it, once. Who looks at a path before the
    router does so with ``inside``: if it was shortened here, a prefix written twice would be taken off twice, and they
    would have seen another path than the one that is served.
    """

    def __init__(self, app: ASGIApp, *, prefix: str) -> None:
        self._app = app
        self._prefix = "/" + prefix.strip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope.get("path", "")
        if path == self._prefix:
            scope["path"] = path + "/"
        if scope.get("path", "").startswith(self._prefix + "/"):
            scope["root_path"] = self._prefix
        await self._app(scope, receive, send)


def inside(scope: MutableMapping[str, Any]) -> str:
    """The path of a request below where the service is: the one that is routed."""
    path, root = str(scope.get("path", "")), str(scope.get("root_path", ""))
    return path[len(root) :] if path.startswith(root + "/") else path
