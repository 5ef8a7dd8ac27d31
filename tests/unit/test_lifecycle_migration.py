"""The table of a migration, and the rule that ends its pre-copy."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from jupyter_gpuaas.errors import InvalidTransition
from jupyter_gpuaas.lifecycle.migration import (
    ENDED,
    MOST_ROUNDS,
    REVERSIBLE,
    SLOWER,
    SLOWEST_BYTES_S,
    STILL_S,
    TABLE,
    MigrationEvent,
    Pass,
    diagram,
    patience_s,
    settled,
    step,
    way,
)
from jupyter_gpuaas.lifecycle.session import diagram as session_diagram
from jupyter_gpuaas.model import Phase, Via

P, E = Phase, MigrationEvent

# Written out once more, on purpose: a change of the table must be made twice to pass.
FORWARD = {
    (P.RESERVE, E.RESERVED): P.PRE_COPY,
    (P.PRE_COPY, E.SETTLED): P.QUIESCE,
    (P.QUIESCE, E.QUIET): P.STOP_COPY,
    (P.QUIESCE, E.STILL_BUSY): P.PRE_COPY,
    (P.STOP_COPY, E.COPIED): P.RESTORE,
    (P.RESTORE, E.RESTORED): P.VERIFY,
    (P.VERIFY, E.VERIFIED): P.CUTOVER,
    (P.CUTOVER, E.LIVE): P.DONE,
}
BEFORE = (P.RESERVE, P.PRE_COPY, P.QUIESCE, P.STOP_COPY, P.RESTORE, P.VERIFY)


@pytest.mark.parametrize(
    ("phase", "event"), [pytest.param(*cell, id=f"{cell[0]}-{cell[1]}") for cell in itertools.product(P, E)]
)
def test_step_every_cell_leads_where_the_table_says_or_is_refused(phase: P, event: E) -> None:
    back = {E.FAILED: P.FAILED, E.CANCELLED: P.CANCELLED}
    expected = FORWARD.get((phase, event)) or (back.get(event) if phase in BEFORE else None)
    if expected is not None:
        assert step(phase, event) is expected
    else:
        with pytest.raises(InvalidTransition, match=event.value):
            step(phase, event)


def test_there_is_no_way_back_behind_the_cutover_and_ends_are_ends() -> None:
    assert frozenset(BEFORE) == REVERSIBLE
    assert set(TABLE) == set(P)
    assert {P.DONE, P.FAILED, P.CANCELLED} == ENDED


def test_settled_nothing_copied_yet_goes_on() -> None:
    assert settled([], dirty=True) == (False, "")
    assert settled([], dirty=False) == (False, "")


def test_settled_everything_there_stops() -> None:
    ready, why = settled([Pass(10**9, 5.0)], dirty=False)
    assert ready and "newest" in why


def test_settled_short_round_stops() -> None:
    assert settled([Pass(10**9, 5.0), Pass(10**6, 0.04)], dirty=True)[0]


def test_settled_rounds_that_shrink_go_on() -> None:
    assert not settled([Pass(10**9, 5.0)], dirty=True)[0]
    assert not settled([Pass(10**9, 5.0), Pass(10**8, 0.5), Pass(10**7, 0.1)], dirty=True)[0]


def test_settled_rounds_that_do_not_shrink_stop_and_say_so() -> None:
    ready, why = settled([Pass(10**9, 5.0), Pass(5 * 10**8, 2.5), Pass(5 * 10**8, 2.5)], dirty=True)
    assert ready and "500 MB" in why


def test_settled_ends_whatever_the_session_does() -> None:
    shrinking = [Pass(10**12 >> number, 1.0) for number in range(MOST_ROUNDS)]
    assert settled(shrinking, dirty=True)[0]


@pytest.mark.parametrize(
    ("via", "busy", "loses", "images", "expected"),
    [
        ("auto", False, False, True, "portable"),
        ("auto", True, False, True, "image"),
        ("auto", False, True, True, "image"),
        ("auto", True, True, False, "portable"),
        ("portable", True, True, True, "portable"),
        ("image", False, False, True, "image"),
    ],
)
def test_way_is_an_image_where_that_keeps_more(via: Via, busy: bool, loses: bool, images: bool, expected: Via) -> None:
    assert way(via, busy=busy, loses=loses, images=images) == expected


def test_diagram_shows_every_transition() -> None:
    drawn = diagram()
    for source, row in TABLE.items():
        for event, target in row.items():
            line = next(line for line in drawn.splitlines() if f"{source} --> {target}:" in line)
            assert event.value in line


@pytest.mark.parametrize(("page", "drawn"), [("migration.md", diagram()), ("architecture.md", session_diagram())])
def test_documents_show_the_tables_as_they_are(page: str, drawn: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / page).read_text("utf-8")
    assert f"```mermaid\n{drawn}```" in text


def test_patience_goes_by_the_size_and_by_how_fast_copying_was() -> None:
    assert patience_s([], 0) == STILL_S
    assert patience_s([], 10_000_000) == STILL_S + SLOWER * 10_000_000 / SLOWEST_BYTES_S
    fast = [Pass(10**9, 2.0), Pass(10**8, 0.2)]
    assert patience_s(fast, 10**9) == pytest.approx(STILL_S + SLOWER * 2.0)
    # Little was lacking, so that nothing is known of the link.
    assert patience_s([Pass(100, 1.0)], 10**9) == STILL_S + SLOWER * 10**9 / SLOWEST_BYTES_S
