"""Which memory is worth sending as it was captured last."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy
import pytest

from jupyter_gpuaas.state import outdated as module
from jupyter_gpuaas.state.checkpointer import Checkpointer
from jupyter_gpuaas.state.looking import Looker
from jupyter_gpuaas.state.memory import Chunked
from jupyter_gpuaas.state.outdated import outdated
from jupyter_gpuaas.store import CHUNK_BYTES, MemoryStore
from tests.state.device_contract import SlowDevice

M = CHUNK_BYTES


class Session:
    """A namespace that was captured once."""

    def __init__(self, **names: Any) -> None:
        self.space: dict[str, Any] = {"__name__": "__main__", **names}
        self._checkpointer = Checkpointer(MemoryStore(), key=b"k" * 16, hidden=False)
        self._entries = self._checkpointer.capture(self.space).manifest.groups

    def outdated(self, *touched: str) -> dict[str, list[int]]:
        """The regions, by the first name of their groups; with names, only these may have changed."""
        assert self._checkpointer.tracker is not None
        found: dict[str, list[int]] = {}
        names = {entry.record.digests[:32].hex(): entry.names[0] for entry in self._entries}
        for part in outdated(self._checkpointer.tracker, frozenset(touched) if touched else None):
            found.setdefault(names[part.record], []).append(part.region)
        return found


class Stubborn:
    def __reduce__(self) -> Any:
        raise RuntimeError("not now")


def noise(chunks: float, seed: int = 0) -> numpy.ndarray:
    return numpy.random.default_rng(seed).integers(0, 255, int(chunks * M), "u1")


def test_memory_that_has_changed_as_a_whole_is_told_and_no_other() -> None:
    session = Session(hot=noise(40), warm=noise(40, 1), cold=noise(40, 2), small=noise(0.5), n=[1])
    assert session.outdated() == {}
    session.space["hot"][: 36 * M] += 1
    session.space["warm"][: 20 * M] += 1
    session.space["small"] += 1
    assert session.outdated() == {"hot": [0]}
    assert session.outdated("hot", "cold") == {"hot": [0]}
    assert session.outdated("cold") == {}, "who has not run cannot have changed it"


def test_what_is_made_anew_in_each_cell_is_told_too() -> None:
    session = Session(same=noise(8), more=noise(8, 1), gone=noise(8, 2), other=noise(8, 3))
    session.space["same"] = session.space["same"].copy()
    session.space["more"] = noise(7, 1)
    del session.space["gone"]
    session.space["other"] = session.space["other"] + 1
    assert session.outdated() == {"more": [0], "other": [0]}


def test_each_region_of_a_group_is_told_by_itself() -> None:
    pair = [noise(8), noise(8, 1)]
    session = Session(pair=pair, alias=pair)
    pair[1] += 1
    assert session.outdated() == {"pair": [1]}
    pair.append(noise(8, 2))
    assert session.outdated() == {"pair": [1]}, "what is there is sent, whatever has come beside it"


def test_what_cannot_be_looked_at_or_would_take_long_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(a=noise(8), b=noise(9, 1), words=[noise(8, 2), [str(n) * 20 for n in range(100_000)]])
    for value in (session.space["a"], session.space["b"], session.space["words"][0]):
        value += 1
    assert session.outdated() == {"a": [0], "b": [0]}
    monkeypatch.setattr(module, "MOST_REGIONS", 1)
    assert session.outdated() == {"b": [0]}, "the largest"
    monkeypatch.undo()
    session.space["a"] = Stubborn()
    assert session.outdated() == {"b": [0]}


def test_memory_that_is_as_it_was_is_sent_though_its_group_has_more_parts_now() -> None:
    frozen = [noise(8, seed) for seed in range(4)]
    session = Session(run={"weights": frozen, "losses": []})
    session.space["run"]["losses"].append(numpy.ones(1))
    assert session.outdated() == {}


def test_memory_that_is_as_it_was_is_sent_though_its_group_has_fewer_parts_now() -> None:
    session = Session(run=[noise(8, seed) for seed in range(4)])
    session.space["run"].pop()
    assert session.outdated().get("run", []) in ([], [3])


def test_memory_that_only_has_another_place_in_its_group_is_sent() -> None:
    session = Session(replays=deque(noise(8, seed) for seed in range(4)))
    replays = session.space["replays"]
    replays.popleft()
    replays.append(noise(8, 9))
    assert session.outdated() in ({}, {"replays": [0]})


def test_group_that_has_grown_since_is_not_pickled_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(found={"data": noise(8), "words": []})
    session.space["found"]["words"] += [str(n) * 20 for n in range(200_000)]
    made: list[int] = []
    dump = module.dump

    def counted(*arguments: Any, **more: Any) -> Any:
        pickled = dump(*arguments, **more)
        made.append(pickled.stream.nbytes)
        return pickled

    monkeypatch.setattr(module, "dump", counted)
    session.outdated()
    assert not made or max(made) <= 2 * module.LARGE_BYTES, made


def test_what_changes_in_each_row_of_an_array_is_not_taken_for_all_of_it() -> None:
    images = noise(64).view("f8").reshape(8, 1024, 1024)
    numpy.nan_to_num(images, copy=False)
    session = Session(images=images)
    images[:, 0, :] += 1  # 8 of 64 MiB
    assert session.outdated() == {}


def test_device_is_asked_for_all_of_its_memory() -> None:
    memory = SlowDevice(1 << 30).allocate(4 * M)
    before = Chunked(memory.nbytes, memory.chunk_digests(M), [])
    with Looker() as looker:
        assert module._share(memory, before, looker) == 0.0
        memory.data[1] = memory.data[M] = memory.data[3 * M] = 1
        assert module._share(memory, before, looker) == 0.75
