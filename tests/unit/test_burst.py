"""When cells share a checkpoint."""

from __future__ import annotations

from jupyter_gpuaas.kernel.burst import MOST_ALONE, MOST_COST_S, MOST_LATE_S, Burst


class Session:
    """Cells with a clock of their own; between two cells the kernel asks how long the capture waits."""

    def __init__(self, together_s: float = 0.05) -> None:
        self.burst = Burst(together_s)
        self.now_s = 100.0
        #: Cells since the last capture, at each capture.
        self.captures: list[int] = []
        self.cells = 0

    def cell(self, *, after_s: float, took_s: float = 0.001) -> float:
        """The next cell; returns how long its capture waits."""
        if self.cells and after_s >= self.burst.wait_s(self.now_s):
            self.capture()
        self.now_s += after_s
        self.burst.begins(self.now_s)
        self.now_s += took_s
        self.burst.ended(self.now_s, took_s)
        self.cells += 1
        wait_s = self.burst.wait_s(self.now_s)
        if wait_s == 0.0:
            self.capture()
        return wait_s

    def capture(self) -> None:
        self.captures.append(self.cells)
        self.cells = 0
        self.burst.captured(self.now_s)


def test_cells_of_a_person_and_the_first_ones_in_a_row_have_their_own() -> None:
    session = Session()
    for _ in range(20):
        session.cell(after_s=0.1)
    assert session.captures == [1] * 20
    session = Session()
    for _ in range(MOST_ALONE):
        assert session.cell(after_s=0.001) == 0.0
    assert session.captures == [1] * MOST_ALONE
    assert session.cell(after_s=0.001) > 0.0


def test_many_in_a_row_share_and_never_for_longer_than_the_bound() -> None:
    session = Session()
    for _ in range(3000):
        session.cell(after_s=0.002, took_s=0.0001)
    shared = session.captures[MOST_ALONE:]
    assert shared and all(count * 0.0021 <= MOST_LATE_S + 0.01 for count in shared)
    assert min(shared) > 100


def test_what_would_have_to_be_computed_again_is_bounded() -> None:
    session = Session()
    for _ in range(200):
        session.cell(after_s=0.001, took_s=0.03)
    assert max(session.captures) * 0.03 <= MOST_COST_S + 0.03
    session = Session()
    for _ in range(20):
        session.cell(after_s=0.001, took_s=2 * MOST_COST_S)
    assert session.captures == [1] * 20


def test_pause_ends_the_row() -> None:
    session = Session()
    for _ in range(MOST_ALONE + 3):
        session.cell(after_s=0.001)
    assert session.cells == 3
    assert session.cell(after_s=0.06) == 0.0
    assert session.captures[MOST_ALONE:] == [3, 1]


def test_none_share_when_it_is_turned_off() -> None:
    session = Session(together_s=0.0)
    for _ in range(50):
        session.cell(after_s=0.0)
    assert session.captures == [1] * 50
