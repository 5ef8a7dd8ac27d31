"""A kernel that is an object of its host's process, and counts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from jupyter_gpuaas.model import Channel
from jupyter_gpuaas.node.host import Host
from jupyter_gpuaas.node.kernel_maker import KernelMaker
from jupyter_gpuaas.node.kernel_process import Kernel, KernelHandler
from jupyter_gpuaas.wire.jupyter import make_parts, read_header
from jupyter_gpuaas.wire.record import Buffer

#: Messages that one cell leads to on iopub.
OUTPUTS = ("status", "execute_input", "stream", "status")
Said = tuple[Buffer, list[Buffer]]


class LightKernel:
    """``Kernel`` whose cells say how many have run, after as many seconds as their code says."""

    pid = 0  # has no processes of its own: nothing to measure, to stop or to cap
    stopped = halted = False

    def __init__(self, folder: Path, handler: KernelHandler) -> None:
        self.data_socket = folder / "data"
        self._handler = handler
        self._cells = 0
        self._waiting: asyncio.Queue[list[Buffer]] = asyncio.Queue()
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._running = asyncio.create_task(self._run(), name="light kernel")

    @property
    def alive(self) -> bool:
        return not self._ended.done()

    def has(self, pid: int) -> bool:
        return False

    async def ask(
        self, channel: Channel, msg_type: str, content: dict[str, Any], *, subshell: str = ""
    ) -> dict[str, Any]:
        """It can be adopted, and nothing else."""
        if msg_type == "gpuaas_adopt_request":
            return {"status": "ok"}
        return {"status": "error", "error": "CheckpointError", "message": "a light kernel has no state.", "hint": ""}

    def send(self, channel: Channel, parts: list[Buffer]) -> None:
        kind = read_header(parts[0]).msg_type
        if kind == "execute_request":
            self._waiting.put_nowait(parts)
        elif kind == "shutdown_request":
            self._say(channel, [(b"", make_parts(b"", "shutdown_reply", parts[0], {"status": "ok"})[1:])])
            self.kill()
        elif kind.endswith("_request"):
            reply = kind.replace("_request", "_reply")
            self._say(channel, [(b"", make_parts(b"", reply, parts[0], {"status": "ok"})[1:])])

    async def _run(self) -> None:
        while True:
            header, _, _, content, *_ = await self._waiting.get()
            code = msgspec.json.decode(content)["code"]
            self._publish(header, [("status", {"execution_state": "busy"}), ("execute_input", {"code": code})])
            seconds, _, asked = code.partition(" ")
            began_s = asyncio.get_running_loop().time()
            await asyncio.sleep(float(seconds))
            self._cells += 1
            self._publish(header, [("stream", {"name": "stdout", "text": f"{self._cells} {asked}"})])
            ran_s = asyncio.get_running_loop().time() - began_s
            reply = {"status": "ok", "execution_count": self._cells, "user_expressions": {}, "ran_s": ran_s}
            self._say(Channel.SHELL, [(b"", make_parts(b"", "execute_reply", header, reply)[1:])])
            self._publish(header, [("status", {"execution_state": "idle"})])

    def _publish(self, parent: Buffer, messages: list[tuple[str, dict[str, Any]]]) -> None:
        said = [(kind.encode(), make_parts(b"", kind, parent, content)[1:]) for kind, content in messages]
        self._say(Channel.IOPUB, said)

    def _say(self, channel: Channel, batch: list[Said]) -> None:
        self._handler.kernel_said(channel, batch)

    def hold_outputs(self) -> None:
        """It says little."""

    def take_outputs(self) -> None:
        """See ``hold_outputs``."""

    def cap_memory(self, most_bytes: int) -> None:
        """It takes none."""

    async def pause(self) -> None:
        self.stopped = self.halted = True

    async def resume(self) -> None:
        self.stopped = self.halted = False

    def interrupt(self) -> None:
        """Its cells are short."""

    def remind(self) -> None:
        """See ``interrupt``."""

    def kill(self) -> None:
        if not self._ended.done():
            self._running.cancel()
            self._ended.set_result(0)
            asyncio.get_running_loop().call_soon(self._handler.kernel_exited, 0)

    async def ended(self, timeout_s: float | None = None) -> bool:
        done, _ = await asyncio.wait({self._ended}, timeout=timeout_s)
        return bool(done)

    def close(self) -> None:
        """There are no sockets."""


class LightKernels(KernelMaker):
    """Makes light kernels."""

    async def new(self) -> Kernel:
        return LightKernel(self.folder(), self._handler)


class LightHost(Host):
    """A host with a light kernel."""

    makes_kernels = LightKernels
