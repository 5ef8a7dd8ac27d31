"""A session that moves again and again: under a client that executes all the time, and during a training run."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from jupyter_gpuaas.client.embedded import find_running, read_service_file
from jupyter_gpuaas.client.migrations import follow_migration
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.model import Phase
from tests.conftest import GpuaasHome
from tests.fault.gauge import size_of
from tests.fault.nodes import records
from tests.fault.walker import walking
from tests.roaming import Outputs, roaming
from tests.service import eventually, quick_settings, running_service

pytestmark = [pytest.mark.fault, pytest.mark.trials, pytest.mark.timeout(7200)]

#: Moves under a client that executes all the time.
MOVES = int(os.environ.get("GPUAAS_MOVES", "5"))
#: What there is after so many moves, give or take some, is compared with what there is at the end of `ENOUGH`.
EARLY, NEAR, ENOUGH = 20, 5, 40
#: What may have come on top: memory or room on disk; files, sockets and other descriptors.
MORE_BYTES = 12 * 1024**2
MORE = 12
SEED = int(os.environ.get("GPUAAS_SEED", "1"))
TO_AND_FRO = """
nodes = 2
devices = "cpu:1"
workdir = "session"
spare_kernels = 0
stop_timeout_s = 2.0
checkpoint_share = 1000000
checkpoint_keep = 20
journal_segment_bytes = 1000000
journal_bytes = 4000000
"""


class Gauge:
    """Memory and descriptors of the service's processes, and what lies on disk, after each move."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.seen: dict[str, list[int]] = {}

    def look(self, session: str) -> None:
        written = read_service_file(self._home)
        assert written is not None
        self._process("controller", written.pid)
        for node in ("local-0", "local-1"):
            agent = msgspec.json.decode((self._home / "nodes" / node / "agent.json").read_bytes())
            self._process(f"agent of {node}", agent["pid"])
        # Another process each time; what it has brought along may grow all the same.
        self._process("host", max(records(self._home, session=session), key=lambda record: record.epoch).pid)
        for folder in ("nodes", "checkpoints"):
            size, files = size_of(self._home / folder)
            self._note(f"bytes in {folder}", size)
            self._note(f"files in {folder}", files)

    def _process(self, what: str, pid: int) -> None:
        process = psutil.Process(pid)
        self._note(f"bytes of {what}", process.memory_info().rss)
        self._note(f"descriptors of {what}", process.num_fds())

    def _note(self, what: str, count: int) -> None:
        self.seen.setdefault(what, []).append(count)

    def told(self) -> str:
        return "; ".join(f"{what} {_some(what, counts)}" for what, counts in self.seen.items())

    def check(self) -> None:
        for what, counts in self.seen.items():
            before, now = max(counts[EARLY - NEAR : EARLY + NEAR]), max(counts[-2 * NEAR :])
            more = MORE_BYTES if what.startswith("bytes") else MORE
            assert now <= before + more, f"{what} grows from {before} to {now}: {counts}"


def _some(what: str, counts: list[int]) -> str:
    """After the first move, after `EARLY`, and at the end."""
    few = [counts[0], *counts[EARLY - 1 : EARLY], counts[-1]]
    return f"{[round(count / 2**20, 1) for count in few]} MiB" if what.startswith("bytes") else str(few)


async def test_nothing_is_lost_and_nothing_grows_under_a_client_that_executes_all_the_time(
    gpuaas_home: GpuaasHome, tmp_path: Path
) -> None:
    (gpuaas_home.path / "settings.toml").write_text(TO_AND_FRO)
    gpuaas_home.cli("up", "--detach")
    endpoint = await find_running(gpuaas_home.path)
    assert endpoint is not None
    gauge = Gauge(gpuaas_home.path)
    pauses = []
    async with (
        ServiceClient(endpoint.url, endpoint.token) as client,
        walking(client, quick_settings(gpuaas_home.path), tmp_path / "book", "walker") as walker,
    ):
        enough = asyncio.Event()
        walk = asyncio.ensure_future(walker.walk(enough))
        for number in range(MOVES):
            view = await walker.begun()
            view = await asyncio.wait_for(follow_migration(client, view, lambda text: None), 120.0)
            assert view.phase is Phase.DONE, f"move {number}: {view.cause}"
            assert not walk.done(), walk
            pauses.append(view.downtime_s)
            gauge.look(walker.id)
        enough.set()
        await asyncio.wait_for(walk, 120.0)
        cells = len(walker.well)
        await walker.check(died=False)
    pauses.sort()
    print(
        f"{MOVES} moves, {cells} cells; stood still {pauses[len(pauses) // 2]:.2f} s as a rule, "
        f"{pauses[-1]:.2f} s at most; {gauge.told()}"
    )
    if MOVES >= ENOUGH:
        gauge.check()


# -- training --------------------------------------------------------------------------------------------------

STEPS = 200
#: At so many moments of the run it is moved.
MOMENTS = 5
MODEL = """
import random, torch
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(7); random.seed(7)
inputs = torch.randn(256, 12)
targets = (inputs[:, :3].sum(1, keepdim=True) > 0).float()
model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 1))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-2)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
losses, order = [], []
"""
STEP = """
if not order:
    order = list(range(256)); random.shuffle(order)
batch, order = order[:32], order[32:]
noisy = inputs[batch] + 0.1 * torch.randn(len(batch), 12)
loss = nn.functional.binary_cross_entropy_with_logits(model(noisy), targets[batch])
optimizer.zero_grad(); loss.backward(); optimizer.step(); schedule.step()
losses.append(loss.item())
"""
TOLD = """
import base64, hashlib, io
told = hashlib.sha256()
for tensor in [*model.state_dict().values(), *(v for s in optimizer.state.values() for v in s.values())]:
    told.update(tensor.detach().numpy().tobytes())
print(len(losses), told.hexdigest(), hashlib.sha256(repr(losses).encode()).hexdigest(), losses[-1].hex())
"""


def undisturbed() -> str:
    """What the run leads to in a Python of its own."""
    script = "\n".join([MODEL, *[STEP] * STEPS, TOLD])
    source = base64.b64encode(script.encode()).decode()
    command = [sys.executable, "-c", f"import base64; exec(base64.b64decode({source!r}))"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout.strip()


async def test_training_run_that_moves_is_bit_equal_to_one_that_does_not(gpuaas_home: GpuaasHome) -> None:
    pytest.importorskip("torch")
    expected = await asyncio.to_thread(undisturbed)
    moments = sorted(random.Random(SEED).sample(range(5, STEPS - 5), MOMENTS))
    moved = []
    async with (
        running_service(gpuaas_home.path, nodes=2, workdir="session", checkpoint_share=1e6) as service,
        roaming(service, "training") as roamer,
    ):
        await roamer.said(MODEL)
        moving: asyncio.Task[object] | None = None
        for step in range(STEPS):
            if step in moments:
                if moving is not None:
                    moved.append(await moving)
                # Where it was last, its devices may be on their way back still.
                await eventually(lambda: len(service.engine.leases()) == 1)
                moving = asyncio.ensure_future(roamer.migrate())
            outputs = Outputs()
            reply = await roamer.run(STEP, outputs)
            assert reply["status"] == "ok", (step, reply)
            assert reply["execution_count"] == step + 2
        assert moving is not None
        moved.append(await moving)
        assert [view.phase for view in moved] == [Phase.DONE] * MOMENTS, moved  # type: ignore[attr-defined]
        assert await roamer.said(TOLD) == expected
