"""Which memory is worth sending as it was captured last."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from jupyter_gpuaas.state import outdated as module
from jupyter_gpuaas.state.checkpointer import Checkpointer
from jupyter_gpuaas.state.outdated import outdated
from jupyter_gpuaas.store import CHUNK_BYTES, MemoryStore

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
    session.space["hot"] += 1
    session.space["warm"][: 20 * M] += 1
    session.space["small"] += 1
    assert session.outdated() == {"hot": [0]}
    assert session.outdated("hot", "cold") == {"hot": [0]}
    assert session.outdated("cold") == {}, "who has not run cannot have changed it"


def test_what_is_made_anew_in_each_cell_is_told_too() -> None:
    session = Session(same=noise(8), more=noise(8, 1), gone=noise(8, 2), other=noise(8, 3))
    session.space["same"] = session.space["same"].copy()
    session.space["more"] = noise(9, 1)
    del session.space["gone"]
    session.space["other"] = session.space["other"] + 1
    assert session.outdated() == {"more": [0], "other": [0]}


def test_each_region_of_a_group_is_told_by_itself() -> None:
    pair = [noise(8), noise(8, 1)]
    session = Session(pair=pair, alias=pair)
    pair[1] += 1
    assert session.outdated() == {"pair": [1]}
    pair.append(noise(8, 2))
    assert session.outdated() == {"pair": [0, 1]}


def test_what_cannot_be_looked_at_or_would_take_long_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(a=noise(8), b=noise(8, 1), words=[noise(8, 2), [str(n) * 20 for n in range(100_000)]])
    for value in (session.space["a"], session.space["b"], session.space["words"][0]):
        value += 1
    assert session.outdated() == {"a": [0], "b": [0]}
    monkeypatch.setattr(module, "MOST_REGIONS", 1)
    assert len(session.outdated()) == 1
    monkeypatch.undo()
    session.space["a"] = Stubborn()
    assert session.outdated() == {"b": [0]}
