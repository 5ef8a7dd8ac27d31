"""What the benchmark of load decides by itself, and that it sees what it looks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.light.clients import LightClient
from benchmarks.light.faults import QUIET_FIRST_S, QUIET_LAST_S, plan
from benchmarks.light.kernel import OUTPUTS, LightKernel
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.model import Channel
from jupyter_gpuaas.wire.record import Buffer, Kind, Record
from jupyter_gpuaas.wire.waiting import Held

KINDS = {Channel.SHELL: Kind.SHELL, Channel.IOPUB: Kind.IOPUB}


def test_plan_of_faults_is_that_of_its_seed_and_leaves_begin_and_end_alone() -> None:
    given: dict[str, Any] = {"lasts_s": 600.0, "every_s": 5.0, "clients": 50, "nodes": 4}
    faults = plan(1, **given)
    assert faults == plan(1, **given) != plan(2, **given)
    assert {fault.kind for fault in faults} == {"cut", "agent", "controller"}
    assert QUIET_FIRST_S <= faults[0].at_s and faults[-1].at_s <= 600 - QUIET_LAST_S
    assert all(set(fault.whom) <= set(range(50)) for fault in faults)


class _Way:
    """From a client to a light kernel and back, past everything else."""

    def __init__(self, folder: Path, client: LightClient) -> None:
        self.client = client
        self.kernel = LightKernel(folder, self)
        self.said: list[Record] = []
        self._number = 0

    def kernel_said(self, channel: Channel, batch: list[tuple[Buffer, list[Buffer]]]) -> None:
        for topic, parts in batch:
            self._number += 1
            self.said.append(Record(KINDS[channel], self._number, 0, (topic, *parts)))

    def kernel_exited(self, status: int) -> None:
        pass


@pytest.fixture
async def way(tmp_path: Path) -> AsyncIterator[_Way]:
    async with ServiceClient("http://127.0.0.1:9", "none") as service:
        made = _Way(tmp_path, LightClient(service, "s", Settings(home=str(tmp_path)), 0.0))
        yield made
        made.kernel.kill()


async def one_cell(way: _Way, monkeypatch: pytest.MonkeyPatch) -> asyncio.Task[None]:
    """Sends a cell, which has run when this returns; nobody has heard of it yet."""

    def send(held: Held) -> None:
        way.kernel.send(Channel.SHELL, list(held.parts))

    monkeypatch.setattr(way.client._under_way, "send", send)
    way.client.sent += 1
    task = asyncio.create_task(way.client._cell(way.client.sent))
    way.client._asking.add(task)
    while len(way.said) < len(OUTPUTS) + 1:
        await asyncio.sleep(0)
    return task


async def test_client_is_content_with_what_a_cell_leads_to(way: _Way, monkeypatch: pytest.MonkeyPatch) -> None:
    await one_cell(way, monkeypatch)
    for record in way.said:
        way.client.record_received(record)
    await way.client.settle()
    assert way.client.problems == [] and len(way.client.cells) == 1


@pytest.mark.parametrize("number", range(len(OUTPUTS) + 1))
@pytest.mark.parametrize("times", [0, 2])
async def test_client_sees_each_message_that_is_lost_or_doubled(
    way: _Way, monkeypatch: pytest.MonkeyPatch, number: int, times: int
) -> None:
    monkeypatch.setattr("benchmarks.light.clients.ANSWER_S", 0.01)
    await one_cell(way, monkeypatch)
    for index, record in enumerate(way.said):
        for _ in range(times if index == number else 1):
            way.client.record_received(record)
    await way.client.settle()
    assert any(("doubled" if times else "lost") in problem for problem in way.client.problems)


async def test_client_sees_a_cell_that_ran_twice(way: _Way, monkeypatch: pytest.MonkeyPatch) -> None:
    way.kernel._cells = 1
    await one_cell(way, monkeypatch)
    for record in way.said:
        way.client.record_received(record)
    await way.client.settle()
    assert ["doubled" in problem for problem in way.client.problems] == [True]
