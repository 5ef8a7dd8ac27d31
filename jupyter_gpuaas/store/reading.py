"""Reads many chunks from pack files, straight into the memory that they are wanted in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import NamedTuple

from .base import Buffer
from .codec import RAW, decode, matches
from .pack import Place

#: What one thread reads and then verifies; while one thread verifies, another reads.
_RUN_BYTES = 4 * 1024**2
#: Bytes between two chunks that it is cheaper to read than to skip.
_GAP_BYTES = 16 * 1024
_RUN_CHUNKS = 256
#: Verifying keeps the processors busy; more threads than those only get in each other's way (measured).
_THREADS = min(8, max(2, os.cpu_count() or 1))
#: Packs that are open at a time: a process may have a thousand files or so.
_PACKS = 64


class Wanted(NamedTuple):
    """A chunk, where it lies and where it is to go."""

    digest: bytes
    place: Place
    memory: memoryview


Open = Callable[[str], AbstractContextManager[int]]


def read_chunks(wanted: Iterable[Wanted], opened: Open) -> tuple[list[Wanted], list[Wanted]]:
    """Read and verify; gives those that are damaged, and those whose pack is not there any more."""
    packs: dict[str, list[list[Wanted]]] = {}
    for run in neighbours(wanted, run_bytes=_RUN_BYTES, gap_bytes=_GAP_BYTES):
        packs.setdefault(run[0].place.pack, []).append(run)
    damaged: list[Wanted] = []
    gone: list[Wanted] = []
    names = list(packs)
    for start in range(0, len(names), _PACKS):
        with ExitStack() as stack:
            # One opening of a pack for all of its runs: the kernel's own reading ahead goes by it, and is twice as
            # fast as telling it what comes next (POSIX_FADV_WILLNEED).
            work: list[tuple[int, list[Wanted]]] = []
            for name in names[start : start + _PACKS]:
                try:
                    file = stack.enter_context(opened(name))
                except FileNotFoundError:
                    gone += [item for run in packs[name] for item in run]
                    continue
                work += [(file, run) for run in packs[name]]
            for bad in _read_runs(work):
                damaged += bad
    return damaged, gone


def _read_runs(work: list[tuple[int, list[Wanted]]]) -> list[list[Wanted]]:
    def read(number: int) -> list[Wanted]:
        file, run = work[number]
        return _read_run(run, file)

    if len(work) <= 1:
        return [read(number) for number in range(len(work))]
    with ThreadPoolExecutor(min(_THREADS, len(work)), "gpuaas-fetch") as pool:
        return list(pool.map(read, range(len(work))))


def neighbours(wanted: Iterable[Wanted], *, run_bytes: int, gap_bytes: int) -> Iterator[list[Wanted]]:
    """Group what lies side by side in a pack, to be read with one call."""
    run: list[Wanted] = []
    size = 0
    for item in sorted(wanted, key=lambda item: (item.place.pack, item.place.offset)):
        place = item.place
        if run:
            last = run[-1].place
            near = last.pack == place.pack and 0 <= place.offset - last.end <= gap_bytes
            if not near or len(run) == _RUN_CHUNKS or size + place.stored_bytes > run_bytes:
                yield run
                run, size = [], 0
        run.append(item)
        size += place.stored_bytes
    if run:
        yield run


def _read_run(run: Sequence[Wanted], file: int) -> list[Wanted]:
    """Gives what is damaged."""
    payloads: list[memoryview] = []
    vector: list[memoryview] = []
    start = at = run[0].place.offset
    between = memoryview(bytearray(_GAP_BYTES)) if len(run) > 1 else memoryview(b"")
    for item in run:
        place = item.place
        direct = place.codec == RAW and len(item.memory) == place.stored_bytes
        payload = item.memory if direct else memoryview(bytearray(place.stored_bytes))
        if place.offset > at:
            vector.append(between[: place.offset - at])
        vector.append(payload)
        payloads.append(payload)
        at = place.end
    _read_into(file, vector, start)
    return [item for item, payload in zip(run, payloads, strict=True) if not settle(item, payload)]


def settle(item: Wanted, payload: Buffer) -> bool:
    """Bring a payload to where it is wanted; False when it is not the chunk."""
    if item.place.codec == RAW:
        if len(payload) != len(item.memory):
            return False
        if payload is not item.memory:
            item.memory[:] = payload
        return matches(item.digest, item.memory)
    data = decode(item.place.codec, payload, item.place.raw_bytes)
    if data is None or len(data) != len(item.memory) or not matches(item.digest, data):
        return False
    item.memory[:] = data
    return True


def _read_into(file: int, vector: Sequence[memoryview], position: int) -> None:
    """``preadv`` until everything is read or the file ends; what is behind its end fails the digest."""
    views = [view for view in vector if len(view)]
    first = 0
    while first < len(views):
        count = os.preadv(file, views[first:], position)
        if not count:
            return
        position += count
        while first < len(views) and count >= len(views[first]):
            count -= len(views[first])
            first += 1
        if count:
            views[first] = views[first][count:]
