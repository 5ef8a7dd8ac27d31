"""How fast states are saved and restored, beside other systems and what the machine can do; all in one run.

``make bench-state`` or ``python benchmarks/state.py [--quick] [--json FILE] [--rows ...] [--systems ...]``. Each save
and each restore has a process of its own. The first run makes virtual environments for systems that are no
dependency of ours. What is restored is checked; a system whose restore is wrong says so in its row.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

FOLDER = Path(__file__).resolve().parent
PATHS = [str(FOLDER / "state"), str(FOLDER), str(FOLDER / "cases"), str(FOLDER.parent)]
sys.path[:0] = PATHS

import hardware  # noqa: E402
from environments import PINNED, DoesNotInstall, environment  # noqa: E402
from states import STATES  # noqa: E402
from systems import SYSTEMS  # noqa: E402
from verdicts import tables, verdicts  # noqa: E402

#: `__main__` is the notebook's, so nothing of the benchmark may be in it.
PROGRAM = "__import__('sys').path[:0] = __import__('sys').argv.pop(1).split(':'); __import__('worker').main()"
TIMEOUT_S = 400
MB, GB = 10**6, 10**9
#: Memory that is taken and given back before a clock starts: more than the state.
ROOM = {"arrays": int(1.3 * GB), "model": 2 * GB, "objects": int(0.5 * GB)}
PACKAGES = ("jupyter_gpuaas", "cloudpickle", "dill", "torch", "numpy", "pandas", "xxhash", "blake3")
ROWS = (*STATES, "cells", "limits")
#: Run seldom: they take a minute a round.
SLOW = ("kishu", "dill")


def main() -> None:
    """Measure what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the sizes, one round: figures say little")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", type=float, metavar="GB", default=0, help="also cells with so much untouched state")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to this file too")
    parser.add_argument("--folder", type=Path, help="where states are saved; a temporary folder by default")
    asked = parser.parse_args()
    bench = Benchmark(asked.folder, 0.1 if asked.quick else 1.0)
    head = hardware.describe()
    head["packages"] = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    head |= bench.prepare(asked.systems)
    results = bench.run(asked.rows, 1 if asked.quick else asked.rounds, int(asked.large * GB))
    head["load average at the end"] = "{:.2f} {:.2f} {:.2f}".format(*os.getloadavg())
    told = [{"what": what, "measured": words, "reached": met} for what, words, met in verdicts(results)]
    if asked.json:
        everything = {"header": head, "results": results, "targets": told}
        asked.json.write_text(json.dumps(everything, indent=2) + "\n", "utf-8")
    print("\n".join(f"{name}: {value}" for name, value in head.items()))
    print(f"\n{tables(results)}")


class Benchmark:
    """One run. ``scale`` is 1.0 for the sizes that are published."""

    def __init__(self, folder: Path | None, scale: float) -> None:
        self._folder = folder
        self._scale = scale
        self._pythons: dict[str, str] = {}

    def prepare(self, systems: list[str]) -> dict[str, str]:
        """Find an interpreter for each system; gives what there is to say of them."""
        said: dict[str, str] = {}
        for system in (*systems, "elasticnotebook"):
            try:
                python = environment(system) if system in PINNED else sys.executable
            except DoesNotInstall as error:
                said[system] = f"does not install: {error}"
                continue
            if system in SYSTEMS:
                self._pythons[system] = python
            if system in PINNED:
                said[f"{system}'s packages"] = ", ".join(PINNED[system])
        said["CRIU"] = _criu()
        return said

    def run(self, rows: list[str], rounds: int, untouched: int) -> dict[str, Any]:
        """All figures; rounds go round the systems, so that what else the machine does meets all of them."""
        states: dict[str, dict[str, list[dict[str, Any]]]] = {}
        rates: list[dict[str, float]] = []
        for number in range(rounds):
            for state in (row for row in rows if row in STATES):
                if "limits" in rows:
                    rates.append(self._limits())
                for system in self._pythons:
                    if state in SYSTEMS[system].states and not (number and system in SLOW):
                        found = states.setdefault(state, {}).setdefault(system, [])
                        if not any("failed" in one for one in found):
                            found.append(self._round(system, state))
        if "limits" in rows and not rates:
            rates = [self._limits() for _ in range(rounds)]
        cells = {}
        if "cells" in rows and "ours" in self._pythons:
            size, count = int(2 * GB * self._scale), max(10, int(100 * self._scale))
            cells["2 GB"] = self._cells(size, 0, count)
            if untouched:
                cells[f"2 GB, {untouched / GB:.0f} GB untouched"] = self._cells(size, untouched, count)
        return {
            "limits": {name: median(found[name] for found in rates) for name in (rates[0] if rates else ())},
            "states": {
                state: {system: _merged(found) for system, found in systems.items()}
                for state, systems in states.items()
            },
            "cells": cells,
        }

    def _round(self, system: str, state: str) -> dict[str, Any]:
        job = {"system": system, "state": state, "room": int(ROOM[state] * self._scale)}
        _tell(f"{SYSTEMS[system].words}: {STATES[state].words}")
        with self._place() as folder:
            try:
                more = {"scale": self._scale, "changes": 1 if system in SLOW else 3}
                figures = self._phase(system, job | more | {"phase": "save", "folder": folder})
                for cold in (True, False) if system == "ours" else (False,):
                    found = self._phase(system, job | {"phase": "restore", "folder": folder, "cold": cold})
                    figures["cold_s" if cold else "restore_s"] = found["restore_s"]
                    figures["wrong"] = found["wrong"]
            except PhaseFailed as error:
                return {"failed": str(error)}
        return figures

    def _limits(self) -> dict[str, float]:
        with self._place() as folder:
            found = self._phase("", {"phase": "limits", "folder": folder, "size": int(GB // 2 * self._scale)})
        rates: dict[str, float] = found["rates"]
        return rates

    def _cells(self, size: int, untouched: int, count: int) -> dict[str, Any]:
        _tell(f"{count} cells over {size / GB:.1f} GB, {untouched / GB:.1f} GB beside them")
        with self._place() as folder:
            job = {"phase": "cells", "folder": folder, "size": size, "untouched": untouched, "count": count}
            return self._phase("ours", job)

    def _phase(self, system: str, job: dict[str, Any]) -> dict[str, Any]:
        python = self._pythons.get(system, sys.executable)
        try:
            done = subprocess.run(
                [python, "-c", PROGRAM, ":".join(PATHS), json.dumps(job)],
                capture_output=True, text=True, timeout=TIMEOUT_S, cwd=job["folder"],
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise PhaseFailed(f"{job['phase']}: not within {TIMEOUT_S} s") from None
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            reason = lines[-1] if lines else f"exit status {done.returncode}"
            print(done.stderr[-1000:], file=sys.stderr)
            raise PhaseFailed(f"{job['phase']} fails: {reason[:70]}")
        figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return figures

    @contextmanager
    def _place(self) -> Iterator[str]:
        path = tempfile.mkdtemp(prefix="bench-state-", dir=self._folder)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


class PhaseFailed(Exception):
    """A system could not do it; the message is its last line."""


def _merged(found: list[dict[str, Any]]) -> dict[str, Any]:
    failed = next((one for one in found if "failed" in one), None)
    if failed:
        return failed
    numbers = [name for name, value in found[0].items() if isinstance(value, (int, float))]
    wrong = list(dict.fromkeys(name for one in found for name in one["wrong"]))
    return {name: median(one[name] for one in found) for name in numbers} | {"wrong": wrong, "rounds": len(found)}


def _criu() -> str:
    criu = shutil.which("criu")
    if criu is None:
        return "not installed, so not measured"
    done = subprocess.run([criu, "check"], capture_output=True, text=True, timeout=60)
    return "passes its check; not measured here" if not done.returncode else "`criu check` fails, so not measured"


def _tell(what: str) -> None:
    print(f"{what}, load {os.getloadavg()[0]:.2f}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
