"""How fast the channel to a session is, beside a plain kernel and a gateway; all in one run on one machine.

``make bench`` or ``python benchmarks/channel.py [--quick] [--json] [--rows ...] [--columns ...]``. Everything is on
loopback and ends with the run. The first run makes a virtual environment for the gateway's pinned versions.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import arrays
import columns
import gateway
import psutil
from rows import Kernel, ZmqKernel
from service import Service
from targets import GATEWAY, OURS, PLAIN, TLS, Results, table, verdicts

ROWS = (PLAIN, OURS, TLS, GATEWAY)
USUAL_ROWS = (PLAIN, OURS, GATEWAY)
COLUMNS = ("start", "round_trip", "prints", "updates", "text", "comm", "stalled", "gibibyte", "arrays", "memory")
#: A service has this long to start the next kernel ahead.
PAUSE_S = 3.0


def main() -> None:
    """Measure what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: about a minute or two")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--json-file", type=Path, help="write the JSON to this file too")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(USUAL_ROWS))
    parser.add_argument("--columns", nargs="+", choices=COLUMNS, default=list(COLUMNS))
    asked = parser.parse_args()
    head = header(asked.rows)
    with contextlib.ExitStack() as stack:
        results = measure(stack, asked.rows, asked.columns, quick=asked.quick)
    told = [{"what": what, "measured": words, "met": met} for what, words, met in verdicts(results)]
    everything = json.dumps({"header": head, "results": results, "targets": told}, indent=2)
    if asked.json_file:
        asked.json_file.write_text(everything + "\n", "utf-8")
    if asked.json:
        print(everything)
    else:
        print("\n".join(f"{name}: {value}" for name, value in head.items()))
        print(f"\n{table(results, [row for row in ROWS if row in asked.rows])}")


def measure(stack: contextlib.ExitStack, rows: list[str], wanted: list[str], *, quick: bool) -> Results:
    """All figures of the rows; servers, kernels and folders end with ``stack``."""
    makers: dict[str, Callable[[], Kernel]] = {}
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("GPUAAS_", "JPY_"))}
    service = Service()
    if PLAIN in rows:
        makers[PLAIN] = lambda: ZmqKernel("python3", environ)
    if OURS in rows:
        stack.callback(service.stop)
        service.start()
        makers[OURS] = service.kernel
    if TLS in rows:
        guarded = Service(tls=True)
        stack.callback(guarded.stop)
        guarded.start()
        makers[TLS] = guarded.kernel
    if GATEWAY in rows:
        servers = gateway.Servers(stack.enter_context(_folder()))
        stack.callback(servers.stop)
        servers.start()
        makers[GATEWAY] = lambda: gateway.GatewayKernel(servers.url)
    local = {name: make for name, make in makers.items() if name != GATEWAY}
    rounds = 2 if quick else 5
    results: Results = {}
    failed: list[str] = []
    if "start" in wanted:
        _tell("start")
        results["start"] = columns.start(makers, rounds, PAUSE_S)
    kernels: dict[str, Kernel] = {}
    for name, make in makers.items():
        kernels[name] = make()
        kernels[name].start()
        stack.callback(kernels[name].stop)
        for _ in range(20):
            kernels[name].run("pass")
    near = {name: kernel for name, kernel in kernels.items() if name != GATEWAY}
    if "memory" in wanted and OURS in rows:
        results["memory"] = {"after 20 cells": service.memory()}
    steps: dict[str, Callable[[], columns.Figures]] = {
        "round_trip": lambda: columns.round_trip(kernels, 60 if quick else 300, rounds),
        "prints": lambda: columns.prints(kernels, 1_000 if quick else 10_000, 2 if quick else 3),
        "updates": lambda: columns.updates(kernels, 500 if quick else 2_000, rounds),
        "text": lambda: columns.text(kernels, 1 if quick else 3),
        "comm": lambda: columns.comm(kernels, 1 if quick else 3),
        "stalled": lambda: columns.stalled(local),
        "gibibyte": lambda: columns.gibibyte(near),
        "arrays": lambda: array_rates(service, stack, rows, 1 if quick else 3),
    }
    for column, step in steps.items():
        if column not in wanted:
            continue
        _tell(column)
        try:
            results[column] = step()
        except Exception as error:  # the other columns are worth having
            print(f"{column}: {type(error).__name__}: {error}", file=sys.stderr)
            failed.append(column)
    if "memory" in wanted and OURS in rows:
        results["memory"]["at the end"] = service.memory()
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return results


def array_rates(service: Service, stack: contextlib.ExitStack, rows: list[str], rounds: int) -> columns.Figures:
    """GB a second of pushing and pulling 1 GB; medians, after two rounds that are not counted."""
    rates: columns.Figures = {"raw TCP": {"push": arrays.raw_tcp() / 1e9}}
    if OURS in rows:
        notebook = ZmqKernel("python3", service.env)
        notebook.start()
        stack.callback(notebook.stop)

        def run_cell(code: str) -> None:
            heard = notebook.run(code, quiet_s=60)
            if heard.status != "ok":
                raise RuntimeError(f"cell failed: {heard.error or heard}\n{code}")

        run_cell("%load_ext jupyter_gpuaas\n%remote_gpu connect")
        found = {"push": arrays.push(run_cell, rounds=rounds + 2), "pull": arrays.pull(run_cell, rounds=rounds + 2)}
        rates[OURS] = {way: statistics.median(measured[2:]) / 1e9 for way, measured in found.items()}
    with _folder() as folder:
        script = Path(__file__).with_name("ipp_arrays.py")
        answer = subprocess.run(
            [gateway.environment(), script, str(arrays.SIZE_BYTES), str(rounds + 2), folder],
            check=True, stdout=subprocess.PIPE, timeout=300, text=True,
            env={**os.environ, "IPYTHONDIR": str(folder / "ipython")},
        )  # fmt: skip
    found = json.loads(answer.stdout.splitlines()[-1])
    rates["ipyparallel"] = {way: statistics.median(measured[2:]) / 1e9 for way, measured in found.items()}
    return rates


def header(rows: list[str]) -> dict[str, Any]:
    """Hardware and versions."""
    names = ("jupyter_gpuaas", "ipykernel", "jupyter_client", "pyzmq", "websockets", "msgspec", "numpy")
    told = {
        "date": time.strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory": f"{psutil.virtual_memory().total / 1024**3:.0f} GiB",
        "load average": "{:.2f} {:.2f} {:.2f}".format(*os.getloadavg()),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in names),
    }
    if GATEWAY in rows:
        told["gateway's packages"] = ", ".join(f"{name} {pinned}" for name, pinned in gateway.PINNED.items())
    return told


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _tell(column: str) -> None:
    print(f"measuring {column}, load {os.getloadavg()[0]:.2f}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
