"""The comparison of two runs: it must see what a user would, and nothing else."""

from __future__ import annotations

import copy
from typing import Any

import nbformat
import pytest

from tests.jupyter.compare import assert_same, differences, normalise

MODEL_A, MODEL_B = "0" * 31 + "a", "0" * 31 + "b"


def stream(text: str, name: str = "stdout") -> Any:
    return nbformat.v4.new_output("stream", name=name, text=text)


def result(text: str, count: int = 1) -> Any:
    return nbformat.v4.new_output("execute_result", data={"text/plain": text}, execution_count=count)


def shown(data: dict[str, Any]) -> Any:
    return nbformat.v4.new_output("display_data", data=data)


def notebook(*outputs: Any, **metadata: Any) -> Any:
    cell = nbformat.v4.new_code_cell("code", outputs=list(outputs), execution_count=1)
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("title"), cell], metadata=metadata)


LINES = "".join(f"line {n}\n" for n in range(100))


def test_same_run_has_no_differences() -> None:
    run = notebook(stream(LINES), result("42"), shown({"image/png": "aGVsbG8="}))
    assert differences(run, copy.deepcopy(run)) == []
    assert_same(run, copy.deepcopy(run))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        pytest.param(LINES.replace("line 50\n", ""), "line 51", id="lost"),
        pytest.param(LINES.replace("line 50\n", "line 50\nline 50\n"), "line 52", id="doubled"),
        pytest.param(LINES.replace("line 50\nline 51\n", "line 51\nline 50\n"), "line 51", id="reordered"),
        pytest.param(LINES.removesuffix("line 99\n"), "line 100", id="last-lost"),
        pytest.param(LINES + "line 99\n", "line 101", id="last-doubled"),
        pytest.param(LINES.removesuffix("\n"), "", id="last-line-end-lost"),
        pytest.param(LINES.replace("line 50", "lime 50"), "line 51", id="changed"),
    ],
)
def test_stream_that_differs_is_found_with_its_line(change: str, place: str) -> None:
    (found,) = differences(notebook(stream(LINES)), notebook(stream(change)))
    assert found.where.startswith("cell 1, output 0")
    assert place in found.where
    with pytest.raises(AssertionError, match="cell 1, output 0"):
        assert_same(notebook(stream(LINES)), notebook(stream(change)))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param([stream("a\n"), result("43")], id="changed-result"),
        pytest.param([stream("a\n")], id="missing-result"),
        pytest.param([result("42")], id="missing-stream"),
        pytest.param([], id="missing-all"),
        pytest.param([stream("a\n"), result("42"), result("42")], id="doubled-result"),
        pytest.param([result("42"), stream("a\n")], id="reordered"),
        pytest.param([stream("a\n", "stderr"), result("42")], id="other-stream"),
        pytest.param([stream("a\n"), result("42", count=2)], id="other-execution-count"),
        pytest.param([stream("a\n"), shown({"text/plain": "42"})], id="other-kind"),
    ],
)
def test_outputs_that_differ_are_found(other: list[Any]) -> None:
    run = notebook(stream("a\n"), result("42"))
    assert differences(run, notebook(*other))
    assert differences(notebook(*other), run)


def test_missing_mime_type_is_found() -> None:
    both = shown({"text/plain": "x", "text/html": "<b>x</b>"})
    assert differences(notebook(both), notebook(shown({"text/plain": "x"})))


def test_changed_image_byte_is_found() -> None:
    a, b = (notebook(shown({"image/png": data})) for data in ("aGVsbG8=", "aGVsbG9="))
    assert differences(a, b)


def test_image_broken_into_lines_is_the_same_image() -> None:
    a, b = (notebook(shown({"image/png": data})) for data in ("aGVsbG8=", "aGVs\nbG8=\n"))
    assert differences(a, b) == []


def test_lost_cell_is_found() -> None:
    run = notebook(result("42"))
    longer = copy.deepcopy(run)
    longer.cells.append(nbformat.v4.new_code_cell("more"))
    assert differences(longer, run)


def test_cell_that_did_not_run_is_found() -> None:
    run = notebook()
    other = copy.deepcopy(run)
    other.cells[1].execution_count = None
    assert differences(run, other)


def test_prompts_that_differ_are_found() -> None:
    assert differences(notebook(prompts=["Name? "]), notebook(prompts=["Name? ", "Name? "]))
    assert differences(notebook(prompts=["Name? "]), notebook())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("<object object at 0x7f5c1c0d5a90>", "<object object at 0x7f88aa3b1c40>"),
        ("/tmp/ipykernel_41/123456.py:1: UserWarning", "/tmp/ipykernel_7777/98.py:1: UserWarning"),
        ("/tmp/tmpab12_x9z/made.txt", "/var/tmp/tmpzz99yy88/made.txt"),
        ("id 6f1ed002-ab5c-4a0d-9c0e-2f3b1c5d7e9f", "id 00000000-1111-4222-8333-444444444444"),
        ("Wall time: 1.2 ms", "Wall time: 33 s"),
        (
            "sq:  40%|####      | 2/5 [00:00<00:00, 1234.56it/s]",
            "sq:  40%|###       | 2/5 [00:01<00:02,  3.41it/s]",
        ),
        ("39.3 ns ± 1.2 ns per loop (mean)", "1.31 μs ± 912 ns per loop (mean)"),
    ],
)
def test_chance_in_text_is_not_a_difference(one: str, other: str) -> None:
    assert differences(notebook(stream(one)), notebook(stream(other))) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("5d41402abc4b2a76b9719d911017c592", "7d793037a0760186574b0282f2f435e7"),  # digests
        ("0xff", "0xfe"),
        ("sq:  40%|####      | 2/5 [00:00<00:00, 9it/s]", "sq:  60%|#| 3/5 [00:00<00:00, 9it/s]"),
        ("/tmp/tmpab12_x9z/made.txt", "/tmp/tmpab12_x9z/other.txt"),
        ("1.5 s per loop", "2.5 s per loop of another kind"),
        ("trailing ", "trailing"),
        ("a\rb", "b"),
    ],
)
def test_what_looks_like_chance_but_is_not_is_found(one: str, other: str) -> None:
    assert differences(notebook(stream(one)), notebook(stream(other)))


def test_ids_that_changed_places_are_found() -> None:
    first, second = "6f1ed002-ab5c-4a0d-9c0e-2f3b1c5d7e9f", "00000000-1111-4222-8333-444444444444"
    run = notebook(stream(f"{first} {second} {first}"))
    assert differences(run, notebook(stream(f"{second} {first} {second}"))) == []
    assert differences(run, notebook(stream(f"{first} {second} {second}")))


def test_stream_cut_elsewhere_is_the_same() -> None:
    a = notebook(stream("one\ntwo\n"), stream("three\n"), result("42"))
    b = notebook(stream("one\nt"), stream("wo\nthree\n"), result("42"))
    assert differences(a, b) == []


def test_interleaving_of_two_streams_is_the_same_but_not_across_a_result() -> None:
    a = notebook(stream("o1"), stream("e1", "stderr"), stream("o2"), result("42"))
    b = notebook(stream("e1", "stderr"), stream("o1o2"), result("42"))
    assert differences(a, b) == []
    assert differences(a, notebook(stream("o1"), stream("e1", "stderr"), result("42"), stream("o2")))


def widgets(model: str, value: int) -> dict[str, Any]:
    state = {model: {"model_name": "IntSliderModel", "state": {"value": value, "layout": model}}}
    return {"application/vnd.jupyter.widget-state+json": {"state": state}}


def test_widget_ids_are_chance_and_widget_values_are_not() -> None:
    def view(model: str) -> Any:
        return shown({"application/vnd.jupyter.widget-view+json": {"model_id": model}})

    a = notebook(view(MODEL_A), widgets=widgets(MODEL_A, 3))
    assert differences(a, notebook(view(MODEL_B), widgets=widgets(MODEL_B, 3))) == []
    (found,) = differences(a, notebook(view(MODEL_B), widgets=widgets(MODEL_B, 4)))
    assert found.where.startswith("widgets")
    assert differences(a, notebook(view(MODEL_A), widgets=widgets(MODEL_B, 3)))


def test_errors_compare_by_name_value_and_traceback() -> None:
    def error(**changed: Any) -> Any:
        fields = {"ename": "E", "evalue": "v", "traceback": ["in ipykernel_1/2.py", "v"], **changed}
        return notebook(nbformat.v4.new_output("error", **fields))

    assert differences(error(), error(traceback=["in ipykernel_9/2.py", "v"])) == []
    for changed in ({"ename": "F"}, {"evalue": "w"}, {"traceback": ["in ipykernel_1/2.py"]}):
        assert differences(error(), error(**changed))


def test_normalise_leaves_the_notebook_alone() -> None:
    run = notebook(stream("a"), stream("b"), result("<object at 0x7f5c1c0d5a90>"))
    before = copy.deepcopy(run)
    normalise(run)
    assert run == before


def test_megabytes_compare_in_reasonable_time() -> None:
    long = notebook(stream("x" * 5_000_000), shown({"text/html": "1 " * 1_000_000}))
    assert differences(long, copy.deepcopy(long)) == []
