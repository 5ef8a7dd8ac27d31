"""What a figure was measured on, in words."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from pathlib import Path

import psutil


def describe() -> dict[str, object]:
    """The machine, its load, and the interpreter."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory": f"{psutil.virtual_memory().total / 1024**3:.0f} GiB",
        "load average": "{:.2f} {:.2f} {:.2f}".format(*os.getloadavg()),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
