"""What it costs to move a session, beside dill in a new kernel and the loopback's own rate; all in one run.

``make bench-migrate`` or ``python benchmarks/migrate.py [--sizes MB ...] [--changes PERCENT ...] [--json]``. Two nodes
on this machine, everything on loopback, nothing stays. In each row a client runs a cell ten times a second, which
changes the given share of the state within a second and computes a little; the session is moved meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent / "cases"))

import arrays
import frozen
import hardware
from environments import DoesNotInstall, environment
from rows import ZmqKernel
from service import Service
from user import User

from jupyter_gpuaas.client.embedded import find_service
from jupyter_gpuaas.client.migrations import follow_migration
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.config import Settings, load
from jupyter_gpuaas.model import MigrationView, NodeState, Phase, SessionState, Via

SIZES_MB = (10, 1000, 4000)
#: Instead of a share: nothing runs, and 1 % was changed by the last cell.
IDLE = -1.0
CHANGES = (IDLE, 0.0, 1.0, 100.0)
CELLS_PER_S = 10
BEFORE_S = 4.0
#: Of that, after memory was taken and given back: a virtual machine loses it again within some seconds.
CALM_S = 1.0
WAIT_S = 120.0

SETUP = """
import numpy as np
state = [np.random.default_rng(n).random({items}) for n in range(8)]
turn = 0
def step():
    global turn
    turn += 1
    for part in state:
        count = int(len(part) * {share})
        at = turn * count % max(1, len(part) - count)
        part[at:at + count] += 1
    return sum(i * i for i in range(20_000))
"""

#: As ``step``, and notes when it began and how long it took: what of a cell is the user's own work.
TIMED = """
import time
def timed():
    begun_s = time.time()
    step()
    took_s = time.time() - begun_s
    with open({file!r}, "a") as file:
        file.write(f"{{begun_s}} {{took_s}}\\n")
"""

COPIER = """
import os
import numpy as np
os.nice(19)
taken, other = np.ones(8_000_000), np.zeros(8_000_000)
while True:
    other[:] = taken
"""


def main() -> None:
    """Measure what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES_MB), metavar="MB")
    parser.add_argument(
        "--changes", nargs="+", type=float, default=list(CHANGES), metavar="PERCENT", help="-1: an idle session"
    )
    parser.add_argument("--rounds", type=int, default=3, help="moves of each row; medians are told")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--skip", nargs="*", default=[], choices=["dill", "elastic", "loss", "park", "image", "criu"])
    parser.add_argument("--quick", action="store_true", help="10 MB, idle and 1 %%, one move of each")
    asked = parser.parse_args()
    if asked.quick:
        asked.sizes, asked.changes, asked.rounds = [10], [IDLE, 1.0], 1
    head = {
        **hardware.describe(),
        "loopback MB/s": round(arrays.raw_tcp(256 * 1024**2) / 1e6),
        "disk MB/s": round(arrays.raw_disk(Path(tempfile.gettempdir())) / 1e6),
    }
    rows: list[dict[str, Any]] = []
    criu = frozen.criu_here()
    if isinstance(criu, str):
        asked.skip += ["image", "criu"]
        head["process images"] = f"not measured: {criu}"
    else:
        rounds = "in rounds" if criu.dirty_tracking else "in one stop, as Linux marks no written pages here"
        head["process images"] = f"CRIU {criu.version}, memory {rounds}"
    # One device a node: each has the most memory that this machine can give, and two sessions never run at once.
    service = Service(devices=1, nodes=2)
    service.start()
    try:
        for size in asked.sizes:
            for change in asked.changes:
                with alone() as other:
                    rows.append(moved(other, size, change, asked.rounds))
            if "dill" not in asked.skip:
                rows.append(dilled(service, size))
            if "elastic" not in asked.skip:
                rows.append(elastic(service, size))
            if "criu" not in asked.skip and not isinstance(criu, str):
                rows.append(frozen.by_hand(criu, setup_of(size, 0.001), size))
        if "loss" not in asked.skip:
            rows.append(lost(service, asked.sizes[0], asked.rounds))
            rows.append(lost(service, asked.sizes[0], asked.rounds, node=True))
            rows.append(lost(service, asked.sizes[0], asked.rounds, node=True, standby=True))
            rows.append(lost(service, asked.sizes[0], asked.rounds, node=True, silent=True))
        if "park" not in asked.skip:
            rows.append(parked(service, asked.rounds))
    finally:
        service.stop()
    if "image" not in asked.skip:
        rows += images(asked.sizes, asked.rounds)
    if asked.json:
        print(json.dumps({"header": head, "rows": rows}, indent=2))
        return
    print("\n".join(f"{name}: {value}" for name, value in head.items()))
    for row in rows:
        print("\n" + row.pop("what"))
        print("\n".join(f"    {name}: {value}" for name, value in row.items()))


@contextlib.contextmanager
def alone() -> Iterator[Service]:
    """A service for one row: what others have in files would lie in the memory that this one needs."""
    service = Service(devices=1, nodes=2)
    service.start()
    try:
        yield service
    finally:
        service.stop()


@contextlib.contextmanager
def session(service: Service, setup: str) -> Iterator[tuple[ZmqKernel, str]]:
    """A kernel with a session of its own, and that session's name."""
    kernel = service.kernel()
    kernel.start()
    try:
        heard = kernel.run(setup, quiet_s=WAIT_S)
        if heard.status != "ok":
            raise RuntimeError(heard.error)
        yield kernel, kernel.session_name
    finally:
        kernel.stop()


def ask(service: Service, work: Any) -> Any:
    """Let the service's client do something."""

    async def run() -> Any:
        endpoint = await find_service(load({"GPUAAS_HOME": service.env["GPUAAS_HOME"]}), start=False)
        async with ServiceClient(endpoint.url, endpoint.token) as client:
            return await work(client)

    return asyncio.run(run())


def move(service: Service, name: str, via: Via = "portable") -> MigrationView:
    async def work(client: ServiceClient) -> MigrationView:
        found = next(each for each in await client.sessions() if each.name == name)
        return await follow_migration(client, await client.migrate(found.id, via=via), lambda text: None)

    view: MigrationView = ask(service, work)
    if view.phase is not Phase.DONE:
        raise RuntimeError(f"not moved: {view.cause}")
    return view


def setup_of(size_mb: int, share: float) -> str:
    """Cell that makes a state of this size, and ``step``, which changes this share of it."""
    return SETUP.format(items=size_mb * 1_000_000 // 8 // 8, share=share)


def moved(service: Service, size_mb: int, change: float, rounds: int) -> dict[str, Any]:
    """One row: a session of this size of which so many percent change in a second, moved some times."""
    setup = setup_of(size_mb, 0.01 if change == IDLE else change / 100 / CELLS_PER_S)
    views: list[MigrationView] = []
    # Of all moves together: in the pre-copy of one small session there are two cells or three.
    cells: list[tuple[float, float]] = []
    works: list[tuple[float, ...]] = []
    before: list[tuple[float, float]] = []
    copied: list[tuple[float, float]] = []
    beside: list[float] = []
    waits: list[float] = []
    fresh: list[float] = []
    with tempfile.TemporaryDirectory(prefix="gpuaas-bench-") as folder, session(service, setup) as (kernel, name):
        worked = Path(folder, "worked")
        kernel.run(TIMED.format(file=str(worked)))
        for _ in range(rounds):
            if change == IDLE:
                kernel.run("step();")
            else:
                user = User(kernel.connection, CELLS_PER_S, "timed()")
            time.sleep(BEFORE_S - CALM_S)
            # The target's memory, and the chunks of what changes until the stop: on the way to the disk, and in copies.
            fresh.append(touched_s(round(size_mb * (1.4 + 2 * max(0.0, change) / 100))))
            time.sleep(CALM_S)
            begun_s = time.time()
            view = move(service, name)
            if change == IDLE:
                views.append(view)
                continue
            user.stop()
            views.append(view)
            cells += user.cells
            before.append((begun_s - CALM_S, begun_s))
            copied.append((view.started_s, view.started_s + view.phases_s["reserve"] + view.phases_s["pre_copy"]))
            waits.append(max(took_s for sent_s, took_s in user.cells if sent_s + took_s >= begun_s))
        if change != IDLE:
            works = [tuple(map(float, line.split())) for line in worked.read_text().splitlines()]
            beside = beside_a_copier(kernel)
    calm = within(cells, before)
    return {
        "what": f"remote_gpu, {size_mb} MB, " + ("idle" if change == IDLE else f"{change:g} % a second"),
        "downtime_s": median([view.downtime_s for view in views]),
        "longest_wait_of_a_cell_s": median(waits) if waits else None,
        "total_s": median([view.total_s for view in views]),
        "fresh_memory_s": median(fresh),
        "bytes_sent": statistics.median([view.bytes_sent for view in views]),
        "last_round_bytes": statistics.median([view.rounds[-1].sent_bytes for view in views]),
        "rounds_bytes": [[each.sent_bytes for each in view.rounds] for view in views],
        "cells_during_pre_copy": slowdown(within(cells, copied), calm),
        "their_work_during_pre_copy": slowdown(within(works, copied), within(works, before)),
        "cells_beside_a_copier": slowdown(beside, calm),
        "cells_before_ms": round(1000 * statistics.median(calm), 2) if calm else None,
        "phases_s": {name: median([view.phases_s.get(name, 0.0) for view in views]) for name in views[0].phases_s},
        "rounds": rounds,
    }


def within(timed: Iterable[tuple[float, ...]], spans: Iterable[tuple[float, float]]) -> list[float]:
    """How long what began within these times took, of (begin, took) each."""
    return [took_s for begun_s, took_s in timed if any(since_s <= begun_s < until_s for since_s, until_s in spans)]


def slowdown(took_s: list[float], calm_s: list[float]) -> str | None:
    """How long cells took, by those of a calm time."""
    return f"{statistics.median(took_s) / statistics.median(calm_s):.2f} x" if took_s and calm_s else None


def beside_a_copier(kernel: ZmqKernel) -> list[float]:
    """How long the cells take beside a process of the lowest priority that does nothing but copy memory.

    Whatever a pre-copy does, it copies: this is what the machine itself takes from a user for that.
    """
    copier = subprocess.Popen([sys.executable, "-c", COPIER])
    try:
        time.sleep(CALM_S)
        user = User(kernel.connection, CELLS_PER_S, "timed()")
        begun_s = time.time()
        time.sleep(CALM_S)
        user.stop()
    finally:
        copier.kill()
        copier.wait()
    return within(user.cells, [(begun_s, time.time())])


def touched_s(size_mb: int) -> float:
    """Take as much memory as the target is going to need, and give it back; how long that took.

    A virtual machine may get memory from its host only when it is first used: what was free for some seconds costs
    seconds a gigabyte, which is none of the move's own. No file's pages are driven out for it.
    """
    begun_s = time.perf_counter()
    arrays.touch(min(size_mb * 1_200_000, int(0.9 * psutil.virtual_memory().free)))
    return time.perf_counter() - begun_s


def images(sizes: list[int], rounds: int) -> list[dict[str, Any]]:
    """Rows of sessions that move as process images, in the middle of a cell that counts."""
    rows = []
    service = Service(devices=1, nodes=2)
    service.env["GPUAAS_IMAGES"] = "auto"
    service.start()
    try:
        for size in sizes:
            with session(service, setup_of(size, 0.0)) as (kernel, name):
                views, fresh = [], []
                for _ in range(rounds):
                    cell = threading.Thread(
                        target=kernel.run, args=("import time\nfor _ in range(800): time.sleep(0.01)",)
                    )
                    cell.start()
                    time.sleep(1.0)
                    fresh.append(touched_s(3 * size))
                    views.append(move(service, name, "image"))
                    cell.join()
            rows.append(
                {
                    "what": f"remote_gpu in the middle of a cell, as a process image, {size} MB",
                    "downtime_s": median([view.downtime_s for view in views]),
                    "total_s": median([view.total_s for view in views]),
                    "fresh_memory_s": median(fresh),
                    "bytes_sent": statistics.median([view.bytes_sent for view in views]),
                    "phases_s": {
                        phase: median([view.phases_s.get(phase, 0.0) for view in views]) for phase in views[0].phases_s
                    },
                    "rounds": rounds,
                }
            )
    finally:
        service.stop()
    return rows


def dilled(service: Service, size_mb: int) -> dict[str, Any]:
    """The same by hand: everything into a file, a new kernel, everything out of it."""
    environ = {key: value for key, value in service.env.items() if key != "GPUAAS_HOME"}
    setup = setup_of(size_mb, 0.001)
    source, target = ZmqKernel("python3", environ), ZmqKernel("python3", environ)
    with tempfile.TemporaryDirectory(prefix="gpuaas-bench-") as folder:
        path = str(Path(folder) / "state.pkl")
        source.start()
        try:
            source.run(setup, quiet_s=WAIT_S)
            touched_s(2 * size_mb)
            begun_s = time.perf_counter()
            wrote = source.run(f"import dill; dill.dump_module({path!r})", quiet_s=WAIT_S)
            target.start()
            read = target.run(f"import dill; dill.load_module({path!r})", quiet_s=WAIT_S)
            went_on = target.run("step();", quiet_s=WAIT_S)
            took_s = time.perf_counter() - begun_s
            for heard in (wrote, read, went_on):
                if heard.status != "ok":
                    raise RuntimeError(heard.error)
            size = os.path.getsize(path)
        finally:
            source.stop()
            target.stop()
    return {"what": f"dill and a new kernel, {size_mb} MB", "downtime_s": round(took_s, 3), "bytes": size}


def elastic(service: Service, size_mb: int) -> dict[str, Any]:
    """ElasticNotebook: it records each cell, decides which variables it stores and which it computes again."""
    what = f"ElasticNotebook and a new kernel, {size_mb} MB"
    try:
        python = environment("elastic")
    except DoesNotInstall as error:
        return {"what": what, "not measured": str(error)}
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    )
    environ = {key: value for key, value in service.env.items() if key != "GPUAAS_HOME"}
    environ["PYTHONPATH"] = site.stdout.strip()
    begin = "from elastic.elastic_notebook import ElasticNotebook\nnotebook = ElasticNotebook(get_ipython())"
    look = "open({path!r}, 'w').write(repr((turn, [float(part.sum()) for part in state])))"
    source, target = ZmqKernel("python3", environ), ZmqKernel("python3", environ)
    with tempfile.TemporaryDirectory(prefix="gpuaas-bench-") as folder:
        path = Path(folder) / "state.pickle"
        heard = []
        source.start()
        try:
            heard.append(source.run(begin, quiet_s=WAIT_S))
            for cell in (setup_of(size_mb, 0.001), "step();", "step();"):
                heard.append(source.run(f"notebook.record_event({cell!r})", quiet_s=WAIT_S))
            heard.append(source.run(look.format(path=f"{folder}/before"), quiet_s=WAIT_S))
            touched_s(2 * size_mb)
            begun_s = time.perf_counter()
            heard.append(source.run(f"notebook.checkpoint({str(path)!r})", quiet_s=WAIT_S))
            target.start()
            heard.append(target.run(begin, quiet_s=WAIT_S))
            heard.append(target.run(f"notebook.load_checkpoint({str(path)!r})", quiet_s=WAIT_S))
            heard.append(target.run(look.format(path=f"{folder}/after"), quiet_s=WAIT_S))
            took_s = time.perf_counter() - begun_s
            failed = [each.error for each in heard if each.status != "ok"]
            if not failed:
                size = path.stat().st_size
                right = Path(folder, "before").read_text() == Path(folder, "after").read_text()
        finally:
            source.stop()
            target.stop()
    if failed:
        return {"what": what, "fails": failed[0]}
    return {"what": what, "downtime_s": round(took_s, 3), "bytes": size, "restored": "right" if right else "wrong"}


def lost(
    service: Service, size_mb: int, rounds: int, *, node: bool = False, standby: bool = False, silent: bool = False
) -> dict[str, Any]:
    """A host, or a node with agent and host, that is killed: until that is known, and until the next cell has run.

    With ``silent`` it is stopped, as if its machine hung; it goes on when all is over.

    With ``standby``, the session has one, which has its newest checkpoint. Beside it, what cannot be had for less where
    there is none: a plain kernel that starts until it has answered, and a restore of the same state.
    """
    setup = setup_of(size_mb, 0.001)
    starts: list[float] = []
    restores: list[float] = []
    known: list[float] = []
    again: list[float] = []
    with session(service, setup) as (kernel, name):

        async def identity(client: ServiceClient) -> str:
            return next(each.id for each in await client.sessions() if each.name == name)

        async def where(client: ServiceClient) -> str:
            found = await identity(client)
            await client.want_standby(found, int(standby))
            deadline = time.monotonic() + WAIT_S
            while standby and time.monotonic() < deadline:
                view = await client.session(found)
                last = view.checkpoints.last if view.checkpoints is not None else None
                if view.standby is not None and last is not None and view.standby.checkpoint == last.id:
                    break
                await asyncio.sleep(0.1)
            lease = (await client.session(found)).session.lease
            assert lease is not None
            return lease.node_id

        async def written(client: ServiceClient) -> str:
            """The checkpoint of the newest cell, when it is durable and the service has heard of it."""
            found = await identity(client)
            taken = await client.take_checkpoint(found)
            deadline = time.monotonic() + WAIT_S
            while time.monotonic() < deadline:
                checkpoints = (await client.session(found)).checkpoints
                if checkpoints is not None and checkpoints.last is not None and checkpoints.last.id == taken.id:
                    return taken.id
                await asyncio.sleep(0.05)
            raise RuntimeError(f"the service does not hear of checkpoint {taken.id}")

        async def restore(client: ServiceClient) -> float:
            found, checkpoint = await identity(client), await written(client)
            begun_s = time.perf_counter()
            await client.restore(found, checkpoint)
            return time.perf_counter() - begun_s

        for _ in range(rounds):
            kernel.run("step();")
            restores.append(ask(service, restore))
            starts.append(plain_start(service))
            kernel.run("step();")
            ask(service, written)
            node_id = ask(service, where)
            pids = [host_of(service, ask(service, identity), node_id)]
            folder = Path(service.env["GPUAAS_HOME"]) / "nodes" / node_id
            pids += [int(json.loads((folder / "agent.json").read_bytes())["pid"])] if node else []
            killed_s = time.time()
            for pid in pids:
                os.kill(pid, signal.SIGSTOP if silent else signal.SIGKILL)
            heard = kernel.run("step();", quiet_s=WAIT_S)
            if heard.status != "ok":  # it reached the dying host; the user runs it again
                heard = kernel.run("step();", quiet_s=WAIT_S)
            if heard.status != "ok":
                raise RuntimeError(heard.error)
            again.append(time.time() - killed_s)

            async def when(client: ServiceClient) -> float:
                events = await client.events(session=await identity(client))
                return max(event.time_s for event in events if event.target == SessionState.LOST)

            known.append(ask(service, when) - killed_s)
            if silent:
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)
                ask(service, until_all_are_up)
    happens = "goes silent" if silent else "is killed"
    return {
        "what": f"a {'node' if node else 'host'} {happens}, {size_mb} MB{', with a standby' if standby else ''}",
        **({"lease_s": Settings().lease_s} if silent else {}),
        "known_s": median(known),
        "next_cell_done_s": median(again),
        "next_cell_done_after_known_s": median([done - when for done, when in zip(again, known, strict=True)]),
        "plain_kernel_start_s": median(starts),
        "restore_s": median(restores),
        "rounds": rounds,
    }


async def until_all_are_up(client: ServiceClient) -> None:
    """Wait until each node answers."""
    deadline = time.monotonic() + WAIT_S
    while any(node.state is not NodeState.UP for node in await client.nodes()):
        if time.monotonic() > deadline:
            raise RuntimeError("a node does not come back")
        await asyncio.sleep(0.1)


def plain_start(service: Service) -> float:
    """Seconds until a plain kernel has been started and has answered."""
    kernel = ZmqKernel("python3", {key: value for key, value in service.env.items() if key != "GPUAAS_HOME"})
    begun_s = time.perf_counter()
    kernel.start()
    took_s = time.perf_counter() - begun_s
    kernel.stop()
    return took_s


def parked(service: Service, rounds: int) -> dict[str, Any]:
    """A small session whose devices are given back, and that is brought back by its next cell."""
    away: list[float] = []
    back: list[float] = []
    with session(service, "x = 1") as (kernel, name):
        for _ in range(rounds):
            time.sleep(1.0)

            async def park(client: ServiceClient) -> float:
                found = next(each for each in await client.sessions() if each.name == name)
                begun_s = time.perf_counter()
                await client.park(found.id)
                return time.perf_counter() - begun_s

            away.append(ask(service, park))
            time.sleep(1.0)
            heard = kernel.run("x += 1", quiet_s=WAIT_S)
            if heard.done_s is None or heard.status != "ok":
                raise RuntimeError(f"not brought back: {heard}")
            back.append(heard.done_s)
    return {"what": "a small session is parked", "park_s": median(away), "next_cell_done_s": median(back)}


def host_of(service: Service, session: str, node: str) -> int:
    """Process id of the session's host on a node."""
    for path in Path(service.env["GPUAAS_HOME"]).glob(f"nodes/{node}/hosts/*.json"):
        record = json.loads(path.read_bytes())
        if record["session_id"] == session:
            return int(record["pid"])
    raise RuntimeError(f"session {session} has no host")


def median(values: list[float]) -> float:
    return round(statistics.median(values), 3)


if __name__ == "__main__":
    main()
