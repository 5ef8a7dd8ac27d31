"""One phase in a process of its own: save, restore, cells over a large state, or what the machine can do at most.

Reads a job as JSON from its argument and prints the figures as JSON on its last line. ``__main__`` stays empty: it is
the notebook's.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

MiB = 1024**2
#: Add to what they have written; the others write one file anew.
INCREMENTAL = ("ours", "kishu")


def main() -> None:
    """Run the job that the first argument names."""
    job = json.loads(sys.argv[1])
    phases = {"save": save, "restore": restore, "cells": cells, "limits": limits}
    figures = phases[job.pop("phase")](**job)
    figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(figures))


def touch(size: int, folder: str) -> None:
    """Take memory from the host, as arrays and as the cache of a file, and give it back to this machine.

    A virtual machine may get a page from its host only when it is first used, at a tenth of the speed of a page that
    it has. What was freed last is taken first, so this comes right before a clock starts.
    """
    import numpy

    numpy.ones(size, numpy.uint8)
    file = Path(folder) / "touched"
    data = bytes(8 * MiB)
    with open(file, "wb", buffering=0) as opened:
        for _ in range(size // len(data)):
            opened.write(data)
    file.unlink()


def save(system: str, state: str, folder: str, scale: float, room: int, changes: int) -> dict[str, Any]:
    """The first save of a state, those after 1 % has changed, so many times, and one after ``pass``."""
    from states import STATES

    what, path = STATES[state], Path(folder)
    _import(what.modules)
    maker = _warm(system, path)
    first = maker.run(what.cell, scale, lambda: touch(room, folder))
    written = _written(path)
    again = [maker.run(what.change, scale, lambda: touch(room // 3, folder)) for _ in range(changes)]
    after = _written(path)
    changed_s, stall_s = (median(values) for values in zip(*again, strict=True))
    idle_s = maker.run("pass", scale).stall_s if system in INCREMENTAL else stall_s
    namespace = sys.modules["__main__"].__dict__
    facts = what.facts(namespace)
    (path / "facts.json").write_text(json.dumps(facts))
    figures = {
        "save_s": first.seconds,
        "written": written,
        "change_s": changed_s,
        "change_stall_s": stall_s,
        "first_change_stall_s": again[0].stall_s,
        "change_written": (after - written) / changes if system in INCREMENTAL else after,
        "pass_stall_s": idle_s,
    }
    if system == "ours":
        figures["state_bytes"] = maker.newest.costs.host_bytes  # type: ignore[attr-defined]
    return figures


def restore(system: str, state: str, folder: str, cold: bool, room: int) -> dict[str, Any]:
    """What was saved last, and whether it is what it was."""
    from states import STATES, differing

    what, path = STATES[state], Path(folder)
    _import(what.modules)
    maker = _warm(system, path)
    for file in path.rglob("*"):
        if file.is_file():
            (drop_from_cache if cold else read_into_cache)(file)
    touch(room, folder)
    begun = time.perf_counter()
    namespace = maker.load()
    seconds = time.perf_counter() - begun
    facts = json.loads(json.dumps(what.facts(namespace)))
    return {"restore_s": seconds, "wrong": differing(json.loads((path / "facts.json").read_text()), facts)}


def cells(folder: str, size: int, untouched: int, count: int) -> dict[str, Any]:
    """Cells over a state of ``size`` bytes, each of which changes 1 % of them, with ``untouched`` bytes beside them."""
    import numpy
    from systems import Ours

    path = Path(folder)
    namespace = sys.modules["__main__"].__dict__
    number, values = 20, size // 20 // 8
    touch(size + untouched, folder)
    make = numpy.random.default_rng(0)
    for index in range(number):
        namespace[f"x{index}"] = make.random(values)
    block = make.random(32 * MiB)
    for index in range(untouched // block.nbytes):
        namespace[f"u{index}"] = block + index
    del block
    maker = Ours(path)
    maker.warm_up()
    begun = time.perf_counter()
    maker.run("pass", 1.0)
    first_s = time.perf_counter() - begun
    per_cell = size // 100
    stalls: list[float] = []
    seconds: list[float] = []
    excess: list[int] = []
    for step in range(count):
        start = (step // number) * (per_cell // 8) % (values - per_cell // 8)
        before = _written(path)
        saved = maker.run(f"x{step % number}[{start} : {start + per_cell // 8}] += 1", 1.0)
        stalls.append(saved.stall_s)
        seconds.append(saved.seconds)
        excess.append(_written(path) - before)
    idle = [maker.run("pass", 1.0).stall_s for _ in range(15)]
    return {
        "state_bytes": size + untouched,
        "first_s": first_s,
        "changed": per_cell,
        "stalls_s": stalls,
        "seconds": seconds,
        "written": excess,
        "pass_s": idle,
    }


def limits(folder: str, size: int) -> dict[str, Any]:
    """Bytes a second of what any system is made of."""
    import numpy
    import xxhash
    from blake3 import blake3

    file = Path(folder) / "raw"
    touch(3 * size, folder)
    source, warm = numpy.empty(size, numpy.uint8), numpy.ones(size, numpy.uint8)
    source[:] = numpy.frombuffer(os.urandom(MiB), numpy.uint8).repeat(size // MiB + 1)[:size]
    found: dict[str, list[float]] = {}

    def rate(name: str, action: Callable[[], Any], repeat: int = 3) -> None:
        for _ in range(repeat):
            begun = time.perf_counter()
            kept = action()
            found.setdefault(name, []).append(size / (time.perf_counter() - begun))
            del kept

    def fresh() -> Any:
        target = numpy.empty(size, numpy.uint8)
        numpy.copyto(target, source)
        return target

    def read() -> Any:
        target = numpy.empty(size, numpy.uint8)
        with open(file, "rb", buffering=0) as opened:
            done = 0
            while done < size:
                done += opened.readinto(memoryview(target)[done : done + 8 * MiB])
        return target

    rate("memcpy into fresh pages", fresh)
    rate("memcpy", lambda: numpy.copyto(warm, source))
    rate("xxh3 scan", lambda: xxhash.xxh3_128_digest(source))
    rate("blake3", lambda: blake3(source).digest())
    rate("blake3, all cores", lambda: blake3(source, max_threads=blake3.AUTO).digest())
    touch(size, folder)
    rate("write + fsync", lambda: raw_write(file, source), 1)
    rate("read, cached, fresh pages", read)
    drop_from_cache(file)
    rate("read, cold, fresh pages", read, 1)
    file.unlink()
    return {"rates": {name: sorted(rates)[len(rates) // 2] for name, rates in found.items()}}


def raw_write(file: Path, data: Any) -> None:
    """What a save cannot beat."""
    with open(file, "wb", buffering=0) as opened:
        view = memoryview(data)
        for start in range(0, len(view), 8 * MiB):
            opened.write(view[start : start + 8 * MiB])
        os.fsync(opened.fileno())


def drop_from_cache(file: Path) -> None:
    """The next reader goes to the disk."""
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_into_cache(file: Path) -> None:
    """The next reader does not go to the disk."""
    with open(file, "rb") as opened:
        while opened.read(4 * MiB):
            pass


def _import(modules: tuple[str, ...]) -> None:
    for name in modules:
        importlib.import_module(name)


def _warm(system: str, folder: Path) -> Any:
    """The system, after it has saved and restored nothing once: notebooks are not timed at what is imported late."""
    from systems import SYSTEMS

    maker = SYSTEMS[system].make(folder)
    maker.warm_up()
    gc.collect()
    return maker


def _written(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and "ipython" not in file.parts)
