"""Every case of the matrix, captured in one process, restored in another: right or reported, never silently wrong."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.state.cases import Case, load_cases
from tests.state.fresh import Processes, Verdict

CASES = load_cases()
#: How many of the cases a saver must get wrong that pickles name by name; the checks would see nothing otherwise.
FOUND_OUT = 0.6
#: Every how many-th case it is shown.
OF_NAIVE = 3
#: Cases under way at a time: one is saved while another is restored.
AT_A_TIME = 2

Verdicts = Callable[[str, Case], Future[Verdict]]


@pytest.fixture(scope="module")
def verdicts(request: pytest.FixtureRequest) -> Iterator[Verdicts]:
    """The verdict of a system on a case; those that the chosen tests will ask for are under way before they do."""
    with Processes() as both, ThreadPoolExecutor(AT_A_TIME) as pool:
        found: dict[tuple[str, str], Future[Verdict]] = {}

        def verdict(system: str, case: Case) -> Future[Verdict]:
            key = system, case.id
            if key not in found:
                found[key] = pool.submit(both.run, system, case)
            return found[key]

        for item in request.session.items:
            asks = getattr(item, "callspec", None)
            skipped = any(mark.args[0] for mark in item.iter_markers("skipif"))
            if item.path == request.path and asks is not None and not skipped:
                verdict(asks.params["system"], asks.params["case"])
        yield verdict
        pool.shutdown(cancel_futures=True)


def each(system: str, cases: list[Case]) -> pytest.MarkDecorator:
    marked = [
        pytest.param(
            system,
            case,
            id=case.id,
            marks=[pytest.mark.skipif(not _is_there(name), reason=f"{name} is not installed") for name in case.needs],
        )
        for case in cases
    ]
    return pytest.mark.parametrize(("system", "case"), marked)


def _is_there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@each("ours", CASES)
def test_case_restored_in_a_fresh_process_is_right_or_reported(system: str, case: Case, verdicts: Verdicts) -> None:
    verdict = verdicts(system, case).result()
    assert verdict.outcome in case.allowed, verdict.detail


@each("ours, each cell", [case for case in CASES if len(case.setup) > 1])
def test_case_captured_after_each_cell_is_right_or_reported(system: str, case: Case, verdicts: Verdicts) -> None:
    verdict = verdicts(system, case).result()
    assert verdict.outcome in case.allowed, verdict.detail


@each("twin", CASES)
def test_case_that_nothing_happened_to_passes_its_own_check(system: str, case: Case, verdicts: Verdicts) -> None:
    verdict = verdicts(system, case).result()
    assert verdict.outcome == "exact", verdict.detail


def test_checks_find_out_a_naive_saver(verdicts: Verdicts) -> None:
    shown = [case for case in CASES[::OF_NAIVE] if all(map(_is_there, case.needs))]
    under_way = [verdicts("naive", case) for case in shown]
    outcomes = [one.result().outcome for one in under_way]
    assert sum(outcome in ("wrong", "gone", "hung") for outcome in outcomes) > FOUND_OUT * len(outcomes), outcomes
