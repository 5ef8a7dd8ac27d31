"""The controller killed at bad moments, and started again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import psutil
import pytest

from jupyter_gpuaas.client.embedded import find_running, read_service_file
from jupyter_gpuaas.client.migrations import ENDED
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.client.session import RemoteSession
from jupyter_gpuaas.model import GpuSession, Lease, ServiceFile, SessionState
from tests.conftest import GpuaasHome
from tests.roaming import Outputs, Roamer
from tests.service import eventually, quick_settings

S = SessionState

pytestmark = pytest.mark.fault


@pytest.fixture(autouse=True)
def _quick(gpuaas_home: GpuaasHome) -> None:
    (gpuaas_home.path / "settings.toml").write_text('devices = "cpu:1"\nspare_kernels = 0\nstop_timeout_s = 2.0\n')


@asynccontextmanager
async def client_of(home: GpuaasHome) -> AsyncIterator[ServiceClient]:
    endpoint = await find_running(home.path)
    assert endpoint is not None
    async with ServiceClient(endpoint.url, endpoint.token) as client:
        yield client


def start(home: GpuaasHome, *arguments: str) -> ServiceFile:
    home.cli("up", "--detach", *arguments)
    written = read_service_file(home.path)
    assert written is not None
    return written


def kill_controller(home: GpuaasHome, number: int = signal.SIGKILL) -> None:
    written = read_service_file(home.path)
    assert written is not None
    process = psutil.Process(written.pid)
    process.send_signal(number)
    process.wait(20)


def agent_pid(home: GpuaasHome, node: str = "local-0") -> int:
    return int(msgspec.json.decode((home.path / "nodes" / node / "agent.json").read_bytes())["pid"])


def host_pid(home: GpuaasHome, session: GpuSession) -> int:
    for path in (home.path / "nodes").glob("*/hosts/*.json"):
        record = msgspec.json.decode(path.read_bytes())
        if record["session_id"] == session.id:
            return int(record["pid"])
    raise AssertionError(f"no host of {session.id}")


async def until_state(client: ServiceClient, session: GpuSession, *states: S) -> GpuSession:
    async def look() -> GpuSession | None:
        now = next(each for each in await client.sessions(all=True) if each.id == session.id)
        return now if now.state in states else None

    found: GpuSession = await eventually(look)
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_running_sessions_are_found_again_at_the_same_address(gpuaas_home: GpuaasHome, number: int) -> None:
    before = start(gpuaas_home, "--nodes", "2")
    async with client_of(gpuaas_home) as client:
        sessions = [(await client.create_session(name, wait_s=30)).session for name in "ab"]
        leases = await client.allocations()
    hosts = [host_pid(gpuaas_home, session) for session in sessions]
    agents = [agent_pid(gpuaas_home, node) for node in ("local-0", "local-1")]
    kill_controller(gpuaas_home, number)
    after = start(gpuaas_home, "--nodes", "2")
    assert after.url == before.url
    assert after.pid != before.pid
    assert [agent_pid(gpuaas_home, node) for node in ("local-0", "local-1")] == agents
    async with client_of(gpuaas_home) as client:
        found = [(await client.create_session(name)).session for name in "ab"]
        assert [each.id for each in found] == [each.id for each in sessions]
        assert [(each.state, each.epoch, each.lease) for each in found] == [
            (S.IDLE, 1, each.lease) for each in sessions
        ]
        assert await client.allocations() == leases
        assert [host_pid(gpuaas_home, session) for session in found] == hosts
        # The new controller follows the node: it sees what happens from now on.
        await client.restart(found[0].id)

        async def restarted() -> bool:
            return "restarted" in [event.detail.get("event") for event in await client.events()]

        await eventually(restarted)


async def test_fewer_nodes_wanted_than_run_keeps_the_sessions_of_all(gpuaas_home: GpuaasHome) -> None:
    start(gpuaas_home, "--nodes", "2")
    async with client_of(gpuaas_home) as client:
        sessions = [(await client.create_session(name, wait_s=30)).session for name in "ab"]
    kill_controller(gpuaas_home)
    start(gpuaas_home, "--nodes", "1")
    async with client_of(gpuaas_home) as client:
        for session in sessions:
            assert (await client.session(session.id)).session.state is S.IDLE


async def test_queue_keeps_its_order(gpuaas_home: GpuaasHome) -> None:
    start(gpuaas_home)
    async with client_of(gpuaas_home) as client:
        first = (await client.create_session("first", wait_s=30)).session
        queued = [(await client.create_session(f"queued{number}")).session for number in range(3)]
    kill_controller(gpuaas_home)
    start(gpuaas_home)
    async with client_of(gpuaas_home) as client:
        places = [(await client.session(session.id)).session.queue_place for session in queued]
        assert places == [1, 2, 3]
        await client.release(first.id)
        assert (await until_state(client, queued[0], S.IDLE)).lease is not None
        assert (await client.session(queued[1].id)).session.queue_place == 1


async def test_host_that_died_meanwhile_is_noticed_and_its_device_freed(gpuaas_home: GpuaasHome) -> None:
    start(gpuaas_home)
    async with client_of(gpuaas_home) as client:
        session = (await client.create_session("first", wait_s=30)).session
    kill_controller(gpuaas_home)
    pid = host_pid(gpuaas_home, session)
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not list((gpuaas_home.path / "nodes").glob("*/hosts/*.json")))
    start(gpuaas_home)
    async with client_of(gpuaas_home) as client:
        failed = await until_state(client, session, S.FAILED)
        assert "gone" in failed.cause
        assert (await client.create_session("second", wait_s=30)).session.state is S.IDLE


async def test_agent_killed_too_session_goes_on(gpuaas_home: GpuaasHome) -> None:
    start(gpuaas_home)
    async with client_of(gpuaas_home) as client:
        session = (await client.create_session("first", wait_s=30)).session
    pid = host_pid(gpuaas_home, session)
    kill_controller(gpuaas_home)
    agent = psutil.Process(agent_pid(gpuaas_home))
    agent.kill()
    agent.wait(20)
    start(gpuaas_home)
    async with client_of(gpuaas_home) as client:
        assert (await client.session(session.id)).session.state is S.IDLE
        await client.restart(session.id)  # It can be talked to again.
    assert host_pid(gpuaas_home, session) == pid


async def test_release_that_was_under_way_is_completed(gpuaas_home: GpuaasHome) -> None:
    start(gpuaas_home)
    async with client_of(gpuaas_home) as client:
        session = (await client.create_session("first", wait_s=30)).session
        agent = psutil.Process(agent_pid(gpuaas_home))
        agent.suspend()  # So that the release cannot come to its end.
        try:
            release = asyncio.create_task(client.release(session.id))
            await until_state(client, session, S.CLOSING)
            kill_controller(gpuaas_home)
            await asyncio.gather(release, return_exceptions=True)
        finally:
            agent.resume()
    start(gpuaas_home)
    async with client_of(gpuaas_home) as client:
        assert (await until_state(client, session, S.CLOSED)).lease is None
        assert await client.allocations() == []
    assert not list((gpuaas_home.path / "nodes").glob("*/sessions/*"))


async def test_drain_goes_on_after_a_kill_by_the_same_deadline(gpuaas_home: GpuaasHome, tmp_path: Path) -> None:
    """Killed while a move off the node waits for its cell; who follows the drain at a terminal goes on to follow it."""
    gate = tmp_path / "gate"
    start(gpuaas_home, "--nodes", "2")
    async with client_of(gpuaas_home) as client:
        view = await client.create_session("roamer", wait_s=60)
        remote = RemoteSession(client, view.session.id, quick_settings(gpuaas_home.path))
        await remote.open(view.channel)
        roamer = Roamer(client, view.session.id, remote)

        async def waits_for_its_cell() -> bool:
            move = (await client.session(roamer.id)).migration
            return move is not None and move.phase not in ENDED and move.cause.startswith("a cell runs")

        try:
            await roamer.said("import os, time; x = [1]; y = x")
            node, outputs = await roamer.node(), Outputs()
            code = f"print('in', flush=True)\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)"
            running = asyncio.ensure_future(roamer.run(code, outputs))
            await outputs.heard.wait()
            draining = asyncio.create_task(
                asyncio.to_thread(gpuaas_home.cli, "drain", node, "--deadline", "1h", timeout_s=300, check=False)
            )
            await eventually(waits_for_its_cell, 60.0)
            before = await client.drain_view(node)
            kill_controller(gpuaas_home)
            start(gpuaas_home, "--nodes", "2")
            after = await client.drain_view(node)
            assert (after.node, after.deadline_s, after.left, after.done) == (
                node,
                before.deadline_s,
                (roamer.id,),
                False,
            )
            await eventually(waits_for_its_cell, 60.0)
            gate.touch()
            assert (await running)["status"] == "ok"
            drained = await draining
            assert (drained.returncode, drained.stdout) == (0, f"{node}: the node is empty\n"), drained.stderr
            assert await roamer.said("print(y is x)") == "True"
            assert await roamer.node() not in (node, "")
        finally:
            await remote.close()
    kill_controller(gpuaas_home)
    start(gpuaas_home, "--nodes", "2")
    async with client_of(gpuaas_home) as client:
        ended = await client.drain_view(node)
        assert (ended.done, ended.cause) == (True, "the node is empty")


def unknown_to_the_database(folder: Path) -> None:
    lease = Lease("left", "nobody", "local-0", ("cpu:0",), 1)
    (folder / "leases.json").write_bytes(msgspec.json.encode([lease]))


def unknown_to_the_engine(folder: Path) -> None:
    (folder / "leases.json").write_bytes(b"[]")


async def test_lease_that_no_session_holds_is_given_back(gpuaas_home: GpuaasHome) -> None:
    """The controller died after the engine gave a lease and before the session knew of it."""
    start(gpuaas_home)
    kill_controller(gpuaas_home)
    unknown_to_the_database(gpuaas_home.path)
    start(gpuaas_home)
    async with client_of(gpuaas_home) as client:
        assert (await client.create_session("first", wait_s=30)).session.state is S.IDLE
        assert [lease.id for lease in await client.allocations()] != ["left"]


@pytest.mark.parametrize("damage", [unknown_to_the_engine, unknown_to_the_database])
async def test_session_whose_lease_is_lost_ends_and_its_host_with_it(
    gpuaas_home: GpuaasHome, damage: Callable[[Path], None]
) -> None:
    start(gpuaas_home)
    async with client_of(gpuaas_home) as client:
        session = (await client.create_session("first", wait_s=30)).session
    host = psutil.Process(host_pid(gpuaas_home, session))
    kill_controller(gpuaas_home)
    damage(gpuaas_home.path)
    start(gpuaas_home)
    async with client_of(gpuaas_home) as client:
        failed = await until_state(client, session, S.FAILED)
        assert "lease" in failed.cause
        host.wait(20)
        assert (await client.create_session("second", wait_s=30)).session.state is S.IDLE


@pytest.mark.sqlite
async def test_host_that_no_session_knows_is_ended(gpuaas_home: GpuaasHome) -> None:
    start(gpuaas_home)
    async with client_of(gpuaas_home) as client:
        session = (await client.create_session("first", wait_s=30)).session
    host = psutil.Process(host_pid(gpuaas_home, session))
    kill_controller(gpuaas_home)
    for path in gpuaas_home.path.glob("controller.db*"):
        path.unlink()
    (gpuaas_home.path / "leases.json").unlink()
    start(gpuaas_home)
    host.wait(20)


async def test_down_after_a_kill_ends_what_is_left_and_says_so_in_the_story(gpuaas_home: GpuaasHome) -> None:
    start(gpuaas_home, "--nodes", "2")
    async with client_of(gpuaas_home) as client:
        session = (await client.create_session("first", wait_s=30)).session
        await client.create_session("second", wait_s=30)
        queued = (await client.create_session("queued")).session
    kill_controller(gpuaas_home)
    agent = psutil.Process(agent_pid(gpuaas_home))
    agent.kill()  # One agent as well: its host is left alone.
    agent.wait(20)
    gpuaas_home.cli("down")
    assert gpuaas_home.processes() == []
    assert not list(gpuaas_home.path.glob("nodes/*/agent.json"))
    assert not list(gpuaas_home.path.glob("nodes/*/sessions/*"))
    start(gpuaas_home)
    async with client_of(gpuaas_home) as client:
        ended = {each.id: each.state for each in await client.sessions(all=True)}
        assert ended[session.id] is S.CLOSED
        assert ended[queued.id] is S.CLOSED
        assert await client.allocations() == []
