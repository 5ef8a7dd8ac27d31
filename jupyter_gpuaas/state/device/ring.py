"""Copies between a device and the host through a ring of slots, so that the link and the host's copy work at once.

The slots are what the device can reach at full speed (pinned memory). While one is on its way over the link, another
is being emptied or filled by the host, by several threads, as one cannot keep up with the link. What a copy over the
link is, the caller says; here is only the order.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

from .memory import Spans

SLOT_BYTES = 32 << 20
SLOTS = 4
#: Transfers from so many bytes on use threads; threads of ours copy so much at a time each.
_THREADED_BYTES = 64 << 20
_PART_BYTES = 4 << 20
_THREADS = max(1, min(8, (os.cpu_count() or 1) // 2))

#: Begins a copy between an offset of the device memory and a slot, at an offset there, of so many bytes; what it
#: returns waits for it.
Start = Callable[[int, int, int, int], Callable[[], None]]


class _Load(NamedTuple):
    """What one slot holds at a time."""

    #: Offset of the device memory, offset in the slot, length.
    copies: list[tuple[int, int, int]]
    #: Offset in the slot, and the bytes of the host that belong there.
    pieces: list[tuple[int, memoryview]]


class Ring:
    """Slots for one device; one transfer at a time."""

    def __init__(self, slots: Sequence[memoryview]) -> None:
        self.slots = slots
        self._lock = threading.Lock()

    def read(self, spans: Spans, into: Sequence[memoryview], start: Start, *, aside: bool = False) -> None:
        """From the device into the targets. When it returns or raises, nothing is under way any more.

        Parameters
        ----------
        aside
            Nobody waits for it, so it leaves the processors to others.
        """

        def land(slot: int, load: _Load) -> None:
            copy((view, self.slots[slot][at : at + len(view)]) for at, view in load.pieces)

        with self._lock, _Copier(0 if aside else sum(n for _, n in spans)) as copy:
            under_way: deque[tuple[list[Callable[[], None]], int, _Load]] = deque()
            try:
                for number, load in enumerate(self._loads(spans, into)):
                    slot = number % len(self.slots)
                    if len(under_way) == len(self.slots):
                        self._arrive(under_way, land)
                    waits: list[Callable[[], None]] = []
                    under_way.append((waits, slot, load))
                    for offset, at, length in load.copies:
                        waits.append(start(offset, slot, at, length))
                while under_way:
                    self._arrive(under_way, land)
            finally:
                _settle(wait for waits, _, _ in under_way for wait in waits)

    def write(self, spans: Spans, data: Sequence[Any], start: Start) -> None:
        """From the host to the device, as `read`."""
        with self._lock, _Copier(sum(n for _, n in spans)) as copy:
            under_way: deque[list[Callable[[], None]]] = deque()
            try:
                sources = [memoryview(source).cast("B") for source in data]
                for number, load in enumerate(self._loads(spans, sources)):
                    slot = number % len(self.slots)
                    if len(under_way) == len(self.slots):
                        _wait(under_way)
                    copy((self.slots[slot][at : at + len(view)], view) for at, view in load.pieces)
                    waits: list[Callable[[], None]] = []
                    under_way.append(waits)
                    for offset, at, length in load.copies:
                        waits.append(start(offset, slot, at, length))
                while under_way:
                    _wait(under_way)
            finally:
                _settle(wait for waits in under_way for wait in waits)

    @staticmethod
    def _arrive(under_way: deque[tuple[list[Callable[[], None]], int, _Load]], land: Any) -> None:
        waits, slot, load = under_way[0]
        while waits:
            waits.pop(0)()
        under_way.popleft()
        land(slot, load)

    def _loads(self, spans: Spans, host: Sequence[memoryview]) -> Iterator[_Load]:
        size = len(self.slots[0])
        load, fill = _Load([], []), 0
        for (offset, length), view in zip(spans, host, strict=True):
            if len(view) != length:
                raise ValueError(f"{len(view)} bytes on the host for {length} on the device")
            begin = 0
            while begin < length:
                n = min(size - fill, length - begin)
                last = load.copies[-1] if load.copies else None
                if last is not None and last[0] + last[2] == offset + begin:
                    load.copies[-1] = (last[0], last[1], last[2] + n)
                else:
                    load.copies.append((offset + begin, fill, n))
                load.pieces.append((fill, view[begin : begin + n]))
                fill, begin = fill + n, begin + n
                if fill == size:
                    yield load
                    load, fill = _Load([], []), 0
        if fill:
            yield load


class _Copier:
    """Copies within the host, by threads where the transfer is large; they end with it."""

    def __init__(self, size: int) -> None:
        torch = sys.modules.get("torch")
        large = _THREADS > 1 and size >= _THREADED_BYTES
        #: torch's own threads are there already, and quicker to begin than ours.
        self._torch = torch if large and torch is not None and torch.get_num_threads() > 1 else None
        self._pool = ThreadPoolExecutor(_THREADS, "gpuaas-copy") if large and self._torch is None else None

    def __enter__(self) -> Callable[[Iterable[tuple[memoryview, memoryview]]], None]:
        return self._copy

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def _copy(self, pieces: Iterable[tuple[memoryview, memoryview]]) -> None:
        if self._torch is not None:
            for target, source in pieces:
                _copy_by_torch(self._torch, target, source)
            return
        parts = ((target[at : at + n], source[at : at + n]) for target, source in pieces for at, n in _parts(target))
        for _ in map(_copy, parts) if self._pool is None else self._pool.map(_copy, parts):
            pass


def _copy_by_torch(torch: Any, target: memoryview, source: memoryview) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the source is read-only, which it stays
        there = torch.frombuffer(source, dtype=torch.uint8)
    torch.frombuffer(target, dtype=torch.uint8).copy_(there)


def _copy(pair: tuple[memoryview, memoryview]) -> None:
    target, source = pair
    numpy = sys.modules.get("numpy")
    if numpy is not None:  # lets other threads run meanwhile
        numpy.copyto(numpy.frombuffer(target, "u1"), numpy.frombuffer(source, "u1"))
    else:
        target[:] = source


def _parts(view: memoryview) -> Iterator[tuple[int, int]]:
    for begin in range(0, len(view), _PART_BYTES):
        yield begin, min(_PART_BYTES, len(view) - begin)


def _wait(under_way: deque[list[Callable[[], None]]]) -> None:
    while under_way[0]:
        under_way[0].pop(0)()
    under_way.popleft()


def _settle(waits: Any) -> None:
    """Wait for copies that nobody wants any more: their slots must not change under the next transfer."""
    for wait in list(waits):
        with suppress(Exception):
            wait()
