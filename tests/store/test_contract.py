"""What every store does, over every store."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from jupyter_gpuaas.errors import ChunkMissing, NoSuchCheckpoint, QuotaReached, StaleEpoch, StoreError
from jupyter_gpuaas.store import CHUNK_BYTES, CachedStore, FolderStore, FsspecStore, MemoryStore, Store

Chunk = tuple[bytes, bytes]
Make = Callable[..., Store]


def chunk(data: bytes) -> Chunk:
    return blake3(data).digest(), data


def noise(size: int, seed: int = 0) -> Chunk:
    return chunk(random.Random(seed).randbytes(size))


def read(store: Store, *chunks: Chunk) -> None:
    """Fetch chunks and compare them."""
    memory = [bytearray(len(data)) for _, data in chunks]
    store.fetch([(digest, memoryview(into)) for (digest, _), into in zip(chunks, memory, strict=True)])
    for into, (_, data) in zip(memory, chunks, strict=True):
        assert into == data


def names(*chunks: Chunk) -> bytes:
    """A manifest for these tests: digests, one after the other."""
    return b"".join(digest for digest, _ in chunks)


def references(manifest: bytes) -> list[bytes]:
    return [manifest[at : at + 32] for at in range(0, len(manifest), 32)]


@pytest.fixture(scope="module")
def s3() -> Iterator[tuple[str, dict[str, object]]]:
    """URL of a bucket of an S3 server, and what fsspec needs to get at it."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"key": "k", "secret": "s", "endpoint_url": f"http://{host}:{port}"}
    s3fs.S3FileSystem(**options, skip_instance_cache=True).mkdir("bucket")
    yield "s3://bucket", options
    server.stop()


@pytest.fixture(params=["memory", "folder", "fsspec-memory", "fsspec-file", "s3", "cached"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Opens a store; each call gives the same place anew, where the store has one."""
    opened: list[Store] = []
    kind = request.param
    url, options = f"memory://{uuid.uuid4().hex}", {}
    if kind == "fsspec-file":
        url = f"file://{tmp_path}/store"
    elif kind == "s3":
        bucket, options = request.getfixturevalue("s3")
        url = f"{bucket}/{uuid.uuid4().hex}/prefix"

    def make_store(*, quota_bytes: int = 0) -> Store:
        store: Store
        if kind == "memory":
            store = MemoryStore(quota_bytes=quota_bytes)
        elif kind == "folder":
            store = FolderStore(tmp_path / "store", quota_bytes=quota_bytes)
        elif kind == "cached":
            near = FolderStore(tmp_path / f"near{len(opened)}")
            store = CachedStore(near, FolderStore(tmp_path / "store", quota_bytes=quota_bytes), near_bytes=CHUNK_BYTES)
        else:
            store = FsspecStore(url, options=options, quota_bytes=quota_bytes, pack_bytes=2 * CHUNK_BYTES)
        opened.append(store)
        return store

    yield make_store
    for store in opened:
        store.close()


@pytest.fixture
def store(make: Make) -> Store:
    return make()


SIZES = [0, 1, 31, 511, 512, 4096, 100_000, CHUNK_BYTES - 1, CHUNK_BYTES]


def test_fetch_gives_what_was_put(store: Store) -> None:
    chunks = [noise(size, size) for size in SIZES] + [chunk(b"abc" * (size // 3)) for size in SIZES[4:-1]]
    written = store.put(iter(chunks))
    assert written.chunks == len(chunks)
    assert written.new_bytes == sum(len(data) for _, data in chunks)
    read(store, *chunks)
    store.commit("one", names(*chunks))
    random.Random(1).shuffle(chunks)
    read(store, *chunks)


def test_put_of_a_known_chunk_writes_nothing(store: Store) -> None:
    one, two = noise(1000, 1), noise(1000, 2)
    store.put([one])
    again = store.put([one, two, two, one])
    assert (again.chunks, again.new_bytes) == (1, 1000)


def test_put_takes_any_buffer(store: Store) -> None:
    import numpy as np

    array = np.arange(1000, dtype=np.float64).reshape(10, 100)
    one = chunk(array.tobytes())
    store.put([(one[0], memoryview(array)), (noise(10)[0], bytearray(noise(10)[1]))])
    read(store, one, noise(10))
    into = np.zeros_like(array)
    store.fetch([(one[0], memoryview(into))])
    assert (into == array).all()


def test_what_compresses_takes_less(store: Store) -> None:
    if isinstance(store, MemoryStore):
        pytest.skip("memory is not compressed")
    written = store.put([chunk(bytes(CHUNK_BYTES))])
    assert written.stored_bytes < 1000 < written.new_bytes


def test_missing_tells_what_is_not_there(store: Store) -> None:
    one, two = noise(10, 1), noise(10, 2)
    store.put([one])
    assert store.missing([one[0], two[0]]) == {two[0]}
    with pytest.raises(ChunkMissing):
        read(store, one, two)


def test_fetch_of_one_chunk_to_many_places(store: Store) -> None:
    one = noise(5000)
    store.put([one])
    read(store, one, one, one)


def test_fetch_of_nothing(store: Store) -> None:
    store.fetch([])
    assert store.missing([]) == set()
    assert store.put([]).chunks == 0


def test_fetch_into_memory_of_another_length_is_refused(store: Store) -> None:
    one = noise(100)
    store.put([one])
    with pytest.raises(StoreError):
        store.fetch([(one[0], memoryview(bytearray(99)))])
    read(store, one)


def test_many_small_chunks(store: Store) -> None:
    chunks = [chunk(b"%d" % n) for n in range(5000)]
    store.put(iter(chunks))
    store.commit("many", b"")
    read(store, *chunks)
    read(store, *chunks[::7])


def test_manifests_are_listed_in_order_of_commit(store: Store) -> None:
    for name in ("z", "a", "m", "B_-9"):
        store.commit(name, name.encode())
    assert store.manifests() == ["z", "a", "m", "B_-9"]
    assert store.manifest("m") == b"m"
    store.commit("z", b"again")
    assert store.manifests() == ["a", "m", "B_-9", "z"]
    assert store.manifest("z") == b"again"


def test_forget(store: Store) -> None:
    store.commit("a", b"1")
    store.commit("b", b"2")
    store.forget("a")
    assert store.manifests() == ["b"]
    for act in (store.manifest, store.forget):
        with pytest.raises(NoSuchCheckpoint):
            act("a")


def test_rewriting_keeps_chunks_and_order(store: Store) -> None:
    one, two = noise(1000, 1), noise(1000, 2)
    store.put([one, two])
    store.commit("a", names(one, two))
    store.commit("b", b"")
    store.rewrite("a", names(two, one))
    assert store.manifest("a") == names(two, one)
    assert store.manifests() == ["a", "b"]
    assert store.collect(references).chunks == 0
    read(store, one, two)
    store.forget("a")
    with pytest.raises(NoSuchCheckpoint):
        store.rewrite("a", names(two, one))
    assert store.manifests() == ["b"]


@pytest.mark.parametrize("bad", ["", "..", "../a", "a/b", "a.b", "a" * 65, "ä", "a\n", "a\0"])
def test_bad_ids_are_refused(store: Store, bad: str) -> None:
    with pytest.raises(StoreError):
        store.commit(bad, b"1")
    for act in (store.manifest, store.forget):
        with pytest.raises(NoSuchCheckpoint):
            act(bad)
    assert store.manifests() == []


def test_collect_removes_what_no_manifest_needs(store: Store) -> None:
    keep = [noise(1000, n) for n in range(20)]
    drop = [noise(1000, 100 + n) for n in range(20)]
    for n in range(20):
        store.put([keep[n], drop[n]])
        store.commit(f"keep{n}", names(keep[n]))
        store.commit(f"drop{n}", names(drop[n]))
    assert store.collect(references).chunks == 0
    for n in range(20):
        store.forget(f"drop{n}")
    before = store.usage()
    freed = store.collect(references)
    assert freed.chunks == 20
    assert freed.stored_bytes > 10_000
    assert store.usage().chunks == before.chunks - 20
    assert store.usage().stored_bytes <= before.stored_bytes - 10_000
    read(store, *keep)
    assert store.missing(digest for digest, _ in keep + drop) == {digest for digest, _ in drop}
    store.commit("end", b"")
    for n in range(20):
        store.forget(f"keep{n}")
    store.collect(references)
    assert store.usage().chunks == 0


def test_collect_removes_nothing_when_references_raise(store: Store) -> None:
    one = noise(1000)
    store.put([one])
    store.commit("a", b"")

    def fail(manifest: bytes) -> list[bytes]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.collect(fail)
    read(store, one)


def test_references_may_fetch(store: Store) -> None:
    record, inner, other = noise(100, 1), noise(100, 2), noise(10_000, 3)
    store.put([record, inner, other])
    store.commit("a", names(record))

    def follow(manifest: bytes) -> list[bytes]:
        read(store, record)
        return [*references(manifest), inner[0]]

    assert store.collect(follow).chunks == 1
    read(store, record, inner)


def test_put_after_collect(store: Store) -> None:
    one, two = noise(1000, 1), noise(1000, 2)
    store.put([one])
    store.commit("a", b"")
    store.collect(references)
    store.put([one, two])
    store.commit("b", names(one, two))
    assert store.collect(references).chunks == 0
    read(store, one, two)


def test_quota_keeps_what_is_committed(make: Make) -> None:
    store = make(quota_bytes=3 * CHUNK_BYTES)
    first = [noise(CHUNK_BYTES, n) for n in range(2)]
    store.put(first)
    store.commit("a", names(*first))
    used = store.usage().stored_bytes
    with pytest.raises(QuotaReached):
        store.put(noise(CHUNK_BYTES, 10 + n) for n in range(20))
    assert store.usage().stored_bytes == used
    assert store.manifests() == ["a"]
    read(store, *first)
    small = noise(1000, 50)
    store.put([small])
    store.commit("b", names(*first, small))
    read(store, *first, small)
    store.forget("a")
    store.forget("b")
    store.collect(references)
    store.put(noise(CHUNK_BYTES, 30 + n) for n in range(2))
    store.commit("c", b"")


def test_usage_counts(store: Store) -> None:
    store.put([noise(10_000, 1), noise(20_000, 2)])
    store.commit("a", b"manifest")
    usage = store.usage()
    assert (usage.manifests, usage.chunks) == (1, 2)
    assert 30_000 <= usage.stored_bytes < 33_000


def test_what_was_committed_is_there_when_opened_again(make: Make) -> None:
    store = make()
    if isinstance(store, MemoryStore):
        pytest.skip("memory ends with its process")
    chunks = [noise(CHUNK_BYTES, 1), noise(10, 2), chunk(bytes(5000))]
    store.put(chunks)
    store.commit("a", names(*chunks))
    read(make(), *chunks)
    store.close()
    again = make()
    assert again.manifests() == ["a"]
    read(again, *chunks)
    assert again.put(chunks).chunks == 0


def test_one_store_sees_what_another_commits(make: Make) -> None:
    one, two = make(), make()
    if isinstance(one, MemoryStore):
        pytest.skip("memory is not shared")
    first, second = noise(1000, 1), noise(1000, 2)
    one.put([first])
    one.commit("a", names(first))
    read(two, first)
    assert two.put([first, second]).chunks == 1
    two.commit("b", names(first, second))
    read(one, first, second)
    assert one.manifests() == two.manifests() == ["a", "b"]


def test_threads(store: Store) -> None:
    chunks = [noise(50_000, n) for n in range(64)]
    failed: list[BaseException] = []

    def work(part: list[Chunk]) -> None:
        try:
            for one in part:
                store.put([one])
                read(store, one)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(chunks[n::4] + chunks[:8],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    store.commit("a", names(*chunks))
    read(store, *chunks)
    assert store.usage().chunks == 64


def test_commit_that_is_objected_to_is_not_there_and_the_next_is(store: Store) -> None:
    one, two = noise(1000, 1), noise(1000, 2)
    store.put([one])
    store.commit("a", names(one))
    seen: list[list[str]] = []

    def refuse(ids: Iterable[str]) -> None:
        seen.append(list(ids))
        raise StaleEpoch(1, 2)

    store.put([two])
    with pytest.raises(StaleEpoch):
        store.commit("b", names(two), unless=refuse)
    assert seen == [["a"]] and store.manifests() == ["a"]
    store.collect(references)  # nothing is being written any more
    store.put([two])
    store.commit("c", names(two), unless=lambda ids: None)
    assert store.manifests() == ["a", "c"]
    store.collect(references)
    read(store, one, two)
