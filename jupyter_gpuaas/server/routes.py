"""Which of the controller's routes a browser may use through the extension, and how. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from jupyter_gpuaas.client.rest import Answer

#: A browser, and what is between it and the Jupyter server, gives up after a minute or so.
LONGEST_WAIT_S = 30.0
#: For what has to wait until the cells that run have ended.
LONG_S = 7 * 24 * 3600.0
#: Lines of a log, where it is not said how many.
LOG_LINES = "1000"


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """How one method of one route is passed on."""

    #: Query parameters that go along; others are front ends' own.
    query: frozenset[str] = frozenset()
    wait_s: float = 0.0
    #: Parameters that are set where they are not given.
    default: Mapping[str, str] = msgspec.field(default_factory=dict)
    #: Whether the answer may hold what is not for browsers.
    guarded: bool = True


class NotAllowed(Exception):
    """Not among the routes: 404, or 405 where other methods are."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _way(query: str = "", *, wait_s: float = 0.0, **default: str) -> Way:
    return Way(query=frozenset(query.split()), wait_s=wait_s, default=default)


_PLAIN = _way()
_LONG = _way(wait_s=LONG_S)
#: Large, and made of what the kernel has said.
_CELLS = Way(query=frozenset({"after", "journal"}), guarded=False)

#: Path, with ``*`` for a segment of any content -> method -> how.
ROUTES: Mapping[str, Mapping[str, Way]] = {
    "nodes": {"GET": _PLAIN},
    "nodes/*/cordon": {"POST": _PLAIN, "DELETE": _PLAIN},
    "nodes/*/drain": {"POST": _PLAIN, "GET": _PLAIN, "DELETE": _PLAIN},
    "allocations": {"GET": _PLAIN},
    "rebalance": {"GET": _PLAIN},
    "events": {"GET": _way("after limit session")},
    "sessions": {"GET": _way("all name limit after")},
    "sessions/*": {"GET": _way("after wait_s"), "DELETE": _PLAIN},
    "sessions/*/interrupt": {"POST": _PLAIN},
    "sessions/*/restart": {"POST": _PLAIN},
    "sessions/*/log": {"GET": _way("kind tail", tail=LOG_LINES)},
    "sessions/*/cells": {"GET": _CELLS},
    "sessions/*/checkpoints": {"GET": _PLAIN, "POST": _LONG, "PATCH": _LONG},
    "sessions/*/checkpoints/*": {"PATCH": _PLAIN, "DELETE": _LONG},
    "sessions/*/checkpoints/*/diff/*": {"GET": _PLAIN},
    "sessions/*/restores": {"POST": _LONG},
    "sessions/*/requests/*": {"DELETE": _PLAIN},
    "sessions/*/migrations": {"POST": _PLAIN},
    "sessions/*/migrations/*": {"GET": _way("phase rounds wait_s"), "DELETE": _PLAIN},
    "sessions/*/park": {"POST": _way("accept_loss", wait_s=LONG_S)},
    "sessions/*/wake": {"POST": _PLAIN},
    "sessions/*/standby": {"PUT": _PLAIN},
}

_PATTERNS = [
    (re.compile("/".join("[^/]+" if part == "*" else part for part in path.split("/"))), methods)
    for path, methods in ROUTES.items()
]


def way_of(method: str, path: str) -> Way:
    """How to pass this request on.

    Parameters
    ----------
    path
        Behind ``v1/``, as it came: its segments are quoted.

    Raises
    ------
    NotAllowed
    """
    for pattern, methods in _PATTERNS:
        if pattern.fullmatch(path):
            if method not in methods:
                raise NotAllowed(405, f"{path}: {method} is not possible here.")
            # What an HTTP client may resolve away is no name: it could lead to another route.
            if any(segment.replace("%2e", ".").replace("%2E", ".") in (".", "..") for segment in path.split("/")):
                break
            return methods[method]
    raise NotAllowed(404, f"path: there is no {path[:200]!r} here.")


def query_of(way: Way, given: Iterable[tuple[str, str]]) -> tuple[dict[str, str], float]:
    """The query to pass on, and how long the service may take beyond its usual time."""
    query = {**way.default, **{name: value for name, value in given if name in way.query}}
    wait_s = way.wait_s
    if "wait_s" in query:
        try:
            asked_s = min(max(float(query["wait_s"]), 0.0), LONGEST_WAIT_S)
        except ValueError:
            return query, wait_s  # The service says what is wrong with it.
        query["wait_s"] = f"{asked_s:g}" if asked_s == asked_s else query["wait_s"]
        wait_s += LONGEST_WAIT_S
    return query, wait_s


def for_browsers(answer: Answer) -> Answer:
    """The answer without what opens a channel, and without where agents are."""
    if not answer.content_type.startswith("application/json"):
        return answer
    body = msgspec.json.decode(answer.content)
    for each in body if isinstance(body, list) else (body,):
        if isinstance(each, dict):
            if "channel" in each:
                each["channel"] = None
            if "devices" in each and "url" in each:
                each["url"] = ""
    return Answer(answer.status, answer.content_type, msgspec.json.encode(body))
