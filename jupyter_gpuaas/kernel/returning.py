"""Requests that a kernel gives back instead of beginning them, while its session is being brought to a standstill.

1. The host says ``return`` on the control channel: from now on each message that is about to be handled goes back, on
   the shell channel, as it came.
2. What runs goes on to its end. What follows a failed cell is answered as ``aborted``, as always.
3. ``barrier`` on a shell is answered when everything before it has been answered or returned.
4. ``go_on`` ends it. While nothing was returned yet, it may come on the control channel and takes effect at once. Else
   it must come on the shell channel, behind what is still to be returned: a request that was returned, and is sent
   again, would otherwise come after younger ones.
"""

from __future__ import annotations

import threading

from ..wire.jupyter import OWN_SESSION

#: Type of the message that carries a returned one, as its buffers.
RETURNED = "gpuaas_returned"
#: Type and topic of what the host is told on iopub: a mark that it asked for, an abortion of what waits.
NOTE = "gpuaas_stand"


class Returning:
    """Whether messages are handled, returned, or refused; used by the main, subshell and control threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._returns = False
        self._from_main = 0
        #: No checkpoint is taken by itself: the session stands still, or is to be taken over from another host.
        self.still = False
        #: The session has been handed over; nothing of it may be written any more.
        self.frozen = False

    @property
    def active(self) -> bool:
        """Whether messages are returned."""
        return self._returns

    def begin(self) -> None:
        with self._lock:
            self._returns, self._from_main = True, 0
            self.still = True

    def takes(self, msg_type: str, session: str, *, subshell: bool, aborting: bool) -> bool:
        """Whether this message, which is about to be handled, is to be returned instead."""
        with self._lock:
            if not self._returns or session == OWN_SESSION or (aborting and msg_type == "execute_request"):
                return False
            self._from_main += not subshell
            return True

    def end(self, *, in_order: bool) -> bool:
        """Handle messages again; False when this must be said on the shell channel, in order."""
        with self._lock:
            if self._returns and self._from_main and not in_order:
                return False
            self._returns = self.still = self.frozen = False
            return True
