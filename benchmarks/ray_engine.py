"""How long the Ray engine takes: ``python benchmarks/ray_engine.py [--times N]``; medians, on a cluster that it starts.

A head without GPUs and two nodes with an invented one each, all on this machine, with the health checks that
``docs/deploy/ray.md`` recommends. Needs the extras ``test`` and ``ray``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.hardware import describe
from jupyter_gpuaas.engine import LeaseMeta
from jupyter_gpuaas.model import NodeState, ResourceRequest
from tests.fault.nodes import agent_pid
from tests.ray_cluster import RayCluster

ONE = ResourceRequest()


async def measure(cluster: RayCluster, home: Path, times: int) -> dict[str, list[float]]:
    from jupyter_gpuaas.engine.ray.engine import RayEngine

    took: dict[str, list[float]] = defaultdict(list)
    began = 0.0

    def start() -> None:
        nonlocal began
        began = time.perf_counter()

    def stop(what: str) -> None:
        took[what].append(time.perf_counter() - began)

    engine = RayEngine(cluster.settings(home))
    start()
    await engine.open()
    stop("open, agents started")
    for number in range(times):
        held = []
        for name in "ab":
            start()
            held.append(await engine.acquire(ONE, LeaseMeta(f"{name}{number}", 1), timeout=0))
            stop("acquire a free device")
        waiting = asyncio.create_task(engine.acquire(ONE, LeaseMeta(f"c{number}", 1)))
        await asyncio.sleep(0)
        start()
        await engine.release(held.pop(0).id)
        held.append(await waiting)
        stop("hand-over to one that waits")
        await engine.close(stop_nodes=False)
        engine = RayEngine(cluster.settings(home))
        start()
        await engine.open()
        stop("open again, all adopted")
        assert len(engine.leases()) == 2
        for lease in held:
            await engine.release(lease.id)
        # An agent ends: what the engine sees, and until it is there again.
        news = engine.events()
        os.kill(agent_pid(home, "node-0"), signal.SIGKILL)
        start()
        assert (await anext(news)).state is NodeState.LOST
        stop("agent killed, seen")
        assert (await anext(news)).state is NodeState.UP
        stop("agent killed, up again")
        # A raylet ends: what Ray sees.
        cluster.lose("node-1")
        start()
        assert (await anext(news)).state is NodeState.CORDONED
        stop("raylet killed, seen")
        cluster.add("node-1")
        assert (await anext(news)).state is NodeState.UP
        await news.aclose()  # type: ignore[attr-defined]
    await engine.close(stop_nodes=True)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    times = parser.parse_args().times
    home = Path(tempfile.mkdtemp(prefix="gpuaas-ray-bench-"))
    cluster = RayCluster()
    try:
        took = asyncio.run(measure(cluster, home, times))
    finally:
        cluster.close()
        shutil.rmtree(home, ignore_errors=True)
    print(json.dumps(describe()))
    for what, each in took.items():
        print(f"{what:32} median {statistics.median(each):.3f} s, {min(each):.3f} to {max(each):.3f} ({len(each)})")


if __name__ == "__main__":
    main()
