"""The table of a migration, and the rule that ends its pre-copy."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from jupyter_gpuaas.errors import InvalidTransition
from jupyter_gpuaas.lifecycle.migration import (
    ENDED,
    LIKELY_BYTES_S,
    MOST_ROUNDS,
    REVERSIBLE,
    SLOWER,
    SLOWEST_BYTES_S,
    STILL_S,
    TABLE,
    Asked,
    MigrationEvent,
    Pass,
    diagram,
    patience_s,
    settled,
    step,
    way,
    without_image,
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
    (P.PRE_COPY, E.FOUND_BUSY): P.RESERVE,
    (P.QUIESCE, E.FOUND_BUSY): P.RESERVE,
    (P.STOP_COPY, E.COPIED): P.RESTORE,
    (P.RESTORE, E.RESTORED): P.VERIFY,
    (P.VERIFY, E.VERIFIED): P.CUTOVER,
    (P.CUTOVER, E.LIVE): P.DONE,
    **{(phase, E.FELL_BACK): P.RESERVE for phase in (P.RESERVE, P.PRE_COPY, P.QUIESCE, P.STOP_COPY, P.RESTORE)},
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


@pytest.mark.parametrize("between_cells", [True, False])
@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("accept_loss", [True, False])
@pytest.mark.parametrize("busy", [True, False])
@pytest.mark.parametrize("lost", [(), ("t",)])
@pytest.mark.parametrize("no_image", ["", "no CRIU"])
@pytest.mark.parametrize("via", ["auto", "portable", "image"])
def test_way_every_cell(
    via: Via, no_image: str, lost: tuple[str, ...], busy: bool, accept_loss: bool, wait: bool, between_cells: bool
) -> None:
    asked = Asked(
        via=via,
        wait=wait,
        accept_loss=accept_loss,
        busy=busy,
        lost=lost,
        no_image=no_image,
        between_cells=between_cells,
    )
    found, why_not = way(asked)
    # The variables alone do, unless a cell is not to be waited for, or a name is lost that nobody gave up.
    alone = "cell runs" if busy and not wait else "t would be lost" if lost and not accept_loss else ""
    table = {
        ("image", ""): ("image", ""),
        ("image", "no CRIU"): ("image", "no CRIU"),
        ("portable", ""): ("portable", alone),
        ("portable", "no CRIU"): ("portable", alone),
        # Where something would be missing after it, or held up before it, the process goes along if it can.
        ("auto", ""): ("image", "") if (busy and not between_cells) or lost else ("portable", alone),
        ("auto", "no CRIU"): ("portable", alone),
    }
    expected, reason = table[via, no_image]
    assert found == expected
    assert (reason in why_not) if reason else why_not == ""
    # What was tried as an image goes without on the same terms.
    assert (without_image(asked) == "") is (alone == "")


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
    assert patience_s([Pass(10**8, 100.0)], 10**9) == STILL_S + SLOWER * 10**9 / SLOWEST_BYTES_S
    # Packages were imported, and memory was taken: that is no measure of the link.
    assert patience_s([Pass(100, 5.0)], 10**9) == STILL_S + SLOWER * 10**9 / LIKELY_BYTES_S
