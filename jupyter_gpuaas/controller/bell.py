"""Tells any number of waiting tasks that something has changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Bell:
    """Rung at each change; whoever waits looks again."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake everybody who waits now."""
        self._rung.set()
        self._rung = asyncio.Event()

    def next(self) -> asyncio.Event:
        """Set at the next ring; taken before a look, it tells of all that happens after it."""
        return self._rung

    async def until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until the condition holds, which is looked at now and at each ring; False when time is up."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            rung, left_s = self.next(), deadline - time.monotonic()
            if left_s <= 0:
                return False
            try:
                await asyncio.wait_for(rung.wait(), left_s)
            except (asyncio.TimeoutError, TimeoutError):
                return condition()
        return True
