"""A store in a folder, for one user's processes on one machine."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from ..errors import ChunkCorrupt, ChunkMissing, GpuaasError, QuotaReached, StoreError
from .base import CHUNK_BYTES, DIGEST_BYTES, Buffer, Freed, Objection, Usage, Written, no_objection
from .codec import Encoded, encode
from .collecting import sweep
from .faults import store_errors
from .lease import FOLDER_MODE, Lease, Leases
from .manifests import Manifests, check_manifest, sync_folder
from .pack import HEAD_BYTES, Entry, Place
from .packwriter import PackWriter
from .reading import Wanted, read_chunks
from .shelf import Shelf

#: A pack is closed and the next begun when it has become so large.
PACK_BYTES = 256 * 1024**2
#: What is encoded and written in one go.
_BATCH_BYTES = 8 * 1024**2
_BATCH_CHUNKS = 256
#: So often packs are looked for again that are not where they were a moment ago.
_TRIES = 10

_stores: weakref.WeakSet[FolderStore] = weakref.WeakSet()


class FolderStore:
    """Packs and manifests under ``path``.

    Any number of processes may use one folder, and of each store object any number of threads. What one object is
    given between two commits belongs to one checkpoint, though: who takes several at a time opens a store for each.
    A process that is forked may go on with the object; it then writes to packs of its own.

    Parameters
    ----------
    quota_bytes
        How large all files may become together; 0 for no limit.
    pack_bytes
        Size at which a pack is closed.
    """

    def __init__(self, path: str | os.PathLike[str], *, quota_bytes: int = 0, pack_bytes: int = PACK_BYTES) -> None:
        self.path = Path(path)
        self._quota_bytes = quota_bytes
        self._pack_bytes = pack_bytes
        self._packs = self.path / "packs"
        self._manifests = Manifests(self.path / "manifests")
        self._shelf = Shelf(self._packs)
        self._leases = Leases(self.path)
        self._reset()
        with store_errors(f"opening the checkpoint store {self.path}"):
            self.path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            for folder in (self._packs, self._manifests.folder):
                folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
            self._leases.create()
            self._shelf.sync()
        _stores.add(self)

    def _reset(self) -> None:
        # Locks are taken in this order, and neither is held while the caller's code or a fetch runs.
        self._writing = threading.RLock()
        self._seeing = threading.RLock()
        self._lease: Lease | None = None
        #: Chunks that the next commit may count on.
        self._relied: set[bytes] = set()
        #: Something of that may be gone: see at the commit.
        self._doubtful = False
        #: Packs of ours since the last commit; the last is the one that is written to.
        self._open: list[PackWriter] = []
        self._folder_synced = True
        self._used_bytes = 0

    # -- the protocol -------------------------------------------------------------------------------------------

    def missing(self, digests: Iterable[bytes]) -> set[bytes]:
        wanted = set(digests)
        with self._undisturbed(), store_errors("looking for chunks"):
            self._begin()
            absent = _without(wanted, self._shelf.places)
            self._relied |= wanted - absent
            return absent

    def put(self, chunks: Iterable[tuple[bytes, Buffer]]) -> Written:
        done = Written()
        with self._undisturbed(), store_errors("writing chunks"):
            self._begin()
            sizes = {writer.name: writer.size for writer in self._open}
            pool: ThreadPoolExecutor | None = None
            try:
                for batch in self._new(chunks):
                    if pool is None and len(batch) > 1 and sum(len(data) for _, data in batch) > CHUNK_BYTES:
                        pool = ThreadPoolExecutor(2, "gpuaas-encode")
                    encoded = list(pool.map(lambda pair: encode(*pair), batch) if pool else map(_encode, batch))
                    self._append(encoded, done)
            except (OSError, QuotaReached):
                self._take_back(sizes)
                raise
            finally:
                if pool is not None:
                    pool.shutdown()
        return done

    def fetch(self, wanted: Sequence[tuple[bytes, memoryview]]) -> None:
        first: dict[bytes, memoryview] = {}
        again: list[tuple[memoryview, memoryview]] = []
        for digest, memory in wanted:
            flat = memory.cast("B") if memory.format != "B" or memory.ndim != 1 else memory
            known = first.setdefault(digest, flat)
            if known is not flat:
                again.append((known, flat))
        with store_errors("reading chunks"):
            self._fetch(first)
        for source, target in again:
            if len(source) != len(target):
                raise ChunkCorrupt("one chunk was asked for in two lengths.")
            target[:] = source

    def commit(self, manifest_id: str, manifest: bytes, *, unless: Objection = no_objection) -> None:
        check_manifest(manifest_id, manifest)
        with self._undisturbed(), store_errors(f"committing checkpoint {manifest_id}"):
            lease = self._begin()
            self._check_quota(len(manifest))
            try:
                for writer in self._open:
                    writer.sync()
            except OSError:
                self._abandon()
                raise
            if not self._folder_synced:
                sync_folder(self._packs)
                self._folder_synced = True
            with self._leases.shared():
                if self._doubtful or not lease.stands():
                    self._check_relied()
                try:
                    self._manifests.write(manifest_id, manifest, unless)
                except GpuaasError:
                    self._end()
                    raise
            self._end()
            for writer in self._open[:-1]:
                writer.close()
            del self._open[:-1]

    def manifest(self, manifest_id: str) -> bytes:
        with store_errors(f"reading the manifest of {manifest_id}"):
            return self._manifests.read(manifest_id)

    def manifests(self) -> list[str]:
        with store_errors("listing checkpoints"):
            return list(self._manifests.files())

    def rewrite(self, manifest_id: str, manifest: bytes) -> None:
        check_manifest(manifest_id, manifest)
        # Shared: nobody collects between our look and our writing, whoever forgets it meanwhile.
        with store_errors(f"writing checkpoint {manifest_id} again"), self._leases.shared():
            self._manifests.rewrite(manifest_id, manifest)

    def forget(self, manifest_id: str) -> None:
        with store_errors(f"forgetting checkpoint {manifest_id}"):
            self._manifests.remove(manifest_id)

    def collect(self, references: Callable[[bytes], Iterable[bytes]]) -> Freed:
        """As the protocol says; raises ``StoreError`` (retryable) while a checkpoint is being written."""
        with self._writing, store_errors("collecting chunks"), self._leases.exclusive():
            if self._leases.held():
                raise StoreError(
                    "a checkpoint is being written to this store, so nothing can be removed from it now.",
                    hint="Try again when it is done.",
                )
            with self._undisturbed():
                self._end()  # our own, when it is so old that it was just taken away
                needed: set[bytes] = set()
                for name in self._manifests.files().values():
                    try:
                        needed.update(references(self._manifests.read_file(name)))
                    except FileNotFoundError:  # forgotten since
                        continue
                self._close_packs()
                with self._seeing:
                    self._shelf.sync()
                    return sweep(self._shelf, needed, self._pack_bytes)

    def usage(self) -> Usage:
        with self._seeing, store_errors("measuring the store"):
            self._shelf.sync()
            return Usage(len(self._manifests.files()), len(self._shelf.places), self._stored_bytes())

    def close(self) -> None:
        with self._undisturbed(), store_errors("closing the store"):
            self._end()
            self._close_packs()

    # -- writing ------------------------------------------------------------------------------------------------

    def _begin(self) -> Lease:
        """Start what the next commit ends: from here on, nothing of what is in the store goes away."""
        if self._lease is None:
            self._lease = self._leases.begin()
            with self._seeing:
                self._shelf.sync()
                self._used_bytes = self._stored_bytes() if self._quota_bytes else 0
        self._lease.renew()
        return self._lease

    def _end(self) -> None:
        self._relied = set()
        self._doubtful = False
        self._end_lease()

    def _end_lease(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.end()

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """One writer at a time; an interrupt (Ctrl-C) may come anywhere inside: then only the disk is believed."""
        with self._writing:
            try:
                yield
            except Exception:
                raise
            except BaseException:
                self._relied, self._doubtful, self._folder_synced = set(), False, False
                with contextlib.suppress(OSError):
                    self._close_packs()
                with contextlib.suppress(OSError):
                    self._end_lease()
                with self._seeing:
                    self._shelf = Shelf(self._packs)
                raise

    def _new(self, chunks: Iterable[tuple[bytes, Buffer]]) -> Iterator[list[tuple[bytes, Buffer]]]:
        """Chunks that are not here yet, in batches."""
        batch: dict[bytes, Buffer] = {}
        size = 0
        for digest, data in chunks:
            data = _flat(data)
            if len(digest) != DIGEST_BYTES or len(data) > CHUNK_BYTES:
                raise StoreError(f"no chunk: a digest of {len(digest)} bytes and {len(data)} bytes of content.")
            self._relied.add(digest)
            if digest in self._shelf.places or digest in batch:
                continue
            batch[digest] = data
            size += len(data)
            if size >= _BATCH_BYTES or len(batch) == _BATCH_CHUNKS:
                yield list(batch.items())
                batch, size = {}, 0
        if batch:
            yield list(batch.items())

    def _append(self, encoded: list[Encoded], done: Written) -> None:
        size = sum(HEAD_BYTES + len(chunk.payload) for chunk in encoded)
        self._check_quota(size)
        if not self._open or self._open[-1].size >= self._pack_bytes:
            self._open.append(PackWriter(self._packs))
            self._folder_synced = False
        writer = self._open[-1]
        entries = writer.append(encoded)
        with self._seeing:
            self._shelf.add(writer.name, entries)
        self._used_bytes += size
        done.chunks += len(encoded)
        done.new_bytes += sum(chunk.raw_bytes for chunk in encoded)
        done.stored_bytes += size
        self._begin()

    def _check_quota(self, more: int) -> None:
        if self._quota_bytes and self._used_bytes + more > self._quota_bytes:
            raise QuotaReached(
                f"the checkpoint store may hold {self._quota_bytes} bytes and has {self._used_bytes}; "
                f"{more} more do not fit.",
                hint="Forget checkpoints and collect, or raise the quota.",
            )

    def _take_back(self, sizes: dict[str, int]) -> None:
        """Cut off what a failed ``put`` has written, so that it does not fill the store."""
        for writer in list(self._open):
            if writer.name in sizes:
                gone: list[Entry] = writer.cut(sizes[writer.name])
                with self._seeing:
                    self._shelf.discard(gone)
            else:
                writer.close()
                self._open.remove(writer)
                with self._seeing:
                    self._shelf.remove(writer.name)
        self._used_bytes = self._stored_bytes() if self._quota_bytes else 0

    def _abandon(self) -> None:
        """After a failed fsync nobody knows what of our packs is on the disk: the chunks must be put again."""
        self._doubtful = True
        for writer in self._open:
            with self._seeing:
                self._shelf.discard(
                    [entry for entry in self._shelf.entries(writer.name) if entry[1].end > writer.durable]
                )
        self._close_packs()

    def _close_packs(self) -> None:
        packs, self._open = self._open, []
        for writer in packs:
            writer.close()

    def _check_relied(self) -> None:
        """The lease was taken away: see that nothing of what the manifest may name went with it."""
        with self._seeing:
            self._shelf.sync()
            gone = self._relied - self._shelf.places.keys()
        if gone:
            self._end()
            raise ChunkMissing(
                f"{len(gone)} chunks were lost before this checkpoint was committed.", hint="Take it again."
            )

    def _stored_bytes(self) -> int:
        return self._shelf.stored_bytes() + self._manifests.stored_bytes()

    # -- reading ------------------------------------------------------------------------------------------------

    def _fetch(self, wanted: dict[bytes, memoryview]) -> None:
        damaged_ever: set[bytes] = set()
        for attempt in itertools.count():
            found = self._locate(wanted, damaged_ever, deep=attempt > 0)
            damaged, gone = read_chunks(found, self._shelf.opened)
            if not damaged and not gone:
                return
            with self._seeing:
                self._shelf.distrust((item.digest, item.place) for item in damaged)
            damaged_ever.update(item.digest for item in damaged)
            # Another copy may be elsewhere: an index was wrong, or somebody has just compacted the pack.
            wanted = {item.digest: item.memory for item in itertools.chain(damaged, gone)}

    def _locate(self, wanted: dict[bytes, memoryview], damaged: set[bytes], *, deep: bool) -> list[Wanted]:
        places = self._shelf.places
        if deep or not wanted.keys() <= places.keys():
            with self._seeing:
                self._shelf.sync()
                places = self._shelf.places
                absent = _without(wanted, places)
                if absent:
                    places = {**places, **self._shelf.search(absent)}
        absent = _without(wanted, places)
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

    @contextmanager
    def lying(self, digests: Sequence[bytes]) -> Iterator[list[tuple[int, Place]]]:
        """Where chunks lie, each in a file that is open meanwhile, for who passes them on as they are.

        They are not verified: whoever gets them has to. Raises ``ChunkMissing``.
        """
        with contextlib.ExitStack() as stack:
            with store_errors("looking for chunks"):
                found = self._open_packs(digests, stack)
            yield found

    def _open_packs(self, digests: Sequence[bytes], stack: contextlib.ExitStack) -> list[tuple[int, Place]]:
        for attempt in itertools.count():
            places = self._shelf.places
            if attempt or _without(digests, places):
                with self._seeing:
                    self._shelf.sync()
                    places = self._shelf.places
            absent = _without(digests, places)
            if absent:
                raise ChunkMissing(f"chunk {min(absent).hex()} is not in the store ({len(absent)} in all).")
            files: dict[str, int] = {}
            try:
                for name in {places[digest].pack for digest in digests}:
                    files[name] = stack.enter_context(self._shelf.opened(name))
            except FileNotFoundError:
                if attempt >= _TRIES:
                    raise
                continue  # somebody has just compacted the pack
            return [(files[places[digest].pack], places[digest]) for digest in digests]
        raise AssertionError

    # -- after a fork -------------------------------------------------------------------------------------------

    def _forked(self) -> None:
        """In the child: leave packs and lease to the parent. What it has not made durable is not ours to count on."""
        for writer in self._open:
            writer.drop()
        if self._lease is not None:
            self._lease.drop()
        self._reset()
        self._shelf = Shelf(self._packs)


def _without(wanted: Iterable[bytes], places: Container[bytes]) -> set[bytes]:
    # Not by subtracting views of keys: that goes through all of the second.
    return {digest for digest in wanted if digest not in places}


def _encode(pair: tuple[bytes, Buffer]) -> Encoded:
    return encode(*pair)


def _flat(data: Buffer) -> Buffer:
    if isinstance(data, memoryview) and (data.format != "B" or data.ndim != 1):
        return data.cast("B")
    return data


def _forget_inherited() -> None:
    for store in list(_stores):
        store._forked()


os.register_at_fork(after_in_child=_forget_inherited)
