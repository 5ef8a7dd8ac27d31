"""Processes of a node of this machine, for tests that stop or kill them; all are continued at the end."""

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
    (path,) = in_node(home, node, "agent.json")
    return int(msgspec.json.decode(path.read_bytes())["pid"])


def in_node(home: Path, node: str, files: str) -> list[Path]:
    """Files in a node's folder; on a Ray cluster, that is in a folder of its service."""
    return [path for above in ("", "*/") for path in (home / "nodes").glob(f"{above}{node}/{files}")]


def records(home: Path, node: str = "*", session: str | None = None) -> list[HostRecord]:
    """Hosts that have a session."""
    found = []
    for path in in_node(home, node, "hosts/*.json"):
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
