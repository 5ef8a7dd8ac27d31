"""Memory that is filled before the restore that uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
import psutil
import pytest

from jupyter_gpuaas.errors import StoreError
from jupyter_gpuaas.state.ahead import Ahead, Of
from jupyter_gpuaas.state.checkpointer import Checkpoint, Checkpointer
from jupyter_gpuaas.state.restore import read_records
from jupyter_gpuaas.store import CHUNK_BYTES, ChunkCache, MemoryStore

KEY = b"k" * 16
M = CHUNK_BYTES


class Far(MemoryStore):
    """Counts what is fetched from it."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[bytes] = []
        self.left = 1 << 60

    def fetch(self, wanted: Sequence[tuple[bytes, memoryview]]) -> None:
        for digest, memory in wanted:
            if not self.left:
                raise StoreError("broken.")
            self.left -= 1
            super().fetch([(digest, memory)])
            self.fetched.append(digest)


class Session:
    """A namespace that is captured again and again, and what comes of it elsewhere."""

    def __init__(self, **names: Any) -> None:
        self.store = Far()
        self.space = {"__name__": "__main__", **names}
        self._source = Checkpointer(self.store, key=KEY, hidden=False)
        self.cache = ChunkCache(self.store, most_bytes=0)
        self.ahead = Ahead(self.cache)
        self.target = Checkpointer(self.cache, key=KEY, hidden=False)

    def prepare(self, most_bytes: int = 1 << 40, without: set[Of] | None = None) -> tuple[Checkpoint, int]:
        """Capture, and bring it; gives how many chunks of large regions came."""
        checkpoint = self._source.capture(self.space)
        records = read_records(checkpoint.manifest, self.store)
        self.store.fetched.clear()
        self.ahead.prepare(records, most_bytes, without or set())
        return checkpoint, len(self.store.fetched)

    def restore(self, checkpoint: Checkpoint) -> dict[str, Any]:
        space: dict[str, Any] = {"__name__": "__main__"}
        self.target.restore(checkpoint, into=space, ahead=self.ahead)
        for name, value in self.space.items():
            assert numpy.array_equal(space[name], value) if isinstance(value, numpy.ndarray) else space[name] == value
        return space


def noise(chunks: float, seed: int = 0) -> numpy.ndarray:
    return numpy.random.default_rng(seed).integers(0, 255, int(chunks * M), "u1")


def test_objects_are_made_of_memory_that_was_there() -> None:
    session = Session(a=noise(5), f=numpy.asfortranarray(noise(6).reshape(-1, 2)), small=noise(0.5), n=1)
    session.space["view"] = session.space["a"][7:]
    checkpoint, came = session.prepare()
    assert came == 11 and session.ahead.held_bytes == 11 * M
    places = {filled.memory.nbytes: filled.owner for filled in session.ahead._filled.values()}
    session.store.fetched.clear()
    space = session.restore(checkpoint)
    assert space["a"] is places[5 * M] and space["f"] is places[6 * M] and space["view"].base is space["a"]
    assert len(session.store.fetched) < 20  # records, streams and what is small
    assert session.ahead.held_bytes == 0


def test_newer_checkpoint_overwrites_what_has_changed() -> None:
    session = Session(a=noise(8), b=noise(8, 1), gone=noise(4, 2))
    assert session.prepare()[1] == 20
    session.space["a"][3 * M] += 1
    session.space["new"] = noise(2, 3)
    del session.space["gone"]
    checkpoint, came = session.prepare()
    assert came == 3 and session.ahead.held_bytes == 18 * M
    session.restore(checkpoint)


def test_what_is_bound_to_another_name_does_not_come_again() -> None:
    session = Session(a=noise(4), b=noise(4, 1))
    session.prepare()
    session.space["a"], session.space["c"] = session.space.pop("b"), session.space["a"]
    checkpoint, came = session.prepare()
    assert came == 0
    session.restore(checkpoint)


def test_equal_contents_are_memory_of_their_own() -> None:
    session = Session(a=noise(3), b=noise(3), zeros=numpy.zeros(4 * M, "u1"), more=numpy.zeros(4 * M, "u1"))
    checkpoint, came = session.prepare()
    assert came == 4
    space = session.restore(checkpoint)
    space["a"][0] += 1
    assert not numpy.array_equal(space["a"], space["b"])
    assert not numpy.shares_memory(space["zeros"], space["more"])


def test_chunks_that_moved_within_memory_are_right() -> None:
    randomly = numpy.random.default_rng(5)
    blocks = [noise(1, n) for n in range(6)]
    session = Session(a=numpy.concatenate(blocks), b=numpy.concatenate(blocks[::-1]))
    for _ in range(15):
        for name in ("a", "b"):
            session.space[name][:] = numpy.concatenate([blocks[n] for n in randomly.integers(0, 6, 6)])
        checkpoint, came = session.prepare()
        assert came <= 6
        for (names, _), filled in session.ahead._filled.items():
            assert numpy.array_equal(numpy.frombuffer(filled.memory, "u1"), session.space[names[0]])
    session.restore(checkpoint)


def test_what_is_beyond_the_bound_comes_with_the_restore() -> None:
    session = Session(a=noise(8), b=noise(4, 1), c=noise(2, 2))
    checkpoint, came = session.prepare(most_bytes=9 * M)
    assert came == 8 and session.ahead.held_bytes == 8 * M
    session.restore(checkpoint)


def test_memory_is_there_for_what_is_not_wanted_yet() -> None:
    session = Session(hot=noise(8), cold=noise(4, 1))
    checkpoint, came = session.prepare(without={(("hot",), 0)})
    assert came == 4 and session.ahead.held_bytes == 12 * M
    taken = {filled.memory.nbytes: filled.owner for filled in session.ahead._filled.values()}
    session.space["hot"] += 1
    newer, came = session.prepare()
    assert came == 8 and session.ahead.held_bytes == 12 * M
    assert session.restore(newer)["hot"] is taken[8 * M]

    session = Session(hot=noise(8), cold=noise(4, 1))
    checkpoint, _ = session.prepare(without={(("hot",), 0)})
    session.restore(checkpoint)  # as it is wanted after all, it comes
    session.ahead.clear()
    session.prepare()
    _, came = session.prepare(without={(("hot",), 0)})
    assert came == 0
    session.space["hot"][0] += 1
    _, came = session.prepare()
    assert came == 1, "what had come before stays"
    session.restore(session.prepare()[0])


def test_memory_that_is_to_be_there_is_taken_from_the_system() -> None:
    session, process = Session(hot=noise(64)), psutil.Process()
    records = read_records(session._source.capture(session.space).manifest, session.store)
    before = process.memory_info().rss
    session.ahead.prepare(records, 1 << 40, {(("hot",), 0)})
    assert process.memory_info().rss - before > 48 * M


def test_failure_keeps_what_has_come() -> None:
    session = Session(a=noise(8))
    session.store.left = 0
    checkpoint = session._source.capture(session.space)
    session.store.left = 1 << 60
    records = read_records(checkpoint.manifest, session.store)
    session.store.left = 0
    with pytest.raises(StoreError):
        session.ahead.prepare(records, 1 << 40)
    assert session.ahead.take(records[0].regions[0]) is None
    session.store.left = 1 << 60
    session.ahead.prepare(records, 1 << 40)
    session.restore(checkpoint)
    session.ahead.clear()
    assert session.ahead.held_bytes == 0


def test_storages_of_torch_are_made_of_it_too() -> None:
    torch = pytest.importorskip("torch")
    weight = torch.rand(M)
    session = Session()
    session.space |= {"weight": weight, "row": weight[3:5]}
    checkpoint, came = session.prepare()
    assert came == 4
    space: dict[str, Any] = {"__name__": "__main__"}
    session.target.restore(checkpoint, into=space, ahead=session.ahead)
    assert torch.equal(space["weight"], weight)
    assert space["row"].untyped_storage().data_ptr() == space["weight"].untyped_storage().data_ptr()
    assert session.ahead.held_bytes == 0
