"""Whether a capture may take its time now. Pure: no clock of its own."""

from __future__ import annotations

#: Captures that hold up the next cell for less are always taken.
CHEAP_S = 0.02
#: What cells have earned for captures lapses above the share of so much time.
WINDOW_S = 1800.0
#: Cheap captures are not weighed up, but they must not wait for their writing all the time either.
MOST_OWED_S = 1.0


class Pace:
    """Each second of a cell earns ``share`` seconds of captures; what a capture took, or made a cell wait, is spent.

    How long the next capture takes is guessed from the bytes that it has to look at; before the first, it is unknown,
    and nothing stands in its way.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._earned_s = 0.0
        self._s_per_byte = 0.0
        #: How long the last capture took.
        self.last_s = 0.0

    def cell(self, took_s: float) -> None:
        """A cell has run."""
        self._earned_s = min(self._earned_s + self._share * took_s, self._share * WINDOW_S)

    def learned(self, took_s: float, looked_bytes: int) -> None:
        """A capture that looked at so many bytes took so long."""
        self.last_s = took_s
        if took_s > CHEAP_S or self.expected_s(looked_bytes) > CHEAP_S:
            self._s_per_byte = took_s / max(1, looked_bytes)

    def spent(self, took_s: float) -> None:
        """A cell was held up for so long."""
        if took_s > CHEAP_S:
            self._earned_s -= took_s

    def expected_s(self, nbytes: int) -> float:
        """How long a capture will take that has to look at so many bytes."""
        return self._s_per_byte * nbytes

    def due(self, expected_s: float) -> bool:
        """Whether a capture that takes so long may be taken now."""
        if expected_s <= CHEAP_S:
            return self._earned_s > -MOST_OWED_S
        return self._earned_s >= min(expected_s, self._share * WINDOW_S)
