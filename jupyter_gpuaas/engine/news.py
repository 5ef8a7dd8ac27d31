"""News of nodes, for any number of listeners."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from jupyter_gpuaas.engine.base import NodeEvent


class News:
    """What is told goes to everybody who listens at that moment; who reads slowly misses nothing."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[NodeEvent]] = set()

    def tell(self, event: NodeEvent) -> None:
        """Tell it."""
        for listener in self._listeners:
            listener.put_nowait(event)

    def follow(self) -> AsyncIterator[NodeEvent]:
        """News from the call on."""
        listener: asyncio.Queue[NodeEvent] = asyncio.Queue()
        self._listeners.add(listener)
        return self._follow(listener)

    async def _follow(self, listener: asyncio.Queue[NodeEvent]) -> AsyncIterator[NodeEvent]:
        try:
            while True:
                yield await listener.get()
        finally:
            self._listeners.discard(listener)
