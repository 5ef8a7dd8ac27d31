"""A service whose controller kills itself in the middle of moves, and what must hold when it is started again."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from jupyter_gpuaas.client.embedded import find_running, read_service_file
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.errors import GpuaasError
from jupyter_gpuaas.model import Phase, Via
from tests.conftest import GpuaasHome
from tests.fault.mortal import FILE
from tests.fault.stage import SETTINGS, Point, story
from tests.fault.walker import Walker, walking
from tests.service import eventually, quick_settings


class Mortals:
    """A service in a process of its own, that can be told when to die."""

    def __init__(self, home: GpuaasHome, **changes: Any) -> None:
        self.home = home
        self.settings = SETTINGS | changes
        lines = [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in self.settings.items()]
        lines += ['devices = "cpu:1"', "spare_kernels = 0", "stop_timeout_s = 2.0"]
        (home.path / "settings.toml").write_text("\n".join(lines) + "\n")
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self.process = self._spawn()

        async def answers() -> bool:
            assert self.process is not None and self.process.poll() is None, (self.home.path / "mortal.log").read_text()
            written = read_service_file(self.home.path)
            return written is not None and written.pid == self.process.pid and bool(await find_running(self.home.path))

        await eventually(answers, 60.0)

    def dies_at(self, step: str, when: str) -> None:
        """Let the one that runs kill itself at a step; see ``Steps``."""
        (self.home.path / FILE).write_text(f"{step} {when}")

    async def dead(self) -> None:
        """Return when it has ended."""
        await eventually(lambda: self.process is not None and self.process.poll() is not None, 120.0)

    def _spawn(self) -> subprocess.Popen[bytes]:
        with (self.home.path / "mortal.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "tests.fault.mortal"], env=self.home.env, stdout=log, stderr=log
            )

    def close(self) -> None:
        (self.home.path / FILE).unlink(missing_ok=True)
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)


@contextlib.contextmanager
def mortal_service(home: GpuaasHome, **changes: Any) -> Iterator[Mortals]:
    """Such a service, not started yet, until the end of the block."""
    mortals = Mortals(home, **changes)
    try:
        yield mortals
    finally:
        mortals.close()


async def controller_trials(
    mortals: Mortals, book: Path, moments: Sequence[tuple[Point, bool]], via: Via = "auto"
) -> Counter[str]:
    """Kill the controller at each of these moments; how the moves ended."""
    outcomes: Counter[str] = Counter()
    await mortals.start()
    endpoint = await find_running(mortals.home.path)
    assert endpoint is not None
    settings = quick_settings(mortals.home.path, **mortals.settings)
    async with (
        ServiceClient(endpoint.url, endpoint.token) as client,
        walking(client, settings, book, "walker") as walker,
    ):
        for number, (point, busy) in enumerate(moments):
            where = f"trial {number}: controller killed {point[1]} {point[0]}, {'busy' if busy else 'idle'}"
            print(where, flush=True)
            try:
                outcomes[await asyncio.wait_for(_trial(mortals, walker, point, busy, via), 300.0)] += 1
            except BaseException as error:
                log = (mortals.home.path / "mortal.log").read_text()[-2000:]
                raise AssertionError(
                    f"{where}: {type(error).__name__}: {error}; {await story(walker)}; {log}"
                ) from error
    return outcomes


async def _trial(mortals: Mortals, walker: Walker, point: Point, busy: bool, via: Via) -> str:
    await walker.kept()
    source = (await walker.look()).lease
    assert source is not None
    mortals.dies_at(*point)
    enough = asyncio.Event()
    walk = asyncio.ensure_future(walker.walk(enough)) if busy else None
    moving = asyncio.ensure_future(walker.begun(via))
    await mortals.dead()
    with contextlib.suppress(GpuaasError):
        await moving
    await mortals.start()
    await walker.settled()
    enough.set()
    if walk is not None:
        await asyncio.wait_for(walk, 120.0)
    last = await walker.settled()
    await walker.check(died=False)
    assert last is not None
    lease = (await walker.look()).lease
    assert lease is not None and (lease.node_id != source.node_id) == (last.phase is Phase.DONE)
    return last.phase.value
