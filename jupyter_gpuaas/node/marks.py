"""Marks: when one has come back, everything that the kernel said before it has been heard."""

from __future__ import annotations

import asyncio
import os

from ..model import Channel
from .kernel_process import Kernel


class Marks:
    """Those under way. Replies and outputs come by different sockets, so each mark comes back by both."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[None]] = {}

    async def reach(self, kernel: Kernel, *, shell: str = "") -> None:
        """Return when one has come back that was sent behind everything else to this shell ("" is the main one).

        Raises RuntimeError when the kernel has ended, or does.
        """
        mark = os.urandom(8).hex()
        heard = self._waiting[mark] = asyncio.get_running_loop().create_future()
        try:
            await kernel.ask(Channel.SHELL, "gpuaas_stand_request", {"op": "mark", "mark": mark}, subshell=shell)
            await heard
        finally:
            del self._waiting[mark]

    def heard(self, mark: str) -> None:
        """One came among the outputs."""
        waiting = self._waiting.get(mark)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def kernel_ended(self) -> None:
        """None comes back any more."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(RuntimeError("the kernel process ended"))
                waiting.exception()  # whoever waits gets it; nobody else is to be warned
