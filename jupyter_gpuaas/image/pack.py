"""An image's folder as chunks, and back.

Chunks are those of checkpoints: of the same size, under the same digests, compressed where that pays. Files of pages
only grow while CRIU writes them, so their chunks leave at the same time.
"""

from __future__ import annotations

import os
import tarfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from blake3 import blake3

from ..store.base import CHUNK_BYTES, Store, Written
from ..store.blob import chunk_sizes
from ..store.manifest import Blob
from .manifest import ImageFile, ImageManifest

#: Chunks that are put or fetched in one call.
TOGETHER = 8
LOOK_S = 0.005
#: What a dump leaves beside the image.
_LOGS = ("criu.log", "stats-dump", "stats-restore", "parent")
SCRATCH = "scratch{number}.tar"


class Sink(Protocol):
    """Where an image goes, from a thread that may wait."""

    def begin(self, image: str, folder: Path) -> None:
        """An image is made in this folder. What came before of one with this name is not of it."""

    def put(self, name: str, at: int, chunks: Sequence[tuple[bytes, bytes]]) -> None:
        """Chunks of a file of the folder that follow each other, the first of them at ``at``."""

    def commit(self, image: str, manifest: bytes) -> None:
        """All of it has been put."""


class Origin(Protocol):
    """Where an image comes from. Both methods block."""

    def manifest(self, image: str) -> bytes: ...

    def bring(self, manifest: ImageManifest, folder: Path) -> None:
        """Make the folder, with all of the image, each chunk verified; raises what is wrong, as store or peer do."""


class StoredImage:
    """An image in a store. Implements ``Sink`` and ``Origin``."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.written = Written()

    def begin(self, image: str, folder: Path) -> None: ...

    def put(self, name: str, at: int, chunks: Sequence[tuple[bytes, bytes]]) -> None:
        done = self._store.put(chunks)
        self.written.chunks += done.chunks
        self.written.new_bytes += done.new_bytes
        self.written.stored_bytes += done.stored_bytes

    def commit(self, image: str, manifest: bytes) -> None:
        self._store.commit(image, manifest)

    def manifest(self, image: str) -> bytes:
        return self._store.manifest(image)

    def bring(self, manifest: ImageManifest, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True)
        unpack(self._store, manifest.files, manifest.rounds, folder)


class Packer:
    """Puts the files of ``folder`` into a sink, from the moment on at which it is made.

    Use: make it, start CRIU, call ``finish`` when CRIU has ended. Without ``finish``, ``abandon``.
    """

    def __init__(self, sink: Sink, folder: Path) -> None:
        self._sink = sink
        self._folder = folder
        self._digests: dict[str, list[bytes]] = {}
        self._done: dict[str, int] = {}
        self._complete = threading.Event()
        self._stop = threading.Event()
        #: Looks at the folder that have begun, and that have ended.
        self._looks = threading.Condition()
        self._begun = self._ended = 0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="image packer", daemon=True)
        self._thread.start()

    def caught_up(self) -> int:
        """Wait until what there is by now of whole chunks of pages has been put; gives the bytes so far.

        Raises what the sink raised.
        """
        with self._looks:
            wanted = self._begun + 1
            self._looks.wait_for(lambda: self._ended >= wanted or not self._thread.is_alive())
        if self._error is not None:
            raise self._error
        return sum(self._done.values())

    def finish(self) -> tuple[ImageFile, ...]:
        """All files, when the last has been put. Blocks. Raises what the sink raised."""
        self._complete.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return tuple(
            ImageFile(name, Blob(self._done[name], b"".join(digests)))
            for name, digests in sorted(self._digests.items())
        )

    def abandon(self) -> None:
        """Stop; what was put is garbage where it is."""
        self._stop.set()
        self._complete.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._complete.wait(LOOK_S):
                self._count(begun=1)
                for path in self._files():
                    if path.name.startswith("pages-"):
                        self._put(path, whole=True)
                self._count(ended=1)
            for path in self._files():
                if self._stop.is_set():
                    return
                self._put(path, whole=False)
        except BaseException as error:
            self._error = error
        finally:
            self._count(ended=1 << 62)

    def _count(self, *, begun: int = 0, ended: int = 0) -> None:
        with self._looks:
            self._begun += begun
            self._ended += ended
            self._looks.notify_all()

    def _files(self) -> list[Path]:
        found = (path for path in self._folder.rglob("*") if path.name not in _LOGS)
        return sorted(path for path in found if path.is_file() and not path.is_symlink())

    def _put(self, path: Path, *, whole: bool) -> None:
        """Put what has been added to a file; with ``whole`` only whole chunks, as the file still grows."""
        name = path.relative_to(self._folder).as_posix()
        digests = self._digests.setdefault(name, [])
        at = self._done.setdefault(name, 0)
        with open(path, "rb", buffering=0) as file:
            file.seek(at)
            size = os.fstat(file.fileno()).st_size
            while not self._stop.is_set():
                batch: list[tuple[bytes, bytes]] = []
                while len(batch) < TOGETHER and (size - at >= CHUNK_BYTES or (size > at and not whole)):
                    data = _read(file.fileno(), min(CHUNK_BYTES, size - at))
                    batch.append((blake3(data).digest(), data))
                    at += len(data)
                if not batch:
                    break
                self._sink.put(name, self._done[name], batch)
                digests += [digest for digest, _ in batch]
                self._done[name] = at


def unpack(store: Store, files: Sequence[ImageFile], rounds: int, folder: Path) -> None:
    """Write the files of an image into an empty folder, each chunk verified.

    Raises what ``Store.fetch`` raises: then the folder is not to be used.
    """
    link_rounds(rounds, folder)
    for file in files:
        descriptor = create(folder / file.name)
        try:
            for batch in _batches(file.content):
                memory = memoryview(bytearray(sum(size for _, size in batch)))
                wanted = []
                at = 0
                for digest, size in batch:
                    wanted.append((digest, memory[at : at + size]))
                    at += size
                store.fetch(wanted)
                while memory:
                    memory = memory[os.write(descriptor, memory) :]
        finally:
            os.close(descriptor)


def link_rounds(rounds: int, folder: Path) -> None:
    """The folders of all rounds, each with its link to the one before, as CRIU makes them."""
    for number in range(rounds):
        place = folder / str(number)
        place.mkdir(mode=0o700, exist_ok=True)
        if number:
            (place / "parent").symlink_to(f"../{number - 1}")


def create(path: Path) -> int:
    """A descriptor of a file that was not there before."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def pack_scratch(root: Path, scratch: Sequence[str], folder: Path, elsewhere: frozenset[str] = frozenset()) -> None:
    """What lies in the jail's own folders, as one archive each. Sockets are left out: CRIU makes them again.

    Parameters
    ----------
    elsewhere
        Paths inside that are folders of the node.
    """
    for number, inside in enumerate(scratch):
        with tarfile.open(folder / SCRATCH.format(number=number), "w") as archive:
            top = root / inside.strip("/")
            for name in sorted(os.listdir(top)):
                archive.add(
                    top / name,
                    arcname=name,
                    filter=lambda member, inside=inside: (  # type: ignore[misc]
                        None if f"{inside.rstrip('/')}/{member.name}" in elsewhere else member
                    ),
                )


def unpack_scratch(root: Path, scratch: Sequence[str], folder: Path) -> None:
    """The reverse, into the empty folders of a new jail. The archives were verified when they were unpacked."""
    for number, inside in enumerate(scratch):
        with tarfile.open(folder / SCRATCH.format(number=number)) as archive:
            # Whole and as it was: owners, modes and links are the session's own.
            archive.extraction_filter = staticmethod(lambda member, path: member)
            archive.extractall(root / inside.strip("/"), numeric_owner=True)


def _batches(content: Blob) -> Iterator[list[tuple[bytes, int]]]:
    batch: list[tuple[bytes, int]] = []
    for chunk in chunk_sizes(content):
        batch.append(chunk)
        if len(batch) == TOGETHER:
            yield batch
            batch = []
    if batch:
        yield batch


def _read(descriptor: int, size: int) -> bytes:
    data = os.read(descriptor, size)
    while len(data) < size:
        piece = os.read(descriptor, size - len(data))
        if not piece:
            raise OSError(f"a file of the image became shorter while it was read, at {len(data)} of {size} bytes")
        data += piece
    return data
