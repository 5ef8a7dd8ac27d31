"""The steps of a migration as its controller takes them, and something that happens at one of them, once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from jupyter_gpuaas.controller.moving import Mover
from jupyter_gpuaas.engine.agent_client import AgentClient
from jupyter_gpuaas.model import HostReport, HostSpec

T = TypeVar("T")

#: In their order. ``preload`` is the first round of copying, ``stop_copy`` the last, of a session at a standstill.
#: ``quiesce`` brings it to that, or a process image that is taken of it.
STEPS = ("reserve", "preload", "quiesce", "stop_copy", "load", "hand_over", "succeed", "cutover", "live")
#: How long a step that is hurt in its middle has been under way at most. The moments are the experiment.
MIDDLE_S = 0.15


class Steps:
    """Where ``hurt`` is to be called: ``armed`` is a step and one of before, during and after."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.armed: tuple[str, str] | None = None
        self.hurt: Callable[[], None] = lambda: None
        self._quiet = False

    def arm(self, step: str, when: str, hurt: Callable[[], None]) -> None:
        """Let something happen at a step of the next migration."""
        self.armed, self.hurt, self._quiet = (step, when), hurt, False

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Come between the controller of this process and the agents."""
        real_op, real_start, real_cut_over = AgentClient.op, AgentClient.start_host, Mover.cut_over

        async def op(self_: AgentClient, session_id: str, epoch: int, op: str, content: dict[str, Any]) -> Any:
            name = "quiesce" if op == "take_image" else "stop_copy" if op == "preload" and self._quiet else op
            done = await self.take(name, lambda: real_op(self_, session_id, epoch, op, content))
            self._quiet |= name == "quiesce"
            return done

        async def start_host(self_: AgentClient, spec: HostSpec) -> HostReport:
            if spec.peer is None:
                return await real_start(self_, spec)
            return await self.take("reserve", lambda: real_start(self_, spec))

        def cut_over(self_: Mover, moving: Any) -> None:
            self.at("cutover", "before")
            real_cut_over(self_, moving)
            self.at("cutover", "after")

        patch.setattr(AgentClient, "op", op)
        patch.setattr(AgentClient, "start_host", start_host)
        patch.setattr(Mover, "cut_over", cut_over)

    def at(self, step: str, when: str) -> None:
        """A step is about to be taken, is under way, or has been taken."""
        if self.armed == (step, when):
            self.armed = None
            self.hurt()

    async def take(self, step: str, work: Callable[[], Awaitable[T]]) -> T:
        """Take a step."""
        self.at(step, "before")
        task = asyncio.ensure_future(work())
        try:
            if self.armed == (step, "during"):
                await asyncio.wait({task}, timeout=self._chance.uniform(0.0, MIDDLE_S))
                self.at(step, "during")
            done = await task
        except BaseException:
            task.cancel()
            raise
        self.at(step, "after")
        return done


def points() -> list[tuple[str, str]]:
    """All moments, in their order. Before the first step there is no target yet."""
    found = [(step, when) for step in STEPS for when in ("before", "during") if (step, when) != ("cutover", "during")]
    return [point for point in found if point != ("reserve", "before")] + [("live", "after")]
