"""Both halves of a shipped cell in one process: which bytes travel, and which objects are the same afterwards."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell

from jupyter_gpuaas.cell.ship import Shipper
from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.kernel.bundles import BundleStore
from jupyter_gpuaas.kernel.exchange import Exchange
from jupyter_gpuaas.state.arrival import Arrival
from jupyter_gpuaas.state.bundle import Buffer
from jupyter_gpuaas.state.pickling import HELD
from tests.unit.notebook import notebook

T = TypeVar("T")
MIB = 1024**2
#: More than heads and pickles of these tests.
LITTLE = 20_000


class Runner:
    def run(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        return asyncio.run(work)


class Remote:
    """A session's kernel, asked without messages."""

    id = "s1"

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self.bundles = BundleStore()
        self.exchange = Exchange(shell, self.bundles)

    async def ask(self, op: str, **content: Any) -> dict[str, Any]:
        answer = await self.exchange.request(json.loads(json.dumps({"op": op, **content})))
        return dict(json.loads(json.dumps(answer)))


class Counting(Shipper):
    """Moves bundles as the wire does, and counts."""

    sent = came = 0
    #: Called when a bundle was sent and the cell has not run yet.
    between: Callable[[], None] = staticmethod(lambda: None)

    def _put(self, buffers: Sequence[Buffer]) -> str:
        self.sent += sum(memoryview(buffer).nbytes for buffer in buffers)
        self.session.bundles.offer("b", moved(buffers))  # type: ignore[attr-defined]
        return "b"

    def _get(self, bundle: str) -> list[Any]:
        buffers = self.session.bundles.take(bundle)  # type: ignore[attr-defined]
        self.came += sum(memoryview(buffer).nbytes for buffer in buffers)
        return moved(buffers)


def moved(buffers: Sequence[Buffer]) -> list[Any]:
    arrival = Arrival([memoryview(buffer).nbytes for buffer in buffers])
    for buffer, memory in zip(buffers, arrival, strict=True):
        memory[:] = memoryview(buffer).cast("B")
    return arrival.buffers


class Notebook:
    def __init__(self, shell: Any, root: Path) -> None:
        self.remote = Remote(shell)
        self.there: dict[str, Any] = shell.user_ns
        self.here: dict[str, Any] = notebook("import numpy as np").__dict__
        settings = Settings()
        made: Any = (self.remote, Runner(), settings)
        self.shipper = Counting(*made, session_name="s", token="", root=root)

    def local(self, code: str) -> None:
        exec(code, self.here)

    def cell(self, code: str, *outputs: str) -> tuple[int, int]:
        """Run a cell there; the bytes that went and that came."""
        sent, came = self.shipper.sent, self.shipper.came
        shipped = self.shipper.prepare(code, self.here, transform=str, outputs=outputs)
        self.shipper.between()
        meta = json.loads(json.dumps(shipped.metadata["gpuaas"]))
        self.remote.exchange.before(meta)
        assert self.remote.shell.run_cell(code).success
        self.notices = self.shipper.bind(shipped, {"gpuaas": self.remote.exchange.after(meta, {})}, self.here)
        return self.shipper.sent - sent, self.shipper.came - came


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    HELD.clear()
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    shell.history_manager.enabled = False
    yield Notebook(shell, tmp_path)
    shell.history_manager.end_session()
    InteractiveShell.clear_instance()
    HELD.clear()


# -- bytes ---------------------------------------------------------------------------------------


def test_of_a_large_array_only_what_changed_is_sent(book: Notebook) -> None:
    book.local("x = np.random.default_rng(1).random(8 * 2**20)")
    sent, _ = book.cell("total = float(x.sum())")
    assert 64 * MIB <= sent < 64 * MIB + LITTLE
    assert book.here["total"] == book.here["x"].sum()
    assert book.there["x"].flags.owndata
    assert book.cell("total = float(x.sum())")[0] == 0
    book.local("x[3 * 2**17 : 4 * 2**17] += 1")
    sent, _ = book.cell("total = float(x.sum())")
    assert MIB <= sent < MIB + LITTLE
    assert (book.there["x"] == book.here["x"]).all()
    assert book.there["x"].flags.owndata
    assert book.cell("total = float(x.sum())")[0] == 0


def test_through_a_view_its_base_is_sent_where_it_changed(book: Notebook) -> None:
    book.local("x = np.random.default_rng(1).random((2**10, 2**13)); v = x[::2, 5:]")
    book.cell("both = x.shape, v.shape")
    assert book.there["v"].base is book.there["x"]
    book.local("v[0, 0] = 7")
    assert book.cell("seen = x[0, 5]")[0] < MIB + LITTLE
    book.local("v[2, 0] = 8")
    assert book.cell("seen = v[2, 0], x[4, 5]")[0] < MIB + LITTLE
    assert book.here["seen"] == (8, 8)


def test_array_that_moved_or_got_another_name_is_not_sent_again(book: Notebook) -> None:
    book.local("x = np.random.default_rng(1).random(2**20)")
    book.cell("x.sum()")
    book.local("y = {'same': x}; z = x.reshape(2, -1)")
    assert book.cell("y['same'].sum() + x.sum() + z.sum()")[0] < LITTLE
    assert book.there["y"]["same"] is book.there["x"] is book.there["z"].base
    book.local("x = x.copy()")
    assert book.cell("x.sum()")[0] < LITTLE


def test_what_the_session_changed_is_sent_again_and_no_more(book: Notebook) -> None:
    book.local("x = np.random.default_rng(1).random(8 * 2**20)")
    book.cell("x[-1] = 5")
    assert "changed in place" in book.notices[0]
    sent, _ = book.cell("last = float(x[-1])")
    assert MIB <= sent < MIB + LITTLE
    assert book.here["last"] == book.here["x"][-1] != 5


def test_of_a_large_result_only_what_changed_comes(book: Notebook) -> None:
    book.local("x = np.random.default_rng(1).random(8 * 2**20)")
    _, came = book.cell("x[-1] = 5", "x")
    assert MIB <= came < MIB + LITTLE
    assert (book.here["x"] == book.there["x"]).all()
    assert book.here["x"][-1] == 5
    assert book.cell("pass", "x") == (0, came) or book.cell("x", "x")[1] < MIB + LITTLE
    assert book.cell("x[0] = 3\nx = x", "x")[0] == 0
    assert book.here["x"][0] == 3


def test_result_that_is_no_longer_here_comes_whole(book: Notebook) -> None:
    book.local("x = np.random.default_rng(1).random(2**20); y = x")
    book.shipper.between = lambda: book.here["y"].fill(0)  # another thread's work
    book.cell("x[0] = 5", "x")
    assert book.here["x"][0] == 5 and (book.here["x"] == book.there["x"]).all()


def test_memory_that_the_session_changes_between_question_and_cell_stops_it(book: Notebook) -> None:
    from jupyter_gpuaas.kernel.exchange import CannotBind

    book.local("x = np.random.default_rng(1).random(2**20)")
    book.cell("x.sum()")
    book.local("x[0] = 1")
    book.shipper.between = lambda: book.there["x"].fill(0)
    with pytest.raises(CannotBind, match="x: memory that was left out has changed"):
        book.cell("x.sum()")
    book.shipper.between = lambda: None
    book.cell("x.sum()")
    assert (book.there["x"] == book.here["x"]).all()


# -- aliases -------------------------------------------------------------------------------------


def test_frame_over_an_array_of_a_former_cell(book: Notebook) -> None:
    pytest.importorskip("pandas")
    book.local("import pandas as pd\na = np.random.default_rng(1).random((2**17, 8))")
    book.cell("a.sum()")
    book.local("f = pd.DataFrame(a, copy=False)")
    assert book.cell("f.sum()")[0] < LITTLE
    assert np.shares_memory(book.there["f"].to_numpy(), book.there["a"])
    book.local("a[0, 0] = 42")
    assert book.cell("seen = float(f.iloc[0, 0])")[0] < MIB + LITTLE
    assert book.here["seen"] == 42 == book.there["a"][0, 0]


def test_list_of_a_former_cell(book: Notebook) -> None:
    book.local("a = [1]; b = {'a': a}")
    book.cell("a")
    book.cell("b")
    book.cell("b['a'].append(2)\nlength = len(a)")
    assert book.here["length"] == 2
    book.local("b = {'a': [3]}")
    book.cell("b")
    book.cell("b['a'].append(2)\nlength = len(a)")
    assert book.here["length"] == 1


def test_model_and_its_optimizer(book: Notebook) -> None:
    torch = pytest.importorskip("torch")
    book.local("import torch\nm = torch.nn.Linear(300, 300)\nw = m.weight")
    book.cell("m.training")
    book.local("o = torch.optim.SGD(m.parameters(), lr=0.5)")
    assert book.cell("o.param_groups")[0] < LITTLE
    assert book.there["o"].param_groups[0]["params"][0] is book.there["m"].weight
    assert book.there["m"].weight.untyped_storage().resizable()
    step = "m(torch.ones(1, 300)).sum().backward()\no.step()\no.zero_grad()"
    book.cell(f"import torch\n{step}", "m", "o")
    assert book.here["o"].param_groups[0]["params"][0] is book.here["m"].weight
    assert torch.equal(book.here["m"].weight, book.there["m"].weight)


def test_results_of_one_cell_share(book: Notebook) -> None:
    book.cell("import numpy as np\na = np.arange(1000.)\nv = a[::2]\nd = {'v': v}")
    assert book.here["v"].base is book.here["a"]
    assert book.here["d"]["v"] is book.here["v"]


def test_small_view_comes_and_goes_without_its_base(book: Notebook) -> None:
    _, came = book.cell("import numpy as np\nbig = np.zeros((1000, 1000))\nrow, rest = big[3], big[4:6]")
    assert came < 3 * 8000 + LITTLE
    book.local("big2 = np.ones((1000, 1000)); row2 = big2[3]; column2 = big2[4:, 4]")
    assert book.cell("row2.sum() + column2.sum()")[0] < 2 * 8000 + LITTLE


def test_results_share_with_inputs_that_the_cell_left_as_they_were(book: Notebook) -> None:
    torch = pytest.importorskip("torch")
    book.local("import torch\nx = np.random.default_rng(1).random((2**10, 2**10)); l = [1]; t = torch.ones(2**18)")
    code = "import pandas as pd\nv = x[::2, 1]\nd = {'l': l, 'x': x}\nf = pd.DataFrame(x, copy=False)\nu = t[5:9]"
    _, came = book.cell(code)
    assert came < LITTLE
    here = book.here
    assert here["d"]["l"] is here["l"] and here["d"]["x"] is here["x"]
    assert here["v"].base is here["x"] and (here["v"] == here["x"][::2, 1]).all()
    assert np.shares_memory(here["f"].to_numpy(), here["x"])
    here["t"][5] = 7
    assert here["u"][0] == 7 and torch.equal(here["u"], here["t"][5:9])
    assert book.cell("same = d['x'] is x and v.base is x")[0] < MIB + LITTLE
    assert here["same"] is True


def test_result_shares_nothing_with_an_input_that_the_cell_changed(book: Notebook) -> None:
    book.local("l = [1]")
    book.cell("l.append(2)\nd = [l]")
    assert book.here["d"] == [[1, 2]] and book.here["l"] == [1]


# -- files ---------------------------------------------------------------------------------------


def test_local_module_goes_again_only_where_the_session_has_lost_it(
    book: Notebook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    monkeypatch.setenv("GPUAAS_WORK", str(there))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "shipped_module.py").write_text("value = 1")
    try:
        assert book.cell("import shipped_module")[0] > 0
        assert book.cell("import shipped_module")[0] == 0
        (there / "shipped_module.py").unlink()  # as on another node, to which the session came from a checkpoint
        book.cell("import shipped_module")
        assert (there / "shipped_module.py").read_text() == "value = 1"
    finally:
        sys.modules.pop("shipped_module", None)
