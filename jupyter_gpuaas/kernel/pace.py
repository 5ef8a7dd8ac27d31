"""Whether a capture may take its time now. Pure: no clock of its own."""

from __future__ import annotations

#: Captures that hold up the next cell for less are always taken.
CHEAP_S = 0.02
#: What cells have earned for captures lapses above the share of so much time.
WINDOW_S = 1800.0


class Pace:
    """Each second of a cell earns ``share`` seconds of captures; what a capture took, or made a cell wait, is spent.

    The first capture is always due: what it takes is not known before.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._earned_s = 0.0
        #: How long the last capture took, which is the best guess for the next one.
        self.expected_s = 0.0

    def cell(self, took_s: float) -> None:
        """A cell has run."""
        self._earned_s = min(self._earned_s + self._share * took_s, self._share * WINDOW_S)

    def spent(self, took_s: float, *, expected: bool = True) -> None:
        """A capture took so long, or a cell waited so long for its writing (then ``expected`` is False)."""
        if expected:
            self.expected_s = took_s
        if took_s > CHEAP_S or not expected:
            self._earned_s -= took_s

    def due(self) -> bool:
        """Whether the next capture may be taken now."""
        if self.expected_s <= CHEAP_S:
            return self._earned_s > -1.0
        return self._earned_s >= min(self.expected_s, self._share * WINDOW_S)

    def free(self, took_s: float) -> None:
        """A capture took so long while nobody waited."""
        self.expected_s = took_s
