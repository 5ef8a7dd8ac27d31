"""A store at any fsspec URL: packs, their indexes and manifests as objects."""

from __future__ import annotations

import itertools
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from ..errors import ChunkCorrupt, ChunkMissing, QuotaReached, StoreError
from .base import CHUNK_BYTES, DIGEST_BYTES, Buffer, Freed, Objection, Usage, Written, no_objection
from .codec import Encoded, decode, encode, matches
from .defects import TooLarge
from .manifests import MANIFEST_BYTES, check_manifest, file_name, no_such, parse_name
from .objects import Objects
from .pack import HEAD_BYTES, INDEX_HEADER, PACK_HEADER, Entry, Place, head, index_batch
from .reading import Wanted, neighbours, settle
from .remote_lease import RemoteLease, collecting
from .remote_shelf import RemoteShelf, index_path, pack_path

#: A pack is kept in memory until it is so large, then sent.
PACK_BYTES = 32 * 1024**2
#: Packs on their way at the same time, and ranges asked for at the same time.
_UPLOADS = 4
_DOWNLOADS = 8
_RUN_BYTES = 8 * 1024**2
_GAP_BYTES = 256 * 1024


class _Building:
    """The pack that is being filled."""

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex
        self.data = bytearray(PACK_HEADER)
        self.entries: list[Entry] = []

    def add(self, chunk: Encoded) -> Entry:
        self.data += head(chunk)
        place = Place(self.name, len(self.data), len(chunk.payload), chunk.raw_bytes, chunk.codec)
        self.data += chunk.payload
        self.entries.append((chunk.digest, place))
        return self.entries[-1]

    def cut(self, size: int) -> None:
        del self.data[size:]
        self.entries = [entry for entry in self.entries if entry[1].offset < size]


class FsspecStore:
    """Checkpoints at a URL such as ``s3://bucket/prefix``; fsspec and its package for the scheme must be installed.

    Any number of machines may use one URL, whose clocks should be less than a few minutes apart. As with a folder,
    what one object is given between two commits belongs to one checkpoint.

    Parameters
    ----------
    options
        Of fsspec for this URL: endpoint, credentials and so on.
    quota_bytes
        How large all objects may become together; 0 for no limit.
    """

    def __init__(
        self, url: str, *, options: Mapping[str, Any] | None = None, quota_bytes: int = 0, pack_bytes: int = PACK_BYTES
    ) -> None:
        self._options = dict(options or {})
        self._quota_bytes = quota_bytes
        self._pack_bytes = pack_bytes
        self.url = url
        self._open()

    def _open(self) -> None:
        self._pid = os.getpid()
        self._objects = Objects(self.url, self._options)
        # Taken in this order. The second guards what a fetch looks at, and is not held while anything is waited for.
        self._writing = threading.RLock()
        self._seeing = threading.RLock()
        self._shelf = RemoteShelf(self._objects)
        self._shelf.sync()
        self._lease: RemoteLease | None = None
        self._relied: set[bytes] = set()
        self._building: _Building | None = None
        #: Packs that are on their way; their bytes are read from here until they have arrived.
        self._sending: dict[str, tuple[_Building, Future[None]]] = {}
        self._uploads = ThreadPoolExecutor(_UPLOADS, "gpuaas-upload")
        self._used_bytes = 0

    # -- the protocol -------------------------------------------------------------------------------------------

    def missing(self, digests: Iterable[bytes]) -> set[bytes]:
        wanted = set(digests)
        with self._locked():
            self._begin()
            absent = {digest for digest in wanted if digest not in self._shelf.places}
            self._relied |= wanted - absent
            return absent

    def put(self, chunks: Iterable[tuple[bytes, Buffer]]) -> Written:
        done = Written()
        with self._locked():
            self._begin()
            new: list[Entry] = []
            try:
                for digest, data in chunks:
                    data = memoryview(data).cast("B")
                    if len(digest) != DIGEST_BYTES or len(data) > CHUNK_BYTES:
                        raise StoreError(f"no chunk: a digest of {len(digest)} bytes, {len(data)} bytes of content.")
                    self._relied.add(digest)
                    if digest not in self._shelf.places:
                        new.append(self._append(encode(digest, data), done))
            except QuotaReached:
                self._take_back(new)
                raise
        return done

    def fetch(self, wanted: Sequence[tuple[bytes, memoryview]]) -> None:
        targets: dict[bytes, list[memoryview]] = {}
        for digest, memory in wanted:
            targets.setdefault(digest, []).append(memory.cast("B"))
        first = {digest: memories[0] for digest, memories in targets.items()}
        damaged_ever: set[bytes] = set()
        for attempt in itertools.count():
            damaged, gone = self._read(self._locate(first, damaged_ever, deep=attempt > 0))
            if not damaged and not gone:
                break
            with self._seeing:
                self._shelf.distrust(item.place for item in damaged)
            damaged_ever.update(item.digest for item in damaged)
            first = {item.digest: item.memory for item in itertools.chain(damaged, gone)}
        for source, *copies in targets.values():
            for memory in copies:
                if len(memory) != len(source):
                    raise ChunkCorrupt("one chunk was asked for in two lengths.")
                memory[:] = source

    def commit(self, manifest_id: str, manifest: bytes, *, unless: Objection = no_objection) -> None:
        check_manifest(manifest_id, manifest)
        with self._locked():
            lease = self._begin()
            self._check_quota(len(manifest))
            self._send()
            self._arrive()
            if not lease.stands():
                self._check_relied()
            files = self._files()
            try:
                unless(files)
            except BaseException:
                self._end()
                raise
            last = parse_name(next(reversed(files.values()))) if files else None
            self._objects.write(f"manifests/{file_name(last[0] + 1 if last else 1, manifest_id)}", manifest)
            if manifest_id in files:
                self._objects.remove(f"manifests/{files[manifest_id]}")
            self._end()

    def manifest(self, manifest_id: str) -> bytes:
        with self._locked():
            data = self._read_manifest(self._files().get(manifest_id, ""))
            if data is None:
                raise no_such(manifest_id)
            return data

    def manifests(self) -> list[str]:
        with self._locked():
            return list(self._files())

    def rewrite(self, manifest_id: str, manifest: bytes) -> None:
        check_manifest(manifest_id, manifest)
        with self._locked():
            lease = RemoteLease(self._objects)  # nobody collects meanwhile, whoever forgets it
            try:
                name = self._files().get(manifest_id)
                if name is None:
                    raise no_such(manifest_id)
                self._objects.write(f"manifests/{name}", manifest)
            finally:
                lease.end()

    def forget(self, manifest_id: str) -> None:
        with self._locked():
            name = self._files().get(manifest_id)
            if name is None:
                raise no_such(manifest_id)
            self._objects.remove(f"manifests/{name}")

    def collect(self, references: Callable[[bytes], Iterable[bytes]]) -> Freed:
        """As the protocol says; raises ``StoreError`` (retryable) while a checkpoint is being written."""
        with self._locked(), collecting(self._objects):
            self._end()  # our own, when it is so old that it was just taken away
            needed: set[bytes] = set()
            for name in self._files().values():
                manifest = self._read_manifest(name)
                if manifest is not None:
                    needed.update(references(manifest))
            before = self._stored_bytes()
            self._sync()
            chunks = self._sweep(needed)
            return Freed(chunks, max(0, before - self._stored_bytes()))

    def usage(self) -> Usage:
        with self._locked():
            self._sync()
            building = len(self._building.data) if self._building else 0
            return Usage(len(self._files()), len(self._shelf.places), self._stored_bytes() + building)

    def close(self) -> None:
        with self._locked():
            self._end()
            self._uploads.shutdown(cancel_futures=True)

    # -- writing ------------------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if self._pid != os.getpid():  # a forked child: connections, threads and lease are the parent's
            self._open()
        with self._writing:
            yield

    def _begin(self) -> RemoteLease:
        if self._lease is None:
            self._lease = RemoteLease(self._objects)
            self._sync()
            self._used_bytes = self._stored_bytes() if self._quota_bytes else 0
        self._lease.renew()
        return self._lease

    def _end(self) -> None:
        self._relied = set()
        if self._building is not None:  # what was put and not committed
            self._drop(self._building.name)
            self._building = None
        if self._lease is not None:
            self._lease.end()
            self._lease = None

    def _append(self, chunk: Encoded, done: Written) -> Entry:
        size = HEAD_BYTES + len(chunk.payload)
        self._check_quota(size)
        entry = self._add(chunk)
        self._used_bytes += size
        done.chunks += 1
        done.new_bytes += chunk.raw_bytes
        done.stored_bytes += size
        self._begin()
        return entry

    def _add(self, chunk: Encoded) -> Entry:
        with self._seeing:
            if self._building is None:
                self._building = _Building()
            entry = self._building.add(chunk)
            self._shelf.add(entry)
            full = len(self._building.data) >= self._pack_bytes
        if full:
            self._send()
        return entry

    def _send(self) -> None:
        """Let the pack go on its way; waits while too many are."""
        if self._building is None:
            return
        while len(self._sending) >= _UPLOADS:
            self._arrive(1)
        with self._seeing:
            pack, self._building = self._building, None
            self._sending[pack.name] = pack, self._uploads.submit(self._upload, pack)

    def _upload(self, pack: _Building) -> None:
        # The index first: whoever sees a pack finds its index there.
        batch = index_batch(pack.entries, len(PACK_HEADER), len(pack.data))
        self._objects.write(index_path(pack.name), INDEX_HEADER + batch)
        self._objects.write(pack_path(pack.name), pack.data)

    def _arrive(self, most: int | None = None) -> None:
        """Wait for packs that are on their way, the oldest first."""
        for name in list(self._sending)[:most]:
            pack, future = self._sending[name]
            try:
                future.result()
            except StoreError:
                self._sending[name] = pack, self._uploads.submit(self._upload, pack)  # for the next commit
                raise
            with self._seeing:
                del self._sending[name]

    def _check_quota(self, more: int) -> None:
        if self._quota_bytes and self._used_bytes + more > self._quota_bytes:
            raise QuotaReached(
                f"the checkpoint store may hold {self._quota_bytes} bytes and has {self._used_bytes}; "
                f"{more} more do not fit.",
                hint="Forget checkpoints and collect, or raise the quota.",
            )

    def _take_back(self, entries: list[Entry]) -> None:
        """Undo a failed ``put``: packs that it began go, of the one that it went on with the end is cut off."""
        for name, group in itertools.groupby(entries, key=lambda entry: entry[1].pack):
            gone = [place for _, place in group]
            building = self._building
            if building is not None and building.name == name:
                with self._seeing:
                    building.cut(gone[0].offset - HEAD_BYTES)
                    self._shelf.discard(gone)
            elif gone[0].offset == len(PACK_HEADER) + HEAD_BYTES:
                self._arrive()
                self._remove_pack(name)
        self._used_bytes = self._stored_bytes() if self._quota_bytes else 0

    def _check_relied(self) -> None:
        self._sync()
        gone = self._relied - self._shelf.places.keys()
        if gone:
            self._end()
            raise ChunkMissing(
                f"{len(gone)} chunks were collected before this checkpoint was committed.", hint="Take it again."
            )

    # -- collecting ---------------------------------------------------------------------------------------------

    def _sweep(self, needed: set[bytes]) -> int:
        """Remove packs that nobody needs, write anew those that are mostly unneeded; gives the chunks that went."""
        chunks = 0
        emptied: list[str] = []
        for name, size in list(self._shelf.packs.items()):
            entries = self._shelf.entries(name)
            live = [entry for entry in entries if entry[0] in needed and self._shelf.places[entry[0]] == entry[1]]
            if live and sum(HEAD_BYTES + place.stored_bytes for _, place in live) >= size / 2:
                continue
            if self._copy(live):
                chunks += len(entries) - len(live)
                emptied.append(name)
        self._send()
        self._arrive()
        for name in emptied:
            self._remove_pack(name)
        return chunks

    def _copy(self, entries: list[Entry]) -> bool:
        """Take chunks along into a new pack; False when one of them is damaged, so that the old one stays."""
        for digest, place in entries:
            payload = self._objects.read(pack_path(place.pack), place.offset, place.end)
            data = decode(place.codec, payload or b"", place.raw_bytes)
            if payload is None or data is None or not matches(digest, data):
                return False
            self._add(Encoded(digest, place.codec, place.raw_bytes, payload))
        return True

    def _remove_pack(self, name: str) -> None:
        self._objects.remove(pack_path(name))
        self._objects.remove(index_path(name))
        self._drop(name)

    def _sync(self) -> None:
        with self._seeing:
            self._shelf.sync()

    def _drop(self, name: str) -> None:
        with self._seeing:
            self._shelf.drop(name)

    # -- reading ------------------------------------------------------------------------------------------------

    def _files(self) -> dict[str, str]:
        """Id -> name of its object, oldest commit first."""
        found: dict[str, str] = {}
        for name in sorted(self._objects.sizes("manifests")):
            parsed = parse_name(name)
            if parsed:
                found.pop(parsed[1], None)
                found[parsed[1]] = name
        return found

    def _read_manifest(self, name: str) -> bytes | None:
        size = self._objects.sizes("manifests").get(name)
        if size is None:
            return None
        if size > MANIFEST_BYTES:
            raise TooLarge(f"the manifest {name} is larger than {MANIFEST_BYTES} bytes.")
        return self._objects.read(f"manifests/{name}")

    def _stored_bytes(self) -> int:
        return sum(sum(self._objects.sizes(folder).values()) for folder in ("packs", "manifests"))

    def _locate(self, wanted: dict[bytes, memoryview], damaged: set[bytes], *, deep: bool) -> list[Wanted]:
        with self._seeing:
            if deep or not wanted.keys() <= self._shelf.places.keys():
                self._shelf.sync()
            places = self._shelf.places
            # Not by subtracting views of keys: that goes through all of the second.
            absent = {digest for digest in wanted if digest not in places}
            if absent:
                places = {**places, **self._shelf.search(absent)}
                absent = {digest for digest in wanted if digest not in places}
        if absent:
            name = min(absent).hex()
            if absent & damaged:
                raise ChunkCorrupt(f"chunk {name} is damaged ({len(absent)} in all).")
            raise ChunkMissing(f"chunk {name} is not in the store ({len(absent)} in all).")
        found = [Wanted(digest, places[digest], memory) for digest, memory in wanted.items()]
        for item in found:
            if len(item.memory) != item.place.raw_bytes:
                raise ChunkCorrupt(
                    f"chunk {item.digest.hex()} has {item.place.raw_bytes} bytes, not {len(item.memory)} as expected."
                )
        return found

    def _read(self, wanted: list[Wanted]) -> tuple[list[Wanted], list[Wanted]]:
        """Gives what is damaged, and what is not where it was."""
        runs = list(neighbours(wanted, run_bytes=_RUN_BYTES, gap_bytes=_GAP_BYTES))
        damaged: list[Wanted] = []
        gone: list[Wanted] = []
        with ThreadPoolExecutor(max(1, min(_DOWNLOADS, len(runs))), "gpuaas-download") as pool:
            for run, data in zip(runs, pool.map(self._range, runs), strict=True):
                if data is None:
                    gone += run
                    continue
                start = run[0].place.offset
                for item in run:
                    payload = memoryview(data)[item.place.offset - start : item.place.end - start]
                    if not settle(item, payload):
                        damaged.append(item)
        return damaged, gone

    def _range(self, run: list[Wanted]) -> Buffer | None:
        """The bytes of a run of neighbours, from memory while their pack has not been sent."""
        name, start, end = run[0].place.pack, run[0].place.offset, run[-1].place.end
        with self._seeing:
            sending = self._sending.get(name)
            pack = sending[0] if sending else self._building
            if pack is not None and pack.name == name:
                return bytes(memoryview(pack.data)[start:end])
        return self._objects.read(pack_path(name), start, end)
