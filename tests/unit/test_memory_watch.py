"""What uses more memory than its device has, without using any."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from jupyter_gpuaas.node import memory_watch


class Host:
    """Of a session whose kernel has process 7, and uses a byte too much."""

    memory_cap = 1

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.noticed = asyncio.Event()
        self.session: Any = SimpleNamespace(kernel=SimpleNamespace(pid=7), cause="", notice=self._notice)

    def _notice(self, text: str) -> None:
        self.notices.append(text)
        self.noticed.set()


async def test_process_that_may_not_be_ended_does_not_end_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []

    def kill(pid: int, number: int) -> None:
        killed.append(pid)
        if len(killed) == 1:
            raise PermissionError("another user's")

    monkeypatch.setattr(memory_watch, "MEASURE_S", 0.001)
    monkeypatch.setattr(memory_watch, "tree", lambda pid: [pid, 8])
    monkeypatch.setattr(memory_watch, "memory_bytes", lambda pid: pid - 6)
    monkeypatch.setattr(memory_watch.os, "kill", kill)
    host = Host()
    watching = asyncio.create_task(memory_watch.watch_memory(host))
    await asyncio.wait_for(host.noticed.wait(), 30)
    watching.cancel()
    await asyncio.wait({watching})
    assert killed[:2] == [8, 8] and "Process 8" in host.notices[0]
