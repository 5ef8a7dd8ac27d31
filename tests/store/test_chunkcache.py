"""Chunks in memory in front of a far store."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import xxhash
from blake3 import blake3

from jupyter_gpuaas.errors import StoreError
from jupyter_gpuaas.store import CHUNK_BYTES, ChunkCache, MemoryStore

M = CHUNK_BYTES
Chunk = tuple[bytes, bytes]


class Far(MemoryStore):
    """Counts what is fetched from it."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[bytes] = []
        self.broken = False

    def fetch(self, wanted: Sequence[tuple[bytes, memoryview]]) -> None:
        if self.broken:
            raise StoreError("broken.")
        self.fetched += [digest for digest, _ in wanted]
        super().fetch(wanted)


def noise(size: int, seed: int = 0) -> Chunk:
    data = random.Random(seed).randbytes(size)
    return blake3(data).digest(), data


def sizes(chunks: Sequence[Chunk]) -> list[tuple[bytes, int]]:
    return [(digest, len(data)) for digest, data in chunks]


def read(cache: ChunkCache, *chunks: Chunk) -> None:
    memory = [bytearray(len(data)) for _, data in chunks]
    cache.fetch([(digest, memoryview(into)) for (digest, _), into in zip(chunks, memory, strict=True)])
    for into, (_, data) in zip(memory, chunks, strict=True):
        assert into == data


@pytest.fixture
def far() -> Far:
    return Far()


def filled(far: Far, *chunks: Chunk) -> list[Chunk]:
    far.put(chunks)
    return list(chunks)


def test_chunks_come_once_and_are_read_from_memory(far: Far) -> None:
    chunks = filled(far, *(noise(size, n) for n, size in enumerate([M, M, 0, 1, 100, M // 2, M // 2 + 1, M - 1, 7000])))
    cache = ChunkCache(far, most_bytes=64 * M)
    assert cache.keep(sizes(chunks)) == sum(len(data) for _, data in chunks)
    assert cache.keep(sizes(chunks) * 2) == 0
    assert sorted(far.fetched) == sorted(digest for digest, _ in chunks)
    read(cache, *chunks, *chunks)
    assert len(far.fetched) == len(chunks)
    assert all(cache.fast[digest] == xxhash.xxh3_128_digest(data) for digest, data in chunks)
    assert cache.missing([chunks[0][0], b"x" * 32]) == {b"x" * 32}


def test_what_is_not_here_comes_from_afar_and_is_not_kept(far: Far) -> None:
    one, two = filled(far, noise(M, 1), noise(M, 2))
    cache = ChunkCache(far, most_bytes=64 * M)
    cache.keep(sizes([one]))
    read(cache, one, two)
    read(cache, one, two)
    assert far.fetched == [one[0], two[0], two[0]]
    assert cache.fast[two[0]] == xxhash.xxh3_128_digest(two[1])
    assert not cache.has(two[0])


def test_it_takes_no_more_than_it_may(far: Far) -> None:
    chunks = filled(far, *(noise(M, n) for n in range(12)))
    cache = ChunkCache(far, most_bytes=9 * M, slab_bytes=4 * M)
    assert cache.keep(sizes(chunks)) == 8 * M
    assert cache.held_bytes == 8 * M
    read(cache, *chunks)
    cache.keep_only({digest for digest, _ in chunks[6:]})
    assert cache.held_bytes <= 8 * M
    assert cache.keep(sizes(chunks[6:])) == 4 * M
    assert all(cache.has(digest) for digest, _ in chunks[6:])
    read(cache, *chunks)
    assert ChunkCache(far, most_bytes=M).keep(sizes(chunks)) == 0


def test_memory_is_given_up_as_chunks_are_used(far: Far) -> None:
    chunks = filled(far, *(noise(M, n) for n in range(8)), noise(10, 20), noise(20, 21))
    cache = ChunkCache(far, most_bytes=64 * M, slab_bytes=2 * M)
    cache.keep(sizes(chunks))
    assert cache.held_bytes == 10 * M
    cache.give_up({digest: 1 for digest, _ in chunks[:7]} | {chunks[7][0]: 2})
    read(cache, *chunks[:4])
    assert cache.held_bytes == 6 * M
    read(cache, chunks[7])
    read(cache, *chunks[4:7])
    assert cache.has(chunks[7][0])
    read(cache, chunks[7], chunks[7])
    assert cache.held_bytes == 2 * M  # the small ones stay
    read(cache, *chunks[8:])
    far.fetched.clear()
    read(cache, chunks[0])  # once more than was said
    assert far.fetched == [chunks[0][0]]
    cache.clear()
    assert cache.held_bytes == 0 and not cache.fast


def test_slots_are_used_again(far: Far) -> None:
    randomly = random.Random(3)
    chunks = filled(far, *(noise(randomly.choice([M, M - 5, 40_000, 3, M // 3]), n) for n in range(60)))
    cache = ChunkCache(far, most_bytes=40 * M, slab_bytes=4 * M)
    for _ in range(30):
        some = randomly.sample(chunks, 20)
        cache.keep_only({digest for digest, _ in some})
        cache.keep(sizes(some))
        assert all(cache.has(digest) for digest, _ in some)
        assert cache.held_bytes <= 40 * M
        read(cache, *randomly.sample(chunks, 30))
    cache.keep_only(())
    assert cache.held_bytes == 0


def test_failure_keeps_what_was_there_and_nothing_else(far: Far) -> None:
    one, two = filled(far, noise(M, 1), noise(M, 2))
    cache = ChunkCache(far, most_bytes=64 * M, slab_bytes=M)
    cache.keep(sizes([one]))
    far.broken = True
    with pytest.raises(StoreError):
        cache.keep(sizes([two]))
    assert cache.held_bytes == M and cache.has(one[0]) and not cache.has(two[0])
    read(cache, one)
    far.broken = False
    assert cache.keep(sizes([two])) == M


def test_manifests_are_asked_for_once(far: Far) -> None:
    far.commit("a", b"1")
    cache = ChunkCache(far, most_bytes=0)
    assert cache.manifest("a") == b"1"
    far.forget("a")
    assert cache.manifest("a") == b"1"
    cache.close()
