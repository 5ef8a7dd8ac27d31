"""Bugs of ours in a real kernel, beside the user's cells: these run, and are answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jupyter_gpuaas.model import Channel, CheckpointPlan
from tests.kernels import Driven, driven

BREAK = """
def fail(*_, **__):
    raise RuntimeError("a bug of ours")
get_ipython().kernel.{part} = fail
"""


@pytest.fixture
async def kernel(tmp_path: Path) -> AsyncIterator[Driven]:
    async with driven(tmp_path / "work") as made:
        yield made


def plan(folder: Path, every: int = 1) -> CheckpointPlan:
    return CheckpointPlan(store=str(folder / "store"), key="ab" * 32, owner="ann", every=every, share=1e6)


@pytest.mark.parametrize(
    "part", ["_begin_checkpoints", "checkpoints.before_cell", "checkpoints.ended", "checkpoints.ran"]
)
async def test_cell_runs_and_is_answered_whatever_fails_beside_it(kernel: Driven, tmp_path: Path, part: str) -> None:
    await kernel.adopt(plan(tmp_path), epoch=1)
    for code in (BREAK.format(part=part), "x = 1"):
        await asyncio.wait_for(kernel.run(code), 20)
    assert await kernel.value("x") == 1
    assert "RuntimeError: a bug of ours" in (tmp_path / "work.log").read_text()


async def test_what_a_cell_changed_that_could_not_be_noted_is_in_the_next_checkpoint(
    kernel: Driven, tmp_path: Path
) -> None:
    await kernel.adopt(plan(tmp_path, every=0), epoch=1)
    await kernel.run("x = [1]")
    await kernel.run(BREAK.format(part="checkpoints.ran"))
    await kernel.take()
    await kernel.run("x.append(2)")
    taken = await kernel.take()
    await kernel.run("x = None")
    content = {"op": "restore", "checkpoint": taken["id"]}
    assert (await kernel.process.ask(Channel.SHELL, "gpuaas_checkpoint_request", content))["status"] == "ok"
    assert await kernel.value("x") == [1, 2]
