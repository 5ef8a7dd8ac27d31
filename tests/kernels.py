"""Kernels as hosts start them, driven without a host: for tests of what passes between a host and its kernel."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import numpy

from jupyter_gpuaas.model import Channel, CheckpointPlan, Peer
from jupyter_gpuaas.node.kernel_process import KernelProcess
from jupyter_gpuaas.wire.jupyter import read_header

START_S = 120.0


class Driven:
    """One kernel process of a session."""

    def __init__(self, process: KernelProcess, work: Path) -> None:
        self.process = process
        self.work = work
        #: What it said on iopub: (type, content).
        self.said: list[tuple[str, dict[str, Any]]] = []
        #: What it told its host of its checkpoints.
        self.notes: list[dict[str, Any]] = []
        self._heard = asyncio.Event()

    def kernel_said(self, channel: Channel, batch: list[tuple[Any, list[Any]]]) -> None:
        if channel is Channel.IOPUB:
            for _, parts in batch:
                kind, content = read_header(parts[0]).msg_type, msgspec.json.decode(parts[3])
                if kind == "gpuaas_checkpoint":
                    self.notes.append(content)
                    self._heard.set()
                else:
                    self.said.append((kind, content))

    def kernel_exited(self, status: int) -> None:
        self._heard.set()

    async def adopt(self, plan: CheckpointPlan, *, epoch: int, standby: bool = False, session: str = "s") -> None:
        env = {"GPUAAS_WORK": str(self.work), "GPUAAS_SESSION_ID": session}
        content = {"env": env, "cwd": str(self.work), "checkpoints": msgspec.to_builtins(plan)}
        content |= {"session": session, "epoch": epoch, "standby": standby}
        reply = await self.process.ask(Channel.CONTROL, "gpuaas_adopt_request", content)
        assert reply["status"] == "ok", reply

    async def run(self, code: str) -> dict[str, Any]:
        """Run a cell that must not fail; gives its reply."""
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": True}
        reply = await self.process.ask(Channel.SHELL, "execute_request", content)
        assert reply["status"] == "ok", "\n".join(reply.get("traceback", [])) or reply
        return reply

    async def value(self, expression: str) -> Any:
        """What an expression gives, without a cell."""
        content = {"code": "", "silent": True, "store_history": False, "user_expressions": {"x": f"repr({expression})"}}
        reply = await self.process.ask(Channel.SHELL, "execute_request", content)
        found = reply["user_expressions"]["x"]
        assert found["status"] == "ok", found
        return eval(eval(found["data"]["text/plain"]), {"np": numpy})  # of a kernel of this test

    async def take(self, label: str = "") -> dict[str, Any]:
        """A checkpoint, durable."""
        return await self._asked("gpuaas_checkpoint_request", {"op": "take", "label": label})

    async def standby(self, op: str, checkpoint: str, peer: Peer | None, most_bytes: int = 0) -> dict[str, Any]:
        """One step of taking the session over; gives ``Loaded``, or the error as it came."""
        address = None if peer is None else {"url": peer.url, "ticket": peer.ticket}
        content = {"op": op, "checkpoint": checkpoint, "peer": address, "most_bytes": most_bytes}
        return await self._asked("gpuaas_standby_request", content)

    async def go_on(self) -> None:
        """Be the session's from here on."""
        reply = await self.process.ask(Channel.CONTROL, "gpuaas_stand_request", {"op": "go_on", "subshells": []})
        assert reply["status"] == "ok", reply

    async def noted(self, kind: str) -> dict[str, Any]:
        """The next note of this kind that was not asked for before."""
        while True:
            for number, note in enumerate(self.notes):
                if note["kind"] == kind:
                    del self.notes[: number + 1]
                    return note
            self._heard.clear()
            await asyncio.wait_for(self._heard.wait(), 60)

    async def _asked(self, kind: str, content: dict[str, Any]) -> dict[str, Any]:
        reply = await self.process.ask(Channel.SHELL, kind, content)
        found: dict[str, Any] = reply["result"] if reply["status"] == "ok" else reply
        return found


@contextlib.asynccontextmanager
async def driven(work: Path) -> AsyncIterator[Driven]:
    """A kernel that waits for its session."""
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="k") as folder, open(work.parent / f"{work.name}.log", "wb") as log:
        kernel = Driven.__new__(Driven)
        environ = {name: text for name, text in os.environ.items() if not name.startswith(("GPUAAS_", "JPY_"))}
        environ["GPUAAS_HOME"] = str(work.parent / "home")
        process = KernelProcess(Path(folder), environ, log.fileno(), kernel)
        kernel.__init__(process, work)  # type: ignore[misc]
        try:
            await process.start(START_S)
            yield kernel
        finally:
            process.kill()
            await process.ended()
            process.close()
