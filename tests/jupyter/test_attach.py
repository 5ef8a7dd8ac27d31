"""``jupyter gpuaas attach``: a console on a live session, left and entered again."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pexpect

from tests.conftest import GpuaasHome

DEADLINE_S = 60


@contextmanager
def console(home: GpuaasHome, session: str) -> Iterator[pexpect.spawn]:
    """A console that is attached and has shown its first prompt."""
    child = pexpect.spawn(
        sys.executable,
        ["-m", "jupyter_gpuaas", "attach", session],
        env=home.env | {"TERM": "dumb"},
        encoding="utf-8",
        timeout=DEADLINE_S,
        dimensions=(40, 200),
    )
    try:
        child.expect(r"In \[\d+\]:")
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
