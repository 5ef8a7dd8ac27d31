"""One controller under load: ``python benchmarks/load.py [--sessions N] [--seconds T] [--quick] [--json]``.

Hundreds of sessions with light kernels (``benchmarks/light``) that get a cell a second each, while agents and the
controller are killed and links are cut at times that a seed decides. Then all clients come at once, and at last a
service with many stored sessions is asked for their list. Everything that is started ends. Exits with 1 when a message
was lost or doubled.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import hardware
from benchmarks.light.clients import Cell, LightClient, attach
from benchmarks.light.faults import WEIGHTS, Fault, plan
from benchmarks.light.service import LightService, Sample
from benchmarks.light.stored import store
from jupyter_gpuaas.client.session import RemoteSession
from jupyter_gpuaas.config import Settings

#: Sessions that are made at a time.
AT_ONCE = 16
LOOK_S = 1.0
#: A cell that is sent so long after a fault, or is not answered before one, has met it.
HURT_S = 5.0
PROBLEMS_TOLD = 20
SLOWEST = 8
OWNERS = 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long cells are sent")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two cells of a session")
    parser.add_argument("--cell", type=float, default=0.05, help="seconds that a cell runs")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--relayed", type=float, default=0.1, help="part of the clients that go through the controller")
    parser.add_argument("--fault-every", type=float, default=10.0, help="seconds between two faults; 0: none")
    parser.add_argument("--faults", nargs="+", choices=list(WEIGHTS), default=list(WEIGHTS), help="kinds of faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stored", type=int, default=10_000, help="sessions of the service whose list is asked for")
    parser.add_argument("--parked", type=int, default=1000, help="how many of them are parked; the others have ended")
    parser.add_argument("--page", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="40 sessions, 30 seconds, 1,000 stored")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--json-file", type=Path, help="write JSON as well")
    asked = parser.parse_args()
    if asked.quick:
        asked.sessions, asked.seconds, asked.stored, asked.parked = 40, 30.0, 1000, 100
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    header = hardware.describe()
    rows = asyncio.run(measure(asked))
    header["load average at the end"] = hardware.describe()["load average"]
    told = {"header": header, "asked": {k: v for k, v in vars(asked).items() if k != "json_file"}, "rows": rows}
    if asked.json_file:
        asked.json_file.write_text(json.dumps(told, indent=2, default=str))
    print(json.dumps(told, indent=2, default=str) if asked.json else table(told))
    sys.exit(1 if rows["problems"] else 0)


async def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """Each figure by its name."""
    rows: dict[str, Any] = {"problems": []}
    if asked.sessions:
        await under_load(asked, rows)
    if asked.stored:
        rows |= await listed(asked)
    return rows


async def under_load(asked: argparse.Namespace, rows: dict[str, Any]) -> None:
    """Cells, faults, and the storm."""
    each = math.ceil(asked.sessions / asked.nodes)
    service = LightService(
        nodes=asked.nodes,
        devices=each,
        settings={
            "sessions_per_user": str(asked.sessions), "spare_kernels": "0", "checkpoint_every": "0", "images": "off",
            "start_timeout_s": "120", "events_kept": "100000",
        },
    )  # fmt: skip
    loop = asyncio.get_running_loop()
    made: dict[int, LightClient] = {}
    clients: list[LightClient] = []
    services = []
    looking: asyncio.Task[None] | None = None
    try:
        await service.start()
        looking = asyncio.create_task(_look(service))
        services = [service.client() for _ in range(asked.sessions)]
        began_s = loop.time()
        names = [f"/home/user/experiment-{number:04}.ipynb" for number in range(asked.sessions)]
        direct, relayed = (Settings(home=str(service.home), relay=how) for how in ("never", "always"))
        bound = round(asked.relayed * asked.sessions)

        async def begin(numbers: Sequence[int]) -> None:
            for number in numbers:
                view = await services[number].create_session(names[number], wait_s=120)
                settings = relayed if number < bound else direct
                client = LightClient(services[number], view.session.id, settings, asked.cell)
                made[number] = client
                await client.open(view.channel)

        await asyncio.gather(*(begin(range(lane, asked.sessions, AT_ONCE)) for lane in range(AT_ONCE)))
        clients = [made[number] for number in range(asked.sessions)]
        rows["sessions begun, s"] = loop.time() - began_s
        rows["memory and processes at the begin"] = service.sizes()
        begin_s = loop.time() + 1.0
        end_s = begin_s + asked.seconds
        faults = plan(
            asked.seed, lasts_s=asked.seconds, every_s=asked.fault_every, clients=asked.sessions, nodes=asked.nodes,
            kinds=asked.faults,
        ) if asked.fault_every else []  # fmt: skip
        done: list[tuple[float, Fault]] = []
        await asyncio.gather(
            _hurt(service, clients, faults, begin_s, done),
            *(
                client.work(begin_s + asked.every * number / asked.sessions, end_s, asked.every)
                for number, client in enumerate(clients)
            ),
        )
        await asyncio.gather(*(client.settle() for client in clients))
        rows |= _cells(clients, done, asked.seconds)
        rows["slowest cells"] = _slowest(clients, done, begin_s, bound)
        rows |= _controllers(service.samples, begin_s)
        rows["memory and processes at the end"] = service.sizes()
        rows |= await storm(service, names, direct)
    finally:
        if looking is not None:
            looking.cancel()
        await asyncio.gather(*(client.close() for client in made.values()), return_exceptions=True)
        await asyncio.gather(*(each.close() for each in services), return_exceptions=True)
        await service.end()


async def _look(service: LightService) -> None:
    while True:
        service.look()
        await asyncio.sleep(LOOK_S)


async def _hurt(
    service: LightService,
    clients: list[LightClient],
    faults: Sequence[Fault],
    begin_s: float,
    done: list[tuple[float, Fault]],
) -> None:
    loop = asyncio.get_running_loop()
    for fault in faults:
        await asyncio.sleep(begin_s + fault.at_s - loop.time())
        done.append((loop.time(), fault))
        if fault.kind == "cut":
            for number in fault.whom:
                channel = clients[number]._channel
                channel.rewind(channel.received)  # aborts the link, and takes nothing twice
        elif fault.kind == "agent":
            service.kill_agent(fault.whom[0])
        else:
            await asyncio.to_thread(service.kill_controller)
            await service.start_controller()


def _cells(clients: Sequence[LightClient], faults: Sequence[tuple[float, Fault]], lasts_s: float) -> dict[str, Any]:
    problems = [f"client {number}: {each}" for number, client in enumerate(clients) for each in client.problems]
    cells = [cell for client in clients for cell in client.cells]
    met: dict[str, list[Cell]] = {"none": [], "cut": [], "agent": [], "controller": []}
    for cell in cells:
        kinds = {
            fault.kind
            for at_s, fault in faults
            if at_s - (cell.done_s - cell.sent_s) - 0.5 < cell.sent_s < at_s + HURT_S
        }
        for kind in kinds or {"none"}:
            met[kind].append(cell)
    sent = sum(client.sent for client in clients)
    return {
        "cells sent": sent,
        "cells a second": sent / lasts_s,
        "messages": sum(sum(client.records.values()) for client in clients),
        "cells without an answer": sent - len(cells),
        "notices of the service": sum(client.notices.total() for client in clients),
        "faults": {kind: sum(fault.kind == kind for _, fault in faults) for kind in met if kind != "none"},
        "added latency, ms": {"all": _times([cell.added_s for cell in cells])}
        | {f"fault: {kind}": _times([cell.added_s for cell in found]) for kind, found in met.items() if found},
        "problems": problems,
    }


def _slowest(
    clients: Sequence[LightClient], faults: Sequence[tuple[float, Fault]], begin_s: float, bound: int
) -> list[dict[str, Any]]:
    """The slowest cell of each of the clients that waited longest, and what had been done before it was answered."""
    found = []
    for number, client in enumerate(clients):
        if client.cells:
            cell = max(client.cells, key=lambda cell: cell.added_s)
            met = [
                f"{fault.kind} {at_s - begin_s:.1f}"
                + (" (this one)" if fault.kind == "cut" and number in fault.whom else "")
                for at_s, fault in faults
                if cell.sent_s - HURT_S < at_s < cell.done_s
            ]
            found.append((cell.added_s, number, cell, met))
    found.sort(key=lambda each: -each[0])
    return [
        {
            "client": number,
            "way": "relay" if number < bound else "direct",
            "sent, s": cell.sent_s - begin_s,
            "added, s": added_s,
            "faults": met,
        }
        for added_s, number, cell, met in found[:SLOWEST]
    ]


def _times(values: list[float]) -> dict[str, float]:
    """In milliseconds."""
    values = sorted(1000 * value for value in values)
    if not values:
        return {}
    at = {name: values[min(len(values) - 1, int(part * len(values)))] for name, part in _PARTS.items()}
    return {"count": len(values), **at, "max": values[-1]}


_PARTS = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def _controllers(samples: Sequence[Sample], begin_s: float) -> dict[str, Any]:
    """What the controllers took, a line for each that was killed or is there still."""
    lives: dict[int, list[Sample]] = {}
    for sample in samples:
        lives.setdefault(sample.life, []).append(sample)
    told = []
    for life, found in lives.items():
        took_s = found[-1].at_s - found[0].at_s
        # The first half of a life is for what is filled once.
        later = found[len(found) // 2 :]
        minutes = (later[-1].at_s - later[0].at_s) / 60
        told.append(
            {
                "life": life,
                "from, s": found[0].at_s - begin_s,
                "lasted, s": took_s,
                "memory, MB": [round(each.rss_bytes / 1e6, 1) for each in (found[0], later[0], found[-1])],
                "most, MB": max(each.rss_bytes for each in found) / 1e6,
                "grows in its second half, MB/min": (later[-1].rss_bytes - later[0].rss_bytes) / 1e6 / minutes
                if minutes > 0.2
                else None,
                "files": [found[0].files, later[0].files, found[-1].files],
                "of one core": (found[-1].cpu_s - found[0].cpu_s) / took_s if took_s else None,
            }
        )
    return {"controllers": told}


async def storm(service: LightService, names: Sequence[str], settings: Settings) -> dict[str, Any]:
    """All come at once, with connections of their own."""
    clients = [service.client() for _ in names]
    remotes: list[RemoteSession] = []
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    try:
        took = await asyncio.gather(
            *(attach(client, name, settings, remotes.append) for client, name in zip(clients, names, strict=True)),
            return_exceptions=True,
        )
        all_s = loop.time() - began_s
    finally:
        await asyncio.gather(*(remote.close() for remote in remotes), return_exceptions=True)
        await asyncio.gather(*(client.close() for client in clients), return_exceptions=True)
    failed = [str(each) for each in took if isinstance(each, BaseException)]
    return {
        "clients that came at once": len(names),
        "all attached after, s": all_s,
        "attached after, ms": _times([each for each in took if isinstance(each, float)]),
        "not attached": failed[:PROBLEMS_TOLD],
    }


async def listed(asked: argparse.Namespace) -> dict[str, Any]:
    """The list of sessions of a service that has many and does nothing."""
    service = LightService(nodes=1, devices=1, settings={"spare_kernels": "0", "images": "off"})
    try:
        await asyncio.to_thread(store, service.home / "controller.db", asked.stored, owners=OWNERS, parked=asked.parked)
        began_s = time.perf_counter()
        await service.start()
        ready_s = time.perf_counter() - began_s
        found: dict[str, Any] = {}
        async with service.client() as client:
            for what, all_ in (("all", True), ("live", False)):
                took: list[float] = []
                seen: set[str] = set()
                after, count = "", asked.page
                while count == asked.page:
                    began_s = time.perf_counter()
                    page = await client.page_of_sessions(all=all_, after=after, limit=asked.page)
                    took.append(time.perf_counter() - began_s)
                    count = len(page)
                    seen.update(session.id for session in page)
                    after = page[-1].id if page else ""
                found[what] = {"sessions": len(seen), **_times(took)}
            began_s = time.perf_counter()
            await client.sessions(all=True)
            whole_s = time.perf_counter() - began_s
        service.look()
        return {
            "stored sessions": asked.stored,
            "parked of them": asked.parked,
            "service with them ready after, s": ready_s,
            f"a page of {asked.page}, ms": found,
            "the whole list in pages, as clients ask, ms": 1000 * whole_s,
            "its memory, MB": service.samples[-1].rss_bytes / 1e6,
        }
    finally:
        await service.end()


def table(told: dict[str, Any]) -> str:
    """For people."""
    lines = [f"{name}: {value}" for name, value in told["header"].items()]
    lines += ["", " ".join(f"{name}={value}" for name, value in told["asked"].items()), ""]
    for name, value in told["rows"].items():
        if name == "problems":
            continue
        if isinstance(value, dict):
            lines.append(f"{name}:")
            lines += [f"    {key}: {_words(each)}" for key, each in value.items()]
        elif isinstance(value, list):
            lines.append(f"{name}:" if value else f"{name}: none")
            lines += [f"    {_words(each)}" for each in value]
        else:
            lines.append(f"{name}: {_words(value)}")
    problems = told["rows"]["problems"]
    lines.append(f"lost or doubled: {len(problems)}")
    lines += [f"    {each}" for each in problems[:PROBLEMS_TOLD]]
    return "\n".join(lines)


def _words(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(each)}" for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return " / ".join(_words(each) for each in value)
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    main()
