"""Which scope of a token a request needs. Pure: one table, read in front of all routes.

What is not named here needs ``read`` where it only looks, and ``sessions`` where it does something, so that a route
that is added without a thought is not the one that a narrow token gets through.
"""

from __future__ import annotations

import re

from jupyter_gpuaas.model import Scope

WEBSOCKET = "WEBSOCKET"
_LOOKS = frozenset({"GET", "HEAD", "OPTIONS"})

#: Method (or "*" for any), path, and the scopes of which one is needed. The first that matches counts.
_TABLE: tuple[tuple[str, re.Pattern[str], frozenset[Scope]], ...] = tuple(
    (method, re.compile(path, re.DOTALL), frozenset(scopes))
    for method, path, scopes in (
        ("*", r"/(users|tokens|audit|stop|rebalance)(/.*)?", {Scope.ADMIN}),
        ("*", r"/nodes/[^/]+/(cordon|drain)", {Scope.ADMIN}),
        ("POST", r"/reservations", {Scope.ADMIN}),
        ("DELETE", r"/reservations/[^/]+", {Scope.ADMIN}),
        ("GET", r"/metrics", {Scope.READ, Scope.METRICS}),
        # Fetching a bundle runs the kernel.
        ("*", r"/sessions/[^/]+/bundles/.*", {Scope.SESSIONS}),
        # Whoever has a token may know whose it is.
        ("GET", r"/me", frozenset(Scope)),
        (WEBSOCKET, r"/events/stream", {Scope.READ}),
    )
)
_READ, _SESSIONS = frozenset({Scope.READ}), frozenset({Scope.SESSIONS})


def needed(method: str, path: str) -> frozenset[Scope]:
    """The scopes of which a token must have one.

    Parameters
    ----------
    method
        Of HTTP, or ``WEBSOCKET``.
    """
    # A router may take a path that ends in one of these for the path without it.
    path = path.rstrip("/\n")
    for wanted, pattern, scopes in _TABLE:
        if wanted in ("*", method) and pattern.fullmatch(path):
            return scopes
    return _READ if method in _LOOKS else _SESSIONS
