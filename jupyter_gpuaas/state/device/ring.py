"""Copies between a device and the host through a ring of slots, so that the link and the host's copy work at once.

The slots are what the device can reach at full speed (pinned memory). While one is on its way over the link, another
is being emptied or filled by the host. What a copy over the link is, the caller says; here is only the order.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from .memory import Spans

SLOT_BYTES = 32 << 20
SLOTS = 4

#: Begins a copy between ``length`` bytes at an offset of the device memory and a slot; what it returns waits for it.
Start = Callable[[int, int, int], Callable[[], None]]


class Ring:
    """Slots for one device; one transfer at a time."""

    def __init__(self, slots: Sequence[memoryview]) -> None:
        self.slots = slots
        self._lock = threading.Lock()

    def read(self, spans: Spans, into: Sequence[memoryview], start: Start) -> None:
        """From the device into the targets. When it returns or raises, nothing is under way any more."""

        def land(slot: int, target: memoryview) -> None:
            target[:] = self.slots[slot][: len(target)]

        with self._lock:
            under_way: deque[tuple[Callable[[], None], int, memoryview]] = deque()
            try:
                for number, (offset, target) in enumerate(self._pieces(spans, into)):
                    slot = number % len(self.slots)
                    if len(under_way) == len(self.slots):
                        wait, landed, goal = under_way.popleft()
                        wait()
                        land(landed, goal)
                    under_way.append((start(offset, slot, len(target)), slot, target))
                while under_way:
                    wait, slot, target = under_way[0]
                    wait()
                    under_way.popleft()
                    land(slot, target)
            finally:
                _settle(wait for wait, _, _ in under_way)

    def write(self, spans: Spans, data: Sequence[Any], start: Start) -> None:
        """From the host to the device, as `read`."""
        with self._lock:
            under_way: deque[Callable[[], None]] = deque()
            try:
                sources = [memoryview(source).cast("B") for source in data]
                for number, (offset, source) in enumerate(self._pieces(spans, sources)):
                    slot = number % len(self.slots)
                    if len(under_way) == len(self.slots):
                        under_way.popleft()()
                    self.slots[slot][: len(source)] = source
                    under_way.append(start(offset, slot, len(source)))
                while under_way:
                    under_way.popleft()()
            finally:
                _settle(under_way)

    def _pieces(self, spans: Spans, host: Sequence[memoryview]) -> Iterator[tuple[int, memoryview]]:
        size = len(self.slots[0])
        for (offset, length), view in zip(spans, host, strict=True):
            if len(view) != length:
                raise ValueError(f"{len(view)} bytes on the host for {length} on the device")
            for begin in range(0, length, size):
                yield offset + begin, view[begin : begin + size]


def _settle(waits: Any) -> None:
    """Wait for copies that nobody wants any more: their slots must not change under the next transfer."""
    for wait in list(waits):
        with suppress(Exception):
            wait()
