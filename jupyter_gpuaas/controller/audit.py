"""The audit log: who did what, to what, from where, and what came of it.

Written in front of all routes, so that a route that is added is in it. Looking at one's own things is not; looking at
somebody else's is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import MutableMapping
from typing import Any

from jupyter_gpuaas.controller.auth import User
from jupyter_gpuaas.controller.below import inside
from jupyter_gpuaas.controller.catalogue.database import Database
from jupyter_gpuaas.controller.catalogue.users import AuditRows
from jupyter_gpuaas.errors import CatalogueError
from jupyter_gpuaas.model import AuditEntry

log = logging.getLogger(__name__)

#: Callers without a token get one entry in this time from each address; the next one tells how many there were.
REFUSALS_S = 60.0
#: Addresses that are told apart.
ADDRESSES = 1000
#: Longest part of a path that is written.
TARGET_CHARS = 512
#: Status of a caller that went before the answer.
GONE = 499
_LOOKS = frozenset({"GET", "HEAD", "OPTIONS"})
_REFUSED = frozenset({401, 403})


class Audit:
    """What is written to the log. A log that cannot be written is told in the service's own, and holds nobody up."""

    def __init__(self, database: Database, *, kept: int) -> None:
        self._rows = AuditRows(database, kept=kept)
        #: Address -> when its last refusal was written, and how many were not.
        self._refusals: dict[str, tuple[float, int]] = {}

    def answered(self, scope: MutableMapping[str, Any], user: User, status: int) -> None:
        """A request with a valid token was answered."""
        state = scope.get("state", {})
        looks = scope["type"] == "http" and scope["method"] in _LOOKS
        if looks and status not in _REFUSED and not state.get("audited"):
            return
        self._add(scope, user=user.name, token=user.token, status=status, note=str(state.get("note", "")))

    def refused(self, scope: MutableMapping[str, Any], status: int, why: str) -> None:
        """A request without a valid token was refused."""
        address = _address(scope)
        if address not in self._refusals and len(self._refusals) >= ADDRESSES:
            address = ""
        now_s = time.monotonic()
        last_s, count = self._refusals.get(address, (-REFUSALS_S, 0))
        if now_s - last_s < REFUSALS_S:
            # Whoever has no token must not be able to push the others out of the log.
            self._refusals[address] = (last_s, count + 1)
            return
        self._refusals[address] = (now_s, 0)
        more = f"; {count} more since the entry before" if count else ""
        self._add(scope, user="", token="", status=status, note=why + more)

    def entries(self, *, after: int, limit: int, user: str, target: str, last: bool) -> list[AuditEntry]:
        """What was written; for threads."""
        return self._rows.entries(after=after, limit=limit, user=user, target=target, last=last)

    def _add(self, scope: MutableMapping[str, Any], *, user: str, token: str, status: int, note: str) -> None:
        route = getattr(scope.get("route"), "path", "")
        method = scope["method"] if scope["type"] == "http" else "open"
        try:
            self._rows.add(
                user=user,
                token=token,
                address=_address(scope)[:64],
                action=f"{method} {route or '(no route)'}"[:256],
                target=_printable(inside(scope).replace("\x1f", "/"))[:TARGET_CHARS],
                status=status,
                note=_printable(note)[:TARGET_CHARS],
            )
        except CatalogueError as error:
            log.error("audit log not written: %s %s by %r: %s", method, route, user, error)


def _address(scope: MutableMapping[str, Any]) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _printable(text: str) -> str:
    """The text in one line: a path may hold anything, and the log is read in terminals."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
