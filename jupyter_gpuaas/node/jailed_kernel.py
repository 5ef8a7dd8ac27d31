"""A kernel in a jail, used by a host like any other, and put into an image or taken from one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..image.image_kernel import ImageKernel
from ..image.jail import HOME, Bind, JailSpec, is_below
from ..model import Channel
from ..wire.record import Buffer
from .kernel_process import REMIND_S, cap_memory

#: Where a jail sees the folders of its node's sessions, so that each has the same path on every node.
SESSIONS = f"{HOME}/sessions"
#: How long a kernel that is killed has to be gone.
KILL_S = 2.0


class JailedKernel:
    """Implements ``Kernel``."""

    def __init__(self, image: ImageKernel) -> None:
        self.image = image
        self._ending: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        return self.image.pid

    @property
    def alive(self) -> bool:
        return self.image.alive

    @property
    def stopped(self) -> bool:
        return self.image.frozen

    @property
    def halted(self) -> bool:
        return self.image.halted

    @property
    def data_socket(self) -> Path:
        return self.image.data_socket

    async def ask(
        self, channel: Channel, msg_type: str, content: dict[str, Any], *, subshell: str = ""
    ) -> dict[str, Any]:
        return await self.image.ask(channel, msg_type, content, subshell=subshell)

    def send(self, channel: Channel, parts: list[Buffer]) -> None:
        self.image.send(channel, parts)

    def hold_outputs(self) -> None:
        self.image.hold_outputs()

    def take_outputs(self) -> None:
        self.image.take_outputs()

    def cap_memory(self, most_bytes: int) -> None:
        cap_memory(self.pid, most_bytes)

    def has(self, pid: int) -> bool:
        return any(process.pid == pid for process in self.image.jail.processes())

    async def pause(self) -> None:
        await self.image.freeze()

    async def resume(self) -> None:
        await self.image.thaw()

    def interrupt(self) -> None:
        self.image.interrupt()
        self.remind()

    def remind(self) -> None:
        """As ``KernelProcess.remind``."""
        loop = asyncio.get_running_loop()
        for after_s in REMIND_S:
            loop.call_later(after_s, self._remind)

    def _remind(self) -> None:
        if self.alive and not self.stopped:
            self.image.remind()

    def kill(self) -> None:
        """End the kernel, so that its last words still come; with all of its jail where its relay does not do it."""
        if self.stopped or not self.image.connected:
            self.image.jail.kill()
        else:
            self.image.kill()
            asyncio.get_running_loop().call_later(KILL_S, self._kill_jail)

    def _kill_jail(self) -> None:
        if self.alive:
            self.image.jail.kill()

    async def ended(self, timeout_s: float | None = None) -> bool:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.image.ended(), timeout_s)
        return not self.alive

    def close(self) -> None:
        """End the jail; the kernel has ended."""
        self.image.jail.kill()
        self._ending = asyncio.get_running_loop().create_task(self.image.end())


def jail_spec(folder: Path, sessions: Path, needed: Iterable[str], disk: Path | None = None) -> JailSpec:
    """The jail of a kernel.

    Parameters
    ----------
    folder
        The jail's own.
    sessions
        Of the node.
    needed
        Folders that the kernel uses by their paths on the node; bound where the jail would hide them.
    disk
        Where there is room for what is large; None for ``folder``.
    """
    spec = JailSpec(folder=str(folder))
    hidden = sorted(path for path in set(needed) if _hidden(path, spec) and Path(path).is_dir())
    binds = (Bind(SESSIONS, str(sessions)), *(Bind(path, path) for path in hidden))
    return JailSpec(folder=str(folder), disk=str(disk or ""), binds=binds)


def path_inside(path: Path, spec: JailSpec) -> str | None:
    """A folder of the node as the jail sees it; None if it does not."""
    for bind in spec.binds:
        if is_below(str(path), bind.outside):
            return bind.inside + str(path)[len(bind.outside.rstrip("/")) :]
    return None if _hidden(str(path), spec) else str(path)


def _hidden(path: str, spec: JailSpec) -> bool:
    return any(is_below(path, own) for own in (*spec.scratch, HOME))
