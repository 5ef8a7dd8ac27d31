"""A bundle on its way in: every buffer is received into the memory in which its objects will live."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import xxhash

from jupyter_gpuaas.errors import RemoteProtocolError
from jupyter_gpuaas.state import owners
from jupyter_gpuaas.state.bundle import SMALL_BYTES, Chunks, RegionHead, checked_head, split
from jupyter_gpuaas.state.owners import bytes_of
from jupyter_gpuaas.store.base import CHUNK_BYTES
from jupyter_gpuaas.wire.memory import allocate


class NotThere(Exception):
    """A chunk that was left out is not held here, or is no longer what it was."""


class Arrival:
    """A bundle on its way in: iterate to get the memory that is to be filled next; then ``buffers`` is the bundle.

    Memory is allocated piece by piece, each no larger than what the body has for it, and as the object that will own
    it where that is known.

    Raises
    ------
    RemoteProtocolError
        While iterating: the head, which comes first, is not right.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = sizes
        self.buffers: list[Any] = []

    def __iter__(self) -> Iterator[memoryview]:
        if not self._sizes:
            raise RemoteProtocolError("bundle: has no head")
        self.buffers = [allocate(self._sizes[0])]
        yield self.buffers[0]
        makers = {
            region.parts[0].buffer: region.maker
            for group in checked_head(self.buffers[0], self._sizes).groups
            for region in group.regions
            if len(region.parts) == 1 and region.parts[0].length == region.size == self._sizes[region.parts[0].buffer]
        }
        for index in range(1, len(self._sizes)):
            owner, memory = _memory_for(self._sizes[index], makers.get(index, ()))
            self.buffers.append(owner)
            yield memory


def _memory_for(size: int, maker: Sequence[Any]) -> tuple[Any, memoryview]:
    """Memory of exactly this size, by its maker if that can be."""
    try:
        match tuple(maker):
            case ("ndarray", str(dtype), shape, ("C" | "F") as order):
                import numpy

                kind = numpy.dtype(dtype)
                if not kind.hasobject and min(shape, default=0) >= 0 and prod(shape) * kind.itemsize == size:
                    return owners.allocate(size, ("ndarray", dtype, tuple(shape), order))
            case ("storage", *_):
                return owners.allocate(size, ("storage", size))
            case ("bytes",):
                return owners.allocate(size, ("bytes",))
    except Exception:  # Its library is not here, or it is nonsense; loading the pickle will tell.
        pass
    memory = allocate(size)
    return memory, memory


def region_memory(region: RegionHead, buffers: Sequence[Any], held: Chunks) -> Any:
    """The owner of a received region's memory, with all of its bytes.

    Raises
    ------
    NotThere
        Something was left out that is not held here.
    """
    if len(region.parts) == 1 and region.size >= SMALL_BYTES:
        (part,) = region.parts
        whole = buffers[part.buffer]
        if (part.at, part.length) == (0, region.size) and bytes_of(whole).nbytes == region.size:
            return memoryview(whole) if isinstance(whole, (bytes, bytearray)) else whole
    left_out = _left_out(region)
    for digest, start, end in left_out:
        if digest not in held or held[digest].nbytes != end - start:
            raise NotThere("memory that was left out is not held here")
    # No larger than what came and what is held.
    owner, memory = _memory_for(region.size, region.maker)
    for part in region.parts:
        memory[part.start : part.start + part.length] = bytes_of(buffers[part.buffer])[part.at : part.at + part.length]
    for digest, start, end in left_out:
        memory[start:end] = held[digest]
        if xxhash.xxh3_128_digest(memory[start:end]) != digest:
            raise NotThere("memory that was left out has changed here meanwhile")
    return owner


def _left_out(region: RegionHead) -> list[tuple[bytes, int, int]]:
    there = {
        number
        for part in region.parts
        for number in range(part.start // CHUNK_BYTES, -(-(part.start + part.length) // CHUNK_BYTES))
    }
    return [
        (digest, number * CHUNK_BYTES, min((number + 1) * CHUNK_BYTES, region.size))
        for number, digest in enumerate(split(region.digests))
        if number not in there
    ]
