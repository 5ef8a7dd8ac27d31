"""Bundles that lie: nothing outside them is read, and no more memory is taken than they have bytes for."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from jupyter_gpuaas.errors import RemoteProtocolError
from jupyter_gpuaas.state.arrival import Arrival, NotThere, region_memory
from jupyter_gpuaas.state.bundle import (
    DIGEST_BYTES,
    FileHead,
    GroupHead,
    Head,
    Part,
    RegionHead,
    assemble,
    read_head,
    split,
)
from jupyter_gpuaas.state.owners import bytes_of
from jupyter_gpuaas.state.packing import pack_group, unpack_group
from jupyter_gpuaas.store.base import CHUNK_BYTES
from jupyter_gpuaas.store.manifest import Span

SIZE = 3 * CHUNK_BYTES + 8
HUGE = 1 << 50


def bundle(*, held: bool = False) -> list[Any]:
    """A good one: a head, a pickle, the memory of one array."""
    group = pack_group(["x"], [np.arange(SIZE // 8)], {})
    kept = split(group.regions[0].digest())[1:] if held else ()
    return [bytearray(buffer) for buffer in assemble([group], held=kept)]


def altered(change: Callable[[GroupHead, RegionHead], Any]) -> list[Any]:
    """The good bundle with another head."""
    buffers = bundle()
    (group,) = read_head(buffers).groups
    made = change(group, group.regions[0])
    if isinstance(made, RegionHead):
        made = msgspec.structs.replace(group, regions=(made,))
    if isinstance(made, GroupHead):
        made = Head((made,))
    buffers[0] = msgspec.msgpack.encode(made)
    return buffers


def with_parts(*parts: Part, digests: bytes = b"") -> Callable[[GroupHead, RegionHead], Any]:
    return lambda group, region: msgspec.structs.replace(region, parts=parts, digests=digests)


DEFECTS: dict[str, tuple[Callable[[GroupHead, RegionHead], Any], str]] = {
    "nonsense": (lambda g, r: ["what"], "not readable"),
    "stream is the head": (lambda g, r: msgspec.structs.replace(g, stream=0), "buffer 0 of 3 does not exist"),
    "stream is not there": (lambda g, r: msgspec.structs.replace(g, stream=3), "buffer 3 of 3 does not exist"),
    "file is not there": (lambda g, r: Head((), (FileHead("a", 1, 1, ""),)), "buffer -1 of 3 does not exist"),
    "part is not there": (with_parts(Part(9, 0, 0, SIZE)), "buffer 9 of 3 does not exist"),
    "part ends behind its buffer": (with_parts(Part(2, 8, 0, SIZE)), "ends behind its buffer"),
    "part begins before its buffer": (with_parts(Part(2, -8, 0, SIZE)), "ends behind its buffer"),
    "part of negative length": (with_parts(Part(2, 0, 0, -1)), "ends behind its buffer"),
    "part ends behind its region": (with_parts(Part(2, 0, CHUNK_BYTES, SIZE)), "end behind it"),
    "parts overlap": (with_parts(Part(2, 0, 0, SIZE), Part(2, 0, 0, CHUNK_BYTES)), "overlap"),
    "part within a chunk": (with_parts(Part(2, 0, 0, 100)), "not made of chunks"),
    "gap without digests": (with_parts(Part(2, 0, 0, CHUNK_BYTES)), "nobody can find"),
    "region without anything": (lambda g, r: RegionHead(HUGE, ("bytes",), ()), "nobody can find"),
    "region of negative size": (lambda g, r: RegionHead(-1, ("bytes",), ()), "digests for a region of -1"),
    "too few digests": (with_parts(Part(2, 0, 0, SIZE), digests=bytes(DIGEST_BYTES)), "16 bytes of digests"),
    "span of no region": (lambda g, r: msgspec.structs.replace(g, spans=(Span(1, 0, 8, False),)), "not exist"),
    "span behind its region": (lambda g, r: msgspec.structs.replace(g, spans=(Span(0, 8, SIZE, False),)), "behind"),
    "span before its region": (lambda g, r: msgspec.structs.replace(g, spans=(Span(0, -8, 8, False),)), "not exist"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_head_with_a_defect_is_refused_when_it_arrives(defect: str) -> None:
    change, word = DEFECTS[defect]
    buffers = altered(change)
    with pytest.raises(RemoteProtocolError, match=word):
        read_head(buffers)
    arriving = iter(Arrival([len(buffer) for buffer in buffers]))
    next(arriving)[:] = buffers[0]
    with pytest.raises(RemoteProtocolError, match=word):
        next(arriving)


@pytest.mark.parametrize(
    "maker",
    [
        ("ndarray", "<f8", (HUGE,), "C"),
        ("ndarray", "<f8", (-1, -(SIZE // 8)), "C"),
        ("ndarray", f"S{HUGE}", (1,), "C"),
        ("ndarray", "O", (SIZE // 8,), "C"),
        ("ndarray", "<f8", ("8",), "C"),
        ("ndarray", "<f8", (SIZE // 8,), "what"),
        ("ndarray",),
        ("storage", HUGE),
        ("system", "true"),
        (),
    ],
)
def test_what_is_to_be_allocated_is_no_larger_than_what_comes(maker: tuple[Any, ...]) -> None:
    buffers = altered(lambda group, region: msgspec.structs.replace(region, maker=maker))
    arrival = Arrival([len(buffer) for buffer in buffers])
    if maker[:1] == ("storage",):
        pytest.importorskip("torch")  # before anything is counted
    tracemalloc.start()
    try:
        for memory, buffer in zip(arrival, buffers, strict=True):
            assert memory.nbytes == len(buffer)
            memory[:] = buffer
        assert tracemalloc.get_traced_memory()[1] < 3 * SIZE
    finally:
        tracemalloc.stop()
    assert bytes_of(arrival.buffers[2]) == buffers[2]


def test_region_with_gaps_is_not_allocated_before_all_of_it_is_found() -> None:
    digest = bytes(DIGEST_BYTES)
    region = RegionHead(HUGE, ("bytes",), (), digest * (1 << 20))
    chunk = memoryview(bytes(CHUNK_BYTES))
    for held in ({}, {digest: chunk[1:]}, {bytes([1]) * DIGEST_BYTES: chunk}):
        with pytest.raises(NotThere, match="not held"):
            region_memory(msgspec.structs.replace(region, size=CHUNK_BYTES << 20), [], held)


def test_chunk_under_a_false_digest_is_noticed() -> None:
    buffers = bundle(held=True)
    (group,) = read_head(buffers).groups
    whole = bundle()[2]
    held = {
        digest: memoryview(whole)[at * CHUNK_BYTES : (at + 1) * CHUNK_BYTES]
        for at, digest in enumerate(split(group.regions[0].digests))
    }
    (value,) = unpack_group(group, buffers, {}, held=held).values()
    assert (value == np.arange(SIZE // 8)).all()
    held[split(group.regions[0].digests)[1]] = held[split(group.regions[0].digests)[2]]
    with pytest.raises(NotThere, match="has changed"):
        unpack_group(group, buffers, {}, held=held)
