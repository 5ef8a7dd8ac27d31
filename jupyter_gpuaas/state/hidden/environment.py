"""Environment variables that the notebook has changed; the others belong to the process and stay what they are."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from .world import Hidden, Kind, remark

#: What belongs to the host, the kernel or the allocation, whoever set it.
_HOST_PREFIXES = ("JPY_", "GPUAAS_", "JUPYTER_RUNTIME", "NVIDIA_", "SLURM_")
_HOST = frozenset({"CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_MPS_PIPE_DIRECTORY", "PWD", "OLDPWD", "_"})
#: Where a change by the notebook is what it put before or after what the host has.
_LISTS = frozenset({"PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "MANPATH", "PKG_CONFIG_PATH", "CPATH", "LIBRARY_PATH"})


class Environment(Kind):
    kind = "environment"

    def __init__(self) -> None:
        self._baseline: dict[str, str] | None = None

    def mark(self, world: Hidden) -> None:
        self._baseline = dict(os.environ)

    def look(self, world: Hidden) -> Any:
        if self._baseline is None:
            self._baseline = _at_start()
        before = self._baseline
        now = dict(os.environ)
        if now == before:
            return {"set": {}, "unset": [], "lists": {}, "host": []}
        changed = {name: value for name, value in now.items() if before.get(name) != value}
        lists: dict[str, tuple[str, str]] = {}
        for name in sorted(_LISTS & changed.keys() & before.keys()):
            head, middle, tail = changed[name].partition(before[name])
            if middle:
                lists[name] = head, tail
                del changed[name]
        return {
            "set": {name: changed[name] for name in sorted(changed) if not _of_host(name)},
            "unset": sorted(name for name in before if name not in now and not _of_host(name)),
            "lists": lists,
            "host": sorted(name for name in changed if name in _HOST and name.endswith("_DEVICES")),
        }

    def put_back(self, value: Any, world: Hidden) -> None:
        if self._baseline is None:
            self._baseline = dict(os.environ)
        before = self._baseline
        wanted = {name: text for name, text in before.items() if name not in value["unset"]}
        wanted.update(value["set"])
        for name, (head, tail) in value["lists"].items():
            wanted[name] = head + before.get(name, "") + tail
        zone = os.environ.get("TZ")
        for name in [name for name in os.environ if name not in wanted and not _of_host(name)]:
            del os.environ[name]
        for name, text in wanted.items():
            if os.environ.get(name) != text and not _of_host(name):
                os.environ[name] = text
        if os.environ.get("TZ") != zone:
            time.tzset()
        for name in value["host"]:
            remark(f"environment variable {name} was set by the notebook; here the allocation sets it")


def _of_host(name: str) -> bool:
    return name in _HOST or name.startswith(_HOST_PREFIXES)


def _at_start() -> dict[str, str]:
    """The environment that the process was started with."""
    try:
        raw = Path("/proc/self/environ").read_bytes()
    except OSError:
        return dict(os.environ)
    pairs = (entry.partition(b"=") for entry in raw.split(b"\0") if entry)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
