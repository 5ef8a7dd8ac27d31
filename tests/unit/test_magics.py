"""``%remote_gpu`` without a kernel or a service."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core.error import UsageError

from jupyter_gpuaas.cell.connection import Connection
from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.magics import SESSION_ID, Interrupted, RemoteGpuMagics
from jupyter_gpuaas.model import ResourceRequest

Magic = Callable[[str], None]


class Desk:
    """Checkpoints of a kernel whose user is impatient."""

    def take(self, label: str, told: Any) -> Any:
        raise KeyboardInterrupt


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> Magic:
    """The magic in a local notebook."""
    monkeypatch.delenv(SESSION_ID, raising=False)
    shell = SimpleNamespace(kernel=SimpleNamespace(checkpoints=Desk()))
    return RemoteGpuMagics(shell).remote_gpu


@pytest.fixture
def inside(local: Magic, monkeypatch: pytest.MonkeyPatch) -> Magic:
    """The magic in a session's own kernel."""
    monkeypatch.setenv(SESSION_ID, "s")
    return local


def test_interrupted_command_is_one_line(inside: Magic) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        inside("checkpoint")
    assert isinstance(caught.value, Interrupted)
    assert caught.value._render_traceback_() == ["KeyboardInterrupt: given up"]


def test_help_of_a_command_is_about_that_command(inside: Magic, capsys: pytest.CaptureFixture[str]) -> None:
    inside("restore --help")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(line.startswith("%remote_gpu restore ") for line in lines)
    inside("--help")
    whole = capsys.readouterr().out
    assert "%%remote_gpu" in whole and "%remote_gpu forget" in whole
    for unknown in ("", "nothing -h"):
        inside(unknown)
        assert capsys.readouterr().out == whole


def test_versions_that_differ_are_told() -> None:
    async def hello(op: str, packages: list[str]) -> dict[str, Any]:
        return {"python": "2.7.18", "packages": {"dill": "0.0.1"}}

    connection = Connection(Settings(), print, ours=False)
    try:
        connection._session = SimpleNamespace(ask=hello)  # type: ignore[assignment]
        told = connection.differences({"module": pytest})
    finally:
        connection._runner.close()
    assert told[0].startswith(f"Python {platform.python_version()} here, 2.7.18 there (functions and classes")
    assert f"dill {version('dill')} here, 0.0.1 there" in told
    assert f"pytest {version('pytest')} here, not installed there" in told


@pytest.mark.parametrize("line", ["checkpoints", "diff -2 -1", "forget 1234", "status", "detach", "release"])
def test_command_that_only_looks_starts_no_session(
    line: str, local: Magic, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(RemoteGpuMagics, "_open", lambda *_: pytest.fail("a session was asked for"))
    local(line)
    assert "not connected to a session" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "setting", "asked"),
    [
        ("--devices 0.5", "", (1, 0.5)),
        ("--devices 2", "0.25", (2, 1.0)),
        ("", "0.25", (1, 0.25)),
        ("", "", (1, 1.0)),
    ],
)
def test_connect_asks_for_whole_devices_or_a_part_of_one(
    said: str, setting: str, asked: tuple[int, float], local: Magic, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[ResourceRequest] = []
    monkeypatch.setenv("GPUAAS_WANT_DEVICES", setting)
    monkeypatch.setattr(RemoteGpuMagics, "_open", lambda self, node, settings, request, name: seen.append(request))
    monkeypatch.setattr(RemoteGpuMagics, "_status", lambda self, arguments: None)
    local(f"connect {said}")
    assert [(each.devices, each.share) for each in seen] == [asked]


@pytest.mark.parametrize(
    ("said", "setting", "asked"),
    [
        ("--on-node-loss rerun", "", "rerun"),
        ("--on-node-loss ask", "rerun", "ask"),
        ("", "restore_only", "restore_only"),
        ("", "", ""),
    ],
)
def test_connect_says_what_becomes_of_a_cell_that_is_cut_off(
    said: str, setting: str, asked: str, local: Magic, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[ResourceRequest] = []
    if setting:
        monkeypatch.setenv("GPUAAS_ON_NODE_LOSS", setting)
    monkeypatch.setattr(RemoteGpuMagics, "_open", lambda self, node, settings, request, name: seen.append(request))
    monkeypatch.setattr(RemoteGpuMagics, "_status", lambda self, arguments: None)
    local(f"connect {said}")
    assert [each.on_node_loss for each in seen] == [asked]


def test_connect_names_what_can_become_of_a_cell_that_is_cut_off(
    local: Magic, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=r"on-node-loss.*'always'.*ask.*rerun.*restore_only"):
        local("connect --on-node-loss always")
    local("connect --help")
    assert "--on-node-loss ask|rerun|restore_only" in capsys.readouterr().out


@pytest.mark.parametrize("said", ["0", "1.5", "-1", "half"])
def test_connect_refuses_what_is_no_number_of_devices(said: str, local: Magic) -> None:
    with pytest.raises(UsageError, match="devices"):
        local(f"connect --devices={said}")
