"""Processes of a local node, for tests that stop or kill them; all are continued at the end."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil

from jupyter_gpuaas.node.hosts import HostRecord


def agent_pid(home: Path, node: str) -> int:
    return int(msgspec.json.decode((home / "nodes" / node / "agent.json").read_bytes())["pid"])


def records(home: Path, node: str = "*", session: str | None = None) -> list[HostRecord]:
    """Hosts that have a session."""
    found = []
    for path in (home / "nodes").glob(f"{node}/hosts/*.json"):
        with contextlib.suppress(FileNotFoundError):
            record = msgspec.json.decode(path.read_bytes(), type=HostRecord)
            if record.session_id and session in (None, record.session_id):
                found.append(record)
    return found


def is_stopped(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False


def lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """SIGSTOP for the time of the block."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
