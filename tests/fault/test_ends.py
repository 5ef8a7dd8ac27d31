"""Ends and new beginnings in the middle of something: everybody gets an answer, and nothing is lost on the way out."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import GpuaasHome

from .session import ProxyRun
from .test_sessions_go_on import host_record, kill_host, sessions, until

pytestmark = pytest.mark.fault

PRINTING = "for n in range(8000): print(n, 'x' * 1000, flush=True)\nopen({done!r}, 'w').close()"
BUSY = "import time\nwhile True:\n    try: time.sleep(0.05)\n    except KeyboardInterrupt: pass"


@pytest.fixture
def home(gpuaas_home: GpuaasHome) -> GpuaasHome:
    (gpuaas_home.path / "settings.toml").write_text('devices = "cpu:1"\nstop_timeout_s = 2.0\n')
    return gpuaas_home


def start_busy(run: ProxyRun) -> str:
    cell = run.client.execute(BUSY)
    run.wait(lambda m: m["msg_type"] == "execute_input" and m["parent_header"]["msg_id"] == cell)
    return str(cell)


@pytest.mark.parametrize("how", ["released", "host killed"])
def test_running_and_waiting_cells_are_answered_when_the_session_ends(
    home: GpuaasHome, runs: Callable[..., ProxyRun], how: str
) -> None:
    run = runs("ends").ready()
    running = start_busy(run)
    waiting = run.client.execute("1")
    if how == "released":
        home.cli("release", "ends")
    else:
        kill_host(home, "ends")
    for cell in (running, waiting):
        reply = run.wait_done(cell, deadline_s=30)
        assert reply["content"]["status"] == "error" and "ended" in reply["content"]["evalue"]


def test_busy_kernel_can_be_restarted_again_and_again_and_shut_down(
    home: GpuaasHome, runs: Callable[..., ProxyRun]
) -> None:
    run = runs("again").ready()
    for _ in range(3):
        start_busy(run)
        run.client.shutdown(restart=True)
        run.process.wait(20)
        run.start_proxy()
        run.heard.clear()
        assert run.value("'x' in globals()") == "False"
    start_busy(run)
    run.client.shutdown()
    run.process.wait(20)
    until(lambda: sessions(home) == [])


def test_shutdown_is_answered_when_the_host_of_the_session_hangs(
    home: GpuaasHome, runs: Callable[..., ProxyRun]
) -> None:
    run = runs("hangs").ready()
    assert run.value("1 + 1") == "2"  # a front end is ready before its session is
    os.kill(host_record(home, "hangs")["pid"], signal.SIGSTOP)
    run.client.shutdown()
    reply = run.client.get_control_msg(timeout=30)
    assert reply["msg_type"] == "shutdown_reply" and reply["content"] == {"status": "ok", "restart": False}
    run.process.wait(20)
    until(lambda: sessions(home) == [])


def test_cell_run_right_after_a_restart_of_a_busy_kernel_runs_in_the_fresh_one(
    home: GpuaasHome, runs: Callable[..., ProxyRun]
) -> None:
    run = runs("restart-and-run").ready()
    start_busy(run)
    run.client.shutdown(restart=True)
    run.process.wait(20)
    run.start_proxy()
    reply = run.run("print('fresh')")
    assert reply["content"]["status"] == "ok", reply["content"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_outputs_that_a_stalled_client_has_not_read_survive_its_proxy(
    home: GpuaasHome, runs: Callable[..., ProxyRun], tmp_path: Path, number: int
) -> None:
    run = runs("unread").ready()
    run.run("1")
    done = tmp_path / "done"
    cell = run.client.execute(PRINTING.format(done=str(done)))
    until(done.exists)
    until(lambda: [s for s in sessions(home) if s["state"] == "idle"])
    run.kill_proxy(number)
    run.client.stop_channels()
    again = runs("unread")
    again.wait(lambda m: m["msg_type"] == "stream" and "7999 x" in m["content"]["text"])
    lines = [line for line in again.text(cell).split("\n") if line]
    # The first ones had reached the former client's own buffers; from some line on, everything is there.
    assert [int(line.split()[0]) for line in lines] == list(range(int(lines[0].split()[0]), 8000))
    assert len(lines) > 1000


def test_front_end_that_leaves_without_reading_does_not_take_the_outputs_along(
    home: GpuaasHome, runs: Callable[..., ProxyRun], tmp_path: Path
) -> None:
    run = runs("leaves").ready()
    done = tmp_path / "done"
    cell = run.client.execute(PRINTING.format(done=str(done)))
    until(done.exists)
    until(lambda: [s for s in sessions(home) if s["state"] == "idle"])
    run.client.stop_channels()
    run.client = run.new_client()
    run.wait(lambda m: m["msg_type"] == "stream" and "7999 x" in m["content"]["text"])
    lines = [line for line in run.text(cell).split("\n") if line]
    assert [int(line.split()[0]) for line in lines] == list(range(int(lines[0].split()[0]), 8000))
    assert len(lines) > 1000


def test_request_that_is_too_large_is_refused_and_the_next_one_runs(
    home: GpuaasHome, runs: Callable[..., ProxyRun]
) -> None:
    (home.path / "settings.toml").write_text('devices = "cpu:1"\nmessage_bytes = 1000000\n')
    run = runs("large").ready()
    reply = run.run(f"x = '{'a' * 1_500_000}'")
    assert reply["content"]["status"] == "error" and "message_bytes" in reply["content"]["evalue"]
    assert run.value("1 + 1") == "2"


@pytest.mark.parametrize("killed", [False, True])
def test_service_that_was_shut_down_is_not_started_by_a_kernel_that_had_a_session(
    home: GpuaasHome, runs: Callable[..., ProxyRun], killed: bool
) -> None:
    run = runs("open")
    assert run.run("1")["content"]["status"] == "ok"
    if killed:  # then `down` ends what it has left, and no host hears why
        for process in home.processes():
            if {"up", "jupyter_gpuaas.node.agent"} & set(process.cmdline()):
                process.kill()
    home.cli("down")
    reply = run.run("1")["content"]
    assert reply["status"] == "error" and "shut down" in reply["evalue"]
    assert not (home.path / "service.json").exists()
    assert not [each for each in home.processes() if "up" in each.cmdline()]


def test_shutdown_while_the_session_starts_ends_it(home: GpuaasHome, runs: Callable[..., ProxyRun]) -> None:
    (home.path / "settings.toml").write_text('devices = "cpu:1"\nspare_kernels = 0\n')
    home.cli("up", "--detach")
    run = runs("changed-mind")
    until(lambda: sessions(home))
    run.client.shutdown()
    run.process.wait(30)
    until(lambda: sessions(home) == [])


def test_spare_kernel_that_died_is_replaced_when_a_session_comes(
    home: GpuaasHome, runs: Callable[..., ProxyRun]
) -> None:
    home.cli("up", "--detach")
    kernels = until(lambda: [p for p in home.processes() if "jupyter_gpuaas.kernel" in p.cmdline()])
    for kernel in kernels:
        kernel.kill()
        kernel.wait(10)
    run = runs("spare").ready()
    assert run.value("1 + 1") == "2"
