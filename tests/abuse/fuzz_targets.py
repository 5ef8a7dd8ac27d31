"""What is fuzzed: each reader of bytes that come from elsewhere, with what it may raise, and sound bytes to begin with.

A target takes bytes and returns, or raises what its reader promises to raise; anything else is a finding. Where the
readers check a sum or a MAC first, a second target puts it right, so that what lies behind is reached, too.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import shutil
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import xxhash

from jupyter_gpuaas.errors import GpuaasError, ManifestError, RemoteProtocolError, StoreError, from_wire, to_wire
from jupyter_gpuaas.image.manifest import is_image, references, validate_image
from jupyter_gpuaas.image.shelf import Known, News, read_known, read_news
from jupyter_gpuaas.image.shelf import Part as ImagePart
from jupyter_gpuaas.model import Channel, Peer
from jupyter_gpuaas.node import http
from jupyter_gpuaas.node.journal import Journal
from jupyter_gpuaas.state.bundle import GroupHead, Head, Part, RegionHead, checked_head
from jupyter_gpuaas.store import FolderStore, blob, seal, seal_record, validate, validate_record
from jupyter_gpuaas.store.base import CHUNK_BYTES, DIGEST_BYTES
from jupyter_gpuaas.store.codec import decode as unpack
from jupyter_gpuaas.store.manifest import GroupEntry, GroupRecord, Manifest, Region, Span, Verdict, World
from jupyter_gpuaas.store.pack import INDEX_HEADER, PACK_HEADER, read_index, scan
from jupyter_gpuaas.wire import ticket
from jupyter_gpuaas.wire.channel import first_of_gap
from jupyter_gpuaas.wire.frames import PlainFrames
from jupyter_gpuaas.wire.jupyter import make_parts, read_header, read_json, read_route, split_frames
from jupyter_gpuaas.wire.record import CHECKED_HEAD, HEAD, Kind, Record, RecordReader, check, encode, skim
from jupyter_gpuaas.wire.transfer import CHUNK, END, ERROR, Incoming, PeerLink, error_frame, frame
from jupyter_gpuaas.wire.websocket import decode_binary, decode_text, decode_v1, encode_binary, encode_text, encode_v1

KEY = b"k" * 32
MOST_BYTES = 1 << 20
#: So often a reader of a journal may be asked before it has to be at an end.
MOST_READS = 10_000


class Target(NamedTuple):
    """One reader."""

    run: Callable[[bytes], None]
    seeds: list[bytes]


def _slices(data: bytes) -> list[bytes]:
    """The bytes cut up, in a way that they tell."""
    size = 1 + (data[0] if data else 0)
    return [data[start : start + size] for start in range(0, len(data), size)]


# -- records and channels ----------------------------------------------------------------------------------------


def record_stream(data: bytes) -> None:
    """Any slicing gives the same records, or the same refusal; what `check` finds sound is read whole."""
    whole, cut = _read(iter([data])), _read(iter(_slices(data)))
    assert whole == cut, (whole, cut)
    try:
        numbers = check(data, MOST_BYTES)
    except RemoteProtocolError:
        pass
    else:
        assert whole == (numbers, False)
    walked = [number for _, number, _ in skim(data)]
    assert len(walked) <= len(data) // HEAD.size


def _read(pieces: object) -> tuple[list[int], bool]:
    reader, numbers = RecordReader(MOST_BYTES), []
    for piece in pieces:  # type: ignore[attr-defined]
        try:
            for record in reader.feed(piece):
                numbers.append(record.number)
                assert sum(map(len, record.parts)) <= MOST_BYTES
        except RemoteProtocolError:
            # What came before it in the same piece is not handed out.
            return [], True
    return numbers, False


def sound_records(data: bytes) -> None:
    """Heads and tables of lengths as they come, with a checksum that is right."""
    if len(data) < 8:
        return
    kind, count, number = data[0], data[1] % 9, int.from_bytes(data[2:8], "little")
    body = data[8:]
    fields = CHECKED_HEAD.pack(b"GPR1", kind, 0, count, number, 0, len(body))
    made = fields + xxhash.xxh3_64(fields + body).intdigest().to_bytes(8, "little") + body
    record_stream(made)
    try:
        (record,) = RecordReader(MOST_BYTES).feed(made)
    except RemoteProtocolError:
        return
    _message(record)


def _message(record: Record) -> None:
    """What host and client do with the parts of a record."""
    for part in record.parts[:6]:
        for reader in (read_header, read_route, read_json):
            try:
                reader(part)
            except msgspec.DecodeError:
                continue
    try:
        first_of_gap(record)
    except RemoteProtocolError:
        pass
    try:
        split_frames(list(record.parts))
    except ValueError:
        pass


def jupyter_websocket(data: bytes) -> None:
    """The messages of a front end at the gateway."""
    for reader in (decode_v1, decode_binary, decode_text):
        try:
            channel, parts = reader(data)
        except RemoteProtocolError:
            continue
        assert len(parts) >= 4 and channel in ("shell", "control", "stdin")


def plain_frames(data: bytes) -> None:
    """Nothing of a WebSocket's bytes is doubled, invented or out of order between us and the library."""
    frames, at = PlainFrames(1 << 16), 0
    for piece in _slices(data):
        for _, part in frames.split(piece):
            at = data.index(bytes(part), at) + len(part)


def agent_request(data: bytes) -> None:
    """The head of a request at an agent, from a real socket."""

    async def ask() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.sendall(data[: 1 << 16])
            theirs.shutdown(socket.SHUT_WR)
            request = await http.read_request(ours)
            if request is not None:
                assert len(request.raw) + len(request.rest) <= len(data)
                assert request.raw.endswith((b"\r\n\r\n", b"\n\n", b"\n\r\n"))
                assert 0 <= request.length < 10**18 and isinstance(request.bearer, str)

    try:
        asyncio.run(ask())
    except RemoteProtocolError:
        pass


def shown_ticket(data: bytes) -> None:
    """A ticket that somebody made up is refused; whatever has a MAC that is right was ours."""
    text = data.decode("latin-1")
    try:
        ticket.check(text, "secret", session_id="a" * 32, epoch=1, now_s=0.0)
    except GpuaasError:
        return
    assert text == TICKET, "an invented ticket was accepted"


def told_error(data: bytes) -> None:
    """The body of a refusal."""
    try:
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return
    error = from_wire(body, status=500)
    assert isinstance(error, GpuaasError)
    str(error), to_wire(error)


def peer_answer(data: bytes) -> None:
    """What another node answers, from a real connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sending = threading.Thread(target=_say, args=(listener, data))
        sending.start()
        try:
            link = PeerLink(Peer(url=f"http://127.0.0.1:{listener.getsockname()[1]}/t", ticket="t"), timeout_s=10)
            try:
                link.ask("POST", "chunks")
                for _ in range(1000):
                    found = link.frame()
                    if found is None:
                        break
                    assert len(link.payload()) == found.length <= MOST_BYTES
            except GpuaasError:
                pass
            finally:
                link.close()
        finally:
            sending.join()


def _say(listener: socket.socket, data: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        try:
            Incoming(connection).line()
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass
        except OSError:
            pass


# -- what lies on disks ------------------------------------------------------------------------------------------


def journal_on_disk(data: bytes) -> None:
    """A journal's folder, with segments of which nothing is right: it opens, is read to its end, and goes on."""
    folder = Path(tempfile.mkdtemp(prefix="gpuaas-fuzz-", dir=_memory()))
    try:
        names = [1, 1 + data[-1] % 8 if data else 2]
        middle = len(data) // 2 if len(data) % 3 == 0 else len(data)
        for number, part in zip(names, (data[:middle], data[middle:]), strict=True):
            if part:
                (folder / f"{number:016d}.seg").write_bytes(part)
        journal = _opened(folder)
        before = journal.last
        _walk(journal, max(0, journal.first - 1))
        assert journal.append(Kind.IOPUB, 1, [b"more"]) == before + 1
        journal.flush(1)
        assert _walk(journal, before)[-1:] == [before + 1]
        assert _opened(folder).last == before + 1
    finally:
        shutil.rmtree(folder)


def journal_from_elsewhere(data: bytes) -> None:
    """Records that a former host has sent: appended whole, or not at all."""
    folder = Path(tempfile.mkdtemp(prefix="gpuaas-fuzz-", dir=_memory()))
    try:
        journal = _opened(folder)
        journal.extend(SOUND, 1)
        before = journal.last
        try:
            journal.extend(data, 1)
        except RemoteProtocolError:
            assert journal.last == before
        else:
            _walk(journal, journal.first - 1)
    finally:
        shutil.rmtree(folder)


def _opened(folder: Path) -> Journal:
    return Journal(folder, most_bytes=MOST_BYTES, segment_bytes=4096, message_bytes=1 << 18, memory_bytes=MOST_BYTES)


def _walk(journal: Journal, after: int) -> list[int]:
    """Numbers that a client gets."""
    reader, records = journal.reader(after), RecordReader(MOST_BYTES)
    numbers: list[int] = []
    for _ in range(MOST_READS):
        if reader.at_end:
            return numbers
        numbers += [record.number for record in records.feed(reader.read(512))]
    raise AssertionError(f"the reader stands at {reader.number} of {journal.written}")


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def manifest(data: bytes) -> None:
    """A manifest as it was found, and the same with a MAC that is right."""
    body = data[56:]
    envelope = struct.pack("<8sIIQ", b"GPUMNFT\n", 1, 0, len(body))
    mac = hmac.new(KEY, envelope + body, hashlib.sha256).digest()
    for made in (data, envelope + mac + body):
        try:
            validate(made, KEY)
        except ManifestError:
            continue


def image_manifest(data: bytes) -> None:
    """The same of a process image."""
    body = data[56:]
    envelope = struct.pack("<8sIIQ", b"GPUIMAG\n", 1, 0, len(body))
    mac = hmac.new(KEY, envelope + body, hashlib.sha256).digest()
    for made in (data, envelope + mac + body):
        is_image(made)
        for read in (references, lambda each: validate_image(each, KEY)):
            try:
                read(made)  # type: ignore[operator]
            except ManifestError:
                continue


def image_on_its_way(data: bytes) -> None:
    """What two hosts tell each other of a process image that is being made."""
    for read in (read_known, read_news):
        with suppress(RemoteProtocolError):
            read(data)


def group_record(data: bytes) -> None:
    """What a manifest names by its digest, so that only an owner's own program can have damaged it."""
    try:
        validate_record(data)
    except ManifestError:
        pass


def bundle_head(data: bytes) -> None:
    """The head of variables that are shipped with a cell."""
    try:
        checked_head(data, [len(data), 100, 0])
    except RemoteProtocolError:
        pass


def pack_and_index(data: bytes) -> None:
    """A pack is walked to where it stops being one; an index names nothing outside of its pack."""
    for made in (data, PACK_HEADER + data):
        for digest, place in scan("p", lambda at, most, made=made: made[at : at + most], 0, len(made)):  # type: ignore[misc]
            assert len(digest) == DIGEST_BYTES and place.end <= len(made) and place.raw_bytes <= CHUNK_BYTES
    for made in (data, INDEX_HEADER + data):
        entries, covered, good = read_index("p", made, len(made))
        assert good <= len(made) and covered <= max(len(made), 16)
        assert all(place.end <= len(made) for _, place in entries)


def packed_chunk(data: bytes) -> None:
    """A compressed chunk never unpacks to more than was said."""
    for said in (0, len(data), CHUNK_BYTES, CHUNK_BYTES + 1, 1 << 60):
        for codec in (0, 1):
            found = unpack(codec, data, said)
            assert found is None or len(found) == said


def store_on_disk(data: bytes) -> None:
    """A store with a damaged pack, index and manifest: what is asked for is whole, or an error of ours."""
    folder = Path(tempfile.mkdtemp(prefix="gpuaas-fuzz-", dir=_memory()))
    try:
        shutil.copytree(_store(), folder / "s")
        files = sorted(each for each in (folder / "s").rglob("*") if each.is_file() and each.stat().st_size)
        chosen = files[(data[0] if data else 0) % len(files)]
        chosen.write_bytes(data[1:])
        try:
            store = FolderStore(str(folder / "s"))
            try:
                for name in store.manifests():
                    try:
                        validate(store.manifest(name), KEY)
                    except ManifestError:
                        continue
                memory = bytearray(len(CONTENT))
                store.fetch([(blob(CONTENT)[1][0][0], memoryview(memory))])
                assert memory == CONTENT
            finally:
                store.close()
        except GpuaasError:
            pass
    finally:
        shutil.rmtree(folder)


_made: list[Path] = []
CONTENT = bytes(range(256)) * 40


def _store() -> Path:
    """A small store that is sound, made once."""
    if not _made:
        folder = Path(tempfile.mkdtemp(prefix="gpuaas-fuzz-sound-"))
        store = FolderStore(str(folder / "s"))
        store.put(blob(CONTENT)[1])
        store.commit("one", seal(MANIFEST, KEY))
        store.close()
        _made.append(folder / "s")
    return _made[0]


def forget_store() -> None:
    """Remove what `store_on_disk` has kept."""
    while _made:
        shutil.rmtree(_made.pop().parent)


# -- sound bytes -------------------------------------------------------------------------------------------------

MESSAGE = make_parts(b"me", "execute_request", b"{}", {"code": "1"})
SOUND = b"".join(b"".join(encode(Kind.IOPUB, number, 7, [*MESSAGE, b"buffer"])) for number in (1, 2, 3))  # type: ignore[arg-type]
LATER = b"".join(b"".join(encode(Kind.IOPUB, number, 7, MESSAGE)) for number in (4, 5))
NOTICE = b"".join(encode(Kind.NOTICE, 3, 7, [b'{"gap": true, "first": 1, "last": 3}']))
GROUP = GroupRecord(
    names=("a", "b"),
    stream=blob(b"stream")[0],
    regions=(Region(blob(bytes(80))[0], "cpu", ("ndarray", "<f8", (2, 5), "C")),),
    spans=(Span(0, 0, 80, False),),
    references=("C",),
)
MANIFEST = Manifest(
    id="one",
    parent="zero",
    created_s=12.5,
    world=World(python="cpython-3.11", platform="linux", packages={"numpy": "2.0"}),
    groups=(GroupEntry(("a", "b"), blob(seal_record(GROUP))[0]),),
    names={"a": Verdict("stored"), "b": Verdict("rebuilt", "how"), "d": Verdict("lost", "why")},
)
TICKET = ticket.issue("secret", session_id="a" * 32, epoch=1, user="ann", expires_s=time.time() + 1e9)
HTTP_OK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BUNDLE = msgspec.msgpack.encode(
    Head(
        groups=(GroupHead(("a",), 1, (RegionHead(100, ("device",), (Part(1, 0, 0, 100),)),), (Span(0, 0, 10, False),)),)
    )
)
NEWS = News(1, (ImagePart("0/pages-1.img", 3, bytes(DIGEST_BYTES)),), 1, True)

TARGETS = {
    "record_stream": Target(record_stream, [SOUND, LATER, NOTICE, SOUND[:60]]),
    "sound_records": Target(sound_records, [b"\x02\x02" + bytes(6) + struct.pack("<2Q", 2, 3) + b"{}[1]"]),
    "jupyter_websocket": Target(
        jupyter_websocket,
        [
            encode_v1(Channel.SHELL, MESSAGE[1:]),  # type: ignore[arg-type]
            encode_binary(Channel.SHELL, [*MESSAGE[1:], b"x"]),  # type: ignore[arg-type]
            encode_text(Channel.CONTROL, MESSAGE[1:]).encode(),  # type: ignore[arg-type]
        ],
    ),
    "plain_frames": Target(plain_frames, [b"HTTP/1.1 101 S\r\n\r\n\x82\x03abc\x01\x01{\x80\x01}\x89\x00"]),
    "agent_request": Target(
        agent_request,
        [
            b"GET /v1/node?a=b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\nContent-Length: 3\r\n\r\nabc",
            b"GET //[ HTTP/1.1\nHost: x\n\n",
        ],
    ),
    "shown_ticket": Target(shown_ticket, [TICKET.encode()]),
    "told_error": Target(told_error, [b'{"error":"StaleEpoch","message":"m","detail":{"offered":"x","current":2}}']),
    "peer_answer": Target(
        peer_answer,
        [
            HTTP_OK + b"".join(map(bytes, [*frame(CHUNK, b"abc"), *frame(ERROR, b"{}")])) + END,
            HTTP_OK + b"".join(map(bytes, error_frame(StoreError("why")))) + END,
            b"HTTP/1.1 409 C\r\nContent-Length: 2\r\n\r\n{}",
        ],
    ),
    "journal_on_disk": Target(journal_on_disk, [SOUND, SOUND + LATER, SOUND + b"\0" * 40, LATER]),
    "journal_from_elsewhere": Target(journal_from_elsewhere, [LATER, SOUND]),
    "manifest": Target(manifest, [seal(MANIFEST, KEY)]),
    "image_manifest": Target(image_manifest, [b"GPUIMAG\n" + seal(MANIFEST, KEY)[8:]]),
    "image_on_its_way": Target(image_on_its_way, [msgspec.msgpack.encode(made) for made in (Known(1, 2), NEWS)]),
    "group_record": Target(group_record, [seal_record(GROUP)]),
    "bundle_head": Target(bundle_head, [BUNDLE]),
    "pack_and_index": Target(pack_and_index, [PACK_HEADER, INDEX_HEADER]),
    "packed_chunk": Target(packed_chunk, [b"\x28\xb5\x2f\xfd" + bytes(16)]),
    "store_on_disk": Target(store_on_disk, [b"\0" + PACK_HEADER, b"\1" + INDEX_HEADER]),
}
