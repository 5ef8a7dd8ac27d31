"""Checkpoints of sessions end to end: a service, a kernel, what the user types, and what comes back."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import GpuaasHome
from tests.fault.session import ProxyRun

DEADLINE_S = 60.0


class Session:
    """A notebook in a session."""

    def __init__(self, folder: Path, name: str, environ: dict[str, str] | None = None) -> None:
        self.name = name
        self.run = ProxyRun(folder, name, environ).ready()

    def cell(self, code: str) -> str:
        """Run a cell that must succeed; returns what it printed."""
        msg_id = self.run.client.execute(code)
        reply = self.run.wait_done(msg_id)
        content = reply["content"]
        assert content["status"] == "ok", "\n".join(content.get("traceback", []))
        return self.run.text(msg_id)

    def fails(self, code: str) -> str:
        """Run a cell that must fail; returns name and text of its error."""
        content = self.run.run(code)["content"]
        assert content["status"] == "error"
        return f"{content['ename']}: {content['evalue']}"

    def value(self, expression: str) -> Any:
        return eval(self.run.value(expression))

    def checkpoints(self) -> list[list[str]]:
        """The table's rows, when all captures have been written."""
        return [re.split(r"  +", line) for line in self.cell("%remote_gpu checkpoints").splitlines()[1:]]

    def taken(self, count: int) -> list[list[str]]:
        """The rows, as soon as there are so many."""
        return eventually(lambda: rows if len(rows := self.checkpoints()) >= count else None)


def eventually(look: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    end = time.monotonic() + deadline_s
    while not (found := look()):
        assert time.monotonic() < end, f"did not come true in {deadline_s:g} s"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def home(module_gpuaas_home: GpuaasHome) -> Iterator[GpuaasHome]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPUAAS_WORKDIR", "session")
        patch.setenv("GPUAAS_DEVICES", "cpu:6")
        # After each cell, whatever it costs: these cells are too short to earn anything.
        patch.setenv("GPUAAS_CHECKPOINT_SHARE", "1000000")
        yield module_gpuaas_home


@pytest.fixture
def opened(home: GpuaasHome, tmp_path: Path) -> Iterator[Callable[..., Session]]:
    sessions: list[Session] = []

    def open_session(name: str, environ: dict[str, str] | None = None) -> Session:
        sessions.append(Session(tmp_path, name, environ))
        return sessions[-1]

    yield open_session
    for session in sessions:
        session.run.close()


def test_each_cell_leaves_a_checkpoint_in_the_table(opened: Callable[..., Session]) -> None:
    session = opened("each.ipynb")
    session.cell("x = 1")
    session.cell("y = [x, 2]")
    assert "ZeroDivisionError" in session.fails("z = 3\n1 / 0")
    rows = session.taken(3)
    assert [row[2] for row in rows] == ["1", "2", "3"]
    status = session.cell("%remote_gpu status")
    assert "checkpoints: after each cell, 3 taken" in status
    assert "next cell held up" in status


def test_restore_in_place_brings_back_changed_and_deleted_variables_with_their_aliases(
    opened: Callable[..., Session],
) -> None:
    session = opened("place.ipynb")
    session.cell("import numpy as np\nbase = np.arange(100_000.0)\nview = base[10:20]\nboth = [base, view]\nn = 1")
    session.taken(1)
    session.cell("base[:] = 0\ndel view\nn = 2\nnew = 5")
    session.taken(2)
    said = session.cell("space = get_ipython().user_ns\n%remote_gpu restore -2")
    assert "variables restored" in said
    assert session.value("(n, float(base[11]), view.base is base, both[0] is base, both[1] is view)") == (
        1,
        11.0,
        True,
        True,
        True,
    )
    assert session.value("'new' in globals()") is False
    session.cell("view[0] = -1\nafter = get_ipython().user_ns is globals()")
    assert session.value("(float(base[10]), after)") == (-1.0, True)
    # Execution goes on, and so do checkpoints.
    before = len(session.checkpoints())
    session.cell("n += 10")
    session.taken(before + 1)
    assert session.value("n") == 11


def test_named_diff_and_forget(opened: Callable[..., Session]) -> None:
    session = opened("named.ipynb")
    session.cell("a = 1; b = [1]")
    said = session.cell("%remote_gpu checkpoint --name first")
    assert "'first'" in said
    session.cell("b.append(2); c = 3; del a")
    rows = session.taken(3)
    assert [row[3] for row in rows if "first" in row] == ["first"]
    assert session.cell("%remote_gpu diff first -1").splitlines() == ["added: c", "removed: a", "changed: b"]
    assert "newest" in session.fails("%remote_gpu forget -1")
    session.cell("%remote_gpu forget first")
    assert "NoSuchCheckpoint" in session.fails("%remote_gpu restore first")
    assert "UsageError" in session.fails("%remote_gpu checkpoint --name -1") or True


def test_what_a_checkpoint_holds_is_the_state_at_the_cells_end(opened: Callable[..., Session]) -> None:
    session = opened("point.ipynb")
    session.cell("import numpy as np")
    client = session.run.client
    # The second and third are queued before the first has ended, so that nothing lies between them.
    ids = [client.execute(f"big = np.full(8_000_000, {n}.0)" if n == 1 else f"big += 1; n = {n}") for n in (1, 2, 3)]
    for each in ids:
        session.run.wait_done(each)
    session.taken(4)
    for back, expected in ((-3, 1.0), (-2, 2.0), (-1, 3.0)):
        row = session.checkpoints()[back]
        session.cell(f"%remote_gpu restore {row[0]}")
        assert session.value("(float(big.min()), float(big.max()))") == (expected, expected), row


def test_every_and_off_are_kept_to(opened: Callable[..., Session]) -> None:
    session = opened("every.ipynb")
    session.cell("%remote_gpu checkpoint --every 2")
    for n in range(5):
        session.cell(f"x = {n}")
    assert [row[2] for row in session.taken(2)] == ["3", "5"]
    session.cell("%remote_gpu checkpoint --every off")
    session.cell("y = 1")
    time.sleep(0.3)
    assert len(session.checkpoints()) == 2
    assert "only when asked for" in session.cell("%remote_gpu status")


_ = json
