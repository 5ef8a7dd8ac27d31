"""A capture after a restore that knows what it restored."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from jupyter_gpuaas.state.ahead import Ahead
from jupyter_gpuaas.state.checkpointer import Checkpointer
from jupyter_gpuaas.store import CHUNK_BYTES, ChunkCache, MemoryStore
from tests.state.test_device_memory import DEVICES, SlowArray

KEY = b"k" * 16
M = CHUNK_BYTES


class Touchy:
    """Changes its memory as it is restored."""

    def __init__(self) -> None:
        self.array = numpy.zeros(3 * M, "u1")

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.array[M] = 9


def moved(**names: Any) -> tuple[Checkpointer, dict[str, Any], Any]:
    """A namespace that was captured and restored as if elsewhere, and what goes on with it."""
    store = MemoryStore()
    first = Checkpointer(store, key=KEY, hidden=False).capture({"__name__": "__main__", **names})
    cache = ChunkCache(store, most_bytes=0)
    after = Checkpointer(cache, key=KEY, hidden=False)
    space: dict[str, Any] = {"__name__": "__main__"}
    after.restore(first, into=space, ahead=Ahead(cache))
    cache.clear()
    after.store = store
    return after, space, first


def test_what_is_unchanged_keeps_its_entries() -> None:
    base = numpy.arange(2 * M, dtype="f8")
    after, space, first = moved(
        base=base, view=base[5:], text="x" * 100, empty=numpy.zeros(0), fortran=numpy.ones((M, 3), order="F")
    )
    second = after.capture(space, parent=first)
    assert set(second.manifest.groups) == set(first.manifest.groups)
    assert second.costs.copied_bytes == 0


def test_what_has_changed_is_all_that_is_written() -> None:
    after, space, first = moved(a=numpy.random.default_rng(0).random(M), b=[1], c=2)
    space["a"][0] = 5
    space["b"].append(2)
    space["d"] = space["b"]
    del space["c"]
    second = after.capture(
        space, parent=first, touched=frozenset()
    )  # what a caller says of touched names is no use yet
    assert M < second.costs.written_bytes < M + 10_000
    found = Checkpointer(after.store, key=KEY, hidden=False).restore(second).namespace
    assert found["a"][0] == 5 and (found["a"][1:] == space["a"][1:]).all()
    assert found["b"] == [1, 2] and found["d"] is found["b"] and "c" not in found


def test_memory_that_the_restore_itself_changed_is_seen() -> None:
    after, space, first = moved(touchy=Touchy())
    second = after.capture(space, parent=first)
    found = Checkpointer(after.store, key=KEY, hidden=False).restore(second).namespace
    assert found["touchy"].array[M] == 9
    assert set(second.manifest.groups) != set(first.manifest.groups)


def test_checkpoint_that_is_gone_meanwhile_is_taken_whole() -> None:
    after, space, first = moved(a=numpy.random.default_rng(0).random(M))
    after.store.forget(first.id)
    after.store.collect(lambda manifest: ())
    second = after.capture(space)
    found = Checkpointer(after.store, key=KEY, hidden=False).restore(second).namespace
    assert (found["a"] == space["a"]).all()


def test_tensors_keep_their_entries() -> None:
    torch = pytest.importorskip("torch")
    weight = torch.rand(M)
    after, space, first = moved(weight=weight, row=weight[3:5], model=torch.nn.Linear(200, 200))
    second = after.capture(space, parent=first)
    assert set(second.manifest.groups) == set(first.manifest.groups)


def test_memory_of_a_device_keeps_its_chunks() -> None:
    memory = DEVICES["slow:0"].allocate(5000)
    memory.data[:] = bytes(range(250)) * 20
    after, space, first = moved(pair=[SlowArray(memory, 0, 5000), SlowArray(memory, 40, 5)])
    whole, part = space["pair"]
    assert part.memory is whole.memory is not memory
    second = after.capture(space, parent=first)
    assert set(second.manifest.groups) == set(first.manifest.groups)
    part[0] = 7
    third = after.capture(space, parent=second)
    assert third.manifest.groups != second.manifest.groups
    found = Checkpointer(after.store, key=KEY, hidden=False).restore(third).namespace["pair"]
    assert (found[0][40], found[0][41], found[1][0]) == (7, 41, 7)
