"""Every case of the matrix, captured in one process, restored in another: right or reported, never silently wrong."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from tests.state.cases import Case, load_cases
from tests.state.fresh import Processes

CASES = load_cases()
#: How many of the cases a saver must get wrong that pickles name by name; the checks would see nothing otherwise.
FOUND_OUT = 0.6


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    with Processes() as both:
        yield both


def each(cases: list[Case]) -> pytest.MarkDecorator:
    marked = [
        pytest.param(
            case,
            id=case.id,
            marks=[
                pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")
                for name in case.needs
            ],
        )
        for case in cases
    ]
    return pytest.mark.parametrize("case", marked)


@each(CASES)
def test_case_restored_in_a_fresh_process_is_right_or_reported(case: Case, processes: Processes) -> None:
    verdict = processes.run("ours", case)
    assert verdict.outcome in case.allowed, verdict.detail


@each([case for case in CASES if len(case.setup) > 1])
def test_case_captured_after_each_cell_is_right_or_reported(case: Case, processes: Processes) -> None:
    verdict = processes.run("ours, each cell", case)
    assert verdict.outcome in case.allowed, verdict.detail


@each(CASES)
def test_case_that_nothing_happened_to_passes_its_own_check(case: Case, processes: Processes) -> None:
    verdict = processes.run("twin", case)
    assert verdict.outcome == "exact", verdict.detail


def test_checks_find_out_a_naive_saver(processes: Processes) -> None:
    installed = [case for case in CASES if all(importlib.util.find_spec(name) for name in case.needs)]
    outcomes = [processes.run("naive", case).outcome for case in installed]
    assert sum(outcome in ("wrong", "gone", "hung") for outcome in outcomes) > FOUND_OUT * len(outcomes), outcomes
