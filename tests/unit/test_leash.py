"""What a leash remembers to have stopped, whatever crosses on the way, and although it can write nothing."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from jupyter_gpuaas.errors import TransportError
from jupyter_gpuaas.model import LeaseRenewal
from jupyter_gpuaas.node import lease as lease_module
from jupyter_gpuaas.node import leash as leash_module
from jupyter_gpuaas.node.lease import NodeLease
from jupyter_gpuaas.node.leash import Leash
from tests.fault.nodes import is_stopped, lives
from tests.service import eventually

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="leashes need /proc and pidfds of Linux")

#: No other test's: what has this mark is stopped.
RUN = f"run of test {os.getpid()}"


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"], env={**os.environ, "GPUAAS_RUN": RUN}) as made:
        yield made
        made.kill()


def test_what_is_stopped_again_before_its_going_on_is_heard_of_is_not_forgotten(
    tmp_path: Path, process: subprocess.Popen[bytes]
) -> None:
    leash = Leash(tmp_path)
    runs = {RUN: (os.getpid(), str(tmp_path))}
    leash._hear({"number": 1, "until_s": 0.0, "runs": runs})
    leash._stop()
    answer = leash._hear({"number": 2})
    assert is_stopped(process.pid)
    assert [pid for pid, _ in answer["held"][RUN][1]] == [process.pid]
    os.kill(process.pid, signal.SIGCONT)
    leash._stop()
    assert is_stopped(process.pid)
    again = leash._hear({"number": 3, "let_go": {RUN: 2}})
    assert [pid for pid, _ in again["held"][RUN][1]] == [process.pid]
    os.kill(process.pid, signal.SIGCONT)
    assert leash._hear({"number": 4, "let_go": {RUN: 3}})["held"] == {}


class Host:
    """Of a session whose only process is that of the test; it lets go on what it is told."""

    def __init__(self, folder: Path) -> None:
        self.record = SimpleNamespace(
            run_id=RUN, pid=os.getpid(), run_folder=str(folder), session_id="of the test", epoch=1
        )

    async def ask(self, op: str, *, processes: list[tuple[int, int]], **more: Any) -> dict[str, Any]:
        assert op == "go_on"
        for pid, _ in processes:
            os.kill(pid, signal.SIGCONT)
        return {"reply": {"done": True}}


class Agent:
    """A node's lease, as its agent keeps it, and the leash that it has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        hosts: Any = {"of the test": Host(folder)}
        self.lease = NodeLease(folder, lambda: hosts)
        self.name, self.beat_s = "", 0.0

    async def renew(self, ttl_s: float) -> None:
        renewal = LeaseRenewal(ttl_s=ttl_s, agent=self.name, beat_s=self.beat_s, stands={"of the test": 1})
        grant = await self.lease.renew(renewal)
        self.name, self.beat_s = grant.agent, grant.beat_s

    @property
    def leash(self) -> psutil.Process | None:
        process = self.lease._leash
        return psutil.Process(process.pid) if process is not None and process.returncode is None else None

    async def has_leash(self) -> psutil.Process:
        found = await eventually(lambda: self.leash)
        assert isinstance(found, psutil.Process)
        return found

    def files(self) -> list[str]:
        return [path.name for path in self.folder.glob("leash-*")]

    def fill_disk(self, leash: psutil.Process) -> None:
        leash.rlimit(resource.RLIMIT_FSIZE, (0, leash.rlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    made = Agent(tmp_path)
    await made.renew(600.0)
    await made.renew(600.0)
    yield made
    await made.lease.close()


def run_out(agent: Agent) -> None:
    """What is renewed next is over soon."""
    agent.lease._until_s = None


async def test_leash_that_can_write_nothing_stops_what_runs_and_it_goes_on_by_the_next_lease(
    agent: Agent, process: subprocess.Popen[bytes]
) -> None:
    leash = await agent.has_leash()
    agent.fill_disk(leash)
    run_out(agent)
    await agent.renew(0.3)
    await eventually(lambda: is_stopped(process.pid))
    # No file that would tell of the time before.
    await eventually(lambda: agent.files() == [])
    assert (await agent.has_leash()).pid == leash.pid
    await agent.renew(600.0)
    await agent.renew(600.0)
    await eventually(lambda: not is_stopped(process.pid))
    leash.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await eventually(lambda: agent.files() == [f"leash-{leash.pid}.json"])


@pytest.mark.parametrize("who_ends", ["leash", "agent"])
async def test_what_a_leash_has_stopped_without_writing_it_goes_on_although_it_is_gone(
    agent: Agent, process: subprocess.Popen[bytes], who_ends: str
) -> None:
    leash = await agent.has_leash()
    agent.fill_disk(leash)
    run_out(agent)
    await agent.renew(0.3)
    await eventually(lambda: is_stopped(process.pid) and agent.files() == [])
    if who_ends == "leash":
        leash.kill()
        await eventually(lambda: agent.leash is not None and agent.leash.pid != leash.pid)
        later = agent
    else:
        # Who is dead does not look after its leash any more.
        assert agent.lease._watching is not None
        agent.lease._watching.cancel()
        later = Agent(agent.folder)
    try:
        await later.renew(600.0)
        await later.renew(600.0)
        await eventually(lambda: not is_stopped(process.pid))
        assert not lives(leash.pid)
    finally:
        await later.lease.close()


async def test_agent_tries_until_it_has_a_leash_again(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    leash = await agent.has_leash()
    tried: list[str] = []
    real = asyncio.create_subprocess_exec

    async def fails(*command: str, **more: Any) -> Any:
        tried.append("once")
        return await real(*((sys.executable, "-c", "") if len(tried) < 3 else command), **more)

    monkeypatch.setattr(lease_module, "AGAIN_S", 0.01)
    monkeypatch.setattr(lease_module.asyncio, "create_subprocess_exec", fails)
    leash.kill()
    await eventually(lambda: len(tried) == 3 and agent.files() == [f"leash-{agent.lease._last}.json"])
    assert (await agent.has_leash()).cmdline()[-2:] == [leash_module.__file__, str(agent.folder)]


async def test_leash_that_does_not_answer_is_replaced_without_a_further_renewal(
    agent: Agent, process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    leash = await agent.has_leash()
    monkeypatch.setattr(lease_module, "ANSWER_S", 0.3)
    leash.suspend()
    run_out(agent)
    with pytest.raises(TransportError, match="does not answer"):
        await agent.renew(1.0)
    monkeypatch.undo()
    await eventually(lambda: is_stopped(process.pid))
    assert (await agent.has_leash()).pid != leash.pid
