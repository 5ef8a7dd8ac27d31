"""How a session comes back from what its former host has, or from a checkpoint, where a host fails at that. Pure."""

from __future__ import annotations

from typing import NamedTuple

from .migration import patience_s
from .session import SessionEvent

#: When so many hosts in a row have failed, it is the state that cannot be brought back, and no more is tried.
HOSTS_IN_A_ROW = 3


class AfterFailure(NamedTuple):
    """What the failure of a host is to its session, and what is told of it."""

    event: SessionEvent
    cause: str


def after_failure(cause: str, failures: int) -> AfterFailure:
    """Decide.

    Parameters
    ----------
    cause
        Why the host did not become the session's.
    failures
        Hosts in a row that have failed at bringing the session back, this one included; 0 for one that begins.
    """
    if not failures:
        return AfterFailure(SessionEvent.START_FAILED, cause)
    if failures < HOSTS_IN_A_ROW:
        return AfterFailure(SessionEvent.HOST_DIED, cause)
    told = f"{cause.rstrip('.')}; {failures} hosts in a row could not bring it back, so no more is tried"
    return AfterFailure(SessionEvent.START_FAILED, f"{told}. Its checkpoints stay")


def asks_former_host(failures: int) -> bool:
    """Whether the next host takes what the former one has; the last one does not, in case that it is what fails."""
    return failures < HOSTS_IN_A_ROW - 1


def limit_s(start_timeout_s: float, state_bytes: int, failures: int) -> float:
    """How long a host may take until the session is there: from its start, and with twice the time of the one before.

    A move that takes longer is given up, and the session goes on where it was. Here there is nowhere to go on, and a
    state that takes long to make takes as long on the next host.
    """
    return float((start_timeout_s + patience_s((), state_bytes)) * 2**failures)
