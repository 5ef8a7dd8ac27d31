"""Variables that could not be stored: which cells make them again, and that nothing else is changed by it."""

from __future__ import annotations

import builtins
import copy
import itertools
import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jupyter_gpuaas.state.names import analyse
from jupyter_gpuaas.state.replay import (
    CellRecord,
    Recipe,
    Refusal,
    ReplayFailed,
    definitions,
    effects,
    plan,
    recipe,
    replay,
)


def record(
    number: int,
    source: str,
    *,
    writes: str = "",
    seconds: float = 1.0,
    before: Sequence[str] = (),
    types: Mapping[str, str] | None = None,
) -> CellRecord:
    """A cell that binds what it binds; ``writes`` names what else it changed, ``before`` are the cells before it."""
    names = analyse(source)
    changed = tuple(sorted({*names.assigns, *names.deletes, *writes.split()}))
    return CellRecord(
        number,
        source,
        tuple(sorted(names.reads)),
        changed,
        seconds,
        effects(source, known=definitions(before), types=types),
    )


def session(*cells: str | tuple[str, str]) -> list[CellRecord]:
    """Cells, each with what it changed in place if anything."""
    pairs = [cell if isinstance(cell, tuple) else (cell, "") for cell in cells]
    sources = [source for source, _ in pairs]
    return [
        record(number, source, writes=writes, before=sources[: number - 1])
        for number, (source, writes) in enumerate(pairs, 1)
    ]


def numbers(found: Recipe | Refusal) -> list[int]:
    assert isinstance(found, Recipe), found
    return [step.cell.number for step in found.steps]


def run(cells: Sequence[CellRecord]) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins.__dict__}
    for cell in cells:
        exec(cell.source, namespace)
    return namespace


def copies(names: Collection[str], namespace: Mapping[str, Any]) -> dict[str, Any]:
    return {name: copy.deepcopy(namespace[name]) for name in names}


SQUARES = "def squares(items):\n    for item in items:\n        yield item * item"


# -- recipes -----------------------------------------------------------------------------------------


def test_recipe_of_a_generator_runs_its_cell_from_what_is_stored() -> None:
    cells = session("items = [1, 2, 3]", SQUARES, ("it = squares(items)", "items"))
    found = recipe({"it", "items"}, cells, {"squares": 10})
    assert numbers(found) == [1, 3]
    assert isinstance(found, Recipe) and found.inputs == ("squares",)
    assert found.seconds == 2.0


def test_recipe_of_a_half_consumed_generator_runs_what_consumed_it() -> None:
    cells = session("it = iter_made = (n for n in range(9))", "a = 1", ("b = next(it)", "it"), ("c = next(it)", "it"))
    assert numbers(recipe({"it"}, cells, {"a": 1, "b": 1, "c": 1})) == [1, 3, 4]


def test_recipe_uses_no_version_that_was_overwritten_later() -> None:
    cells = session("n = 1", "it = (n for _ in range(n))", "n = 2", "other = n")
    assert numbers(recipe({"it"}, cells, {"n": 1, "other": 1})) == [1, 2]
    assert numbers(recipe({"it"}, cells[:2], {"n": 1})) == [2]


def test_recipe_binds_each_version_before_the_cell_that_had_it() -> None:
    cells = session("r = 1", "a = (r for _ in range(3))", "r = 2", "b = (r for _ in range(9))\nold = a")
    found = recipe({"a", "b", "old"}, cells, {"r": 1})
    assert numbers(found) == [1, 2, 4]
    assert isinstance(found, Recipe)
    assert [step.inputs for step in found.steps] == [(), (), ("r",)]


def test_recipe_counts_a_change_in_place_as_a_version() -> None:
    cells = session("x = [1]", "it = iter_of = (n for n in tuple(x))", ("x.append(2)", "x"))
    assert numbers(recipe({"it"}, cells, {"x": 8}, allowed=True)) == [1, 2]


def test_recipe_of_what_was_changed_by_another_name_runs_what_made_it() -> None:
    cells = session("a = [1]", "c = [a]", ("a[0] = 5", "c"))
    assert numbers(recipe({"a", "c"}, cells, {}, allowed=True)) == [1, 2, 3]


def test_recipe_of_a_long_session_is_found_at_once() -> None:
    cells = [record(0, "it = (n for n in range(9))"), *(CellRecord(n, "", ("it",), ("it",), 0) for n in range(1, 5000))]
    assert len(numbers(recipe({"it"}, cells, {}))) == 5000


def test_recipe_of_a_name_that_was_deleted_in_between_makes_it_again() -> None:
    cells = session("t = 3", "it = (n for n in range(t))", "del t")
    assert numbers(recipe({"it"}, cells, {})) == [1, 2]


def test_recipe_needs_no_names_that_a_cell_binds_after_its_functions_mention_them() -> None:
    cells = session("def f():\n    return width\nwidth = 3\nit = (n for n in range(f()))")
    assert numbers(recipe({"it"}, cells, {"width": 1, "f": 1})) == [1]


def test_recipe_of_a_name_that_no_cell_made_is_refused() -> None:
    assert recipe({"it"}, [], {}) == Refusal("it no recorded cell made")
    cells = [record(1, "it = (n for n in x)"), record(2, "x = 5")]
    assert recipe({"it"}, cells, {"x": 1}) == Refusal("cell 1 needs x, which no recorded cell made")
    before = [record(1, "x = x + 1\nit = iter(x)", writes="")]
    assert isinstance(recipe({"it"}, before, {"x": 1}), Recipe)  # Not there before, or it would be recorded.
    came = CellRecord(0, "", (), ("x",), 0.0, ("came with %%remote_gpu",))
    refused = recipe({"it"}, [came, *before], {"x": 1})
    assert refused == Refusal("x came with %%remote_gpu, so that it has no cells that made it")


def test_recipe_with_effects_is_refused_and_names_the_cells() -> None:
    cells = session("t = open('log', 'w')", "import random\nn = random.random()", "it = (t for _ in range(int(n)))")
    found = recipe({"it"}, cells, {})
    assert found == Refusal(
        "it could be computed again, but cell 1 had effects: writes files; "
        "cell 2 had effects: random without known state",
        (1, 2),
    )
    assert numbers(recipe({"it"}, cells, {}, allowed=True)) == [1, 2, 3]
    assert numbers(recipe({"it"}, cells, {"t": 1, "n": 1})) == [3]


def test_recipe_leaves_cells_with_effects_alone_that_it_does_not_need() -> None:
    cells = session("open('log', 'w')", "it = (n for n in range(3))", "open('log', 'w')")
    assert numbers(recipe({"it"}, cells, {})) == [2]


def test_recipe_of_records_with_one_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="one number"):
        recipe({"x"}, [record(1, "x = 1"), record(1, "x = 2")], {})


# -- replay ------------------------------------------------------------------------------------------


def again(cells: list[CellRecord], lost: set[str], *, allowed: bool = False) -> dict[str, Any]:
    """A namespace that was restored without some names, and then had them made again."""
    namespace = run(cells)
    for name in lost:
        namespace.pop(name, None)
    stored = {name: 1 for name in namespace if not name.startswith("__")}
    found = recipe(lost, cells, stored, allowed=allowed)
    assert isinstance(found, Recipe), found
    replay(found, namespace, copies, allowed=allowed)
    return namespace


def test_replay_gives_a_generator_at_its_position_and_changes_nothing_else() -> None:
    cells = session(
        "items = [1, 2, 3, 4]\ntotal = 0",
        SQUARES,
        "it = squares(tuple(items))",
        ("total = total + next(it)", "it"),
        ("total = total + next(it)", "it"),
    )
    namespace = run(cells)
    before = dict(namespace)
    del namespace["it"]
    stored = {name: 1 for name in namespace if not name.startswith("__")}
    found = recipe({"it"}, cells, stored)
    assert isinstance(found, Recipe)
    replay(found, namespace, copies)
    assert list(namespace["it"]) == [9, 16]
    assert namespace["total"] == 5
    assert all(namespace[name] is before[name] for name in before if name != "it")


def test_replay_leaves_functions_with_the_globals_of_the_namespace() -> None:
    namespace = again(session("rate = 2", "it = (rate * n for n in range(3))\ndef f():\n    return rate"), {"it", "f"})
    namespace["rate"] = 10
    assert list(namespace["it"]) == [0, 10, 20]
    assert namespace["f"]() == 10
    assert namespace["f"].__globals__ is namespace


def test_replay_of_the_stored_inputs_changes_only_copies() -> None:
    define = "def f(a):\n    a[0] += 1\n    return (n for n in tuple(a))"
    cells = session("x = [1]", define, ("it = f(x)", "x"), "y = x")
    namespace = again(cells, {"it"})
    assert namespace["x"] == [2] and namespace["y"] is namespace["x"]
    assert list(namespace["it"]) == [2]
    loaded = again(session("x = [1]", define, "it = f(x)"), {"it"})
    assert loaded["x"] == [2]  # The record did not say that the cell changed it; what ran again had a copy.


def test_replay_leaves_random_states_as_they_were() -> None:
    cells = session("import random", "random.seed(5)\nit = (n for n in [random.random()])")
    seeded = recipe({"it"}, [cells[0], record(2, cells[1].source)], {"random": 1})
    assert isinstance(seeded, Refusal)  # What `random` stands for is not known here; with types it is.
    random.seed(1)
    state = random.getstate()
    namespace = {"__builtins__": builtins.__dict__, "random": random}
    found = recipe({"it"}, cells, {"random": 1}, allowed=True)
    assert isinstance(found, Recipe)
    replay(found, namespace, lambda names, _: {name: random for name in names})
    assert random.getstate() == state
    assert list(namespace["it"]) == [random.Random(5).random()]  # type: ignore[call-overload]


def test_replay_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    again_cells = session("print('hello')\nit = (n for n in range(3))")
    namespace: dict[str, Any] = {}
    found = recipe({"it"}, again_cells, {})
    assert isinstance(found, Recipe)
    replay(found, namespace, copies)
    assert capsys.readouterr().out == ""
    assert list(namespace["it"]) == [0, 1, 2]


def failing(source: str, message: str, *, allowed: bool = False) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "__main__", "keep": 1, "C": int}
    cell = CellRecord(7, source, (), ("it",), 1.0)
    found = recipe({"it"}, [cell], {})
    assert isinstance(found, Recipe)
    with pytest.raises(ReplayFailed, match=message):
        replay(found, namespace, copies, allowed=allowed)
    assert namespace == {"__name__": "__main__", "keep": 1, "C": int}
    return namespace


def test_replay_that_fails_says_why_and_changes_nothing(tmp_path: Path) -> None:
    failing("it = 1 / 0", "cell 7, run again, raised ZeroDivisionError: division by zero")
    failing("other = 1", "did not make it")
    failing("it = (", "cell 7 cannot run again")
    path = tmp_path / "written"
    failing(f"it = open({str(path)!r}, 'w')", "was about to have an effect: writes files")
    failing(f"try:\n    open({str(path)!r}, 'w')\nexcept BaseException:\n    it = 1", "was about to have an effect")
    assert not path.exists()
    namespace: dict[str, Any] = {}
    found = recipe({"it"}, [CellRecord(1, f"it = open({str(path)!r}, 'w')", (), ("it",), 1.0)], {})
    assert isinstance(found, Recipe)
    replay(found, namespace, copies, allowed=True)
    namespace["it"].close()
    assert path.exists()


def test_replay_that_would_double_a_class_is_refused() -> None:
    source = "class C: pass\nclass D:\n    c = C()\nit = [D()]"
    cell = CellRecord(1, source, (), ("C", "D", "it"), 1.0)
    namespace = run([cell])
    del namespace["it"]
    before = dict(namespace)
    found = recipe({"it"}, [cell], {"C": 1, "D": 1})
    assert isinstance(found, Recipe) and found.remade == ("C", "D")
    with pytest.raises(ReplayFailed, match=r"would have its own copy of [CD], not the [CD] of the notebook"):
        replay(found, namespace, copies)
    assert namespace == before
    together = recipe({"it", "C", "D"}, [cell], {})
    assert isinstance(together, Recipe)
    replay(together, namespace, copies)
    assert isinstance(namespace["it"][0], namespace["D"])


# -- the plan ----------------------------------------------------------------------------------------


def test_plan_recomputes_nothing_that_can_be_stored() -> None:
    cells = session("x = [0] * 10**6", "it = (n for n in range(3))")
    found = plan({"x": 8_000_000, "it": None}, cells, bytes_per_s=1e3)
    assert (found.copy, found.recompute, found.lost) == (("x",), ("it",), ())
    assert found.cells == (2,)
    assert found.seconds == 8001.0


def test_plan_computes_again_what_is_cheaper_if_it_may() -> None:
    cells = [record(1, "x = [0] * 10**6", seconds=1), record(2, "y = [1] * 10", seconds=50)]
    sizes = {"x": 8_000_000, "y": 80}
    found = plan(sizes, cells, bytes_per_s=1e6, recompute=True)
    assert (found.copy, found.recompute, found.seconds) == (("y",), ("x",), 1 + 80e-6)
    assert plan(sizes, cells, bytes_per_s=1e9, recompute=True).recompute == ()


def test_plan_pays_once_for_a_cell_that_makes_two_variables() -> None:
    cells = [record(1, "x = [0] * 9\ny = [1] * 9", seconds=3)]
    found = plan({"x": 2_000_000, "y": 2_000_000}, cells, bytes_per_s=1e6, recompute=True)
    assert found.recompute == ("x", "y")
    assert found.seconds == 3


def test_plan_keeps_co_variables_together() -> None:
    cells = [record(1, "x = [0] * 9", seconds=1), record(2, "y = x", seconds=100)]
    sizes = {"x": 10_000_000, "y": 0}
    assert plan(sizes, cells, bytes_per_s=1e6, recompute=True).recompute == ("x",)
    assert plan(sizes, cells, bytes_per_s=1e6, recompute=True, groups=[{"x", "y"}]).recompute == ()


def test_plan_of_what_cannot_be_had_says_so() -> None:
    cells = session("it = open('x', 'w')", "other = (n for n in it)")
    found = plan({"it": None, "other": None, "y": 5}, cells, bytes_per_s=1.0)
    assert (found.copy, found.lost) == (("y",), ("it", "other"))
    assert plan({"it": None, "other": None}, cells, bytes_per_s=1.0, allowed=True).cells == (1, 2)


sizes_and_times = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(sizes_and_times, st.lists(st.integers(0, 5), min_size=6, max_size=6))
def test_plan_is_as_cheap_as_the_best_of_all_choices(variables: list[tuple[int, int]], parents: list[int]) -> None:
    cells = []
    for number, (_, seconds) in enumerate(variables):
        parent = parents[number]
        cells.append(record(number, f"v{number} = [{f'v{parent}' if parent < number else ''}]", seconds=seconds))
    # A cell of its own for each: the cost of a choice is a sum.
    found = plan({f"v{n}": size for n, (size, _) in enumerate(variables)}, cells, bytes_per_s=1.0, recompute=True)
    best = sum(min(size, seconds) for size, seconds in variables)
    assert found.seconds == best
    choices = itertools.product((0, 1), repeat=len(variables))
    assert best == min(sum(pair[side] for pair, side in zip(variables, choice, strict=True)) for choice in choices)


# -- random sessions, really run ------------------------------------------------------------------------

NAMES = ["a", "b", "c", "d"]
names = st.sampled_from(NAMES)
random_cells = st.one_of(
    st.tuples(names, st.integers(0, 9)).map(lambda pair: (f"{pair[0]} = {pair[1]}", "")),
    st.tuples(names, names).map(lambda pair: (f"{pair[0]} = [{pair[1]}]", "")),
    st.tuples(names, names).map(lambda pair: (f"{pair[0]} = ({pair[1]}, 1)", "")),
    names.map(lambda name: (f"if isinstance({name}, list): {name}[0] = 5", "")),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(random_cells, max_size=10), names)
def test_replay_of_random_sessions_makes_what_was_there(sources: list[tuple[str, str]], lost: str) -> None:
    cells = [record(0, "a = 1\nb = [2]\nc = (3,)\nd = 4")]
    namespace = run(cells)
    for number, (source, _) in enumerate(sources, 1):
        before = {name: repr(namespace[name]) for name in NAMES}
        types = {name: f"builtins.{type(namespace[name]).__name__}" for name in NAMES}
        exec(source, namespace)
        changed = [name for name in NAMES if repr(namespace[name]) != before[name]]
        cells.append(record(number, source, writes=" ".join(changed), types=types))
    group = _group(namespace, lost)
    wanted = {name: repr(namespace[name]) for name in NAMES}
    remaining = {name: value for name, value in namespace.items() if name not in group}
    kept = dict(remaining)
    found = recipe(group, cells, {name: 1 for name in NAMES if name not in group})
    assert isinstance(found, Recipe), found
    try:
        replay(found, remaining, copies)
    except ReplayFailed as failed:
        # What cells did with parts is known of names only, so it may refuse what has no part in common.
        assert "its own copy of" in str(failed)
        assert remaining == kept
        return
    assert {name: repr(remaining[name]) for name in NAMES} == wanted
    assert all(remaining[name] is kept[name] for name in kept)


def _group(namespace: Mapping[str, Any], lost: str) -> set[str]:
    """Names that share a list or a tuple with it."""

    def parts(value: object) -> set[int]:
        if not isinstance(value, (list, tuple)):
            return set()
        return {id(value)}.union(*(parts(item) for item in value))

    group = {lost}
    for _ in NAMES:
        group |= {name for name in NAMES for own in group if parts(namespace[name]) & parts(namespace[own])}
    return group
