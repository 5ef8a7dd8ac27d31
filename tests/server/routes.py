"""Every method of every route of the extension, read off its own tables."""

from __future__ import annotations

import re

import msgspec

from jupyter_gpuaas.server.handlers import HANDLERS, NAMESPACE, GpuaasHandler, PassHandler
from jupyter_gpuaas.server.routes import ROUTES

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


class Route(msgspec.Struct, frozen=True):
    """A method of a route; ``path`` is below the extension's namespace and has ``*`` for an id."""

    method: str
    path: str

    def of(self, session: str = "x", node: str = "x", kernel: str = "x") -> str:
        """A path to ask for, of these ids; any other id is ``x``."""
        path = self.path.replace("sessions/*", f"sessions/{session}").replace("nodes/*", f"nodes/{node}")
        path = path.replace("kernels/*", f"kernels/{kernel}").replace("*", "x")
        return f"{path}?path=a.ipynb" if path == "choices" else path

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def every_route() -> list[Route]:
    """What the extension offers, as its handlers and the table of what is passed on have it."""
    found = [Route(method, f"v1/{path}") for path, methods in ROUTES.items() for method in methods]
    for pattern, handler in HANDLERS:
        if handler is not PassHandler:
            path = re.sub(r"\([^)]*\)", "*", pattern.removeprefix(f"/{NAMESPACE}/"))
            found += [Route(method, path) for method in _methods(handler)]
    return sorted(found, key=str)


def _methods(handler: type[GpuaasHandler]) -> list[str]:
    """Those that the class answers; what it refuses like a method that is not there is not among them."""
    own = [method for method in METHODS if method.lower() in vars(handler)]
    return ["GET"] if issubclass(handler, PassHandler) else own
