"""A service whose session is hurt while it moves: what can be done to its nodes, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import resource
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from jupyter_gpuaas.controller import commands, moving
from jupyter_gpuaas.lifecycle import migration as lifecycle
from jupyter_gpuaas.model import Peer, Phase, Via
from jupyter_gpuaas.node.hosts import HostRecord
from tests.fault.cutter import Cutter
from tests.fault.steps import STEPS, Steps, points
from tests.fault.walker import ENDED, Walker
from tests.service import Service, eventually, running_service

SEED = int(os.environ.get("GPUAAS_SEED", "1"))
SETTINGS: dict[str, Any] = {
    "nodes": 2,
    "workdir": "session",
    "checkpoint_share": 1e6,
    "checkpoint_together_s": 0.0,
    "relay": "never",
    "retry_first_s": 0.05,
    "retry_most_s": 0.2,
}
#: How long what goes on again is away.
PAUSE_S = 1.5
#: What a controller waits for at most in trials in which somebody does not answer any more.
IMPATIENT_S = 8.0

Point = tuple[str, str]

#: From which step on the target's host is the session's.
CUT_OVER = STEPS.index("cutover")
NETS = {"link_cut", "link_down", "link_stalled", "link_stalled_for_a_while", "chunk_spoilt", "chunks_spoilt"}
HANGING = {"link_stalled", "target_hangs"}
DISKS = {"disk_full", "source_disk_full"}
#: The moments for ways that are not for all of them. The target's kernel: before, the move goes back, as when the host
#: dies; once live, the session has lost what its kernel had, and begins with a fresh one.
_MOMENTS = {"target_kernel_killed": [("cutover", "before"), ("cutover", "after"), ("live", "before")]}
#: Ways to hurt the host that is the session's once the move is done.
TARGETS = {"target_host_killed", "target_hangs"}

_FIRST, _COPIES, _LAST = ("reserve", "during"), ("preload", "before"), ("live", "after")
_ALL, _TARGET_THERE, _LINK_USED = (_FIRST, _LAST), (_COPIES, _LAST), (_FIRST, ("succeed", "before"))
#: From which moment to which each way finds something to break for sure. At others it may come too early or too late.
_SURE: Mapping[str, tuple[Point, Point]] = {
    "source_host_killed": _ALL,
    "source_agent_killed": _ALL,
    "target_agent_killed": _ALL,
    "target_host_killed": _TARGET_THERE,
    "target_slow": _TARGET_THERE,
    "target_hangs": _TARGET_THERE,
    "link_cut": _LINK_USED,
    "link_down": _LINK_USED,
    "link_stalled": _LINK_USED,
    "link_stalled_for_a_while": _LINK_USED,
    "chunk_spoilt": (_FIRST, _COPIES),
    "chunks_spoilt": (_FIRST, _COPIES),
    # The target writes all outputs so far in its first round, the source those of cells.
    "disk_full": (_COPIES, _COPIES),
    "source_disk_full": (_FIRST, _COPIES),
}


def sure(how: str, point: Point, busy: bool) -> bool:
    """Whether there is something to break for sure."""
    if how in _MOMENTS:
        return True
    first, last = (points().index(each) for each in _SURE[how])
    return first <= points().index(point) <= last and (busy or how != "source_disk_full")


def moments(how: str) -> list[Point]:
    """Those at which this is tried."""
    return _MOMENTS.get(how, points())


def chosen(how: str, seed: str, count: int) -> list[tuple[Point, bool]]:
    """Moments, and whether the client runs cells meanwhile: all in turn, in an order of chance, a sure one first."""
    found = [(point, busy) for point in moments(how) for busy in (False, True)]
    random.Random(seed).shuffle(found)
    if how in _SURE:
        found.insert(0, found.pop(next(n for n, each in enumerate(found) if sure(how, *each))))
    return list(itertools.islice(itertools.cycle(found), count))


class Stage:
    """A service, its nodes, and what can be done to them."""

    def __init__(self, service: Service, steps: Steps) -> None:
        self.service = service
        self.steps = steps
        self.folder = service.controller.settings.folder
        self.source = self.target = ""
        self.walker: Walker
        #: By node: what is between its agent and a successor's host.
        self.nets = {node: Cutter(lambda node=node: self._port(node)) for node in ("local-0", "local-1")}
        self.through_nets = False
        self.healing: list[Callable[[], None]] = []
        self.hurt = 0

    def close(self) -> None:
        self.heal()
        for net in self.nets.values():
            net.close()

    def heal(self) -> None:
        while self.healing:
            self.healing.pop()()

    def after(self, pause_s: float, heal: Callable[[], None]) -> None:
        """Heal after a while, or at the end of the trial."""
        self.healing.append(heal)
        asyncio.get_running_loop().call_later(pause_s, heal)

    def _port(self, node: str) -> int:
        return int(self._agent_file(node)["port"])

    def _agent_file(self, node: str) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode((self.folder / "nodes" / node / "agent.json").read_bytes())
        return found

    def peer(self, real: Callable[..., Peer]) -> Callable[..., Peer]:
        """What a target is told of its source: the way through the net."""

        def peer_of(record: Any, engine: Any, node_id: str, epoch: int) -> Peer:
            peer = real(record, engine, node_id, epoch)
            if not self.through_nets:
                return peer
            path = peer.url.partition("/v1/")[2]
            return Peer(url=f"http://127.0.0.1:{self.nets[node_id].port}/v1/{path}", ticket=peer.ticket)

        return peer_of

    def host(self, node: str) -> psutil.Process | None:
        for path in (self.folder / "nodes" / node / "hosts").glob("*.json"):
            record = msgspec.json.decode(path.read_bytes(), type=HostRecord)
            if record.session_id == self.walker.id and record.pid:
                return psutil.Process(record.pid)
        return None

    def agent(self, node: str) -> psutil.Process:
        return psutil.Process(int(self._agent_file(node)["pid"]))

    # -- ways to hurt ------------------------------------------------------------------------------------------

    def source_host_killed(self) -> None:
        self._kill(self.host(self.source))

    def target_host_killed(self) -> None:
        self._kill(self.host(self.target))

    def target_kernel_killed(self) -> None:
        host = self.host(self.target)
        children = [] if host is None else host.children(recursive=True)  # there may be a jail between them
        self._kill(next((each for each in children if "jupyter_gpuaas.kernel" in each.cmdline()), None))

    def source_agent_killed(self) -> None:
        self._kill(self.agent(self.source))

    def target_agent_killed(self) -> None:
        self._kill(self.agent(self.target))

    def link_cut(self) -> None:
        """Connections break, and can be opened again at once; what is in use next breaks once more."""
        net = self.nets[self.source]
        self._counts(lambda: net.cut_in_use)
        net.cut_twice()
        self.healing.append(net.heal)

    def link_down(self) -> None:
        """They cannot, until the end of the trial."""
        net = self.nets[self.source]
        self._counts(lambda: net.refused)
        net.down = True
        self.healing.append(lambda: setattr(net, "down", False))
        net.cut()

    def link_stalled(self) -> None:
        """Nothing moves any more, until the end of the trial."""
        self._stall(None)

    def link_stalled_for_a_while(self) -> None:
        self._stall(PAUSE_S)

    def _stall(self, pause_s: float | None) -> None:
        net = self.nets[self.source]
        self._counts(lambda: net.held_up)
        net.stall(pause_s)
        self.healing.append(net.heal)

    def _counts(self, met: Callable[[], int]) -> None:
        """At the end of the trial: it was hurt if more has met with it than now."""
        before = met()

        def count() -> None:
            self.hurt += met() > before

        self.healing.append(count)

    def disk_full(self) -> None:
        """No file of the target's agent and host can grow."""
        self._fill_disk(self.target)

    def source_disk_full(self) -> None:
        """The same at the source; its kernel writes on, as its cells do."""
        self._fill_disk(self.source)

    def _fill_disk(self, node: str) -> None:
        for process in (self.agent(node), self.host(node)):
            if process is not None:
                self._limit(process)

    async def missed_disk(self, how: str) -> bool:
        """Whether somebody has found the disk full: a host that is there says so, or the client was told."""
        node = self.target if how == "disk_full" else self.source
        if any("written to disk" in text for text in self.walker.remote.notices):
            return True
        reports = await self.service.controller.agents.of(node).hosts()
        return any(report.warning for report in reports if report.session_id == self.walker.id)

    def target_slow(self) -> None:
        """Host and kernel of the target stand still for a while."""
        stopped = self._stop_target()
        self.after(PAUSE_S, lambda: _signal(stopped, signal.SIGCONT))

    def target_hangs(self) -> None:
        """They do so until the end of the trial."""
        stopped = self._stop_target()
        self.healing.append(lambda: _signal(stopped, signal.SIGCONT))

    def chunk_spoilt(self) -> None:
        self._spoil(1)

    def chunks_spoilt(self) -> None:
        self._spoil(1000)

    def _spoil(self, count: int) -> None:
        net = self.nets[self.source]
        self._counts(lambda: net.spoilt)
        net.spoil = count
        self.healing.append(lambda: setattr(net, "spoil", 0))

    def _kill(self, process: psutil.Process | None) -> None:
        if process is not None:
            process.kill()
            self.hurt += 1

    def _limit(self, process: psutil.Process) -> None:
        soft, hard = process.rlimit(resource.RLIMIT_FSIZE)
        process.rlimit(resource.RLIMIT_FSIZE, (1, hard))

        def undo() -> None:
            with contextlib.suppress(psutil.Error):
                process.rlimit(resource.RLIMIT_FSIZE, (soft, hard))

        self.healing.append(undo)

    def _stop_target(self) -> list[psutil.Process]:
        host = self.host(self.target)
        stopped = [] if host is None else [host, *host.children(recursive=True)]
        _signal(stopped, signal.SIGSTOP)
        self.hurt += bool(stopped)
        return stopped


def _signal(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def impatient(how: str, patch: pytest.MonkeyPatch) -> None:
    """Let the controller wait for less, where somebody does not answer any more."""
    if how in HANGING:
        patch.setattr(moving, "STEP_S", IMPATIENT_S)
        patch.setattr(moving, "COPY_S", 2 * IMPATIENT_S)  # a kernel starts in this time
        patch.setattr(moving, "IMAGE_S", 4 * IMPATIENT_S)
        patch.setattr(lifecycle, "STILL_S", IMPATIENT_S)


@contextlib.asynccontextmanager
async def staged(home: Path, patch: pytest.MonkeyPatch, **changes: Any) -> AsyncIterator[Stage]:
    """Such a service, until the end of the block."""
    steps = Steps(random.Random(SEED))
    steps.watch(patch)
    async with running_service(home, **SETTINGS, **changes) as service:
        stage = Stage(service, steps)
        patch.setattr(commands, "peer_of", stage.peer(commands.peer_of))
        try:
            yield stage
        finally:
            stage.close()


async def trial(stage: Stage, how: str, point: Point, busy: bool, via: Via = "auto") -> str:
    """Let one thing break at one moment of a move, and look at what there is afterwards; how the move ended."""
    walker = stage.walker
    session = await walker.look()
    assert session.lease is not None
    stage.source = session.lease.node_id
    stage.target = "local-1" if stage.source == "local-0" else "local-0"
    await walker.kept()
    before, missed = stage.hurt, False
    stage.steps.arm(*point, getattr(stage, how))
    enough = asyncio.Event()
    walk = asyncio.ensure_future(walker.walk(enough)) if busy else None
    view = await walker.begun(via)

    async def over() -> bool:
        now = (await walker.client.session(walker.id)).migration
        return now is not None and now.id == view.id and now.phase in ENDED

    if how == "target_hangs" and STEPS.index(point[0]) >= CUT_OVER:
        await eventually(lambda: stage.hurt > before, 120.0)  # what hangs is the session's host now: it goes on
        stage.heal()
    await eventually(over, 200.0)
    if how in DISKS:
        ended = (await walker.client.session(walker.id)).migration
        stage.hurt += ended is None or ended.phase is not Phase.DONE or await stage.missed_disk(how)
    stage.heal()
    await walker.settled()
    enough.set()
    if walk is not None:
        await asyncio.wait_for(walk, 120.0)
    if how not in HANGING:
        await eventually(lambda: stage.steps.armed is None)
    elif stage.steps.armed is not None:
        # The controller, impatient as it is here, gave the move up before that moment: on a busy machine.
        stage.steps.armed, missed = None, True
    last = await walker.settled()
    assert last is not None and last.id == view.id
    done = last.phase is Phase.DONE
    # Only who has lost the host that ran it may have lost anything. Before the cutover that is the source's. Behind it,
    # what has come as an image is in its process only.
    died = how in TARGETS or (how == "target_kernel_killed" and via == "image") if done else how == "source_host_killed"
    await walker.check(died=died)
    if not died:
        node = (await walker.look()).lease
        assert node is not None and node.node_id == (stage.target if done else stage.source)
    hurt = stage.hurt > before
    assert hurt or missed or not sure(how, point, busy), "nothing was hurt"
    return "missed" if missed else f"{last.phase.value}, hurt" if hurt else last.phase.value


async def story(walker: Walker) -> str:
    events = await walker.client.events(session=walker.id)
    return "\n".join(
        f"{event.kind} {event.source}>{event.target} {event.detail.get('phase', '')}: {event.cause}"
        for event in events
        if event.kind in ("transition", "migration")
    )[-6000:]
