"""Whether a capture may take its time now. Pure: no clock of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

#: Captures that hold up the next cell for less are always taken.
CHEAP_S = 0.02
#: What cells have earned for captures lapses above the share of so much time.
WINDOW_S = 1800.0
#: Cheap captures are not weighed up, but they must not wait for their writing all the time either.
MOST_OWED_S = 1.0
#: So many of the last captures tell how long the next one takes.
REMEMBERED = 8
#: What captures took that looked at less, is no measure of what a byte takes.
SMALL_BYTES = 1024**2


class Pace:
    """Each second of a cell earns ``share`` seconds of captures; what a capture took, or made a cell wait, is spent.

    How long the next capture takes is guessed from the bytes that it has to look at, as a line through the last ones: a
    part for each byte, and one that each takes anyway (200 ms for 6 KB do not say that 2 GB take a day). Before the
    first, it is unknown, and nothing stands in its way.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._earned_s = 0.0
        self._last: deque[tuple[int, float]] = deque(maxlen=REMEMBERED)
        self._fixed_s = self._s_per_byte = 0.0
        #: How long the last capture took.
        self.last_s = 0.0

    def cell(self, took_s: float) -> None:
        """A cell has run."""
        self._earned_s = min(self._earned_s + self._share * took_s, self._share * WINDOW_S)

    def learned(self, took_s: float, looked_bytes: int) -> None:
        """A capture that looked at so many bytes took so long."""
        self.last_s = took_s
        self._last.append((looked_bytes, took_s))
        self._fixed_s, self._s_per_byte = _line(self._last)

    def spent(self, took_s: float) -> None:
        """A cell was held up for so long."""
        if took_s > CHEAP_S:
            self._earned_s -= took_s

    def expected_s(self, nbytes: int) -> float:
        """How long a capture will take that has to look at so many bytes."""
        return self._fixed_s + self._s_per_byte * nbytes

    def due(self, expected_s: float) -> bool:
        """Whether a capture that takes so long may be taken now."""
        if expected_s <= CHEAP_S:
            return self._earned_s > -MOST_OWED_S
        return self._earned_s >= min(expected_s, self._share * WINDOW_S)


def _line(points: Collection[tuple[int, float]]) -> tuple[float, float]:
    """Where the best line through the points begins and how it rises, neither below zero."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    rise = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
    if rise <= 0.0:
        return (mean_y, 0.0) if mean_x < SMALL_BYTES else (0.0, mean_y / mean_x)
    start = mean_y - rise * mean_x
    if start >= 0.0:
        return start, rise
    return 0.0, sum(x * y for x, y in points) / sum(x * x for x, _ in points)
