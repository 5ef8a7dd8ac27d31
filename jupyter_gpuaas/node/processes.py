"""Processes of one host: found by a mark in their environment, measured, ended."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable

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


def end_marked(
    run_id: str, *, spare: int = 0, timeout_s: float = 5.0, also: Iterable[psutil.Process] = ()
) -> list[int]:
    """Kill the processes of a host and all below them, but for the one with pid ``spare``.

    Parameters
    ----------
    also
        Processes known to be the host's: one that was started with an environment of its own has no mark,
        and when its parent has ended nothing tells any more whose it is.

    Returns
    -------
    Pids that are still there after ``timeout_s``; empty as a rule.
    """
    deadline = time.monotonic() + timeout_s
    known = dict.fromkeys(also)
    while True:
        # Before anything is killed: what is below a process can be told only while that lives.
        known |= dict.fromkeys(marked(run_id))
        found: dict[psutil.Process, None] = {}
        for process in known:
            if process not in found:
                found |= dict.fromkeys(below(process))
        known |= found
        left = [process for process in known if process.pid != spare and _lives(process)]
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


def below(process: psutil.Process) -> list[psutil.Process]:
    """Everything below a process; nothing when it is gone."""
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def tree(pid: int) -> list[int]:
    """A process and everything below it."""
    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.Error:
        return []


def _lives(process: psutil.Process) -> bool:
    try:
        # is_running() compares start times: a pid may be another's by now.
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
