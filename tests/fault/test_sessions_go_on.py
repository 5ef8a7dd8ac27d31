"""Sessions without their client: they go on, and what they said is there on return."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from jupyter_gpuaas.client.embedded import read_service_file
from tests.conftest import GpuaasHome, processes_with
from tests.service import eventually

from .cutter import Cutter
from .session import ProxyRun

pytestmark = pytest.mark.fault


@pytest.fixture
def home(gpuaas_home: GpuaasHome) -> Iterator[GpuaasHome]:
    (gpuaas_home.path / "settings.toml").write_text('devices = "cpu:1"\nack_delay_s = 0.1\nretry_most_s = 0.2\n')
    yield gpuaas_home


def sessions(home: GpuaasHome, *arguments: str) -> list[dict[str, Any]]:
    told = home.cli("sessions", "--json", *arguments, check=False)
    if "no service runs" in told.stderr:  # a proxy starts it, and is ready before
        return []
    assert told.returncode == 0, told.stderr
    found: list[dict[str, Any]] = json.loads(told.stdout)
    return found


def restart_controller(home: GpuaasHome) -> None:
    written = read_service_file(home.path)
    assert written is not None
    process = psutil.Process(written.pid)
    process.kill()
    process.wait(20)
    home.cli("up", "--detach")


def until(look: Any, deadline_s: float = 30.0) -> Any:
    return asyncio.run(eventually(look, deadline_s))


def test_a_cell_of_60_s_goes_on_without_client_and_across_a_controller_restart(
    home: GpuaasHome, runs: Callable[..., ProxyRun], tmp_path: Path
) -> None:
    run = runs("long").ready()
    begun = tmp_path / "begun"
    code = (
        "import time, pathlib\nkept = 41\n"
        f"pathlib.Path({str(begun)!r}).touch()\n"
        "end = time.monotonic() + 60\nn = 0\n"
        "while time.monotonic() < end:\n    print('tick', n, flush=True); n += 1; time.sleep(0.5)\n"
        "print('done', n)\nkept += 1"
    )
    msg_id = run.client.execute(code)
    until(begun.exists)
    run.kill_proxy()
    run.client.stop_channels()
    restart_controller(home)
    (found,) = until(lambda: [s for s in sessions(home) if s["clients"] == 0])
    assert found["state"] == "busy" and found["name"] == "long"
    until(lambda: sessions(home)[0]["state"] == "idle", 90)
    again = runs("long")
    reply = again.wait_done(again.client.execute("kept"))
    assert reply["content"]["status"] == "ok"
    said = again.text(msg_id).split("\n")
    ticks = [line for line in said if line.startswith("tick")]
    assert ticks == [f"tick {n}" for n in range(len(ticks))] and 100 <= len(ticks) <= 121
    assert f"done {len(ticks)}" in said
    results = [m for m in again.heard if m["msg_type"] == "execute_result"]
    assert results[-1]["content"]["data"]["text/plain"] == "42"
    assert [s["id"] for s in sessions(home)] == [found["id"]]


def test_detached_session_is_found_by_name_and_by_id_and_ends_with_a_shutdown(
    home: GpuaasHome, runs: Callable[..., ProxyRun]
) -> None:
    run = runs("mine").ready()
    run.run("x = 5")
    run.kill_proxy(signal.SIGTERM)
    run.client.stop_channels()
    (found,) = sessions(home)
    for wanted in ("mine", found["id"]):
        again = runs(f"other-{wanted}", {"GPUAAS_SESSION": wanted}).ready()
        assert again.value("x") == "5"
        again.kill_proxy(signal.SIGTERM)
        again.client.stop_channels()
    runs("mine").ready().close()
    until(lambda: sessions(home) == [])


def test_detach_on_shutdown_leaves_the_session(home: GpuaasHome, runs: Callable[..., ProxyRun]) -> None:
    run = runs("stays", {"GPUAAS_ON_SHUTDOWN": "detach"}).ready()
    assert run.run("x = 6")["content"]["status"] == "ok"
    run.close()
    again = runs("stays").ready()
    assert again.value("x") == "6"


def test_restart_gives_a_fresh_kernel_in_the_same_session(home: GpuaasHome, runs: Callable[..., ProxyRun]) -> None:
    run = runs("again").ready()
    run.run("x = 1")
    before = sessions(home)[0]
    run.client.shutdown(restart=True)
    assert run.process.wait(15) == 0
    run.start_proxy()
    run.ready()
    assert run.value("'x' in globals()") == "False"
    after = sessions(home)[0]
    assert (after["id"], after["epoch"], after["lease"]) == (before["id"], before["epoch"], before["lease"])


def test_prompt_is_asked_again_of_a_client_that_comes_back(home: GpuaasHome, runs: Callable[..., ProxyRun]) -> None:
    run = runs("asks").ready()
    msg_id = run.client.execute("name = input('who? '); print('hello', name)", allow_stdin=True)
    assert run.client.get_stdin_msg(timeout=20)["content"]["prompt"] == "who? "
    # Another front end on the same proxy, as after a page refresh.
    second = run.new_client()
    second.kernel_info()
    assert second.get_stdin_msg(timeout=20)["content"]["prompt"] == "who? "
    second.stop_channels()
    # Another proxy, as after a restart of the Jupyter server.
    run.kill_proxy()
    run.client.stop_channels()
    third = runs("asks")
    third.client.kernel_info()
    question = third.client.get_stdin_msg(timeout=20)
    assert question["content"]["prompt"] == "who? " and question["parent_header"]["msg_id"] == msg_id
    third.client.input("Ada")
    third.wait(lambda m: m["msg_type"] == "stream" and "hello Ada" in m["content"]["text"])


def test_second_session_is_queued_with_its_place_and_starts_when_the_first_is_released(
    home: GpuaasHome, runs: Callable[..., ProxyRun]
) -> None:
    first = runs("first").ready()
    second = runs("second")
    msg_id = second.client.execute("print('my turn')")
    until(lambda: len(sessions(home)) == 2)
    third = runs("third")
    until(lambda: len(sessions(home)) == 3)
    shown = second.wait(lambda m: m["msg_type"] in ("display_data", "update_display_data") and "place 1" in str(m))
    assert "queued" in shown["content"]["data"]["text/plain"] and shown["parent_header"]["msg_id"] == msg_id
    places = {s["name"]: s["queue_place"] for s in sessions(home)}
    assert places == {"first": 0, "second": 1, "third": 2}
    home.cli("release", "first")
    assert second.wait_done(msg_id)["content"]["status"] == "ok"
    assert second.text(msg_id) == "my turn\n"
    # What was shown while waiting is taken down before the cell's own outputs.
    kinds = [m["msg_type"] for m in second.heard if m["parent_header"].get("msg_id") == msg_id]
    assert kinds.index("clear_output") < kinds.index("stream")
    # The first one's client is told what became of its session.
    reply = first.run("1")
    assert reply["content"]["status"] == "error" and "has ended: released by" in reply["content"]["evalue"]
    # A host that is killed gives its device to the next, and its session comes back when that has gone.
    kill_host(home, "second")
    third.ready()
    assert third.value("1 + 1") == "2"
    (waits,) = [s for s in sessions(home) if s["name"] == "second"]
    assert waits["state"] == "restoring" and "unexpectedly" in waits["cause"]
    home.cli("release", "third")
    assert second.run("1")["content"]["status"] == "ok"


def test_kernel_that_dies_is_explained_and_replaced(home: GpuaasHome, runs: Callable[..., ProxyRun]) -> None:
    run = runs("dies").ready()
    run.run("x = 1")
    reply = run.run("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert reply["content"]["status"] == "error"
    assert reply["content"]["ename"] == "KernelDied" and "SIGSEGV" in reply["content"]["evalue"]
    errors = [m for m in run.heard if m["msg_type"] == "error"]
    assert "variables are lost" in errors[-1]["content"]["evalue"]
    assert run.value("'x' in globals()") == "False"
    events = [json.loads(line) for line in home.cli("events", "--json").stdout.splitlines()]
    assert any("SIGSEGV" in event["cause"] for event in events)


def test_memory_cap_of_a_cpu_device_is_enforced(gpuaas_home: GpuaasHome, runs: Callable[..., ProxyRun]) -> None:
    cap = 600 * 1024**2
    (gpuaas_home.path / "settings.toml").write_text(f'devices = "cpu:1"\ndevice_memory_bytes = {cap}\n')
    run = runs("greedy").ready()
    # Beyond the cap in the kernel itself: an ordinary MemoryError, and the session goes on.
    reply = run.run(f"big = bytearray({cap})")
    assert reply["content"]["ename"] == "MemoryError"
    assert run.value("1 + 1") == "2"
    # Beyond the cap in processes that it starts: the biggest ends, and the user is told.
    code = (
        "import subprocess, sys\n"
        "hog = 'b = bytearray(330*2**20)\\nfor i in range(0, len(b), 4096): b[i] = 1\\nimport time; time.sleep(60)'\n"
        "hogs = [subprocess.Popen([sys.executable, '-c', hog]) for _ in range(2)]\n"
        "import time\nend = time.monotonic() + 30\n"
        "while all(h.poll() is None for h in hogs) and time.monotonic() < end: time.sleep(0.1)\n"
        "[h.poll() for h in hogs]"
    )
    run.run(code)
    result = [m for m in run.heard if m["msg_type"] == "execute_result"][-1]
    assert "-9" in result["content"]["data"]["text/plain"]
    assert any("more than the" in m["content"]["text"] for m in run.heard if m["msg_type"] == "stream")
    run.run("[h.kill() for h in hogs]")


def test_service_that_cannot_be_reached_is_a_clear_error_and_is_tried_again(
    home: GpuaasHome, runs: Callable[..., ProxyRun]
) -> None:
    home.cli("up", "--detach")
    written = read_service_file(home.path)
    assert written is not None
    token = (home.path / "token").read_text().strip()
    process = psutil.Process(written.pid)
    process.kill()
    process.wait(20)
    run = runs("alone", {"GPUAAS_URL": written.url, "GPUAAS_TOKEN": token})
    reply = run.run("1", deadline_s=90)  # after `unreachable_s`; when exactly, tests of Waiting tell
    assert reply["content"]["ename"] == "RemoteUnreachable" and written.url in reply["content"]["evalue"]
    home.cli("up", "--detach")

    def works() -> bool:
        return bool(run.run("1")["content"]["status"] == "ok")

    until(works)


def test_settings_that_cannot_be_used_are_told_in_the_cell(home: GpuaasHome, runs: Callable[..., ProxyRun]) -> None:
    file = home.path / "settings.toml"
    file.write_text("colour = 'red'\n")
    run = runs("unset").ready()
    content = run.run("1")["content"]
    assert content["ename"] == "SettingError" and str(file) in content["evalue"] and "'colour'" in content["evalue"]
    run.close()
    file.unlink()


def test_wrong_token_is_told_in_the_cell(home: GpuaasHome, runs: Callable[..., ProxyRun]) -> None:
    home.cli("up", "--detach")
    written = read_service_file(home.path)
    assert written is not None
    run = runs("stranger", {"GPUAAS_URL": written.url, "GPUAAS_TOKEN": "wrong"}).ready()
    content = run.run("1")["content"]
    assert content["ename"] == "Unauthorized" and "GPUAAS_TOKEN" in content["evalue"]
    assert "restart the kernel" in content["evalue"]


def test_nothing_is_left_of_a_session_that_was_released(home: GpuaasHome, runs: Callable[..., ProxyRun]) -> None:
    run = runs("tidy").ready()
    run.run(
        "import subprocess\n"
        "a = subprocess.Popen(['sleep', '1000'])\n"
        "b = subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
        "import os; print(os.environ['GPUAAS_RUN'])"
    )
    run_id = next(m["content"]["text"].strip() for m in run.heard if m["msg_type"] == "stream")
    assert len(processes_with("GPUAAS_RUN", run_id)) == 4  # host, kernel and the two
    folders = list(Path("/tmp").glob("gpuaas-*")) + list((home.path / "nodes").glob("*/sessions/*"))
    assert folders
    (found,) = sessions(home)
    home.cli("release", "tidy")
    assert processes_with("GPUAAS_RUN", run_id) == []
    assert list((home.path / "nodes").glob("*/sessions/*")) == []
    assert json.loads(home.cli("status", "--json").stdout)
    assert sessions(home) == []
    assert found["lease"]["device_ids"] == ["cpu:0"]


@pytest.mark.parametrize("victim", ["host", "agent"])
def test_nothing_is_left_behind_a_killed_host_and_a_killed_agent_loses_nothing(
    home: GpuaasHome, runs: Callable[..., ProxyRun], victim: str
) -> None:
    run = runs("victim").ready()
    run.run("import subprocess, os; p = subprocess.Popen(['sleep', '1000'], start_new_session=True); x = 7")
    marked = os_environ_of_kernel(home, "victim")
    if victim == "host":
        kill_host(home, "victim")
        until(lambda: processes_with("GPUAAS_RUN", marked) == [])
        assert run.value("x") == "7"  # as another host has restored it
        home.cli("release", "victim")
        assert sessions(home) == []
        until(lambda: list((home.path / "nodes").glob("*/sessions/*")) == [])
        until(lambda: list((home.path / "nodes").glob("*/remains/*")) == [])
    else:
        agent = json.loads((home.path / "nodes/local-0/agent.json").read_text())["pid"]
        os.kill(agent, signal.SIGKILL)
        assert run.value("x") == "7"  # the channel does not pass the agent
        until(lambda: json.loads((home.path / "nodes/local-0/agent.json").read_text())["pid"] != agent)
        run.kill_proxy()
        run.start_proxy()
        assert run.value("x") == "7"


def host_record(home: GpuaasHome, name: str) -> dict[str, Any]:
    (session,) = [s for s in sessions(home) if s["name"] == name]
    records = [json.loads(path.read_text()) for path in (home.path / "nodes").glob("*/hosts/*.json")]
    (record,) = [record for record in records if record["session_id"] == session["id"]]
    found: dict[str, Any] = record
    return found


def kill_host(home: GpuaasHome, name: str) -> None:
    os.kill(host_record(home, name)["pid"], signal.SIGKILL)


def os_environ_of_kernel(home: GpuaasHome, name: str) -> str:
    return str(host_record(home, name)["run_id"])


def test_cell_run_while_the_link_is_down_says_so_and_runs_when_it_is_back(
    gpuaas_home: GpuaasHome, runs: Callable[..., ProxyRun]
) -> None:
    def agent_port() -> int:
        return int(json.loads((gpuaas_home.path / "nodes/local-0/agent.json").read_text())["port"])

    net = Cutter(agent_port)
    (gpuaas_home.path / "settings.toml").write_text(
        f'devices = "cpu:1"\nping_s = 0.2\nsilence_s = 0.6\nadvertise = "http://127.0.0.1:{net.port}"\n'
    )
    run = runs("cut", {"GPUAAS_RELAY": "never", "GPUAAS_LOG": "WARNING"}).ready()
    running = run.client.execute("import time\nfor n in range(6000): time.sleep(0.01)")
    run.wait(lambda m: m["msg_type"] == "execute_input")
    net.stall()
    net.cut()
    until(lambda: "no link" in run.log.read_text())
    cell = run.client.execute("print('at last')")
    shown = run.wait(lambda m: m["msg_type"] == "display_data" and m["parent_header"].get("msg_id") == cell)
    assert "no link to the session" in shown["content"]["data"]["text/plain"]
    # An interrupt goes by the service, and cancels what has not been sent.
    run.client.session.send(run.client.control_channel.socket, "interrupt_request", {})
    assert run.wait_done(cell)["content"]["ename"] == "KeyboardInterrupt"
    again = run.client.execute("print('at last')")
    net.heal()
    assert run.wait_done(running)["content"]["ename"] == "KeyboardInterrupt"
    assert run.wait_done(again)["content"]["status"] in ("ok", "aborted")
    assert run.run("1")["content"]["status"] == "ok"
    net.close()
