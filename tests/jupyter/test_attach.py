"""``jupyter gpuaas attach``: a console on a live session, left and entered again, and moved meanwhile."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pexpect
import pytest

from tests.conftest import GpuaasHome
from tests.fault.test_sessions_go_on import until

DEADLINE_S = 60


@contextmanager
def console(home: GpuaasHome, session: str) -> Iterator[pexpect.spawn]:
    """A console that is attached and has shown its first prompt."""
    with at_a_terminal(home, "attach", session) as child:
        child.expect(r"In \[\d+\]:")
        yield child


@contextmanager
def at_a_terminal(home: GpuaasHome, *command: str) -> Iterator[pexpect.spawn]:
    """A command, as somebody types it."""
    child = pexpect.spawn(
        sys.executable,
        ["-m", "jupyter_gpuaas", *command],
        env=home.env | {"TERM": "dumb"},
        encoding="utf-8",
        timeout=DEADLINE_S,
        dimensions=(40, 200),
    )
    try:
        yield child
    finally:
        child.close(force=True)


def sessions(home: GpuaasHome) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(home.cli("sessions", "--json").stdout)
    return found


def leave(child: pexpect.spawn) -> None:
    child.expect(r"In \[[2-9]\]:")
    for _ in range(DEADLINE_S):
        child.sendcontrol("d")  # Lost, if the console has drawn its prompt but does not listen yet.
        if child.expect(["want to exit", pexpect.TIMEOUT], timeout=1) == 0:
            break
    child.sendline("y")
    child.expect(pexpect.EOF)


def test_attach_finds_the_variables_and_leaving_leaves_the_session(gpuaas_home: GpuaasHome) -> None:
    from tests.unit.test_cli import make_session

    gpuaas_home.cli("up", "--detach", "--devices", "cpu:1")
    session_id = make_session(gpuaas_home, "dir/work.ipynb")
    with console(gpuaas_home, "dir/work.ipynb") as child:
        child.sendline("answer = 6 * 7; print('set', answer)")
        child.expect("set 42")
        leave(child)
    assert [(each["id"], each["state"]) for each in sessions(gpuaas_home)] == [(session_id, "idle")]
    with console(gpuaas_home, session_id) as child:
        child.sendline("print('found', answer + 1)")
        child.expect("found 43")
        leave(child)
    assert [each["id"] for each in sessions(gpuaas_home)] == [session_id]


@pytest.mark.long
def test_console_goes_on_in_a_session_that_moves_when_its_user_has_said_what_may_be_lost(
    gpuaas_home: GpuaasHome,
) -> None:
    from tests.unit.test_cli import make_session

    (gpuaas_home.path / "settings.toml").write_text(
        'nodes = 2\ndevices = "cpu:1"\nworkdir = "session"\nspare_kernels = 0\ncheckpoint_share = 1000000\n'
    )
    gpuaas_home.cli("up", "--detach")
    make_session(gpuaas_home, "work")
    with console(gpuaas_home, "work") as child:
        child.sendline("import threading; t = threading.Thread(target=threading.Event().wait, daemon=True); t.start()")
        child.expect(r"In \[2\]:")
        child.sendline("import os; answer = 6 * 7; print('set', answer, os.environ['GPUAAS_NODE'])")
        child.expect(r"set 42 local-(\d)")
        target = f"local-{1 - int(child.match.group(1))}"
        child.expect(r"In \[3\]:")
        until(lambda: "would be lost" in gpuaas_home.cli("migrate", "work", "--dry-run").stdout)
        nobody = gpuaas_home.cli("migrate", "work", check=False)
        assert nobody.returncode == 1 and "--accept-loss" in nobody.stderr
        for command, typed, told in (("park", "", "The session stays as it is"), ("migrate", "y", target)):
            with at_a_terminal(gpuaas_home, command, "work") as asking:
                asking.expect(r"\bt would be lost.*(Move|Park) it all the same\? \[y/N\]:")
                asking.sendline(typed)
                asking.expect(told)
                asking.expect(pexpect.EOF)
        child.sendline("print('found', answer + 1, os.environ['GPUAAS_NODE'])")
        child.expect(f"found 43 {target}")
        child.expect(r"In \[4\]:")
