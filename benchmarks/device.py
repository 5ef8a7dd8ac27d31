"""What checkpoints and suspensions cost on a GPU, beside what its link and its memory can do; all in one run.

``make bench-device`` or ``python benchmarks/device.py [--rows ...] [--sizes GB ...] [--json FILE]``. Needs a CUDA
device and torch. Each model, and each process that is suspended, has a process of its own. What is restored is checked.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]

import hardware  # noqa: E402

ROWS = ("link", "digests", "models", "suspend")
#: ``__main__`` is the notebook's.
PROGRAM = "__import__('sys').path[:0] = __import__('sys').argv.pop(1).split(':'); __import__('device_worker').main()"
TIMEOUT_S = 240
#: Target: of pinned copies, what the ring reaches; and of the time that reading all memory once takes, what digests do.
RING_SHARE, DIGEST_TIMES = 0.8, 2.0


def main() -> None:
    """Measure what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--sizes", nargs="+", type=float, default=[1, 8], metavar="GB", help="of models with Adam")
    parser.add_argument(
        "--held", nargs="+", type=float, default=[0, 1, 16], metavar="GIB", help="by suspended processes"
    )
    parser.add_argument("--unwritten", nargs="*", type=float, default=[], metavar="GB", help="models that only wait")
    parser.add_argument("--alone", action="store_true", help="models without torch.save and torch.load")
    parser.add_argument("--folder", type=Path, help="where states are saved; a temporary folder by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to this file too")
    asked = parser.parse_args()
    head = hardware.describe() | device()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-", dir=asked.folder) as folder:
        for row in asked.rows:
            if row in ("link", "digests"):
                results[row] = worker(row)
            elif row == "models":
                results[row] = []
                for size in asked.sizes:
                    results[row].append(model(size, Path(folder) / f"{size:g}", "none" if asked.alone else "torch"))
                    print(f"-- {results[row][-1]}", file=sys.stderr, flush=True)
                results[row] += [{"GB": size, **worker("stall", size)} for size in asked.unwritten]
            else:
                results[row] = []
                for gib in asked.held:
                    results[row].append(worker("suspend", gib))
                    print(f"-- {results[row][-1]}", file=sys.stderr, flush=True)
            if asked.json:
                asked.json.write_text(json.dumps({"header": head, "results": results}, indent=2) + "\n", "utf-8")
            print(f"-- {row}", json.dumps(results[row]), file=sys.stderr, flush=True)
    print("\n".join(f"{name}: {value}" for name, value in head.items()))
    for name, found in results.items():
        print(f"\n{name}")
        rows = found if isinstance(found, list) else found.get("rows", [found])
        print(table(rows))
        if rows != [found] and isinstance(found, dict):
            print("\n".join(f"{what}: {_shown(value)}" for what, value in found.items() if what != "rows"))


def device() -> dict[str, object]:
    """The GPU, in words."""
    import pynvml
    import torch

    pynvml.nvmlInit()
    driver = pynvml.nvmlSystemGetDriverVersion()
    found = torch.cuda.get_device_properties(0)
    return {
        "gpu": f"{found.name}, {found.total_memory / 1024**3:.1f} GiB",
        "driver": driver if isinstance(driver, str) else driver.decode(),
        "packages": ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "xxhash", "blake3")),
    }


def model(size_gb: float, folder: Path, peers: str) -> dict[str, Any]:
    """Ours and torch's own, each saved in one process and restored in another."""
    folder.mkdir(parents=True)
    saved = worker("save", size_gb, str(folder), peers)
    if "failed" in saved:
        return {"GB": size_gb, **saved}
    restored = worker("restore", size_gb, str(folder), json.dumps(saved["ids"]))
    found = {"GB": size_gb} | {name: value for name, value in saved.items() if name != "ids"} | restored
    found["restored"] = "right" if found.pop("digests", 1) == found.pop("expected", 2) else "WRONG"
    return found


def worker(*arguments: Any) -> dict[str, Any]:
    """One measurement in a process of its own."""
    paths = ":".join([str(FOLDER), str(FOLDER.parent)])
    command = [sys.executable, "-c", PROGRAM, paths, *map(str, arguments)]
    started = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=dict(os.environ))
    except subprocess.TimeoutExpired:
        return {"failed": f"not over in {TIMEOUT_S} s"}
    if done.returncode:
        return {"failed": done.stderr[-2000:]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"-- {arguments[0]}: {time.monotonic() - started:.1f} s", file=sys.stderr, flush=True)
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of one kind, under one head."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([_shown(row.get(name, "")) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
