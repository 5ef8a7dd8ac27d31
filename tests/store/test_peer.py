"""Chunks and manifests from another host, with a real one on loopback and with ones that do what they must not."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy
import pytest
import xxhash
from blake3 import blake3

from jupyter_gpuaas.errors import (
    ChunkCorrupt,
    ChunkMissing,
    ManifestError,
    NoSuchCheckpoint,
    NoSuchSession,
    RemoteProtocolError,
    StoreError,
    TransportError,
)
from jupyter_gpuaas.model import CheckpointPlan, Peer
from jupyter_gpuaas.node import transfer as transfer_module
from jupyter_gpuaas.state.checkpointer import Checkpoint, Checkpointer
from jupyter_gpuaas.state.listing import owners_address
from jupyter_gpuaas.store import CHUNK_BYTES, ChunkCache, FolderStore, MemoryStore, PeerStore, open_store
from jupyter_gpuaas.store import peer as peer_module
from jupyter_gpuaas.wire.transfer import CHUNK, END, ERROR, FRAME_BYTES, Incoming, PeerLink, frame, send
from tests.peers import Source

KEY = "ab" * 32


class Given:
    """A store with checkpoints of one session, and the host that gives them away."""

    def __init__(self, folder: Path) -> None:
        self.plan = CheckpointPlan(store=str(folder), key=KEY, owner="ann")
        self.store = FolderStore(owners_address(self.plan.store, "ann"))
        self.source = Source(self.plan)

    def capture(self, session: str = "s", **names: object) -> Checkpoint:
        checkpointer = Checkpointer(self.store, key=bytes.fromhex(KEY), session=session)
        return checkpointer.capture({"__name__": "__main__", **names})


@pytest.fixture
def given(tmp_path: Path) -> Iterator[Given]:
    made = Given(tmp_path / "store")
    yield made
    made.source.close()
    made.store.close()


@pytest.fixture
def near(given: Given) -> Iterator[PeerStore]:
    store = PeerStore(given.source.peer, timeout_s=20)
    yield store
    store.close()


def noise(size: int, seed: int = 0) -> numpy.ndarray:
    return numpy.random.default_rng(seed).integers(0, 255, size, dtype=numpy.uint8)


def owned(data: bytes) -> numpy.ndarray:
    """An array that owns its memory, which is kept as chunks of these bytes."""
    return numpy.frombuffer(data, "u1").copy()


def wanted(data: bytes) -> tuple[list[tuple[bytes, memoryview]], bytearray]:
    """What brings these bytes, cut into chunks."""
    memory = bytearray(len(data))
    asked = []
    for start in range(0, len(data), CHUNK_BYTES):
        part = data[start : start + CHUNK_BYTES]
        asked.append((blake3(part).digest(), memoryview(memory)[start : start + len(part)]))
    return asked, memory


# -- what a store does ---------------------------------------------------------------------------------------------


def test_checkpoint_is_restored_from_the_peer(given: Given, near: PeerStore) -> None:
    array = noise(20 * CHUNK_BYTES + 17)
    small = {f"n{n}": list(range(n)) for n in range(50)}
    checkpoint = given.capture(array=array, view=array[5:], zeros=numpy.zeros(3 * CHUNK_BYTES, "u1"), **small)
    found = Checkpointer(near, key=bytes.fromhex(KEY)).restore(checkpoint.id).namespace
    assert (found["array"] == array).all() and found["view"].base is found["array"]
    assert not found["zeros"].any()
    assert all(found[name] == value for name, value in small.items())
    assert 20 * CHUNK_BYTES < near.sent_bytes < 22 * CHUNK_BYTES


def test_chunks_go_where_they_are_wanted(given: Given, near: PeerStore) -> None:
    data = noise(30 * CHUNK_BYTES + 1).tobytes()
    near.manifest(given.capture(array=owned(data)).id)
    asked, memory = wanted(data)
    copies = [bytearray(CHUNK_BYTES) for _ in range(2)]
    near.fetch([*asked, *((asked[0][0], memoryview(copy)) for copy in copies)])
    assert memory == data and copies[0] == copies[1] == data[:CHUNK_BYTES]
    into = numpy.zeros((CHUNK_BYTES // 8, 2), "f4")
    near.fetch([(asked[1][0], memoryview(into))])
    assert into.tobytes() == data[CHUNK_BYTES : 2 * CHUNK_BYTES]
    near.fetch([])


def test_fast_digests_are_made_where_chunks_arrive(given: Given) -> None:
    data = noise(30 * CHUNK_BYTES + 1).tobytes()
    cache = ChunkCache(MemoryStore(), most_bytes=0)
    near = PeerStore(given.source.peer, timeout_s=20, came=cache.came)
    near.manifest(given.capture(array=owned(data)).id)
    asked, memory = wanted(data)
    near.fetch(asked)
    near.close()
    assert memory == data and cache.fast == {digest: xxhash.xxh3_128_digest(part) for digest, part in asked}


def test_missing_tells_what_the_peer_does_not_give(given: Given, near: PeerStore) -> None:
    data = noise(2 * CHUNK_BYTES).tobytes()
    checkpoint = given.capture(array=owned(data))
    asked = [digest for digest, _ in wanted(data)[0]]
    other = blake3(b"other").digest()
    assert near.missing([*asked, other]) == {*asked, other}  # not before a manifest was asked for
    near.manifest(checkpoint.id)
    assert near.missing([*asked, other, other]) == {other}
    assert near.missing([]) == set()
    memory = bytearray(5)
    with pytest.raises(ChunkMissing, match=other.hex()):
        near.fetch([*wanted(data)[0], (other, memoryview(memory))])


def test_manifest_that_is_not_there(near: PeerStore) -> None:
    for name in ("nothing", "", "..", "../a", "a/b", "a b", "ä", "a\r\nHost: b", "a" * 65):
        with pytest.raises(NoSuchCheckpoint):
            near.manifest(name)


def test_memory_of_another_length_is_refused(given: Given, near: PeerStore) -> None:
    data = noise(100).tobytes()
    near.manifest(given.capture(array=owned(data)).id)
    digest = blake3(data).digest()
    with pytest.raises(ChunkCorrupt):
        near.fetch([(digest, memoryview(bytearray(99)))])
    with pytest.raises(ChunkCorrupt):
        near.fetch([(digest, memoryview(bytearray(100))), (digest, memoryview(bytearray(99)))])
    into = bytearray(100)
    near.fetch([(digest, memoryview(into))])
    assert into == data


def test_only_reading(near: PeerStore) -> None:
    for act in (
        lambda: near.put([]),
        lambda: near.commit("a", b""),
        near.manifests,
        near.usage,
        lambda: near.forget("a"),
        lambda: near.collect(lambda manifest: ()),
    ):
        with pytest.raises(StoreError):
            act()


def test_several_threads_use_one_store(given: Given, near: PeerStore) -> None:
    data = noise(24 * CHUNK_BYTES).tobytes()
    near.manifest(given.capture(array=owned(data)).id)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            asked, memory = wanted(data)
            near.fetch(asked)
            assert memory == data
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_requests_share_connections(given: Given, near: PeerStore) -> None:
    checkpoint = given.capture(a=noise(CHUNK_BYTES), b=1)
    for _ in range(5):
        near.manifest(checkpoint.id)
        near.missing([b"0" * 32])
    assert len(given.source.opened) == 1


def test_what_compresses_is_packed_for_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a store that has no packs; those of packs go as they lie."""
    monkeypatch.setattr(transfer_module, "_on_this_machine", lambda connection: False)
    for address in (str(tmp_path / "folder"), f"file://{tmp_path / 'objects'}"):
        plan = CheckpointPlan(store=address, key=KEY, owner="ann")
        store, source = open_store(owners_address(address, "ann")), Source(plan)
        near = PeerStore(source.peer, timeout_s=20)
        try:
            words = numpy.tile(numpy.arange(64, dtype="u1"), 8 * CHUNK_BYTES // 64)
            capturing = Checkpointer(store, key=bytes.fromhex(KEY), session="s")
            checkpoint = capturing.capture({"__name__": "__main__", "words": words, "noise": noise(CHUNK_BYTES)})
            found = Checkpointer(near, key=bytes.fromhex(KEY)).restore(checkpoint.id).namespace
            assert (found["words"] == words).all() and (found["noise"] == noise(CHUNK_BYTES)).all()
            assert CHUNK_BYTES < near.sent_bytes < 2 * CHUNK_BYTES
        finally:
            near.close()
            source.close()
            store.close()


def test_large_and_small_chunks_of_a_pack_come_in_the_order_asked_for(given: Given, near: PeerStore) -> None:
    parts = [noise(size, size).tobytes() for size in (1000, CHUNK_BYTES, 70_000, 17, 64 * 1024, 64 * 1024 - 1, 300_000)]
    near.manifest(given.capture(**{f"part{n}": owned(part) for n, part in enumerate(parts)}).id)
    asked = [(blake3(part).digest(), memoryview(bytearray(len(part)))) for part in reversed(parts)]
    near.fetch(asked)
    assert [bytes(memory) for _, memory in asked] == parts[::-1]


def test_chunk_that_is_damaged_where_it_lies_is_not_taken(given: Given, near: PeerStore) -> None:
    data = noise(2 * CHUNK_BYTES).tobytes()
    near.manifest(given.capture(array=owned(data)).id)
    for path in (Path(owners_address(given.plan.store, "ann")) / "packs").glob("*.pack"):
        content = bytearray(path.read_bytes())
        if (at := content.find(data[:64])) >= 0:
            content[at + 4711] ^= 1
            path.write_bytes(content)
    asked, memory = wanted(data)
    with pytest.raises(ChunkCorrupt):
        near.fetch(asked)
    near.fetch(asked[1:])
    assert memory[CHUNK_BYTES:] == data[CHUNK_BYTES:]


def test_chunks_come_out_of_the_pack_that_they_were_brought_to_meanwhile(given: Given, near: PeerStore) -> None:
    data = noise(2 * CHUNK_BYTES).tobytes()
    first = given.capture(gone=noise(6 * CHUNK_BYTES, 1), array=owned(data))
    near.manifest(first.id)
    near.fetch(wanted(data)[0])  # the source knows the pack by now
    near.manifest(given.capture(array=owned(data)).id)
    folder = Path(owners_address(given.plan.store, "ann")) / "packs"
    (pack,) = (path for path in folder.glob("*.pack") if data[:64] in path.read_bytes())
    given.store.forget(first.id)
    given.store.close()  # what it writes to stays where it is
    Checkpointer(given.store, key=bytes.fromhex(KEY), session="s").collect()
    assert not pack.exists()
    asked, memory = wanted(data)
    near.fetch(asked)
    assert memory == data


# -- whose they are ------------------------------------------------------------------------------------------------


def test_checkpoints_of_the_owners_other_sessions_are_not_given(given: Given, near: PeerStore) -> None:
    data = noise(1000).tobytes()
    other = given.capture("t", array=owned(data))
    given.capture(mine=1)
    with pytest.raises(NoSuchCheckpoint):
        near.manifest(other.id)
    with pytest.raises(ChunkMissing):
        near.fetch(wanted(data)[0])


def test_session_without_checkpoints_gives_none() -> None:
    source = Source(None)
    try:
        store = PeerStore(source.peer)
        with pytest.raises(NoSuchCheckpoint):
            store.manifest("a")
        store.close()
    finally:
        source.close()


def test_manifest_of_another_key_is_not_given(given: Given, near: PeerStore) -> None:
    forged = Checkpointer(given.store, key=b"c" * 32, session="s").capture({"a": 1})
    with pytest.raises(ManifestError):
        near.manifest(forged.id)


# -- connections that break ----------------------------------------------------------------------------------------


class Cut:
    """Ends connections after so many bytes, between the peer and its host."""

    def __init__(self, source: Source, after: list[int]) -> None:
        self.after = after
        self.cuts = 0
        self._target = source._listener.getsockname()
        self.source = Source(None, meddle=self._relay)
        self.peer = msgspec.structs.replace(
            self.source.peer, url=f"http://127.0.0.1:{self.source._listener.getsockname()[1]}/v1/sessions/s/transfer"
        )

    def _relay(self, near: socket.socket) -> bool:
        left = self.after.pop(0) if self.after else 1 << 60
        with near, socket.create_connection(self._target) as far:
            forward = threading.Thread(target=_pump, args=(near, far, 1 << 60))
            forward.start()
            if not _pump(far, near, left):
                self.cuts += 1
            for each in (near, far):
                try:
                    each.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            forward.join()
        return True


def _pump(source: socket.socket, target: socket.socket, most: int) -> bool:
    try:
        while most and (data := source.recv(min(most, 65536))):
            target.sendall(data)
            most -= len(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return True
    return bool(most)


@pytest.mark.parametrize("after", [[0], [10], [150], [3 * CHUNK_BYTES], [CHUNK_BYTES, 5, 2 * CHUNK_BYTES, 150]])
def test_broken_connection_goes_on_with_what_is_lacking(given: Given, after: list[int]) -> None:
    data = noise(24 * CHUNK_BYTES + 5).tobytes()
    checkpoint = given.capture(array=owned(data))
    cut = Cut(given.source, list(after))
    store = PeerStore(cut.peer, timeout_s=20)
    try:
        store.manifest(checkpoint.id)
        asked, memory = wanted(data)
        store.fetch(asked)
        assert memory == data
        assert cut.cuts == len(after)
        assert store.sent_bytes < len(data) + (len(after) + 1) * 2 * CHUNK_BYTES  # nothing but the chunk cut
    finally:
        store.close()
        cut.source.close()


def test_peer_that_is_gone_is_an_error_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "_PAUSE_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    store = PeerStore(Peer(url=f"http://127.0.0.1:{port}/v1/sessions/s/transfer", ticket="t"))
    with pytest.raises(TransportError, match=str(port)):
        store.manifest("a")
    asked, _ = wanted(bytes(noise(20 * CHUNK_BYTES)))
    with pytest.raises(TransportError):
        store.fetch(asked)
    for url in ("https://127.0.0.1:1/", "ftp://x", "", "http://"):
        with pytest.raises(TransportError):
            PeerStore(Peer(url=url, ticket="t")).manifest("a")
    assert "secret" not in repr(Peer(url="http://x", ticket="secret"))


def test_host_that_ends_ends_its_connections(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "_PAUSE_S", 0.0)
    checkpoint = given.capture(a=1)
    store = PeerStore(given.source.peer)
    store.manifest(checkpoint.id)
    given.source.close()
    with pytest.raises(TransportError):
        store.manifest(checkpoint.id)
    store.close()


# -- peers that do what they must not ------------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
DATA = bytes(range(256)) * 4
DIGEST = blake3(DATA).digest()


def answers(*parts: bytes) -> Callable[[socket.socket], bool]:
    """Answers the first request of each connection with these bytes and ends."""

    def meddle(connection: socket.socket) -> bool:
        with connection:
            incoming = Incoming(connection)
            length = 0
            while line := incoming.line():
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            incoming.exactly(length)
            try:
                connection.sendall(b"".join(parts))
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)
            except OSError:
                pass
        return True

    return meddle


def chunk(payload: bytes, raw_bytes: int | None = None, codec: int = 0, kind: int = CHUNK) -> bytes:
    return b"".join(frame(kind, payload, codec=codec, raw_bytes=len(payload) if raw_bytes is None else raw_bytes))


EVIL = {
    "other content": (OK + chunk(b"x" * 1024) + END, ChunkCorrupt),
    "shorter": (OK + chunk(DATA[:-1]) + END, ChunkCorrupt),
    "longer": (OK + chunk(DATA + b"x") + END, ChunkCorrupt),
    "frame shorter than it says": (OK + chunk(DATA[:-1], 1024) + END, ChunkCorrupt),
    "frame longer than it says": (OK + chunk(DATA + b"x", 1024) + END, ChunkCorrupt),
    "no frame of zstd": (OK + chunk(b"nonsense", 1024, 1) + END, ChunkCorrupt),
    "unknown codec": (OK + chunk(b"nonsense", 1024, 9) + END, ChunkCorrupt),
    "unknown kind": (OK + chunk(DATA, kind=77) + END, RemoteProtocolError),
    "no chunks": (OK + END, RemoteProtocolError),
    "too many chunks": (OK + chunk(DATA) + chunk(DATA) + END, RemoteProtocolError),
    "huge frame": (OK + b"%x\r\n" % (FRAME_BYTES + 1), RemoteProtocolError),
    "negative frame": (OK + b"-1\r\n", RemoteProtocolError),
    "frame without a length": (OK + b"zz\r\n", RemoteProtocolError),
    "endless line": (OK + b"0" * 100_000, RemoteProtocolError),
    "one piece": (b"HTTP/1.1 200 OK\r\nContent-Length: 1024\r\n\r\n" + DATA, RemoteProtocolError),
    "no length": (b"HTTP/1.1 200 OK\r\n\r\n" + DATA, RemoteProtocolError),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n\r\n", RemoteProtocolError),
    "endless head": (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 10_000, RemoteProtocolError),
    "refusal without words": (b"HTTP/1.1 500 X\r\nContent-Length: 3\r\n\r\nxyz", RemoteProtocolError),
    "refusal without an end": (b"HTTP/1.1 500 X\r\nContent-Length: 9999999999\r\n\r\nxyz", TransportError),
    "error in a frame": (
        OK + chunk(b'{"error": "ChunkMissing", "message": "gone"}', 0, kind=ERROR) + END,
        ChunkMissing,
    ),
    "nonsense in an error": (OK + chunk(b"[1]", 0, kind=ERROR) + END, RemoteProtocolError),
}


@pytest.mark.parametrize("kind", EVIL)
def test_evil_peer_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "_PAUSE_S", 0.0)
    data, error = EVIL[kind]
    source = Source(None, meddle=answers(data))
    store = PeerStore(source.peer, timeout_s=20)
    try:
        with pytest.raises(error):
            store.fetch([(DIGEST, memoryview(bytearray(1024)))])
        assert not store._idle  # nothing goes on over a connection that did so
    finally:
        store.close()
        source.close()


def test_manifest_larger_than_any_is_not_read() -> None:
    source = Source(None, meddle=answers(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"))
    store = PeerStore(source.peer, timeout_s=20)
    try:
        with pytest.raises(RemoteProtocolError):
            store.manifest("a")
    finally:
        store.close()
        source.close()


def test_interrupt_ends_a_fetch_and_leaves_memory_alone(given: Given) -> None:
    data = noise(24 * CHUNK_BYTES).tobytes()
    checkpoint = given.capture(array=owned(data))
    store = PeerStore(given.source.peer, timeout_s=20)
    store.manifest(checkpoint.id)
    waiting, went_on = threading.Event(), threading.Event()

    class Interrupting(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            if timeout is not None and not waiting.is_set():
                waiting.set()
                raise KeyboardInterrupt
            super().join(timeout)
            went_on.set()

    asked, _ = wanted(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peer_module.threading, "Thread", Interrupting)
        with pytest.raises(KeyboardInterrupt):
            store.fetch(asked)
    assert went_on.is_set()  # no thread writes to the caller's memory any more
    store.close()


# -- requests that are not served ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "name", "body"),
    [
        ("GET", "journal", b""),
        ("GET", "handover", b""),
        ("DELETE", "chunks", b""),
        ("POST", "chunks", b"x" * 31),
        ("POST", "chunks", b"x" * 32 * (peer_module.REQUEST_CHUNKS + 1)),
        ("POST", "missing", b"x" * 33),
        ("GET", "manifest/a/b", b""),
        ("GET", "manifest/..", b""),
        ("GET", "", b""),
    ],
)
def test_other_requests_are_refused(given: Given, method: str, name: str, body: bytes) -> None:
    link = PeerLink(given.source.peer, timeout_s=20)
    with pytest.raises((RemoteProtocolError, NoSuchCheckpoint, NoSuchSession, TransportError)):
        link.ask(method, name, body)
    link.close()


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET /v1/elsewhere HTTP/1.1\r\n\r\n",
        b"POST /v1/sessions/s/transfer/chunks HTTP/1.1\r\nContent-Length: many\r\n\r\n",
        b"GET /v1/sessions/s/transfer/manifest/a HTTP/1.1\r\n" + b"a: b\r\n" * 10_000 + b"\r\n",
        b"x" * 100_000,
    ],
)
def test_nonsense_on_a_kept_connection_ends_it(given: Given, data: bytes) -> None:
    link = PeerLink(given.source.peer, timeout_s=20)
    link.ask("POST", "missing")
    link.whole(0)
    try:
        send(link._connection, [data])
        answer = b""
        while more := link._connection.recv(65536):
            answer += more
        assert answer.startswith(b"HTTP/1.1 4")
    except ConnectionError:
        pass  # it was ended before all of the nonsense had been taken
    link.close()


def test_connections_are_bounded(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer_module, "MOST_CONNECTIONS", 2)
    links = [PeerLink(given.source.peer, timeout_s=20) for _ in range(3)]
    for link in links[:2]:
        link.ask("POST", "missing")
        link.whole(0)
    with pytest.raises(TransportError, match="as many"):
        links[2].ask("POST", "missing")
    for link in links:
        link.close()


def test_random_requests_never_hang(given: Given) -> None:
    randomly = random.Random(7)
    for _ in range(30):
        with socket.create_connection(given.source._listener.getsockname(), timeout=20) as connection:
            head = b"POST /v1/sessions/s/transfer/chunks HTTP/1.1\r\nContent-Length: 64\r\n\r\n"
            data = bytearray(head + randomly.randbytes(64))
            data[randomly.randrange(len(data))] = randomly.randrange(256)
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
            except ConnectionError:
                pass
