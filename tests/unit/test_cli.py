"""The command line as a user meets it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import psutil
import pytest
from click.testing import CliRunner, Result

from jupyter_gpuaas import cli
from jupyter_gpuaas.cli.asking import with_consent
from jupyter_gpuaas.client.blocking import Blocking
from jupyter_gpuaas.client.embedded import find_service, read_service_file, start_service
from jupyter_gpuaas.config import Settings, load
from jupyter_gpuaas.errors import MigrationError, NamesLost, ServiceUnreachable
from tests.conftest import GpuaasHome


def commands_of(group: click.Group, before: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands_of(command, f"{before}{name} ")
        else:
            yield f"{before}{name}"


COMMANDS = list(commands_of(cli.main))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, arguments)


@pytest.fixture
def quick_home(gpuaas_home: GpuaasHome) -> GpuaasHome:
    (gpuaas_home.path / "settings.toml").write_text('devices = "cpu:1"\nspare_kernels = 0\nstop_timeout_s = 2.0\n')
    return gpuaas_home


@pytest.fixture
def running_home(quick_home: GpuaasHome) -> Iterator[GpuaasHome]:
    quick_home.cli("up", "--detach")
    yield quick_home


def make_session(home: GpuaasHome, name: str, wait_s: float = 30.0) -> str:
    from jupyter_gpuaas.client.service import ServiceClient

    async def make() -> str:
        endpoint = await find_service(Settings(home=str(home.path)), start=False)
        async with ServiceClient(endpoint.url, endpoint.token) as client:
            return (await client.create_session(name, wait_s=wait_s)).session.id

    with Blocking() as blocking:
        return blocking.run(make(), timeout=60)


# -- without a service ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_says_what_it_does(command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.output
    said = result.output.splitlines()[2].strip()
    assert len(said.split()) >= 3, "a sentence under the usage line"


def test_help_lists_every_command() -> None:
    listed = run("--help").output
    assert {"up", "down", "status", "nodes", "sessions", "attach", "release", "logs", "events"} <= set(COMMANDS)
    assert all(f"\n  {command.split()[0]} " in listed for command in COMMANDS)


@pytest.mark.parametrize("command", ["nodes", "sessions", "events", "release x", "logs x", "status", "attach x"])
def test_command_without_a_service_says_so_without_a_traceback(quick_home: GpuaasHome, command: str) -> None:
    result = run(*command.split())
    assert result.exit_code == 1
    assert "no service runs" in result.output
    assert "jupyter gpuaas up" in result.output
    assert "Traceback" not in result.output
    assert not (quick_home.path / "service.json").exists(), "a look must not start anything"


def test_status_json_without_a_service_is_json(quick_home: GpuaasHome) -> None:
    result = run("status", "--json")
    assert result.exit_code == 1
    assert json.loads(result.output)["running"] is False


def test_service_elsewhere_that_does_not_answer_is_named(quick_home: GpuaasHome) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    result = run("--url", f"http://127.0.0.1:{port}", "sessions")
    assert result.exit_code == 1
    assert f"http://127.0.0.1:{port}" in result.output


@pytest.mark.parametrize("url", ["nonsense", "http://", "ftp://x", "http://[::1", "http://a:99999999"])
def test_service_url_that_is_none_gets_a_clear_error(quick_home: GpuaasHome, url: str) -> None:
    result = run("--url", url, "sessions")
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")


def test_bad_setting_is_named(quick_home: GpuaasHome) -> None:
    result = CliRunner(env={"GPUAAS_PORT": "many"}).invoke(cli.main, ["status"])
    assert result.exit_code == 1
    assert "port" in result.output


@pytest.mark.parametrize("arguments", ["up --nodes 0", "up --port 70000", "up --engine moon", "release", "nothing"])
def test_bad_usage_is_refused_by_the_parser(arguments: str) -> None:
    assert run(*arguments.split()).exit_code == 2


class Losing:
    """What would lose a name, and how often it was done so."""

    def __init__(self) -> None:
        self.told: list[bool] = []

    def __call__(self, accepted: bool) -> str:
        self.told.append(accepted)
        if not accepted:
            raise NamesLost("g would be lost: g: a generator.", hint="--accept-loss moves the session without.")
        return "moved"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Standard input is a terminal; what is written into the descriptor is typed there."""
    keys, screen = os.openpty()
    with open(screen, encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield keys
    os.close(keys)


def test_what_would_lose_names_is_done_when_its_user_says_yes(
    terminal: int, capsys: pytest.CaptureFixture[str]
) -> None:
    work = Losing()
    os.write(terminal, b"y\n")
    assert with_consent(work, False, False, "Move it all the same?") == "moved"
    assert work.told == [False, True]
    assert "g would be lost: g: a generator. Move it all the same? [y/N]" in capsys.readouterr().err


@pytest.mark.parametrize("typed", ["n", ""])
def test_what_would_lose_names_is_not_done_when_its_user_does_not_say_yes(terminal: int, typed: str) -> None:
    work = Losing()
    os.write(terminal, f"{typed}\n".encode())
    with pytest.raises(MigrationError, match="stays as it is"):
        with_consent(work, False, False, "Move it all the same?")
    assert work.told == [False]


def test_what_would_lose_names_is_not_asked_about_where_that_is_said_already_or_json_is_wanted(
    terminal: int, capsys: pytest.CaptureFixture[str]
) -> None:
    work = Losing()
    assert with_consent(work, True, False, "Move it all the same?") == "moved"
    with pytest.raises(NamesLost):
        with_consent(work, False, True, "Move it all the same?")
    assert work.told == [True, False]
    assert capsys.readouterr().err == ""


def test_what_would_lose_names_is_refused_where_nobody_can_be_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    work = Losing()
    (tmp_path / "answers").write_text("y\n")
    with open(tmp_path / "answers", encoding="utf-8") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(NamesLost):
            with_consent(work, False, False, "Move it all the same?")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(NamesLost):
        with_consent(work, False, False, "Move it all the same?")
    assert work.told == [False, False]


def test_down_without_a_service_is_no_error(quick_home: GpuaasHome) -> None:
    result = run("down")
    assert result.exit_code == 0
    assert "No service runs" in result.output


# -- with one ------------------------------------------------------------------------------------------------


def test_up_twice_is_one_service(running_home: GpuaasHome) -> None:
    first = read_service_file(running_home.path)
    for arguments in (["up", "--detach"], ["up"]):
        again = running_home.cli(*arguments)
        assert "already runs" in again.stdout
    assert read_service_file(running_home.path) == first


def test_every_list_has_a_table_and_json(running_home: GpuaasHome) -> None:
    first = make_session(running_home, "dir/first.ipynb")
    make_session(running_home, "second", wait_s=0)
    table = run("sessions").output.splitlines()
    assert table[0].split() == ["ID", "NAME", "STATE", "ON", "CLIENTS", "AGE", "WHY"]
    assert "dir/first.ipynb" in table[1] and "local-0 cpu:0" in table[1]
    assert "queued (place 1)" in table[2]
    column = table[0].index("STATE")
    assert table[1][column:].startswith("idle") and table[2][column:].startswith("queued")
    assert [each["name"] for each in json.loads(run("sessions", "--json").output)] == ["dir/first.ipynb", "second"]
    (node,) = json.loads(run("nodes", "--json").output)
    assert node["leased"] == ["cpu:0"]
    assert "leased" in run("nodes").output
    assert json.loads(run("status", "--json").output)["sessions"] == 2
    assert "2 live sessions" in run("status").output
    events = [json.loads(line) for line in run("events", "--json").output.splitlines()]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    only = [json.loads(line) for line in run("events", "--json", "--session", first).output.splitlines()]
    assert {event["session_id"] for event in only} == {first}
    assert "queued → starting" in run("events").output


def test_session_is_found_by_name_id_and_beginning_of_the_id(running_home: GpuaasHome) -> None:
    for way in ("name", "id", "beginning"):
        session_id = make_session(running_home, f"by {way}")
        word = {"name": f"by {way}", "id": session_id, "beginning": session_id[:8]}[way]
        result = run("release", word)
        assert result.exit_code == 0, result.output
        assert f"by {way}" in result.output
    assert run("sessions").output.splitlines()[1:] == []
    assert len(run("sessions", "--all").output.splitlines()) == 4


def test_release_of_an_unknown_session_is_a_clear_error(running_home: GpuaasHome) -> None:
    assert "name of a session is missing" in run("release", "").output
    result = run("release", "nobody")
    assert result.exit_code == 1
    assert "'nobody'" in result.output


def test_logs_of_a_session(running_home: GpuaasHome) -> None:
    make_session(running_home, "first")
    for arguments in (["logs", "first"], ["logs", "first", "--system", "--tail", "3"]):
        result = run(*arguments)
        assert result.exit_code == 0, result.output


def test_events_follow_prints_what_comes(running_home: GpuaasHome) -> None:
    command = [sys.executable, "-m", "jupyter_gpuaas", "events", "--follow", "--json"]
    with subprocess.Popen(command, env=running_home.env, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        try:
            session_id = make_session(running_home, "first")
            for line in follower.stdout:
                event = json.loads(line)
                if event["session_id"] == session_id and event["target"] == "idle":
                    break
            else:
                raise AssertionError("the stream ended")
        finally:
            follower.terminate()


def test_token_create_prints_a_token_that_works(running_home: GpuaasHome, monkeypatch: pytest.MonkeyPatch) -> None:
    made = json.loads(run("token", "create", "--user", "ann", "--ttl", "60", "--json").output)
    assert made["user"] == "ann"
    written = read_service_file(running_home.path)
    assert written is not None
    monkeypatch.setenv("GPUAAS_URL", written.url)
    monkeypatch.setenv("GPUAAS_TOKEN", made["token"])
    assert run("sessions").exit_code == 0
    refused = run("token", "create", "--user", "eve")
    assert refused.exit_code == 1
    assert "admin" in refused.output
    monkeypatch.setenv("GPUAAS_TOKEN", "wrong")
    assert "GPUAAS_TOKEN" in run("sessions").output


def test_users_and_tokens_are_made_listed_changed_and_revoked(running_home: GpuaasHome) -> None:
    made = json.loads(
        run("tokens", "create", "--user", "ann", "--scope", "read", "--label", "her laptop", "--json").output
    )
    assert made["scopes"] == ["read"]
    listed = run("tokens", "list", "--user", "ann").output
    assert made["id"] in listed and "her laptop" in listed and made["token"] not in listed
    changed = json.loads(run("users", "set", "ann", "--devices", "2", "--device-hours", "1.5", "--json").output)
    assert (changed["limits"]["devices"], changed["limits"]["device_hours"]) == (2, 1.5)
    changed = json.loads(run("users", "set", "ann", "--devices", "default", "--blocked", "--json").output)
    assert (changed["limits"]["devices"], changed["limits"]["device_hours"]) == (None, 1.5)
    assert "blocked" in run("users", "list").output
    for none in ("many", "nan", "inf"):
        refused = run("users", "set", "ann", "--devices", none)
        assert refused.exit_code == 2 and f"'{none}' is neither a number" in refused.output
    assert "1.5 is not a whole number" in run("users", "set", "ann", "--devices", "1.5").output
    assert made["id"] in run("tokens", "revoke", made["id"]).output
    gone = run("tokens", "revoke", made["id"])
    assert gone.exit_code == 1 and "there is none" in gone.output
    asked = run("users", "remove", "ann")
    assert asked.exit_code == 1 and "all checkpoints" in asked.output
    assert "ann" in run("users", "list").output, "nobody has said yes"
    assert run("users", "remove", "ann", "--yes").exit_code == 0
    assert [each["user"] for each in json.loads(run("users", "list", "--json").output)] != ["ann"]
    make_session(running_home, "first")
    (used,) = json.loads(run("usage", "--json").output)["sessions"]
    assert used["name"] == "first" and used["device_seconds"] > 0
    assert "first" in run("usage").output
    told = [json.loads(line) for line in run("audit", "--json").output.splitlines()]
    assert [each["action"] for each in told if each["target"] == "/users/ann"] == ["PUT /users/{name}"] * 2 + [
        "DELETE /users/{name}"
    ]
    assert "DELETE /tokens/{token}" in run("audit").output


def test_attach_runs_a_console_on_the_session(running_home: GpuaasHome, monkeypatch: pytest.MonkeyPatch) -> None:
    session_id = make_session(running_home, "first")
    started: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda path, command, environ: started.append((command, environ)))
    assert run("attach", "first").exit_code == 0
    ((command, environ),) = started
    assert command[1:] == ["-m", "jupyter_console", "--kernel", "remote_gpu"]
    assert environ["GPUAAS_SESSION"] == session_id
    assert environ["GPUAAS_ON_SHUTDOWN"] == "detach"
    assert environ["GPUAAS_HOME"] == str(running_home.path)


def test_up_in_the_foreground_ctrl_c_ends_everything(quick_home: GpuaasHome) -> None:
    command = [sys.executable, "-m", "jupyter_gpuaas", "up", "--json"]
    with subprocess.Popen(
        command, env=quick_home.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    ) as service:
        assert service.stdout is not None and service.stderr is not None
        text = ""
        while not text.endswith("}\n"):
            text += service.stdout.readline()
        told = json.loads(text)
        assert told["pid"] == service.pid
        make_session(quick_home, "first")
        service.send_signal(signal.SIGINT)
        assert service.wait(30) == 0
        assert "Traceback" not in service.stderr.read()
    assert quick_home.processes() == []
    assert read_service_file(quick_home.path) is None


def test_up_on_a_taken_port_fails_with_the_reason(quick_home: GpuaasHome) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments in (["up", "--port", port], ["up", "--detach", "--port", port]):
            result = quick_home.cli(*arguments, check=False)
            assert result.returncode == 1
            assert port in result.stderr
            assert "Traceback" not in result.stderr
    assert quick_home.processes() == []


@pytest.mark.parametrize("arguments", [["up"], ["up", "--detach"]])
def test_up_in_a_home_that_is_no_folder_fails_with_the_reason(tmp_path: Path, arguments: list[str]) -> None:
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    result = run("--home", str(link), *arguments)
    assert result.exit_code == 1
    assert "setting home" in result.output


def test_start_service_large_log_is_put_aside(quick_home: GpuaasHome) -> None:
    log = quick_home.path / "service.log"
    with log.open("wb") as file:
        file.truncate(9 * 1024**2)
    quick_home.cli("up", "--detach")
    assert log.stat().st_size < 1024**2
    assert log.with_suffix(".log.1").stat().st_size == 9 * 1024**2


def test_up_with_devices_that_are_none_fails_with_the_reason(quick_home: GpuaasHome) -> None:
    result = quick_home.cli("up", "--devices", "toaster:9", check=False)
    assert result.returncode == 1
    assert "toaster" in result.stderr
    assert quick_home.processes() == []


def test_start_service_that_cannot_start_shows_the_end_of_its_log(quick_home: GpuaasHome) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = load(port=taken.getsockname()[1])
        with Blocking() as blocking, pytest.raises(ServiceUnreachable, match="cannot listen"):
            blocking.run(start_service(settings), timeout=60)


def test_find_service_by_ten_at_once_starts_one(quick_home: GpuaasHome) -> None:
    settings = load()
    blockings = [Blocking() for _ in range(10)]
    try:
        with ThreadPoolExecutor(10) as pool:
            found = list(pool.map(lambda each: each.run(find_service(settings), timeout=120), blockings))
    finally:
        for each in blockings:
            each.close()
    assert len(set(found)) == 1
    services = [process for process in quick_home.processes() if "up" in process.cmdline()]
    assert len(services) == 1


def test_find_service_file_of_a_dead_service_is_not_believed(quick_home: GpuaasHome) -> None:
    quick_home.cli("up", "--detach")
    written = read_service_file(quick_home.path)
    assert written is not None
    process = psutil.Process(written.pid)
    process.kill()
    process.wait(20)
    assert (quick_home.path / "service.json").exists()
    assert run("status").exit_code == 1


def test_log_of_the_service_is_private(running_home: GpuaasHome) -> None:
    assert (running_home.path / "service.log").stat().st_mode & 0o077 == 0


def test_blocking_timeout_cancels_and_interrupt_does_not(tmp_path: Path) -> None:
    import asyncio

    states: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            states.append("cancelled")
            raise

    with Blocking() as blocking:
        with pytest.raises(TimeoutError):
            blocking.run(work(), timeout=0.05)
        deadline = time.monotonic() + 10
        while not states and time.monotonic() < deadline:
            blocking.run(asyncio.sleep(0), timeout=10)
        assert states == ["cancelled"]
        future = blocking.submit(work())
        assert not future.done()
    assert states == ["cancelled", "cancelled"]  # close() ends what is left
