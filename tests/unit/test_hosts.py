"""The hosts of a node: none is left unknown, and nothing that they started outlives them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from jupyter_gpuaas.errors import TransportError
from jupyter_gpuaas.model import HostReport
from jupyter_gpuaas.node import hosts as hosts_module
from jupyter_gpuaas.node.hosts import HostHandle, HostRecord, Hosts
from jupyter_gpuaas.node.processes import RUN_MARK, below, end_marked, marked
from tests.conftest import GpuaasHome
from tests.service import eventually, quick_settings

#: A process that starts one without any environment, says its pid, and ends when its input does.
PARENT = """
import subprocess, sys
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={}).pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[str]]:
    environ = {**os.environ, RUN_MARK: f"test-{os.getpid()}"}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as made:
        yield made
        made.kill()


def test_end_marked_ends_what_has_no_mark_but_a_marked_parent(parent: subprocess.Popen[str]) -> None:
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    assert end_marked(f"test-{os.getpid()}") == []
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_end_marked_ends_what_was_seen_below_before_its_parent_ended(parent: subprocess.Popen[str]) -> None:
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    seen = below(psutil.Process(parent.pid))
    assert child in seen
    parent.kill()
    parent.wait(10)
    assert end_marked(f"test-{os.getpid()}", also=seen) == []
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def ignore(report: HostReport) -> None:
    pass


def ignore_handle(handle: HostHandle) -> None:
    pass


async def test_find_ends_a_host_whose_agent_was_killed_while_it_started_it(
    gpuaas_home: GpuaasHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, folder, spawn = quick_settings(gpuaas_home.path), gpuaas_home.path / "node", os.posix_spawn
    folder.mkdir()

    class Killed(BaseException):
        pass

    def spawn_and_die(*given: Any, **named: Any) -> int:
        started.append(spawn(*given, **named))
        raise Killed

    started: list[int] = []
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "posix_spawn", spawn_and_die)
        Hosts(folder, "n", settings, ignore)._spawn()
    (run_id,) = (path.stem for path in (folder / "hosts").glob("*.json"))
    assert [process.pid for process in marked(run_id)] == started
    await Hosts(folder, "n", settings, ignore).find()
    assert marked(run_id) == []
    assert list((folder / "hosts").iterdir()) == []


async def test_find_record_that_a_power_cut_has_torn_is_no_reason_not_to_begin(gpuaas_home: GpuaasHome) -> None:
    folder = gpuaas_home.path / "node"
    folder.mkdir()
    hosts = Hosts(folder, "n", quick_settings(gpuaas_home.path), ignore)
    for name, content in (("empty", b""), ("half", b'{"run_id": "half", "pi'), ("none", b"\xff")):
        (folder / "hosts" / f"{name}.json").write_bytes(content)
    await hosts.find()
    assert hosts.sessions == {} and list((folder / "hosts").iterdir()) == []


async def test_spare_host_that_dies_leaves_nothing_and_is_replaced(
    gpuaas_home: GpuaasHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts_module, "SPARE_PAUSE_S", 0.05)
    folder: Path = gpuaas_home.path / "node"
    folder.mkdir()
    hosts = Hosts(folder, "n", quick_settings(gpuaas_home.path, spare_kernels=1), ignore)
    hosts.keep_spares()
    (first,) = hosts._spares
    await eventually(lambda: first._reading is not None)
    os.kill(first.record.pid, 9)
    second = await eventually(lambda: next((each for each in hosts._spares if each is not first), None))
    await eventually(lambda: second._reading is not None)
    await eventually(lambda: not Path(first.record.run_folder).exists() and not first.path.exists())
    assert await asyncio.to_thread(marked, first.record.run_id) == []
    await hosts.close()
    assert list((folder / "hosts").iterdir()) == []


async def test_host_that_has_ended_is_not_written_down_again_when_it_is_to_become_live(tmp_path: Path) -> None:
    """Its record would be taken for one of its session's next host on this node."""
    hosts = Hosts(tmp_path, "n", quick_settings(tmp_path), ignore)
    record = HostRecord("run", 0, 0.0, str(tmp_path / "run"), session_id="s", epoch=2, stands_by=True)
    handle = hosts.sessions["s"] = HostHandle(record, tmp_path / "hosts" / "run.json", ignore_handle)
    handle.gone.set()
    with pytest.raises(TransportError, match="gone"):
        await hosts.make_live("s", {})
    assert not handle.path.exists()


async def test_host_that_is_asked_for_twice_at_once_is_connected_to_once(tmp_path: Path) -> None:
    """A spare taken while it was still being connected to: a second connection, dropped, was taken for its end."""
    accepted = 0

    async def control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        writer.write(b'{"report": null}\n')
        connections.append(writer)
        await reader.read()
        writer.close()

    connections: list[asyncio.StreamWriter] = []
    server = await asyncio.start_unix_server(control, str(tmp_path / "control"))
    own = psutil.Process()
    record = HostRecord("run", own.pid, own.create_time(), str(tmp_path))
    handle = HostHandle(record, tmp_path / "host.json", lambda changed: None)
    async with server:
        await asyncio.gather(handle.connect(5), handle.connect(5))
        await handle.connect(5)
        assert accepted == 1
        assert not handle.gone.is_set()
        connections[0].close()
    await asyncio.wait_for(handle.gone.wait(), 5)  # the server closed its end
