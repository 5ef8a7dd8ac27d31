"""Whether a capture that is due waits for more cells to share it. Pure: no clock of its own."""

from __future__ import annotations

#: So many cells in a row get a checkpoint each, however soon they follow each other.
MOST_ALONE = 5
#: Cells that share a checkpoint have not run longer, all in all: so much would have to be computed again.
MOST_COST_S = 0.1
#: So long after the first cell without a checkpoint one is taken, though more cells come.
MOST_LATE_S = 1.0


class Burst:
    """Short cells in a row, each of which comes within ``together_s`` of the end of the one before.

    A client that sends cell after cell should not wait for captures that each stand for a millisecond of work. Who
    works by hand, and who sends long cells, never waits so little and gets a checkpoint after each.
    """

    def __init__(self, together_s: float) -> None:
        self._together_s = together_s
        self._idle_s = float("-inf")
        self._in_row = 0
        self._cost_s = 0.0
        #: When the first cell without a checkpoint ended.
        self._first_s: float | None = None

    def begins(self, now_s: float) -> None:
        """A cell begins to run."""
        self._in_row = self._in_row + 1 if now_s - self._idle_s < self._together_s else 1

    def ended(self, now_s: float, took_s: float) -> None:
        """It has run."""
        self._cost_s += took_s
        if self._first_s is None:
            self._first_s = now_s

    def captured(self, now_s: float) -> None:
        """All cells until now are in a capture."""
        self._idle_s = now_s
        self._cost_s, self._first_s = 0.0, None

    def wait_s(self, now_s: float) -> float:
        """The kernel has nothing to do: how long a due capture waits for another cell; 0 for not at all."""
        self._idle_s = now_s
        if self._first_s is None or self._in_row <= MOST_ALONE or self._cost_s > MOST_COST_S:
            return 0.0
        return max(0.0, min(self._together_s, self._first_s + MOST_LATE_S - now_s))
