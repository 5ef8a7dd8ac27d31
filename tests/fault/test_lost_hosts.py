"""The host of a session dies under a Jupyter client: what its notebook shows, with the journal and without."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import GpuaasHome

from .session import ProxyRun

pytestmark = pytest.mark.fault


@pytest.fixture
def home(gpuaas_home: GpuaasHome) -> Iterator[GpuaasHome]:
    (gpuaas_home.path / "settings.toml").write_text('devices = "cpu:1"\nack_delay_s = 0.1\nretry_most_s = 0.2\n')
    yield gpuaas_home


def lose_host(home: GpuaasHome, run: ProxyRun, gate: Path, *, journal: bool) -> list[str]:
    """Kill the host while a cell runs and others wait; returns the requests."""
    run.run("import os; ran = []")
    run.run("ran.append('first')")
    host = int(run.value("os.getppid()"))
    os.mkfifo(gate)
    requests = [run.client.execute(f"ran.append('cut off'); open({str(gate)!r}).read()")]
    requests += [run.client.execute(f"ran.append({number}); print('now', {number})") for number in range(2)]
    run.wait(lambda m: m["msg_type"] == "execute_input" and m["parent_header"]["msg_id"] == requests[0])
    (found,) = json.loads(home.cli("sessions", "--json").stdout)
    if not journal:
        shutil.rmtree(home.path / "nodes" / "local-0" / "sessions" / found["id"] / "journal")
    os.kill(host, signal.SIGKILL)
    return requests


@pytest.mark.parametrize("journal", [True, False])
def test_cell_that_was_cut_off_is_an_error_that_says_so_and_those_behind_it_run(
    home: GpuaasHome, runs: Callable[..., ProxyRun], tmp_path: Path, journal: bool
) -> None:
    run = runs("lost").ready()
    cut_off, *queued = lose_host(home, run, tmp_path / "gate", journal=journal)
    reply = run.wait_done(cut_off)["content"]
    assert (reply["status"], reply["ename"]) == ("error", "NodeLost")
    assert "run it again" in reply["evalue"]
    for number, msg_id in enumerate(queued):
        assert run.wait_done(msg_id)["content"]["status"] == "ok"
        assert run.text(msg_id) == f"now {number}\n"
    assert run.value("ran") == "['first', 0, 1]"
    assert of_kind(run, cut_off, "error") == 1


@pytest.mark.parametrize("journal", [True, False])
def test_cell_that_was_cut_off_runs_again_where_that_is_wanted(
    home: GpuaasHome, runs: Callable[..., ProxyRun], tmp_path: Path, journal: bool
) -> None:
    with (home.path / "settings.toml").open("a") as file:
        file.write('on_node_loss = "rerun"\n')
    run = runs("lost").ready()
    gate = tmp_path / "gate"
    requests = lose_host(home, run, gate, journal=journal)
    # Not before it has begun again: the dying kernel may still read.
    run.wait(lambda m: m["msg_type"] == "execute_input" and m["parent_header"]["msg_id"] == requests[0])
    gate.write_text("go")
    for msg_id in requests:
        assert run.wait_done(msg_id)["content"]["status"] == "ok"
    assert run.value("ran") == "['first', 'cut off', 0, 1]"


@pytest.mark.parametrize(("session", "client"), [("rerun", "ask"), ("restore_only", "rerun")])
def test_session_has_its_own_way_whatever_the_client_has_that_finds_its_journal_gone(
    home: GpuaasHome, runs: Callable[..., ProxyRun], tmp_path: Path, session: str, client: str
) -> None:
    home.cli("up", "--detach")  # with the way that is nobody's here
    run = runs("lost", {"GPUAAS_ON_NODE_LOSS": session}).ready()
    run.kill_proxy()
    run.start_proxy({"GPUAAS_ON_NODE_LOSS": client})
    run.ready()
    gate = tmp_path / "gate"
    cut_off, *queued = lose_host(home, run, gate, journal=False)
    if session == "rerun":
        run.wait(lambda m: m["msg_type"] == "execute_input" and m["parent_header"]["msg_id"] == cut_off)
        gate.write_text("go")
    reply = run.wait_done(cut_off)["content"]
    assert reply["status"] == ("ok" if session == "rerun" else "error"), reply
    assert session == "rerun" or (reply["ename"] == "NodeLost" and "run it again" not in reply["evalue"])
    for msg_id in queued:
        assert run.wait_done(msg_id)["content"]["status"] == "ok"
    assert run.value("ran") == str(["first", *(["cut off"] if session == "rerun" else []), 0, 1])


@pytest.mark.parametrize("journal", [True, False])
def test_cell_whose_host_dies_between_its_reply_and_the_word_that_it_has_ended_ends(
    home: GpuaasHome, runs: Callable[..., ProxyRun], tmp_path: Path, journal: bool
) -> None:
    run = runs("lost").ready()
    run.run("import os")
    host = int(run.value("os.getppid()"))
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    cell = run.client.execute(f"get_ipython().kernel.post_handler_hook = lambda: open({str(gate)!r}).read()")
    run.wait(lambda m: m["msg_type"] == "execute_reply" and m["parent_header"]["msg_id"] == cell)
    (found,) = json.loads(home.cli("sessions", "--json").stdout)
    if not journal:
        shutil.rmtree(home.path / "nodes" / "local-0" / "sessions" / found["id"] / "journal")
    os.kill(host, signal.SIGKILL)
    run.wait(lambda m: m["parent_header"].get("msg_id") == cell and m["content"].get("execution_state") == "idle")
    assert run.value("os.getppid()") != str(host)


def test_cells_are_named_that_a_lost_journal_cannot_tell_of(
    home: GpuaasHome, runs: Callable[..., ProxyRun], tmp_path: Path
) -> None:
    with (home.path / "settings.toml").open("a") as file:
        file.write("checkpoint_every = 0\n")
    run = runs("lost").ready()
    run.run("x = 1")
    run.run("%remote_gpu checkpoint")
    run.run("x += 1")
    cut_off, *_ = lose_host(home, run, tmp_path / "gate", journal=False)
    assert run.wait_done(cut_off)["content"]["ename"] == "NodeLost"
    while not any("ended unexpectedly" in text for text in said(run)):
        run.wait(lambda m: True)
    told = [text for text in said(run) if "The host of this session was lost" in text]
    undone, why = sorted(told, key=lambda text: "ended unexpectedly" in text)
    found = re.search(r"as after cell (\d)", why)
    assert found is not None and found[0] in undone
    lost = range(int(found[1]) + 1, 6)
    assert len(lost) >= 3 and f"the effects of cells {', '.join(map(str, lost))} on them are lost" in undone


def said(run: ProxyRun) -> list[str]:
    """What was said beside all requests."""
    streams = [each for each in run.heard if each["msg_type"] == "stream" and not each["parent_header"]]
    return [each["content"]["text"] for each in streams]


def of_kind(run: ProxyRun, msg_id: str, msg_type: str) -> int:
    found: dict[str, Any] = {
        message["header"]["msg_id"]: message
        for message in run.heard
        if message["msg_type"] == msg_type and message["parent_header"].get("msg_id") == msg_id
    }
    return len(found)
