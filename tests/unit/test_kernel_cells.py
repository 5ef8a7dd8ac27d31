"""What a kernel records of its cells, and what a restore makes of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from jupyter_gpuaas.errors import CheckpointError
from jupyter_gpuaas.kernel.checkpoints import Checkpoints
from jupyter_gpuaas.model import CheckpointPlan
from jupyter_gpuaas.state import CellRecord
from jupyter_gpuaas.state.hidden import mark_baseline

SQUARES = "def squares(items):\n    for item in items:\n        yield item * item"


class Kernel:
    """Runs cells and then does what the kernel does."""

    def __init__(self, folder: Path) -> None:
        self.shell = InteractiveShell(config=Config(HistoryManager={"enabled": False}))
        mark_baseline(self.shell.user_ns)  # what earlier tests did in this process is none of its doing
        plan = CheckpointPlan(store=str(folder), key="ab" * 32, owner="ann", share=1e6)
        self.checkpoints = Checkpoints(self.shell, plan, session="s", epoch=1, tell=lambda note: None)
        self.number = 0

    @property
    def space(self) -> dict[str, Any]:
        space: dict[str, Any] = self.shell.user_ns
        return space

    def cell(self, code: str, *, shipped: bool = False, silent: bool = False) -> None:
        self.number += 1
        run = self.checkpoints.begins(code)
        aside = ""
        try:
            exec(compile(code, f"<cell {self.number}>", "exec"), self.space)
        except Exception:
            aside = "did not come to its end"
        if run is not None:
            self.checkpoints.ended(run, number=self.number, silent=silent, shipped=shipped, aside=aside)
        self.checkpoints.ran([code], 0.01, number=self.number, counts=True)
        self.checkpoints.between_messages()

    def records(self) -> list[CellRecord]:
        assert self.checkpoints._writer.drain(30)
        return self.checkpoints.checkpointer.cells(self.checkpoints.find("-1"))


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    made = Kernel(tmp_path / "store")
    yield made
    made.checkpoints.close(30)


def test_records_tell_what_a_cell_read_changed_and_did(kernel: Kernel, tmp_path: Path) -> None:
    kernel.cell("a = [1]; b = a; rate = 2")
    kernel.cell("def f(): return rate")
    kernel.cell("b.append(f())")
    kernel.cell(f"with open({str(tmp_path / 'log')!r}, 'w') as log: pass")
    kernel.cell("z = 1 / 0")
    first, second, third, fourth, fifth = kernel.records()
    assert {"a", "b", "rate"} <= set(first.writes) and first.effects == ()
    assert second.writes == ("f",)
    assert third.writes == ("a", "b") and {"b", "f", "rate"} <= set(third.reads)
    assert third.effects == () and third.seconds >= 0
    assert "writes files" in fourth.effects
    assert "did not come to its end" in fifth.effects
    assert [record.number for record in (first, second, third, fourth, fifth)] == [1, 2, 3, 4, 5]


def test_generator_goes_on_after_a_restore_and_after_the_next(kernel: Kernel) -> None:
    kernel.cell(SQUARES)
    kernel.cell("it = squares((1, 2, 3, 4))")
    kernel.cell("a = next(it)")
    kernel.cell("x = 5")
    kernel.cell("it = None")
    assert kernel.checkpoints._writer.drain(30)
    report = kernel.checkpoints.restore("-2")
    assert report.replayed == {"it": "made again by running cells 2 and 3"} and report.lost == {}
    kernel.number = 4
    kernel.cell("b = next(it)")
    kernel.cell("it = None")
    assert kernel.checkpoints._writer.drain(30)
    assert "it" in kernel.checkpoints.restore("-2").replayed
    assert (kernel.space["a"], kernel.space["b"], list(kernel.space["it"])) == (1, 4, [9, 16])


def test_list_that_changed_under_a_generator_is_not_forgotten(kernel: Kernel) -> None:
    kernel.cell(SQUARES)
    kernel.cell("data = [1, 2]")
    kernel.cell("it = squares(data); next(it)")
    kernel.cell("data.append(3)")
    kernel.cell("del data")
    kernel.cell("y = 1")
    expected = list(kernel.space["it"])
    kernel.cell("it = None")
    assert kernel.checkpoints._writer.drain(30)
    report = kernel.checkpoints.restore("-2")
    assert "it" in report.replayed, report
    assert list(kernel.space["it"]) == expected == [4, 9]


def test_shipped_cell_cannot_be_run_again_even_by_the_users_word(kernel: Kernel) -> None:
    kernel.cell(SQUARES)
    kernel.cell("it = squares((1, 2)); next(it)", shipped=True)
    assert kernel.checkpoints._writer.drain(30)
    assert "came with %%remote_gpu" in kernel.checkpoints.restore("-1", replay="all").lost["it"]


def test_other_settings_are_seen(kernel: Kernel) -> None:
    kernel.cell("from decimal import Decimal, getcontext\n" + SQUARES)
    kernel.cell("it = squares((Decimal(1) / 3, Decimal(2) / 3)); next(it)")
    kernel.cell("before = getcontext().prec; getcontext().prec = 5")
    try:
        assert kernel.checkpoints._writer.drain(30)
        assert "other settings" in kernel.checkpoints.restore("-1").lost["it"]
    finally:
        exec("getcontext().prec = before", kernel.space)


def test_interrupted_replay_leaves_the_variables_as_they_were(kernel: Kernel) -> None:
    kernel.cell(SQUARES)
    kernel.cell("it = squares((1, 2)); next(it)")
    kernel.cell("x = [1]")
    assert kernel.checkpoints._writer.drain(30)
    before = dict(kernel.space)

    def stop(cell: CellRecord) -> None:
        raise KeyboardInterrupt

    kernel.checkpoints._runs_again = stop  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        kernel.checkpoints.restore("-1")
    assert all(kernel.space[name] is value for name, value in before.items())


def test_object_that_cannot_be_looked_at_is_no_reason_not_to_run(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.cell(SQUARES)

    def broken(*_: object, **__: object) -> Any:
        raise RuntimeError("no")

    with monkeypatch.context() as patch:
        patch.setattr("jupyter_gpuaas.kernel.cells_run._kind", broken)
        kernel.cell("it = squares((1, 2)); next(it)")
    with monkeypatch.context() as patch:
        patch.setattr("jupyter_gpuaas.kernel.cells_run._effects", broken)
        kernel.cell("x = 1")
    assert kernel.checkpoints._writer.drain(30)
    assert "by what is not recorded" in kernel.checkpoints.restore("-1").lost["it"]
    assert kernel.space["x"] == 1


def test_unknown_way_is_refused(kernel: Kernel) -> None:
    with pytest.raises(CheckpointError, match="replay"):
        kernel.checkpoints.restore("-1", replay="perhaps")  # type: ignore[arg-type]


def test_recording_a_cell_that_does_nothing_costs_less_than_a_millisecond(kernel: Kernel) -> None:
    kernel.cell("\n".join(f"def f{n}(x): return x" for n in range(50)))
    took = []
    for _ in range(50):
        began = time.perf_counter()
        run = kernel.checkpoints.begins("pass")
        kernel.checkpoints.ended(run, number=0, silent=False, shipped=False, aside="")
        kernel.checkpoints._run.settle(frozenset(), frozenset(), [], beside=False, names=())
        took.append(time.perf_counter() - began)
    assert min(took) < 0.001
