"""What only a folder does: crashes, several processes, damage on the disk."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jupyter_gpuaas.errors import ChunkMissing, QuotaReached, StoreError
from jupyter_gpuaas.store import CHUNK_BYTES, FolderStore, blob, lease, packwriter

from .test_contract import Chunk, chunk, names, noise, read, references

TRIALS = int(os.environ.get("GPUAAS_STORE_TRIALS", "10"))

WRITER = """
import random, sys
from jupyter_gpuaas.store import FolderStore, blob
store = FolderStore(sys.argv[1], pack_bytes=1_000_000)
seed = int(sys.argv[2])
print("ready", flush=True)
for number in range(10_000):
    noise = random.Random(f"{seed}-{number}")
    datas = [noise.randbytes(noise.randrange(1, 60_000)) for _ in range(noise.randrange(1, 12))] + [bytes(9000)]
    chunks = [pair for data in datas for pair in blob(data)[1]]
    store.put(chunks)
    store.commit(f"{seed}-{number}", b"".join(digest for digest, _ in chunks))
    print(number, flush=True)
    if number % 7 == 6:
        store.forget(f"{seed}-{number - 5}")
        store.collect(lambda manifest: [manifest[at : at + 32] for at in range(0, len(manifest), 32)])
"""


def packs(folder: Path) -> list[Path]:
    return sorted((folder / "packs").glob("*.pack"), key=lambda path: path.stat().st_mtime_ns)


def verify(folder: Path) -> int:
    """Read every chunk of every manifest with a new store."""
    store = FolderStore(folder)
    try:
        for manifest_id in store.manifests():
            for digest in references(store.manifest(manifest_id)):
                size = store._shelf.places[digest].raw_bytes
                store.fetch([(digest, memoryview(bytearray(size)))])
        return len(store.manifests())
    finally:
        store.close()


@pytest.mark.fault
@pytest.mark.trials
def test_kill_at_any_moment_keeps_what_was_committed(tmp_path: Path) -> None:
    chance = random.Random(7)
    for trial in range(TRIALS):
        folder = tmp_path / f"store{trial % 5}"  # used again, so that it holds what earlier ones left
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(trial)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        said = [int(line) for line in process.communicate(timeout=30)[0].splitlines()]
        verify(folder)
        store = FolderStore(folder)
        if said:
            assert f"{trial}-{said[-1]}" in store.manifests()
        store.collect(references)
        store.close()
        verify(folder)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[Chunk]]]:
    """A folder with three checkpoints in one pack, whose writer was killed after it had put some more."""
    folder = tmp_path_factory.mktemp("sample") / "store"
    store = FolderStore(folder)
    checkpoints = []
    for number in range(3):
        chunks = [noise(700 + 13 * n, 10 * number + n) for n in range(4)] + [chunk(b"abc%d" % number * 500)]
        store.put(chunks)
        store.commit(f"c{number}", names(*chunks))
        checkpoints.append(chunks)
    store.put([noise(3000, 99), noise(10, 98)])
    return folder, checkpoints


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_pack_that_is_cut_anywhere_keeps_what_was_committed(
    tmp_path: Path, sample: tuple[Path, list[list[Chunk]]], data: st.DataObject
) -> None:
    """What a crash may take away is what lies behind the last commit, and the index."""
    source, checkpoints = sample
    folder = tmp_path / "store"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    (pack,) = packs(folder)
    committed = FolderStore(source)._shelf.places[checkpoints[-1][-1][0]].end
    cut = data.draw(st.integers(committed, pack.stat().st_size))
    os.truncate(pack, cut)
    index = pack.with_suffix(".idx")
    os.truncate(index, data.draw(st.integers(0, index.stat().st_size)))
    store = FolderStore(folder)
    assert store.manifests() == ["c0", "c1", "c2"]
    read(store, *(one for chunks in checkpoints for one in chunks))
    new = noise(500, 55)
    store.put([new])
    store.commit("d", names(new))
    store.close()
    assert verify(folder) == 4


def test_index_is_made_anew_when_it_is_missing(tmp_path: Path, sample: tuple[Path, list[list[Chunk]]]) -> None:
    folder = Path(shutil.copytree(sample[0], tmp_path / "store"))
    index = packs(folder)[0].with_suffix(".idx")
    index.unlink()
    first = FolderStore(folder)
    assert index.stat().st_size > 500
    first.close()
    second = FolderStore(folder)
    assert second.usage().chunks == first.usage().chunks == 17
    read(second, *sample[1][0])


def test_folder_that_may_only_be_read(tmp_path: Path, sample: tuple[Path, list[list[Chunk]]]) -> None:
    folder = Path(shutil.copytree(sample[0], tmp_path / "store"))
    packs(folder)[0].with_suffix(".idx").unlink()
    packs(folder)[0].with_suffix(".idx").mkdir()  # cannot be written by anybody, not even by root
    read(FolderStore(folder), *sample[1][1])


def test_modes_are_private(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    store.put([noise(10)])
    store.commit("a", b"1")
    store.close()
    for path in [tmp_path / "store", *(tmp_path / "store").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_full_pack_is_followed_by_another(tmp_path: Path) -> None:
    store = FolderStore(tmp_path, pack_bytes=2 * CHUNK_BYTES)
    chunks = [noise(CHUNK_BYTES, n) for n in range(20)]
    store.put(chunks)
    store.commit("a", names(*chunks))
    assert len(packs(tmp_path)) > 1
    read(store, *chunks)
    store.close()
    verify(tmp_path)


def test_small_packs_become_one(tmp_path: Path) -> None:
    kept = []
    for n in range(20):
        store = FolderStore(tmp_path)
        store.put([noise(100, n)])
        kept.append(noise(100, n))
        store.commit(f"c{n}", names(noise(100, n)))
        store.close()
    store = FolderStore(tmp_path)
    assert store.collect(references).chunks == 0
    assert len(packs(tmp_path)) == 1
    read(store, *kept)
    store.close()
    verify(tmp_path)


def test_nothing_is_collected_while_a_writer_counts_on_it(tmp_path: Path) -> None:
    one, two = FolderStore(tmp_path), FolderStore(tmp_path)
    old, new = noise(1000, 1), noise(1000, 2)
    one.put([old])
    one.commit("a", names(old))
    one.forget("a")
    assert two.put([old, new]).chunks == 1  # counts on the old one
    with pytest.raises(StoreError, match="being written") as caught:
        one.collect(references)
    assert caught.value.retryable
    two.commit("b", names(old, new))
    assert one.collect(references).chunks == 0
    read(one, old, new)


def test_a_lease_that_was_abandoned_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = FolderStore(tmp_path), FolderStore(tmp_path)
    old, new = noise(1000, 1), noise(1000, 2)
    one.put([old])
    one.commit("a", b"")
    one.close()
    two.put([old, new])
    monkeypatch.setattr(lease, "LEASE_S", -1.0)
    assert one.collect(references).chunks == 1
    monkeypatch.undo()
    with pytest.raises(ChunkMissing):  # its commit would name what is gone
        two.commit("b", names(old, new))
    assert two.manifests() == ["a"]
    two.put([old, new])
    two.commit("b", names(old, new))
    read(one, old, new)


def test_lock_of_a_process_that_does_not_go_on_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session was suspended while it collected: who writes to the same store must not stand still with it."""
    store, other = FolderStore(tmp_path), lease.Leases(tmp_path)
    monkeypatch.setattr(lease, "LOCK_S", 0.1)
    with other.exclusive(), pytest.raises(StoreError, match="locked"):
        store.missing([b"x" * 32])
    assert store.missing([b"x" * 32])


def test_lease_ends_with_its_process(tmp_path: Path) -> None:
    code = "import os; from jupyter_gpuaas.store import FolderStore as F; f = F('.'); f.missing([]); os._exit(0)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30, cwd=tmp_path)
    assert list((tmp_path / "leases").iterdir())
    FolderStore(tmp_path).collect(references)


def test_forked_process_writes_to_a_pack_of_its_own(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    ours, theirs, after = noise(1000, 1), noise(2000, 2), noise(3000, 3)
    store.put([ours])
    child = os.fork()
    if not child:
        try:
            store.put([theirs, ours])
            store.commit("child", names(ours, theirs))
            store.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    store.put([after])
    store.commit("parent", names(ours, after))
    store.close()
    assert verify(tmp_path) == 2
    assert len(packs(tmp_path)) == 2


def test_disk_that_is_full_costs_nothing_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path)
    first = noise(5000, 1)
    store.put([first])
    store.commit("a", names(first))
    size = packs(tmp_path)[0].stat().st_size

    def full(file: int, buffers: list[memoryview], position: int) -> int:
        os.pwrite(file, b"half of it", position)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packwriter.os, "pwritev", full)
    with pytest.raises(QuotaReached, match="disk is full"):
        store.put([noise(5000, 2)])
    monkeypatch.undo()
    assert packs(tmp_path)[0].stat().st_size == size
    store.put([noise(5000, 3)])
    store.commit("b", names(noise(5000, 3)))
    store.close()
    assert verify(tmp_path) == 2


def test_fsync_that_fails_fails_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(tmp_path)
    first, second = noise(5000, 1), noise(5000, 2)
    store.put([first])
    store.commit("a", names(first))
    store.put([second])

    def fail(file: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(packwriter.os, "fdatasync", fail)
    with pytest.raises(StoreError, match="Input/output"):
        store.commit("b", names(second))
    monkeypatch.undo()
    with pytest.raises(ChunkMissing):  # nobody knows what of it is on the disk
        store.commit("b", names(second))
    assert store.manifests() == ["a"]
    store.put([second])
    store.commit("b", names(second))
    store.close()
    assert verify(tmp_path) == 2


def test_blob_is_cut_into_chunks(tmp_path: Path) -> None:
    data = random.Random(3).randbytes(2 * CHUNK_BYTES + 77)
    content, chunks = blob(data)
    assert content.size == len(data) and len(content.digests) == 3 * 32
    assert [len(part) for _, part in chunks] == [CHUNK_BYTES, CHUNK_BYTES, 77]
