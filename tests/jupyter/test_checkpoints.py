"""Checkpoints of sessions end to end: a service, a kernel, what the user types, and what comes back."""

from __future__ import annotations

import json
import re
import subprocess
import sys
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


def test_burst_of_short_cells_shares_checkpoints_and_the_last_one_is_there_when_somebody_looks(
    opened: Callable[..., Session],
) -> None:
    session = opened("burst.ipynb")
    cells = [session.run.client.execute(f"n = {number}") for number in range(1, 61)]
    session.run.wait_done(cells[-1])
    rows = session.checkpoints()
    numbers = [int(row[2]) for row in rows]
    assert numbers[:5] == [1, 2, 3, 4, 5] and numbers == sorted(numbers)
    assert numbers[-1] == 60 and len(numbers) < 60
    session.cell(f"%remote_gpu restore {rows[-2][0]}")
    assert session.value("n") == numbers[-2]


def test_restore_in_place_brings_back_changed_and_deleted_variables_with_their_aliases(
    opened: Callable[..., Session],
) -> None:
    session = opened("place.ipynb")
    session.cell("import numpy as np\nbase = np.arange(100_000.0)\nview = base[10:20]\nboth = [base, view]\nn = 1")
    session.taken(1)
    session.cell("base[:] = 0\ndel view\nn = 2\nnew = 5")
    session.taken(2)
    said = session.cell("space = get_ipython().user_ns\n%remote_gpu restore -2")
    assert " restored from checkpoint " in said
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
    (first,) = [row[0] for row in rows if "first" in row]
    assert session.cell("%remote_gpu forget first") == f"checkpoint {first} removed\n"
    assert "NoSuchCheckpoint" in session.fails("%remote_gpu restore first")
    assert "UsageError" in session.fails("%remote_gpu checkpoint --name 1st")


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


def test_cli_lists_compares_and_removes_while_the_kernel_is_busy(
    home: GpuaasHome, opened: Callable[..., Session], tmp_path: Path
) -> None:
    session = opened("cli.ipynb")
    session.cell("import time; a = 1")
    session.cell("b = 2")
    session.cell("c = 3")
    session.taken(3)
    flag = tmp_path / "go"
    busy = session.run.client.execute(
        f"print('on it', flush=True)\nwhile not __import__('os').path.exists({str(flag)!r}): time.sleep(0.05)"
    )
    session.run.wait(lambda message: message["msg_type"] == "stream")
    listed = json.loads(home.cli("checkpoints", "cli.ipynb", "--json").stdout)
    assert [each["cell"] for each in listed] == [1, 2, 3]
    assert all(each["lost"] == {} and each["stall_s"] > 0 for each in listed)
    assert "NOT RESTORABLE" in home.cli("checkpoints", "cli.ipynb").stdout
    assert home.cli("diff", "cli.ipynb", "-2", "-1").stdout.strip() == "added: c"
    assert "newest" in home.cli("forget", "cli.ipynb", "-1", check=False).stderr
    said = home.cli("forget", "cli.ipynb", listed[0]["id"]).stdout
    assert said == f"Checkpoint {listed[0]['id'][-8:]} removed.\n"
    assert len(json.loads(home.cli("checkpoints", "cli.ipynb", "--json").stdout)) == 2
    # This needs the kernel, so it waits for the cell, and says so.
    command = [sys.executable, "-m", "jupyter_gpuaas", "checkpoint", "cli.ipynb", "--name", "from outside"]
    with subprocess.Popen(command, env=home.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as taking:
        assert taking.stderr is not None
        assert "waiting for the end of the cells" in taking.stderr.readline()
        flag.touch()
        out, err = taking.communicate(timeout=60)
    assert "'from outside'" in out, err
    session.run.wait_done(busy)
    restored = home.cli("restore", "cli.ipynb", listed[1]["id"])
    assert " restored from checkpoint " in restored.stdout
    assert session.value("'c' in globals(), b") == (False, 2)
    refused = home.cli("checkpoint", "cli.ipynb", "--name", "-x", check=False)
    assert refused.returncode == 1 and "name" in refused.stderr
    kinds = [json.loads(line)["kind"] for line in home.cli("events", "--json").stdout.splitlines()]
    assert {"checkpoint_taken", "checkpoint_restored", "checkpoint_forgotten"} <= set(kinds)


def test_restore_into_a_new_session_comes_before_its_first_cell(
    home: GpuaasHome, opened: Callable[..., Session]
) -> None:
    session = opened("old.ipynb")
    session.cell("import numpy as np; a = np.arange(1000); v = a[1:3]; f = lambda: a.sum()")
    session.taken(1)
    session.cell("a[:] = 0")
    session.taken(2)
    report = json.loads(home.cli("restore", "old.ipynb", "-2", "--new", "fresh.ipynb", "--json").stdout)
    assert report["checkpoint"]["cell"] == 1
    fresh = opened("fresh.ipynb")
    assert fresh.value("int(f()), v.base is a, __import__('os').environ['GPUAAS_SESSION_NAME']") == (
        499500,
        True,
        "fresh.ipynb",
    )
    assert session.value("int(a.sum())") == 0
    # Its own checkpoints follow the one that it began with.
    fresh.cell("w = 1")
    assert fresh.taken(1)
    listed = json.loads(home.cli("checkpoints", "fresh.ipynb", "--json").stdout)
    assert listed[0]["parent"] == report["checkpoint"]["id"]
    again = home.cli("restore", "old.ipynb", "-1", "--new", "fresh.ipynb", check=False)
    assert again.returncode == 1 and "lives already" in again.stderr


def test_what_a_killed_kernel_held_is_had_back_with_the_command_that_its_notice_tells(
    opened: Callable[..., Session],
) -> None:
    session = opened("killed.ipynb")
    session.cell("import os, signal; data = {'a': [1, 2, 3]}; data['b'] = data['a']")
    session.taken(1)
    reply = session.run.run("os.kill(os.getpid(), signal.SIGKILL)")
    assert "variables are lost" in reply["content"]["evalue"]
    (command,) = re.findall(r"`(%remote_gpu restore \w+)`", reply["content"]["evalue"])
    assert eventually(lambda: session.run.run("1")["content"]["status"] == "ok")
    session.cell("before = 1")
    session.cell(command)
    assert session.value("(data['a'], data['a'] is data['b'], 'before' in globals())") == ([1, 2, 3], True, False)


def test_interrupt_gives_a_capture_up_and_not_the_kernel(opened: Callable[..., Session]) -> None:
    session = opened("interrupt.ipynb")
    session.cell("x = 1")
    session.taken(1)
    session.cell(
        "import os, signal\n"
        "class Slow:\n"
        "    def __reduce__(self):\n"
        "        global armed\n"
        "        if armed:\n"
        "            armed = False\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "        return (Slow, ())\n"
        "armed = True\n"
        "slow = Slow()"
    )
    eventually(lambda: "interrupted" in session.cell("%remote_gpu status"))
    session.taken(2)  # it is taken after the next message
    session.cell("y = 2")
    session.taken(3)
    assert session.value("x, y") == (1, 2)


def test_full_store_is_told_and_cells_go_on(opened: Callable[..., Session], home: GpuaasHome) -> None:
    session = opened("full.ipynb")
    session.cell("x = 1")
    session.taken(1)
    session.cell(
        "from jupyter_gpuaas.errors import QuotaReached\n"
        "store = get_ipython().kernel.checkpoints.checkpointer.store\n"
        "def refuse(chunks): raise QuotaReached('the store is full.')\n"
        "kept = store.put; store.put = refuse"
    )
    eventually(lambda: "the store is full" in session.cell("%remote_gpu status"))
    assert "QuotaReached" in session.fails("%remote_gpu checkpoint")
    session.cell("y = 2")
    assert session.value("x, y") == (1, 2)
    session.cell("store.put = kept; del store, kept, refuse")
    assert "checkpoint" in session.cell("%remote_gpu checkpoint")
    assert "could not be taken" not in session.cell("%remote_gpu status")
    events = home.cli("events", "--session", "full.ipynb").stdout
    assert "checkpoint_failed" in events and "the store is full" in events


def test_state_that_cannot_be_restored_is_named(opened: Callable[..., Session]) -> None:
    session = opened("lost.ipynb")
    session.cell("import socket; link = socket.socket(); fine = 1")
    assert "link" in session.taken(1)[0][-1]
    assert "not restored: link" in session.cell("%remote_gpu restore -1")
    assert "link" in session.fails("link.fileno()")
    assert session.value("fine") == 1


def test_local_notebook_uses_the_checkpoints_of_its_session(home: GpuaasHome, tmp_path: Path) -> None:
    from tests.jupyter.test_magics import Notebook

    notebook = Notebook(tmp_path)
    try:
        notebook.ok("%load_ext jupyter_gpuaas")
        notebook.ok("%remote_gpu connect --session shipped")
        notebook.remote("kept = [1, 2]; print(len(kept))")
        assert "'mark'" in notebook.ok("%remote_gpu checkpoint --name mark").out
        notebook.remote("kept.append(3)")
        assert "'mark'" in notebook.ok("%remote_gpu restore mark").out
        shown = notebook.ok("%remote_gpu checkpoints")
        assert "mark" in shown.shown and "mark" in shown.of("display_data")[0]["data"]["text/html"]
        assert "checkpoints:" in notebook.ok("%remote_gpu status").shown
        assert notebook.remote("print(kept)").out == "[1, 2]\n"
        assert "no name differs" in notebook.ok("%remote_gpu diff mark mark").out
        notebook.ok("%remote_gpu forget mark")
        notebook.ok("%remote_gpu release")
    finally:
        notebook.close()


def test_what_a_widgets_callback_changes_is_captured_when_it_is_quiet(opened: Callable[..., Session]) -> None:
    session = opened("comm.ipynb")
    session.cell(
        "x = [1]\n"
        "def opened(comm, message):\n"
        "    comm.on_msg(lambda message: x.append(message['content']['data']))\n"
        "get_ipython().kernel.comm_manager.register_target('t', opened)"
    )
    session.taken(1)
    client = session.run.client
    for kind, content in (
        ("comm_open", {"comm_id": "c", "target_name": "t", "data": {}}),
        ("comm_msg", {"comm_id": "c", "data": 2}),
    ):
        client.shell_channel.send(client.session.msg(kind, content))
    session.taken(2)
    session.cell("x.clear()\n")
    session.taken(3)
    session.cell("%remote_gpu restore -2")
    assert session.value("x") == [1, 2]


def test_model_and_its_optimizer_go_back_together_and_train_on_bit_for_bit(opened: Callable[..., Session]) -> None:
    pytest.importorskip("torch")
    session = opened("train.ipynb")
    session.cell(
        "import torch\n"
        "torch.manual_seed(1)\n"
        "model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))\n"
        "opt = torch.optim.Adam(model.parameters()); losses = []\n"
        "def step():\n"
        "    loss = model(torch.randn(4, 8)).square().mean(); opt.zero_grad(); loss.backward(); opt.step()\n"
        "    losses.append(loss.item())"
    )
    session.cell("for _ in range(3): step()")
    session.taken(2)
    session.cell("for _ in range(4): step()")
    went_on = session.value("losses")
    session.taken(3)
    session.cell("%remote_gpu restore -2")
    assert session.value("len(losses), opt.param_groups[0]['params'][0] is model[0].weight") == (3, True)
    session.cell("for _ in range(4): step()")
    assert session.value("losses") == went_on


def test_cell_of_a_subshell_is_captured_when_it_is_quiet(opened: Callable[..., Session]) -> None:
    session = opened("subshell.ipynb")
    session.cell("x = [1]")
    session.taken(1)
    client = session.run.client
    asked = client.session.msg("create_subshell_request", {})
    client.control_channel.send(asked)
    subshell = client.get_control_msg(timeout=DEADLINE_S)["content"]["subshell_id"]
    content = {"code": "x.append(2)", "silent": False, "store_history": True, "user_expressions": {}}
    request = client.session.msg("execute_request", content | {"allow_stdin": False, "stop_on_error": True})
    request["header"]["subshell_id"] = subshell
    client.shell_channel.send(request)
    session.run.wait_done(request["header"]["msg_id"])
    session.taken(2)
    session.cell("x.clear()")
    session.taken(3)
    session.cell("%remote_gpu restore -2")
    assert session.value("x") == [1, 2]


def test_what_cannot_be_stored_is_made_again_by_running_its_cells(
    opened: Callable[..., Session], home: GpuaasHome
) -> None:
    session = opened("replayed.ipynb")
    session.cell("def squares(items):\n    for item in items:\n        yield item * item")
    session.cell("it = squares((1, 2, 3, 4, 5))")
    session.cell("first = next(it)")
    session.cell("with open('log', 'a') as log: log.write('x')\nnoted = squares((1, 2, 3)); a = next(noted)")
    session.cell("second = next(it)")
    session.taken(5)
    session.cell("it = noted = None")
    session.taken(6)
    fifth = session.checkpoints()[4][0]
    said = session.cell("%remote_gpu restore -2")
    assert "replayed: it: made again by running cells 2, 3 and 5" in said
    assert "not restored: noted" in said
    assert "can be made again by running cell 4, which writes files: restore with --replay all" in said
    assert "--replay all" in session.fails("next(noted)")
    assert session.value("(first, second, a, next(it), open('log').read())") == (1, 4, 1, 9, "x")
    said = session.cell(f"%remote_gpu restore {fifth} --replay all")
    assert "replayed: noted: made again by running cell 4" in said
    assert session.value("(next(noted), next(it), open('log').read())") == (4, 9, "xx")
    never = home.cli("restore", "replayed.ipynb", fifth, "--replay", "never").stdout
    assert "not restored: it" in never and "replayed" not in never
    assert session.value("open('log').read()") == "xx"
    # A session that begins with it has the generator, too.
    begun = home.cli("restore", "replayed.ipynb", fifth, "--new", "replayed2.ipynb").stdout
    assert "session 'replayed2.ipynb' is " in begun and "jupyter gpuaas attach replayed2.ipynb" in begun
    assert opened("replayed2.ipynb").value("next(it)") == 9
