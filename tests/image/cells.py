"""A client of an ``ImageKernel`` for tests: runs cells, collects what they print, and waits for it."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from jupyter_gpuaas.image.criu import Criu
from jupyter_gpuaas.image.cuda_helper import CudaHelper
from jupyter_gpuaas.image.image_kernel import ImageKernel
from jupyter_gpuaas.image.jail import HOME, Bind, JailSpec
from jupyter_gpuaas.model import Channel
from jupyter_gpuaas.wire.jupyter import make_parts
from jupyter_gpuaas.wire.record import Buffer

WAIT_S = 120.0
WORK = f"{HOME}/work"


class Client:
    """Implements ``ImageKernelHandler``."""

    def __init__(self) -> None:
        self.text = ""
        self.errors: list[str] = []
        self.replies: dict[str, dict[str, Any]] = {}
        self.logged = ""
        self.status: int | None = None
        self._changed = asyncio.Event()

    def kernel_said(self, channel: Channel, batch: list[tuple[Buffer, list[Buffer]]]) -> None:
        for _, parts in batch:
            header, parent, content = (msgspec.json.decode(parts[at]) for at in (0, 1, 3))
            if channel is Channel.SHELL:
                assert parent["msg_id"] not in self.replies, "a reply came twice"
                self.replies[parent["msg_id"]] = content
            elif header["msg_type"] == "stream" and content["name"] == "stdout":
                self.text += content["text"]
            elif header["msg_type"] == "error":
                self.errors.append("\n".join(content["traceback"]))
        self._changed.set()

    def kernel_logged(self, text: str) -> None:
        self.logged += text

    def kernel_exited(self, status: int) -> None:
        self.status = status
        self._changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something that came makes ``condition`` true."""

        async def wait() -> None:
            while not condition():
                self._changed.clear()
                await self._changed.wait()

        await asyncio.wait_for(wait(), WAIT_S)

    def begin(self, kernel: ImageKernel, code: str) -> str:
        """Send a cell; gives the id of its request."""
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "user_expressions": {}}
        parts = make_parts(b"", "execute_request", b"{}", content)
        header = msgspec.json.decode(parts[1]) | {"session": "client"}
        kernel.send(Channel.SHELL, [msgspec.json.encode(header), *parts[2:]])
        return str(header["msg_id"])

    async def finish(self, msg_id: str) -> None:
        """Wait for the end of a cell, which must be a good one."""
        await self.until(lambda: msg_id in self.replies)
        assert self.replies[msg_id]["status"] == "ok", self.errors

    async def run(self, kernel: ImageKernel, code: str) -> None:
        await self.finish(self.begin(kernel, code))


def spec(node: Path) -> JailSpec:
    """A jail of this node with a working folder."""
    folder = node / "jail"
    folder.mkdir(mode=0o700, parents=True)
    outside = node / "work"
    outside.mkdir(exist_ok=True)
    return JailSpec(folder=str(folder), binds=(Bind(WORK, str(outside)),), cwd=WORK)


async def start(node: Path, client: Client, criu: Criu, cuda: CudaHelper | None = None) -> ImageKernel:
    return await ImageKernel.start(spec(node), dict(os.environ), client, criu=criu, cuda=cuda, log=2)


def copy_work(source: Path, target: Path) -> None:
    """What a host does with the working folder between dump and restore."""
    shutil.copytree(source / "work", target / "work", symlinks=True, dirs_exist_ok=True)
