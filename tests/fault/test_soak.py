"""A service with a few sessions for an hour: moved, parked, restored at random, its controller and agents killed.

Each session counts its cells; whatever happens, the count is right, nothing is lost or doubled, and at each rest there
are as many processes, leases, files and descriptors as there have to be. ``make soak``; ``SOAK_S=600`` for less.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from jupyter_gpuaas.client.embedded import find_running, read_service_file
from jupyter_gpuaas.client.migrations import ENDED, follow_migration
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.errors import AllocationError, MigrationError, TransportError
from jupyter_gpuaas.kernel.tidying import EVERY_S
from jupyter_gpuaas.model import NodeState, Phase, SessionState
from tests.conftest import GpuaasHome, processes_with
from tests.fault.gauge import size_of
from tests.fault.nodes import agent_pid, records
from tests.fault.walker import Follower
from tests.roaming import Outputs
from tests.service import eventually, quick_settings

SOAK_S = float(os.environ.get("GPUAAS_SOAK_S", "3600"))
SEED = int(os.environ.get("GPUAAS_SEED", "1"))
pytestmark = [pytest.mark.soak, pytest.mark.slow, pytest.mark.fault, pytest.mark.timeout(SOAK_S + 1800)]

S = SessionState
NODES = ("local-0", "local-1")
SESSIONS = 4
#: Seconds between two cells of a session, and most between two things that are done to the service.
PACE_S, PAUSE_S = 0.5, 6.0
#: Rests, in which everything is counted; the first one is what later ones are compared with.
RESTS = 6
DEADLINE_S = 180.0
#: After so long checkpoints and journals are as many and as large as they get.
SETTLES_S = 60.0
#: What may have come on top at the end: descriptors of a kind of process, entries on disk, bytes.
MORE, MORE_FILES, MORE_BYTES = 12, 60, 40 * 1024**2
#: Kernels tidy up once a minute: until then there are as many checkpoints as cells have run.
MORE_CHECKPOINTS = round(SESSIONS * EVERY_S / PACE_S)
SETTINGS = f"""
nodes = {len(NODES)}
devices = "cpu:{SESSIONS}"
workdir = "session"
spare_kernels = 0
stop_timeout_s = 2.0
checkpoint_keep = 10
checkpoint_share = 1000000
journal_segment_bytes = 1000000
journal_bytes = 4000000
"""
#: Words of a command line -> what kind of process it is.
KINDS = {
    "jupyter_gpuaas.kernel": "kernel",
    "jupyter_gpuaas.node.host": "host",
    "jupyter_gpuaas.node.agent": "agent",
    "jupyter_gpuaas": "controller",
}
SHOULD_BE = {"kernel": SESSIONS, "host": SESSIONS, "agent": len(NODES), "controller": 1}


def more_of(what: str) -> int:
    """How much of it may have come on top."""
    if what == "entries in checkpoints":
        return MORE_CHECKPOINTS
    return MORE_BYTES if what.startswith("bytes") else MORE_FILES if what.startswith("entries") else MORE


class Counting:
    """A session and its client, which knows what the session has counted."""

    def __init__(self, client: ServiceClient, remote: Follower) -> None:
        self.client = client
        self.remote = remote
        self.id = remote.id
        self.count = 0
        self.cells = 0
        #: Held while a cell runs, and by whoever changes what the session knows.
        self.turn = asyncio.Lock()
        #: What it had counted at its checkpoint with a name; None when it has none.
        self.kept: int | None = None

    async def run(self, code: str) -> str:
        """Run a cell that must not fail; the value of n after it."""
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {"n": "n"}}
        content |= {"allow_stdin": False, "stop_on_error": True}
        asking = self.remote.request("execute_request", content, listener=Outputs())
        reply = await asyncio.wait_for(asking, DEADLINE_S)
        assert reply["status"] == "ok", reply
        return str(reply["user_expressions"]["n"]["data"]["text/plain"])

    async def step(self) -> None:
        async with self.turn:
            self.count += 1
            self.cells += 1
            # A list as well, so that there is always something to copy and to give up.
            told = await self.run("n += 1; kept = [n] * 20_000")
            assert told == str(self.count), f"session {self.id} counts {told}, not {self.count}"

    async def work(self, until: asyncio.Event) -> None:
        """A cell after the other, at a pace."""
        while not until.is_set():
            await self.step()
            with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
                await asyncio.wait_for(until.wait(), PACE_S)

    async def rests(self) -> bool:
        """Whether it is idle on a node, and nothing moves it."""
        view = await self.client.session(self.id)
        assert view.session.state not in (S.CLOSED, S.FAILED), view.session.cause
        return view.session.state is S.IDLE and (view.migration is None or view.migration.phase in ENDED)


class Soak:
    """What is done to the service, and what has been counted."""

    def __init__(self, home: GpuaasHome, client: ServiceClient, sessions: list[Counting]) -> None:
        self.home = home
        self.client = client
        self.sessions = sessions
        self.random = random.Random(SEED)
        self.done: Counter[str] = Counter()
        self.seen: list[dict[str, int]] = []
        self.run_folders: set[Path] = set()

    async def act(self) -> None:
        """One thing, chosen by the seed."""
        acts = {"move": 5, "park": 3, "restore": 3, "restart": 2, "restart in a move": 1, "agent": 1}
        (what,) = self.random.choices(list(acts), list(acts.values()))
        session = self.random.choice(self.sessions)
        self.run_folders |= {Path(record.run_folder) for record in records(self.home.path)}
        if what == "move":
            await self._move(session)
        elif what == "park":
            await self._park(session)
        elif what == "restore":
            await self._restore(session)
        elif what == "restart":
            await self._restart()
            self.done[what] += 1
        elif what == "restart in a move":
            with contextlib.suppress(AllocationError, MigrationError, TransportError):
                await self.client.migrate(session.id)
                await self._restart()
                self.done[what] += 1
            await eventually(lambda: self._settled(session), DEADLINE_S)
        else:
            await self._kill_agent(self.random.choice(NODES))

    async def _settled(self, session: Counting) -> bool:
        view = await self.client.session(session.id)
        moving = view.migration is not None and view.migration.phase not in ENDED
        return view.session.state in (S.IDLE, S.BUSY) and not moving

    async def _move(self, session: Counting) -> None:
        try:
            view = await self.client.migrate(session.id)
        except (AllocationError, MigrationError, TransportError) as error:
            self.done[f"move refused: {type(error).__name__}"] += 1
            return
        view = await asyncio.wait_for(follow_migration(self.client, view, lambda text: None), DEADLINE_S)
        self.done[f"move {view.phase}" + ("" if view.phase is Phase.DONE else f": {view.cause}")] += 1

    async def _park(self, session: Counting) -> None:
        try:
            await self.client.park(session.id)
        except (MigrationError, TransportError) as error:
            self.done[f"park refused: {type(error).__name__}: {error}"] += 1
            return
        self.done["park"] += 1  # the next cell wakes it

    async def _restore(self, session: Counting) -> None:
        async with session.turn:
            # Its own cell makes it come back, if it is parked.
            assert await session.run("n") == str(session.count)
            if session.kept is None:
                await self.client.take_checkpoint(session.id, name="kept")
                session.kept = session.count
                self.done["checkpoint with a name"] += 1
            else:
                await self.client.restore(session.id, "kept")
                session.count, session.kept = session.kept, None
                assert await session.run("n") == str(session.count)
                await self.client.forget_checkpoint(session.id, "kept")
                self.done["restore"] += 1

    async def _restart(self) -> None:
        written = read_service_file(self.home.path)
        assert written is not None
        os.kill(written.pid, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(written.pid)] if psutil.pid_exists(written.pid) else [], timeout=10)
        await asyncio.to_thread(self.home.cli, "up", "--detach", timeout_s=120)

    async def _kill_agent(self, node: str) -> None:
        former = agent_pid(self.home.path, node)
        os.kill(former, signal.SIGKILL)

        async def again() -> bool:
            nodes = {each.id: each.state for each in await self.client.nodes()}
            return nodes[node] is NodeState.UP and agent_pid(self.home.path, node) != former

        await eventually(again, DEADLINE_S)
        self.done["agent killed"] += 1

    # -- counting ------------------------------------------------------------------------------------------

    async def rest(self) -> None:
        """Let everything stand still, and count it."""
        async with contextlib.AsyncExitStack() as stack:
            for session in self.sessions:
                await stack.enter_async_context(session.turn)
                assert await session.run("n") == str(session.count)
            for session in self.sessions:
                await eventually(session.rests, DEADLINE_S)
            found = ""

            async def as_it_has_to_be() -> bool:
                nonlocal found
                kinds = Counter(kind for kind, _ in self._processes())
                leases = Counter(lease.session_id for lease in await self.client.allocations())
                hosts = Counter(record.session_id for record in records(self.home.path))
                folders = Counter(path.name for path in self.home.path.glob("nodes/*/sessions/*"))
                remains = list(self.home.path.glob("nodes/*/remains/*"))
                found = f"{dict(kinds)}, leases {leases}, hosts {hosts}, folders {folders}, remains {remains}"
                once = Counter(session.id for session in self.sessions)
                return (
                    all(kinds[kind] == count for kind, count in SHOULD_BE.items())
                    and leases == hosts == folders == once
                    and not remains
                )

            try:
                await eventually(as_it_has_to_be, DEADLINE_S)
            except AssertionError:
                raise AssertionError(f"at rest there is too much or too little: {found}") from None
            self.seen.append(self._sizes())

    def _processes(self) -> list[tuple[str, psutil.Process]]:
        found = []
        for process in processes_with("GPUAAS_HOME", str(self.home.path)):
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                found += [(kind, process) for word, kind in KINDS.items() if word in words]
        return found

    def _sizes(self) -> dict[str, int]:
        sizes: Counter[str] = Counter()
        for kind, process in self._processes():
            with contextlib.suppress(psutil.Error):
                sizes[f"descriptors of each {kind}"] = max(sizes[f"descriptors of each {kind}"], process.num_fds())
                sizes[f"bytes of each {kind}"] = max(sizes[f"bytes of each {kind}"], process.memory_info().rss)
        for folder in ("nodes", "checkpoints"):
            sizes[f"bytes in {folder}"], sizes[f"entries in {folder}"] = size_of(self.home.path / folder)
        sizes["processes of all kinds"] = len(processes_with("GPUAAS_HOME", str(self.home.path)))
        return dict(sizes)

    def check(self) -> None:
        if SOAK_S < SETTLES_S * RESTS:
            return  # what is filled once was not full at the first rest
        first, last = self.seen[0], self.seen[-1]
        grown = {}
        for what, count in last.items():
            if count > first.get(what, 0) + more_of(what):
                grown[what] = [each.get(what) for each in self.seen]
        assert not grown

    def told(self, lasted_s: float) -> str:
        cells = sum(session.cells for session in self.sessions)
        lines = [f"seed {SEED}, {lasted_s:.0f} s, {len(self.sessions)} sessions, {cells} cells"]
        lines += [f"  {what}: {count}" for what, count in sorted(self.done.items())]
        for what in self.seen[-1]:
            counts = [each.get(what, 0) for each in self.seen]
            told = [f"{count / 1e6:.1f} MB" for count in counts] if what.startswith("bytes") else map(str, counts)
            lines.append(f"  {what}: {', '.join(told)}")
        return "\n".join(lines)


async def test_service_that_is_hurt_for_long_counts_right_and_leaves_nothing(gpuaas_home: GpuaasHome) -> None:
    (gpuaas_home.path / "settings.toml").write_text(SETTINGS)
    gpuaas_home.cli("up", "--detach")
    endpoint = await find_running(gpuaas_home.path)
    assert endpoint is not None
    enough = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(ServiceClient(endpoint.url, endpoint.token))
        sessions = []
        for number in range(SESSIONS):
            view = await client.create_session(f"counting {number}", wait_s=60)
            remote = Follower(client, view.session.id, quick_settings(gpuaas_home.path))
            await remote.open(view.channel)
            stack.push_async_callback(remote.close)
            sessions.append(Counting(client, remote))
            assert await sessions[-1].run("n = 0") == "0"
        soak = Soak(gpuaas_home, client, sessions)
        began_s = time.monotonic()
        tasks = [asyncio.create_task(session.work(enough)) for session in sessions]
        try:
            for rest in range(RESTS):
                until_s = began_s + SOAK_S * (rest + 1) / RESTS
                while time.monotonic() < until_s:
                    # A task that has ended by now has failed.
                    done, _ = await asyncio.wait(tasks, timeout=soak.random.uniform(0.0, PAUSE_S))
                    for task in done:
                        await task
                    await soak.act()
                await soak.rest()
            enough.set()
            await asyncio.wait_for(asyncio.gather(*tasks), DEADLINE_S)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        print("\n" + soak.told(time.monotonic() - began_s))
        soak.check()
        assert all(session.remote.losses == 0 for session in sessions)
    gpuaas_home.cli("down", timeout_s=120)
    assert not [path for path in soak.run_folders if path.exists()], "folders of hosts that are gone"
    assert await find_running(gpuaas_home.path) is None
