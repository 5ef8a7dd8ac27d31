"""A session whose node has lost contact with the service: it stands still until the service is heard of again.

The leash stops its processes, in a process of its own (``leash``); here is what the session is told of it.
"""

from __future__ import annotations

import contextlib
import signal
from typing import Any

from .leash import now_s, send
from .session_host import SessionHost

WHY = "its node had lost contact with the service"


class Contact:
    """Of one host."""

    def __init__(self) -> None:
        #: When it was last found again; see ``leash.now_s``.
        self._found_s = 0.0

    def lost(self, session: SessionHost, at_s: float) -> None:
        """The lease of the node is over, and the leash has stopped the session's processes."""
        if at_s <= self._found_s:
            return  # This host stood still as well, and hears of it when it is past.
        session.cut_off = True
        session.notice(
            "\n[remote GPU] This session stands still: its node has lost contact with the service. "
            "It goes on when contact is back.\n"
        )
        # The session may have another host by now. Whether it has, the service knows, and until the service is back
        # here nobody is let in.
        session.let_clients_go({"op": "moved"}, "the node has lost contact with the service")

    def found(self, session: SessionHost, command: dict[str, Any]) -> bool:
        """It is back, and the session is still ours: what the leash has stopped goes on. False: it is too late."""
        until_s, now = command["until_s"], now_s()
        if until_s is not None and now >= until_s:
            return False  # This has come late, and the session may be another's.
        kernel = session.kernel
        still = kernel is not None and kernel.stopped
        for pid, started in command["processes"]:
            with contextlib.suppress(ProcessLookupError):
                # A session that moves stands still for its own reason: ``resume`` continues these.
                if kernel is None or not still or not kernel.has(pid):
                    send(pid, started, signal.SIGCONT)
        self._found_s, session.cut_off = now, False
        stood_s = max(0.0, now - command["since_s"])
        session.notice(f"\n[remote GPU] This session stood still for {stood_s:.1f} s: {WHY}.\n")
        return True
