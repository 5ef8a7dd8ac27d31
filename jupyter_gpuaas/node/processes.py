"""Processes of one host: found by a mark in their environment, measured, ended."""

from __future__ import annotations

import contextlib
import time

import psutil

RUN_MARK = "GPUAAS_RUN"


def marked(run_id: str) -> list[psutil.Process]:
    """Every process that was started by the host ``run_id``, whoever its parent is by now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(RUN_MARK) == run_id:
                found.append(process)
    return found


def end_marked(run_id: str, *, spare: int = 0, timeout_s: float = 5.0) -> list[int]:
    """Kill the processes of a host, but for the one with pid ``spare``.

    Returns
    -------
    Pids that are still there after ``timeout_s``; empty as a rule.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        left = [process for process in marked(run_id) if process.pid != spare and not _is_zombie(process)]
        if not left or time.monotonic() > deadline:
            return [process.pid for process in left]
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=0.2)


def memory_bytes(pid: int) -> int:
    """Memory that a process has for itself: anonymous and shared-memory pages, not mapped files."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            fields = dict(line.split(":", 1) for line in status if line.startswith(("RssAnon", "RssShmem")))
        return sum(int(value.split()[0]) for value in fields.values()) * 1024
    except (OSError, ValueError, IndexError):
        try:
            return int(psutil.Process(pid).memory_info().rss)
        except psutil.Error:
            return 0


def tree(pid: int) -> list[int]:
    """A process and everything below it."""
    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.Error:
        return []


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return True
