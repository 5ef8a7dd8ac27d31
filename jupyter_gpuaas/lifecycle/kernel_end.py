"""What becomes of a session whose kernel's process has ended."""

from __future__ import annotations

from typing import NamedTuple

from ..model import HostState

#: A kernel that dies this often without a cell in between is not started again.
DEATHS_IN_A_ROW = 3


class AfterEnd(NamedTuple):
    """The state of the host then, and who is told what."""

    state: HostState
    cause: str
    #: Told to whoever waits for an answer of the kernel; empty for nothing.
    told: str = ""
    #: Said in the stream of outputs; empty for nothing.
    notice: str = ""
    #: Another kernel is started.
    start: bool = False


def after_end(expected: str, how: str, *, deaths: int, way_back: str, stands_by: bool) -> AfterEnd:
    """Decide.

    Parameters
    ----------
    expected
        Why the kernel's end is no accident: ``restart``, ``end``; empty when it is one.
    how
        It ended, in words.
    deaths
        Accidents in a row, this one included.
    way_back
        What the user can do for the variables; empty for nothing.
    stands_by
        It was to take the session over from another host.
    """
    if stands_by:
        return AfterEnd(HostState.FAILED, f"the kernel that was to take the session over ended: {how}")
    if expected == "end":
        return AfterEnd(HostState.ENDING, "shut down by its client")
    if expected == "restart":
        restarted = "the kernel was restarted"
        return AfterEnd(HostState.STARTING, restarted, told=restarted, start=True)
    why = f"the kernel of this session died: {how}. Its variables are lost; a fresh kernel takes over"
    told = f"{why}.{way_back}" if way_back else why
    notice = f"\n[remote GPU] The kernel died.{way_back}\n" if way_back else ""
    if deaths >= DEATHS_IN_A_ROW:
        cause = f"{why}, but {deaths} died in a row, so no more is started"
        return AfterEnd(HostState.FAILED, cause, told=told, notice=notice)
    return AfterEnd(HostState.STARTING, why, told=told, notice=notice, start=True)
