"""Sessions as Jupyter's kernels, and what is known of the front ends on them."""

from __future__ import annotations

import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from jupyter_gpuaas.controller.sessions import LiveSession
from jupyter_gpuaas.model import SessionState

if TYPE_CHECKING:
    from jupyter_gpuaas.controller.gateway.front_end import FrontEnd

KERNEL_NAME = "remote_gpu"
SPEC: dict[str, Any] = {
    "name": KERNEL_NAME,
    "spec": {
        "argv": [],
        "env": {},
        "display_name": "Python 3 (remote GPU)",
        "language": "python",
        "interrupt_mode": "message",
        "metadata": {"debugger": True},
    },
    "resources": {},
}
#: Names under which a notebook may ask for it: one that was written with a local kernel says `python3`.
NAMES = frozenset({"", KERNEL_NAME, "python3"})
_STATES = {SessionState.IDLE: "idle", SessionState.PARKED: "idle", SessionState.BUSY: "busy"}
#: Front ends that are remembered after they have gone, to go on where they were.
REMEMBERED = 1000

Place = tuple[str, str]


class Had(NamedTuple):
    """What a front end has of a session."""

    #: Of the last record up to which it has everything.
    number: int
    journal: str
    #: Of the host that it was from, or a later one with the same journal.
    epoch: int


class Kernels:
    """Front ends by session and by the id that they give themselves.

    Parameters
    ----------
    lives
        Whether a session has not ended: most of them end elsewhere, and nobody says so here.
    """

    def __init__(self, lives: Callable[[str], bool]) -> None:
        self._lives = lives
        self._open: dict[Place, FrontEnd] = {}
        self._had: OrderedDict[Place, Had] = OrderedDict()
        self._active_s: dict[str, float] = {}

    def opened(self, place: Place, front_end: FrontEnd) -> Had | None:
        """A front end is here; what it had before, if anything.

        Its former connection, which it has lost and we may not have noticed, ends.
        """
        former = self._open.pop(place, None)
        if former is not None:
            former.leave()
        self._open[place] = front_end
        return self._had.get(place)

    def left(self, place: Place, front_end: FrontEnd) -> None:
        """It has gone."""
        if self._open.get(place) is front_end:
            del self._open[place]

    def had(self, place: Place, had: Had) -> None:
        """It has this now."""
        self._had[place] = had
        self._had.move_to_end(place)
        while len(self._had) > REMEMBERED:
            self._had.popitem(last=False)

    def active(self, session_id: str) -> None:
        """Something was said in a session."""
        if session_id not in self._active_s and len(self._active_s) >= REMEMBERED:
            self._active_s = {known: at_s for known, at_s in self._active_s.items() if self._lives(known)}
        self._active_s[session_id] = time.time()

    def connections(self, session_id: str = "") -> int:
        """Front ends that are on a session now; on all without one."""
        return sum(session_id in ("", place[0]) for place in self._open)

    def model(self, live: LiveSession) -> dict[str, Any]:
        """A session as Jupyter describes a kernel."""
        session = live.session
        active_s = max(session.created_s, self._active_s.get(session.id, 0.0))
        return {
            "id": kernel_id(session.id),
            "name": KERNEL_NAME,
            "execution_state": _STATES.get(session.state, "starting"),
            # Jupyter's server reads it by this very form.
            "last_activity": datetime.fromtimestamp(active_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "connections": self.connections(session.id),
            "gpuaas_session": {"name": session.name, "state": session.state.value},
        }

    def forget(self, session_id: str) -> None:
        """A session is over."""
        self._active_s.pop(session_id, None)
        for place in [place for place in self._had if place[0] == session_id]:
            del self._had[place]


def kernel_id(session_id: str) -> str:
    """A session's id as front ends want it: with hyphens."""
    try:
        return str(uuid.UUID(session_id))
    except ValueError:
        return session_id


def session_of(kernel: str) -> str:
    """The opposite; a name stays what it is."""
    try:
        return uuid.UUID(kernel).hex
    except ValueError:
        return kernel
