"""A store whose files somebody has damaged or made up: an error of ours, never a wrong byte, never much memory."""

from __future__ import annotations

import os
import random
import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from blake3 import blake3

from jupyter_gpuaas.errors import (
    CheckpointError,
    ChunkCorrupt,
    ChunkMissing,
    ManifestError,
    NoSuchCheckpoint,
    StoreError,
)
from jupyter_gpuaas.store import CHUNK_BYTES, FolderStore, seal, validate
from jupyter_gpuaas.store.codec import RAW, ZSTD, Encoded
from jupyter_gpuaas.store.defects import TooLarge
from jupyter_gpuaas.store.pack import HEADER_BYTES, INDEX_HEADER, Place, index_batch, read_index
from jupyter_gpuaas.store.packwriter import PackWriter

KEY = b"k" * 32
CHUNKS = [random.Random(n).randbytes(60 + 50 * n) for n in range(3)] + [b"abc" * 400]
MANY_BYTES = 16 * 1024**2


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "store"
    store = FolderStore(folder)
    store.put((blake3(data).digest(), data) for data in CHUNKS)
    store.commit("one", b"manifest")
    store.close()
    return folder


@pytest.fixture
def folder(sample: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sample, tmp_path / "store"))


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Fails when much more memory was asked for than these small files need."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MANY_BYTES


def the(folder: Path, suffix: str) -> Path:
    (path,) = (folder / "packs").glob("*" + suffix)
    return path


def read_all(folder: Path) -> int:
    """How many chunks can be read; those that cannot must say so."""
    store = FolderStore(folder)
    good = 0
    for data in CHUNKS:
        into = bytearray(len(data))
        try:
            store.fetch([(blake3(data).digest(), memoryview(into))])
        except (ChunkCorrupt, ChunkMissing):
            continue
        assert into == data
        good += 1
    store.close()
    return good


def test_flipped_bit_anywhere_in_the_pack(folder: Path, little_memory: None) -> None:
    pack = the(folder, ".pack")
    whole = pack.read_bytes()
    for at in range(0, len(whole), 3):
        pack.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        assert read_all(folder) >= len(CHUNKS) - 1


def test_flipped_bit_anywhere_in_pack_without_index(folder: Path, little_memory: None) -> None:
    pack, index = the(folder, ".pack"), the(folder, ".idx")
    whole = pack.read_bytes()
    for at in range(0, len(whole), 5):
        pack.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        index.unlink(missing_ok=True)
        read_all(folder)


def test_flipped_bit_anywhere_in_the_index(folder: Path, little_memory: None) -> None:
    index = the(folder, ".idx")
    whole = index.read_bytes()
    for at in range(len(whole)):
        index.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        assert read_all(folder) == len(CHUNKS)


@pytest.mark.parametrize("suffix", [".pack", ".idx"])
def test_cut_anywhere(folder: Path, suffix: str) -> None:
    path = the(folder, suffix)
    whole = path.read_bytes()
    for size in range(0, len(whole), 2):
        path.write_bytes(whole[:size])
        good = read_all(folder)
        assert good == len(CHUNKS) or suffix == ".pack"


def test_manifest_with_any_flipped_bit_or_cut_is_refused() -> None:
    from tests.store.test_seal import MANIFEST

    whole = seal(MANIFEST, KEY)
    for at in range(len(whole)):
        for data in (whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :], whole[:at]):
            with pytest.raises(ManifestError):
                validate(data, KEY)


def test_swapped_chunks_are_noticed(folder: Path) -> None:
    """Heads and index exchange two digests, with checksums that hold."""
    the(folder, ".pack").unlink()
    the(folder, ".idx").unlink()
    digests = [blake3(data).digest() for data in CHUNKS]
    writer = PackWriter(folder / "packs")
    same = random.Random(9).randbytes(len(CHUNKS[0]))
    writer.append([Encoded(digests[0], RAW, len(same), same)])
    writer.sync()
    writer.close()
    store = FolderStore(folder)
    with pytest.raises(ChunkCorrupt):
        store.fetch([(digests[0], memoryview(bytearray(len(same))))])
    # It is not there, then: a good one is taken in.
    assert store.put([(digests[0], CHUNKS[0])]).chunks == 1
    into = bytearray(len(CHUNKS[0]))
    store.fetch([(digests[0], memoryview(into))])
    assert into == CHUNKS[0]


@pytest.fixture(scope="module")
def bombs() -> list[bytes]:
    """64 MiB of zeros in a few bytes: once with a frame that says so, once with one that says nothing."""
    zeros = bytes(64 * CHUNK_BYTES)
    frames = (zstandard.ZstdCompressor(write_content_size=announced).compress(zeros) for announced in (True, False))
    return [bytes(bytearray(frame)) for frame in frames]


@pytest.mark.parametrize("claimed", [10_000, CHUNK_BYTES])
def test_bomb_is_not_unpacked(folder: Path, bombs: list[bytes], little_memory: None, claimed: int) -> None:
    for bomb in bombs:
        assert len(bomb) < 10_000
        digest = blake3(bomb).digest()
        writer = PackWriter(folder / "packs")
        writer.append([Encoded(digest, ZSTD, claimed, bomb)])
        writer.sync()
        writer.close()
        with pytest.raises(ChunkCorrupt):
            FolderStore(folder).fetch([(digest, memoryview(bytearray(claimed)))])


@pytest.mark.parametrize(
    "place",
    [
        Place("", 2**60, 10, 10, RAW),
        Place("", HEADER_BYTES + 56, 2**31, 2**31, RAW),
        Place("", HEADER_BYTES + 56, 10, 2**31, ZSTD),
        Place("", 0, 10, 10, RAW),
        Place("", HEADER_BYTES + 56, 10, 10, 77),
        Place("", HEADER_BYTES + 56, 10, 11, RAW),
    ],
)
def test_index_with_impossible_places_is_not_believed(folder: Path, little_memory: None, place: Place) -> None:
    pack, index = the(folder, ".pack"), the(folder, ".idx")
    size = pack.stat().st_size
    data = INDEX_HEADER + index_batch([(blake3(CHUNKS[0]).digest(), place)], HEADER_BYTES, size)
    assert read_index("x", data, size)[0] == []
    index.write_bytes(data)
    assert read_all(folder) == len(CHUNKS)


def test_index_with_a_huge_count(folder: Path, little_memory: None) -> None:
    index = the(folder, ".idx")
    whole = bytearray(index.read_bytes())
    whole[20:24] = b"\xff" * 4
    index.write_bytes(whole)
    assert read_all(folder) == len(CHUNKS)


def test_index_that_points_to_the_wrong_chunk_is_seen_through(folder: Path) -> None:
    pack, index = the(folder, ".pack"), the(folder, ".idx")
    size = pack.stat().st_size
    entries, _, _ = read_index("x", index.read_bytes(), size)
    wrong = [(digest, entries[(n + 1) % len(entries)][1]) for n, (digest, _) in enumerate(entries)]
    index.write_bytes(INDEX_HEADER + index_batch(wrong, HEADER_BYTES, size))
    store = FolderStore(folder)
    for data in CHUNKS:
        with pytest.raises(StoreError):
            store.fetch([(blake3(data).digest(), memoryview(bytearray(len(data))))])


@pytest.mark.parametrize("bad", ["../one", "..", "/etc/passwd", "one/../one", "", "a.b", "x" * 65, "one\0"])
def test_no_id_leaves_the_folder(folder: Path, bad: str) -> None:
    store = FolderStore(folder)
    with pytest.raises(NoSuchCheckpoint):
        store.manifest(bad)
    with pytest.raises(NoSuchCheckpoint):
        store.forget(bad)
    with pytest.raises(CheckpointError):
        store.commit(bad, b"data")


def test_symbolic_links_are_not_followed(folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"not yours")
    (folder / "manifests" / "0000000000000009.evil").symlink_to(secret)
    pack = the(folder, ".pack")
    moved = pack.rename(tmp_path / "elsewhere.pack")
    pack.symlink_to(moved)
    the(folder, ".idx").unlink()
    (pack.with_suffix(".idx")).symlink_to(secret)
    store = FolderStore(folder)
    assert store.manifests() == ["one"]
    with pytest.raises(NoSuchCheckpoint):
        store.manifest("evil")
    assert store.usage().chunks == 0
    store.collect(lambda manifest: [])
    assert secret.read_bytes() == b"not yours"
    assert moved.exists()


def test_huge_manifest_is_not_read(folder: Path, little_memory: None) -> None:
    with open(folder / "manifests" / "0000000000000009.huge", "wb") as file:
        os.truncate(file.fileno(), 2**40)
    with pytest.raises(TooLarge):
        FolderStore(folder).manifest("huge")


def test_huge_and_strange_files_are_passed_over(folder: Path, little_memory: None) -> None:
    packs = folder / "packs"
    for name in ("x.pack", "a" * 32 + ".pack", "b" * 32 + ".idx", "notes.txt", "c" * 32):
        (packs / name).write_bytes(b"")
    with open(packs / ("d" * 32 + ".pack"), "wb") as file:
        os.truncate(file.fileno(), 2**40)
    os.mkfifo(packs / ("e" * 32 + ".pack"))
    assert read_all(folder) == len(CHUNKS)
