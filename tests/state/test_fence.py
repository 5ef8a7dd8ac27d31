"""Checkpoints of hosts that are not their session's any more."""

from __future__ import annotations

import pytest

from jupyter_gpuaas.errors import StaleEpoch, StoreError
from jupyter_gpuaas.model import short_id
from jupyter_gpuaas.state.checkpointer import Checkpointer
from jupyter_gpuaas.state.fence import new_id, newest_epoch, of_session, unless_stale
from jupyter_gpuaas.store import MemoryStore

KEY = b"k" * 16


def test_ids_tell_session_and_epoch_and_sort_by_time() -> None:
    ids = [new_id("s", 3), new_id("s", 17), new_id("t", 200), new_id("", 5), "anything", "0" * 64]
    assert newest_epoch("s", ids) == 17
    assert newest_epoch("t", ids) == 200
    assert newest_epoch("u", ids) == 0
    assert ids[:4] == sorted(ids[:4])
    assert len({short_id(each) for each in ids[:4]}) == 4
    assert len(new_id("s", (1 << 64) - 1)) <= 64


def test_only_a_later_epoch_of_the_same_session_stands_against_a_commit() -> None:
    unless_stale("s", 3)([new_id("s", 3), new_id("s", 2), new_id("t", 9)])
    unless_stale("", 0)([new_id("s", 3)])
    with pytest.raises(StaleEpoch) as error:
        unless_stale("s", 3)([new_id("s", 4)])
    assert (error.value.offered, error.value.current) == (3, 4)


def test_checkpoint_of_an_older_host_is_refused_once_a_later_one_has_committed() -> None:
    store = MemoryStore()
    old, new = (Checkpointer(store, key=KEY, session="s") for _ in range(2))
    other = Checkpointer(store, key=KEY, session="t")
    space = {"a": [1]}
    before = old.capture(space, epoch=1)
    late = old.begin(space, epoch=1)
    after = new.capture(dict(space), epoch=2)
    with pytest.raises(StaleEpoch):
        late.write()
    with pytest.raises(StaleEpoch):
        old.capture(space, epoch=1)
    other.capture(space, epoch=1)
    new.capture({"a": 3}, epoch=2)
    assert [each.id for each in old.checkpoints()][:2] == [before.id, after.id]
    assert [each.manifest.epoch for each in old.checkpoints()] == [1, 2, 2]


def test_checkpoint_of_an_older_host_is_refused_once_a_later_one_has_claimed_what_it_begins_with() -> None:
    store = MemoryStore()
    old, new, next_one = (Checkpointer(store, key=KEY, session="s") for _ in range(3))
    old.capture({"a": [1]}, epoch=1, cell=3, label="mine")
    begun = new.newest()
    assert begun is not None
    between = old.capture({"a": [2]}, epoch=1, cell=4)
    late = old.begin({"a": [3]}, epoch=1, cell=5)
    claimed = new.claim(begun, epoch=2)
    with pytest.raises(StaleEpoch):
        late.write()
    with pytest.raises(StaleEpoch):
        old.claim(begun, epoch=1)
    # What the next loss brings back is what the session goes on from, and not what was written meanwhile.
    assert (new.newest() or begun).id == claimed.id
    assert [each.id for each in new.checkpoints()] == [begun.id, between.id, claimed.id]
    told = claimed.manifest
    assert (told.epoch, told.cell, told.parent, told.label) == (2, 3, begun.id, "")
    assert new.restore(claimed).namespace["a"] == [1]
    for each in (begun, between):
        new.forget(each)
    new.collect()
    assert new.restore(claimed).namespace["a"] == [1]
    assert new.capture({"a": [4]}, epoch=2).manifest.epoch == 2
    with pytest.raises(StaleEpoch):
        next_one.claim(claimed, epoch=1)


def test_checkpoint_of_another_session_that_was_claimed_is_the_sessions_own() -> None:
    store = MemoryStore()
    other, mine = (Checkpointer(store, key=KEY, owner="ann", session=session) for session in "ts")
    theirs = other.capture({"a": [1]}, epoch=5, cell=7)
    claimed = mine.claim(theirs, epoch=1)
    assert mine.newest() == claimed and mine.checkpoints() == [claimed]
    assert other.newest() == theirs
    other.forget(theirs)
    other.collect()
    assert mine.restore(claimed).namespace["a"] == [1]
    assert (claimed.manifest.cell, claimed.manifest.owner) == (7, "ann")


def test_what_an_older_host_commits_at_the_same_moment_is_not_the_newest() -> None:
    ids = [new_id("s", 2), new_id("s", 1)]
    assert of_session("s", ids) == ids[::-1]


def test_ids_of_a_session_are_told_from_those_of_others() -> None:
    mine, theirs, bare = new_id("s", 3), new_id("t", 3), new_id("", 0)
    assert of_session("s", [theirs, bare, mine]) == [bare, mine]


def test_newest_checkpoint_is_found_without_reading_the_others() -> None:
    class Counting(MemoryStore):
        read = 0

        def manifest(self, manifest_id: str) -> bytes:
            self.read += 1
            return super().manifest(manifest_id)

    store = Counting()
    mine, theirs = (Checkpointer(store, key=KEY, session=session) for session in "st")
    assert mine.newest() is None
    ids = [mine.capture({"a": number}, epoch=1).id for number in range(20)]
    theirs.capture({"a": 1}, epoch=1)
    store.read = 0
    found = mine.newest()
    assert found is not None and found.id == ids[-1] == mine.checkpoints()[-1].id
    store.read = 0
    mine.newest()
    assert store.read == 1
    assert Checkpointer(store, key=b"x" * 16, session="s").newest() is None
    loose = Checkpointer(MemoryStore(), key=KEY)
    assert loose.capture({"a": 1}).id == (loose.newest() or loose.capture({})).id


def test_newest_checkpoint_that_cannot_be_read_now_is_not_an_older_one_and_one_that_is_none_is_passed_over() -> None:
    class Away(MemoryStore):
        away = ""

        def manifest(self, manifest_id: str) -> bytes:
            if manifest_id == self.away:
                raise StoreError("the disk does not answer.")
            return super().manifest(manifest_id)

    store = Away()
    mine = Checkpointer(store, key=KEY, session="s")
    older, newer = mine.capture({"a": 1}, epoch=1), mine.capture({"a": 2}, epoch=1)
    store.away = newer.id
    with pytest.raises(StoreError):
        mine.newest()
    store.away = ""
    store.rewrite(newer.id, b"not a manifest")
    assert mine.newest() == older
