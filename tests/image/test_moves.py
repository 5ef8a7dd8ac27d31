"""Sessions that move in the middle of a cell, through the service: real nodes, kernels and CRIU."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jupyter_gpuaas.controller import moving
from jupyter_gpuaas.errors import MigrationError, NotDumpable
from jupyter_gpuaas.image.criu import VARIABLE, Criu
from jupyter_gpuaas.lifecycle import migration
from jupyter_gpuaas.model import Phase
from tests.conftest import GpuaasHome
from tests.contract.test_migrations import host_of, nothing_left
from tests.roaming import Outputs, Roamer, roaming
from tests.service import Service, eventually, running_service

LINES = 2_000
#: Moves of one cell that trains, each at a random step.
MOVES = int(os.environ.get("GPUAAS_IMAGE_MOVES", "2"))

WORKS = f"""
import os, threading, contextlib
ticks = [0]
running = threading.Event()
def tick():
    while not running.wait(0.001):
        ticks[0] += 1
thread = threading.Thread(target=tick, daemon=True)
thread.start()
def numbers():
    number = 0
    while True:
        yield number
        number += 1
generator = numbers()
entered = []
@contextlib.contextmanager
def block():
    entered.append("in")
    yield
    entered.append("out")
with block(), open("log.txt", "a") as log:
    for number in generator:
        print("line", number, flush=True)
        log.write(f"{{number}}\\n")
        log.flush()
        if number == {LINES} // 2:
            print("middle", flush=True)
            while not os.path.exists("go"):
                pass
        if number == {LINES} - 1:
            break
"""


@pytest.fixture
async def service(criu: Criu, gpuaas_home: GpuaasHome) -> AsyncIterator[Service]:
    settings = {"nodes": 2, "checkpoint_share": 1e6, "workdir": "session", "images": "auto"}
    async with running_service(gpuaas_home.path, **settings) as running:
        yield running


def work(service: Service, node: str, session: str) -> Path:
    """The session's working folder on a node."""
    return service.controller.settings.folder / "nodes" / node / "sessions" / session / "work"


def images_in(folder: Path) -> list[Path]:
    """What there is of images, made or coming, below a folder of a service."""
    runs = [Path(json.loads(path.read_bytes())["images"]) for path in folder.glob("nodes/*/hosts/*.json")]
    assert all(run.is_relative_to(folder) for run in runs)
    return [found for run in runs for pattern in ("*/images/*", "coming") for found in run.glob(pattern)]


async def running_cell(roamer: Roamer, code: str, mark: str) -> tuple[asyncio.Task[dict[str, object]], Outputs]:
    """Begin a cell, and wait until it has said ``mark``; the service need not have heard of it."""
    outputs = Outputs()
    running = asyncio.ensure_future(roamer.run(code, outputs))
    await eventually(lambda: mark in outputs.text or running.done(), 60.0)
    assert not running.done(), (running.result(), outputs.text)
    return running, outputs


async def test_session_moves_in_the_middle_of_a_cell(service: Service) -> None:
    async with roaming(service) as roamer:
        source = await roamer.node()
        await roamer.said("import os; before = os.getppid()")
        running, outputs = await running_cell(roamer, WORKS, "middle")
        done = await roamer.migrate(via="image")
        assert (done.phase, done.via) == (Phase.DONE, "image"), done.cause
        assert await roamer.node() == done.target != source
        (work(service, done.target, roamer.id) / "go").touch()
        reply = await asyncio.wait_for(running, 60.0)
        assert (reply["status"], reply["execution_count"]) == ("ok", 2)
        lines = [line for line in outputs.text.splitlines() if line != "middle"]
        assert lines == [f"line {number}" for number in range(LINES)]
        told = await roamer.said(
            "count = ticks[0]\nwhile ticks[0] == count: pass\n"
            "print(entered, next(generator), log.closed, len(open('log.txt').read().split()))"
        )
        assert told == f"['in', 'out'] {LINES} True {LINES}"
        assert await roamer.said("print(os.environ['GPUAAS_NODE'])") == done.target
        assert not (service.controller.settings.folder / "nodes" / source / "sessions" / roamer.id).exists()


#: CRIU as it is here, and in addition as if Linux marked written pages: a round is two MiB of its own making, in the
#: folder that it was told and with the link that CRIU makes; the dump onto rounds is CRIU's, and whole.
ROUNDS = """
import os, sys
real, told = {real!r}, sys.argv[1:]
if told[:2] == ["check", "--feature"] and told[2] == "mem_dirty_track":
    sys.exit(0)
folder = told[told.index("--images-dir") + 1] if "--images-dir" in told else ""
if "--prev-images-dir" in told:
    at = told.index("--prev-images-dir")
    parent = told[at + 1]
    there = not parent.startswith("/") and os.path.exists(f"{{folder}}/{{parent}}/inventory.img")
    if not there or "--track-mem" not in told:
        sys.exit("Error (x:1): that is no chain")
    told = told[:at] + told[at + 2:]
    if told[0] == "pre-dump":
        os.symlink(parent, f"{{folder}}/parent")
if told[0] == "pre-dump":
    state = open(f"/proc/{{told[told.index('--tree') + 1]}}/stat").read().rpartition(")")[2].split()[0]
    if state == "T":
        sys.exit("Error (x:1): what is stopped has no round")
    for name, data in (("inventory.img", b"x"), ("pages-1.img", os.urandom(2 << 20))):
        with open(f"{{folder}}/{{name}}", "wb") as file:
            file.write(data)
    sys.exit(0)
os.execv(real, [real, *(word for word in told if word != "--track-mem")])
"""


@pytest.fixture
def criu_with_rounds(criu: Criu, gpuaas_home: GpuaasHome, monkeypatch: pytest.MonkeyPatch) -> None:
    program = gpuaas_home.path / "criu"
    program.write_text(f"#!{sys.executable} -IS\n{ROUNDS.format(real=criu.path)}")
    program.chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(program))


async def test_rounds_of_memory_come_while_the_cell_runs(
    criu_with_rounds: None, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However fast this machine copies, no round is short enough to be the last for that.
    monkeypatch.setattr(migration, "SHORT_STOP_S", -1.0)
    async with roaming(service) as roamer:
        running, outputs = await running_cell(roamer, WORKS, "middle")
        done = await roamer.migrate(via="image")
        assert (done.phase, done.via) == (Phase.DONE, "image"), done.cause
        told = [event.cause for event in await roamer.client.events(session=roamer.id)]
        assert done.rounds, [cause for cause in told if "memory" in cause]
        # As much is written in each as in the one before, so the third is the last, by the rule of portable rounds.
        assert [round(each.sent_bytes / (2 << 20)) for each in done.rounds] == [1, 1, 1]
        told = [event.cause for event in await roamer.client.events(session=roamer.id)]
        assert any("another round would not help" in cause for cause in told), told
        (work(service, done.target, roamer.id) / "go").touch()
        assert (await asyncio.wait_for(running, 60.0))["status"] == "ok"
        lines = [line for line in outputs.text.splitlines() if line != "middle"]
        assert lines == [f"line {number}" for number in range(LINES)]


STEPS = """
import os, random, time
import numpy as np
generator = np.random.default_rng(5)
weights = generator.standard_normal((40, 40))
losses = []
for step in range(60):
    sample = generator.standard_normal((40, 40)) + random.random()
    difference = weights @ sample - sample
    losses.append(float((difference ** 2).mean()))
    weights -= 0.01 * difference @ sample.T / 40
    if step in MOMENTS:
        print("step", step, flush=True)
        while not os.path.exists(f"go{step}"):
            pass
import hashlib
print(hashlib.sha256(weights.tobytes() + repr(losses).encode()).hexdigest())
"""


async def test_training_in_one_cell_that_is_moved_at_random_ends_with_the_same_bits(service: Service) -> None:
    async with roaming(service, "moved") as roamer:
        moments = sorted(random.sample(range(1, 59), MOVES))
        gates = [f"go{step}" for step in moments]
        await roamer.said(
            f"import random; random.seed(3); MOMENTS = {moments}; [open(g, 'w').close() for g in {gates}]"
        )
        expected = await roamer.said(STEPS)
        await roamer.said(f"random.seed(3); [os.unlink(gate) for gate in {gates}]")
        running, outputs = await running_cell(roamer, STEPS, f"step {moments[0]}\n")
        for step, mark in zip(moments, [*(f"step {later}\n" for later in moments[1:]), ""], strict=True):
            done = await roamer.migrate(via="image")
            assert done.phase is Phase.DONE, (moments, done.cause)
            (work(service, done.target, roamer.id) / f"go{step}").touch()
            await nothing_left(service, done.source, roamer.id)
            await eventually(lambda mark=mark: mark in outputs.text, 60.0)  # type: ignore[misc]
        assert (await asyncio.wait_for(running, 60.0))["status"] == "ok"
        assert outputs.text.split()[-1] == expected.split()[-1], moments
        # What the moved process checkpoints is of its new epoch: its variables can go on by themselves.
        await roamer.said("losses.append(0)")
        done = await roamer.migrate(via="portable")
        assert (done.phase, done.via) == (Phase.DONE, "portable"), done.cause
        assert await roamer.said("print(len(losses))") == "61"


async def test_target_that_dies_while_it_restores_leaves_the_cell_running_on_its_source(service: Service) -> None:
    async with roaming(service) as roamer:
        source = await roamer.node()
        running, outputs = await running_cell(roamer, WORKS, "middle")
        target = next(node.id for node in service.engine.nodes() if node.id != source)
        client = service.controller.agents.of(target)
        real = client.op

        async def dies(session: str, epoch: int, op: str, content: dict[str, object]) -> dict[str, object]:
            if op == "load":
                os.kill(host_of(service, target, session), signal.SIGKILL)
            return await real(session, epoch, op, content)

        client.op = dies  # type: ignore[method-assign]
        waiting = asyncio.ensure_future(roamer.migrate(via="image", wait=False))
        later = asyncio.ensure_future(roamer.run("later = number"))
        done = await waiting
        assert done.phase is Phase.FAILED
        assert await roamer.node() == source
        client.op = real  # type: ignore[method-assign]
        (work(service, source, roamer.id) / "go").touch()
        assert (await asyncio.wait_for(running, 60.0))["status"] == "ok"
        lines = [line for line in outputs.text.splitlines() if line != "middle"]
        assert lines == [f"line {number}" for number in range(LINES)]
        assert (await later)["execution_count"] == 2
        await nothing_left(service, target, roamer.id)
        assert not images_in(service.controller.settings.folder)


async def test_what_comes_for_a_moved_cell_reaches_it(service: Service) -> None:
    async with roaming(service) as roamer:
        cell = "import os\nprint('in', flush=True)\nwhile True: pass"
        running, _ = await running_cell(roamer, cell, "in")
        waiting = asyncio.ensure_future(roamer.migrate())
        later = asyncio.ensure_future(roamer.run("x = 1"))
        done = await waiting
        assert (done.phase, done.via) == (Phase.DONE, "image"), done.cause
        roamer.remote.interrupt()
        reply = await asyncio.wait_for(running, 60.0)
        assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt")
        assert (await later)["status"] == "aborted"
        assert await roamer.said("print(os.environ['GPUAAS_NODE'])") == done.target


@pytest.mark.parametrize("has_checkpoint", [True, False])
async def test_cell_that_begins_when_the_move_has_been_asked_for_goes_along(
    service: Service, monkeypatch: pytest.MonkeyPatch, has_checkpoint: bool
) -> None:
    monkeypatch.setattr(moving, "PATIENCE_S", 0.2)
    async with roaming(service) as roamer:
        if has_checkpoint:
            await roamer.said("x = 1")

            async def kept() -> bool:
                return bool(await roamer.client.checkpoints(roamer.id))

            await eventually(kept)
        client = service.controller.agents.of(await roamer.node())
        real, take = client.op, client.checkpoints
        begun: list[asyncio.Task[dict[str, object]]] = []

        async def begin() -> None:
            if not begun:  # the way has been chosen, for a session that was idle
                cell = "import os\nprint('in', flush=True)\nwhile not os.path.exists('go'): pass\nprint('out')"
                begun.append((await running_cell(roamer, cell, "in"))[0])

        async def op(session: str, epoch: int, op: str, content: dict[str, object]) -> dict[str, object]:
            if op == "quiesce":
                await begin()
            return await real(session, epoch, op, content)

        async def checkpoints(session: str, content: dict[str, object]) -> object:
            await begin()
            return await take(session, content)

        client.op, client.checkpoints = op, checkpoints  # type: ignore[method-assign]
        done = await roamer.migrate(wait=False)
        assert (done.phase, done.via) == (Phase.DONE, "image"), done.cause
        assert begun and not begun[0].done()
        assert await roamer.node() == done.target != done.source
        (work(service, done.target, roamer.id) / "go").touch()
        assert (await asyncio.wait_for(begun[0], 60.0))["status"] == "ok"

        async def knows() -> bool:
            # It is told beside the cell that it goes on with, and may end that before it listens.
            return await roamer.said("print(os.environ['GPUAAS_NODE'])") == done.target

        await eventually(knows)
        story = [event.cause for event in await roamer.client.events(session=roamer.id)]
        assert any("moves in the middle of it" in cause for cause in story)
        await nothing_left(service, done.source, roamer.id)


async def test_session_that_would_lose_names_moves_as_an_image(service: Service) -> None:
    async with roaming(service) as roamer:
        await roamer.said(
            "import threading; stop = threading.Event(); t = threading.Thread(target=stop.wait); t.start()"
        )

        async def plan_names_it() -> bool:
            return "t" in (await roamer.client.plan_migration(roamer.id)).lost

        await eventually(plan_names_it)
        done = await roamer.migrate()
        assert (done.phase, done.via, done.lost) == (Phase.DONE, "image", {}), done.cause
        assert await roamer.said("print(t.is_alive()); stop.set(); t.join()") == "True"


async def test_image_that_cannot_be_taken_is_not_needed_where_nothing_is_lost_without(service: Service) -> None:
    async with roaming(service) as roamer:
        source = await roamer.node()
        await roamer.said("x = [1]; y = x")
        client = service.controller.agents.of(source)
        real = client.op

        async def fails(session: str, epoch: int, op: str, content: dict[str, object]) -> dict[str, object]:
            if op == "take_image":
                raise NotDumpable("it holds what cannot be dumped.")
            return await real(session, epoch, op, content)

        client.op = fails  # type: ignore[method-assign]
        done = await roamer.migrate(via="image")
        assert (done.phase, done.via) == (Phase.DONE, "portable"), done.cause
        assert await roamer.said("import os; print(y is x, os.environ['GPUAAS_NODE'])") == f"True {done.target}"
        assert done.target != source
        story = [event.cause for event in await roamer.client.events(session=roamer.id)]
        (told,) = [cause for cause in story if "not as a process image" in cause]
        assert "what cannot be dumped" in told
        await nothing_left(service, source, roamer.id)
        # A cell that runs and is not to be waited for stays where it is.
        client.op = real  # type: ignore[method-assign]
        client = service.controller.agents.of(done.target)
        real, client.op = client.op, fails  # type: ignore[method-assign]
        running, _ = await running_cell(roamer, "print('in', flush=True)\nwhile True: pass", "in")
        done = await roamer.migrate(via="image", wait=False)
        assert done.phase is Phase.FAILED and "what cannot be dumped" in done.cause, done.cause
        roamer.remote.interrupt()
        assert (await asyncio.wait_for(running, 60.0))["ename"] == "KeyboardInterrupt"


async def test_session_that_is_tied_to_its_node_stays_and_says_why(service: Service) -> None:
    async with roaming(service) as roamer:
        source = await roamer.node()
        await roamer.said("import socket; listener = socket.create_server(('127.0.0.1', 0)); listener.listen(); x = 3")
        done = await roamer.migrate(via="image")
        assert done.phase is Phase.FAILED and "port" in done.cause, done.cause
        assert await roamer.node() == source
        assert await roamer.said("print(x, listener.getsockname()[1] > 0)") == "3 True"


async def test_nodes_that_make_no_images_say_why(criu: Criu, gpuaas_home: GpuaasHome) -> None:
    async with running_service(gpuaas_home.path, nodes=2) as service, roaming(service) as roamer:
        await roamer.said("x = 1")
        with pytest.raises(MigrationError, match="local-0: process images are switched off"):
            await roamer.migrate(via="image")
