"""Checkpoints with the session's cells: what could not be stored is made again at restore, or is said to be lost."""

from __future__ import annotations

import builtins
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jupyter_gpuaas.state import CellRecord, Checkpoint, Checkpointer, NameLost, RestoreResult
from jupyter_gpuaas.state.cell_log import BLOCK_CELLS, MOST_CELLS, CellLog, unpack
from jupyter_gpuaas.state.effects import definitions, effects
from jupyter_gpuaas.state.names import analyse
from jupyter_gpuaas.store import MemoryStore

KEY = b"a key that nobody else has"
SQUARES = "def squares(items):\n    for item in items:\n        yield item * item"


class Notebook:
    """Cells that are run, recorded and captured."""

    def __init__(self) -> None:
        self.main = ModuleType("__main__")
        self.space: dict[str, Any] = self.main.__dict__
        self.space["__builtins__"] = builtins.__dict__
        self.checkpointer = Checkpointer(MemoryStore(), key=KEY, hidden=False)
        self.cells: list[CellRecord] = []
        self.last: Checkpoint | None = None

    def cell(self, source: str, changes: str = "") -> Checkpoint:
        exec(source, self.space)
        found = analyse(source)
        writes = {*found.assigns, *found.deletes, *changes.split()}
        known = definitions(cell.source for cell in self.cells)
        types = {name: f"module {value.__name__}" for name, value in self.space.items() if inspect.ismodule(value)}
        number = len(self.cells) + 1
        record = CellRecord(
            number, source, tuple(found.reads), tuple(sorted(writes)), 0.5, effects(source, known=known, types=types)
        )
        self.cells.append(record)
        self.last = self.checkpointer.capture(self.space, parent=self.last, cells=self.cells)
        return self.last

    def back(self, **options: Any) -> RestoreResult:
        assert self.last is not None
        return self.checkpointer.restore(self.last, into={"__name__": "__main__"}, **options)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    made = Notebook()
    monkeypatch.setitem(sys.modules, "__main__", made.main)
    yield made


def test_half_consumed_generator_of_user_code_goes_on_where_it_was(notebook: Notebook) -> None:
    notebook.cell(SQUARES)
    notebook.cell("other = [1]")
    notebook.cell("it = squares([1, 2, 3, 4])")
    notebook.cell("first = next(it)", "it")
    taken = notebook.cell("second = next(it)", "it")
    assert taken.report["it"].outcome == "lost"
    result = notebook.back()
    assert result.report["it"].outcome == "replayed"
    assert result.report["it"].note == "made again by running cells 3, 4 and 5"
    assert list(result.namespace["it"]) == [9, 16] == list(notebook.space["it"])
    assert (result.namespace["first"], result.namespace["second"], result.namespace["other"]) == (1, 4, [1])
    assert result.namespace["it"].gi_frame is None and result.namespace["squares"].__globals__ is result.namespace


def test_names_that_share_what_is_made_again_share_it_again(notebook: Notebook) -> None:
    notebook.cell(SQUARES)
    notebook.cell("it = squares([1, 2, 3]); pair = [it]")
    notebook.cell("next(it)", "it pair")
    result = notebook.back()
    assert result.namespace["pair"][0] is result.namespace["it"]
    assert list(result.namespace["it"]) == [4, 9]


def test_name_of_a_cell_that_writes_a_file_stays_lost_until_the_user_says_so(
    notebook: Notebook, tmp_path: Path
) -> None:
    notebook.cell(SQUARES)
    path = tmp_path / "log"
    notebook.cell(f"with open({str(path)!r}, 'a') as log: log.write('x')\nit = squares([0, 1, 2, 3]); next(it)")
    result = notebook.back()
    assert path.read_text() == "x"
    assert result.report["it"].outcome == "lost"
    assert result.report["it"].note.endswith(
        "; can be made again by running cell 2, which writes files: restore with replay='all'"
    )
    with pytest.raises(NameLost, match="replay='all'"):
        next(result.namespace["it"])
    again = notebook.back(replay="all")
    assert path.read_text() == "xx"
    assert list(again.namespace["it"]) == [1, 4, 9]
    assert "made again by running cell 2" in again.report["it"].note
    never = notebook.back(replay="never").report["it"]
    assert never.outcome == "lost" and "again" not in never.note


def test_effect_that_no_record_told_of_is_refused_and_nothing_else_changes(notebook: Notebook, tmp_path: Path) -> None:
    notebook.cell(SQUARES)
    path = tmp_path / "log"
    source = f"with open({str(path)!r}, 'a') as f: f.write('x')\nit = squares([0, 1, 2]); next(it); x = [1]"
    notebook.cell(source)
    notebook.cells[1] = CellRecord(2, source, ("squares",), ("f", "it", "x"), 0.5)
    notebook.cell("y = 2")
    result = notebook.back()
    assert path.read_text() == "x"
    assert result.report["it"].outcome == "lost" and "was about to have an effect" in result.report["it"].note
    assert (result.namespace["x"], result.namespace["y"]) == ([1], 2)


def test_each_cell_runs_again_with_the_version_that_it_had(notebook: Notebook) -> None:
    notebook.cell("rate = 2")
    notebook.cell("it = (k * n for k in [rate] for n in range(4))")
    notebook.cell("rate = 10")
    notebook.cell("next(it)", "it")
    result = notebook.back()
    assert list(result.namespace["it"]) == [2, 4, 6]
    assert result.namespace["rate"] == 10
    assert result.report["it"].note == "made again by running cells 1, 2 and 4"


def test_inputs_are_copies_of_the_checkpoint(notebook: Notebook) -> None:
    notebook.cell("data = [3, 1, 2]")
    notebook.cell("def ordered(items):\n    items.sort()\n    return (n for n in tuple(items))")
    notebook.cell("it = ordered(data)", "")  # the record does not say that it changed them
    notebook.space["data"][:] = [3, 1, 2]
    notebook.cell("z = 1")
    result = notebook.back()
    assert list(result.namespace["it"]) == [1, 2, 3]
    assert result.namespace["data"] == [3, 1, 2]


def test_what_would_go_on_over_a_list_of_its_own_stays_lost(notebook: Notebook) -> None:
    notebook.cell(SQUARES)
    notebook.cell("data = [[1, 2, 3]]")
    notebook.cell("it = squares(data[0]); next(it)")
    result = notebook.back()
    assert result.report["it"].outcome == "lost"
    assert "would have its own copy of data, not the data of the notebook" in result.report["it"].note


def test_what_shares_a_list_with_a_name_that_got_it_later_stays_lost(notebook: Notebook) -> None:
    notebook.cell(SQUARES)
    notebook.cell("x = [1, 2]")
    notebook.cell("it = squares(x); next(it)")
    notebook.cell("y = {'x': x}")
    notebook.cell("x = 5")
    assert "may have its own copy of what y has a part of" in notebook.back().report["it"].note
    notebook.cell("y = 1")
    assert list(notebook.back().namespace["it"]) == [4]


def test_arrays_and_their_views_are_seen(notebook: Notebook) -> None:
    notebook.cell("import numpy as np\n" + SQUARES)
    notebook.cell("a = np.arange(6)")
    notebook.cell("it = squares([a[2:4], 1]); next(it)")
    assert "would have its own copy of a" in notebook.back().report["it"].note
    notebook.cell("total = np.zeros(3)")
    notebook.cell("own = squares([np.ones(2), np.ones(3)])")
    notebook.cell("first = next(own)", "own")
    notebook.cell("first = first * 2")
    result = notebook.back()
    assert result.report["own"].outcome == "replayed"
    assert next(result.namespace["own"]).tolist() == [1, 1, 1]


def test_name_whose_group_fails_at_restore_is_made_again(notebook: Notebook) -> None:
    notebook.cell("class Odd:\n    def __reduce__(self): return (int, ('no number',))")
    notebook.cell("odd = Odd()")
    assert notebook.last is not None and notebook.last.report["odd"].outcome == "stored"
    result = notebook.back()
    assert result.report["odd"].note == "made again by running cells 1 and 2"
    assert type(result.namespace["odd"]) is result.namespace["Odd"]


def test_what_came_from_elsewhere_cannot_be_made(notebook: Notebook) -> None:
    notebook.cells.append(CellRecord(1, "", (), ("it",), 0.0, ("came with %%remote_gpu",)))
    exec(SQUARES + "\nit = squares([1, 2, 3]); next(it)", notebook.space)
    notebook.cell("x = 1")
    note = notebook.back(replay="all").report["it"].note
    assert "and cannot be made again: it came with %%remote_gpu" in note


def test_a_second_restore_makes_it_again_from_the_same_cells(notebook: Notebook) -> None:
    notebook.cell(SQUARES)
    notebook.cell("it = squares([0, 1, 2]); next(it)")
    result = notebook.back()
    assert notebook.last is not None
    cells = notebook.checkpointer.cells(notebook.last)
    assert cells == notebook.cells
    second = notebook.checkpointer.capture(result.namespace, cells=cells)
    assert list(notebook.checkpointer.restore(second).namespace["it"]) == [1, 4]


def test_cells_are_written_once(notebook: Notebook) -> None:
    notebook.checkpointer.capture(notebook.space)
    written = []
    for number in range(1, 4 * BLOCK_CELLS):
        source = f"x{number % 7} = {number}  # {'some text ' * 20}"
        notebook.cells.append(CellRecord(number, source, (), (f"x{number % 7}",), 0.1))
        notebook.last = notebook.checkpointer.capture(notebook.space, touched=frozenset(), cells=notebook.cells)
        written.append(notebook.last.costs.written_bytes)
    assert max(written[BLOCK_CELLS:]) < 12_000
    assert notebook.checkpointer.cells(notebook.last) == notebook.cells


def test_cells_that_are_too_long_ago_are_folded() -> None:
    log = CellLog()
    cells = [CellRecord(n, f"x{n % 5} = {n}", (), (f"x{n % 5}",), 0.1) for n in range(MOST_CELLS + 10)]
    first = log.pack(cells)
    found = unpack(first)
    assert len(found) <= MOST_CELLS and found[0].source == "" and found[0].writes == ("x0", "x1", "x2", "x3", "x4")
    assert found[1:] == cells[-len(found) + 1 :]
    cells.append(CellRecord(cells[-1].number + 1, "y = 1", (), ("y",), 0.1))
    second = log.pack(cells)
    assert sum(second[name] is not first.get(name) for name in second) == 1


def test_blocks_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="cells 0"):
        unpack({"<cells 0>": b"\x93\x01\x02"})
