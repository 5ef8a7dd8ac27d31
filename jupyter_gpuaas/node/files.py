"""The session's own working folder on its way from one node to the next: files, folders, links, and their permissions.

1. The target asks for a list: all that is in the folder but what its ``.gpuaasignore`` names.
2. It removes what it has and the source has not, and asks for the files that are not there in that size and of that
   time. So a second round brings what has changed.

Names come from the other side, and links lie in the folder. So every name is looked up part by part from the folder's
descriptor, no link is ever followed, and a file appears under its name when it is whole.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import pathspec

from ..errors import MigrationError, RemoteProtocolError, TransportError
from ..model import Peer
from ..store.codec import RAW, decode, encode
from ..wire.transfer import FILE, PIECE, Frame, Parts, PeerLink, frame, send
from ..wire.unreadable import UNREADABLE

log = logging.getLogger(__name__)

IGNORE_FILE = ".gpuaasignore"
IGNORE_BYTES = 1024**2
#: Of files that are being written.
NEW_PREFIX = ".gpuaas-new-"
PATH_BYTES = 4096
#: The list of 10,000 files with long names.
LIST_BYTES = 64 * 1024**2
#: What is asked for in one go.
REQUEST_FILES = 1000
REQUEST_BYTES = 8 * 1024**2
_PIECE_BYTES = 1024**2
_ATTEMPTS = 3
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One thing in the folder."""

    path: str
    kind: Literal["file", "folder", "link", "gone"]
    size: int = 0
    mtime_ns: int = 0
    #: Permissions.
    mode: int = 0
    #: Of a link, as it is written.
    target: str = ""


class Listing(msgspec.Struct, frozen=True):
    """What is in a folder, each folder before what is in it."""

    entries: tuple[Entry, ...] = ()
    #: path -> why it is not among them.
    left_out: dict[str, str] = {}
    #: Lines of the ignore file.
    ignore: tuple[str, ...] = ()
    #: Whether both nodes have the same folder, so that there is nothing to do.
    shared: bool = False


# -- one folder ----------------------------------------------------------------------------------------------------


class Tree:
    """A folder in which names are looked up without following links.

    Parameters
    ----------
    root
        Must be there.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._root)

    @contextlib.contextmanager
    def parent(self, path: str) -> Iterator[tuple[int, str]]:
        """Descriptor of the folder that something lies in, and its name there; raises OSError where there is none."""
        *folders, name = path.split("/")
        fd = os.dup(self._root)
        try:
            for folder in folders:
                inner = os.open(folder, _FOLDER, dir_fd=fd)
                os.close(fd)
                fd = inner
            yield fd, name
        finally:
            os.close(fd)

    def listing(self, most_files: int, most_bytes: int) -> Listing:
        """What is there.

        Raises
        ------
        MigrationError
            It is more than may be sent; the message names the setting.
        """
        lines = self._ignore()
        ignored = pathspec.GitIgnoreSpec.from_lines(lines)
        entries: list[Entry] = []
        left_out: dict[str, str] = {}
        size = 0
        for entry in self.walk(lambda path, is_folder: ignored.match_file(f"{path}/" if is_folder else path), left_out):
            entries.append(entry)
            size += entry.size
            if len(entries) > most_files:
                raise _too_much(f"more than {most_files} files", "sync_files")
            if size > most_bytes:
                raise _too_much(f"more than {most_bytes} bytes", "sync_bytes")
        return Listing(tuple(entries), left_out, tuple(lines))

    def walk(self, skipped: Callable[[str, bool], bool], left_out: dict[str, str]) -> Iterator[Entry]:
        """All that is in the folder; what goes meanwhile is passed over."""
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            try:
                with self.parent(f"{folder}/x" if folder else "x") as (fd, _), os.scandir(fd) as listed:
                    found = sorted(listed, key=lambda entry: entry.name)
                    inner: list[str] = []
                    for each in found:
                        path = f"{folder}/{each.name}" if folder else each.name
                        is_folder = each.is_dir(follow_symlinks=False)
                        if each.name.startswith(NEW_PREFIX) or skipped(path, is_folder):
                            continue
                        if reason := _unusable(path):
                            left_out[repr(path)[1:-1]] = reason
                            continue
                        with contextlib.suppress(FileNotFoundError):
                            entry = self._entry(fd, each.name, path)
                            if isinstance(entry, str):
                                left_out[path] = entry
                                continue
                            yield entry
                            if is_folder:
                                inner.append(path)
                    waiting += reversed(inner)
            except OSError as error:
                left_out[folder or "."] = f"cannot be listed: {error.strerror}"

    def open(self, path: str) -> tuple[int, Entry]:
        """Open a file to be read."""
        with self.parent(path) as (fd, name):
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                os.close(file)
                raise FileNotFoundError(path)
            return file, _of_file(path, status)

    def look(self, path: str) -> Entry | None:
        """What has this name; None for nothing, and for what is of no kind that is kept."""
        try:
            with self.parent(path) as (fd, name):
                entry = self._entry(fd, name, path)
        except OSError:
            return None
        return None if isinstance(entry, str) else entry

    def remove(self, path: str) -> None:
        """Remove a file or a link, or a folder with all that is in it."""
        with contextlib.suppress(FileNotFoundError), self.parent(path) as (fd, name):
            if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                os.chmod(name, 0o700, dir_fd=fd)
                inner = os.open(name, _FOLDER, dir_fd=fd)
                try:
                    names = os.listdir(inner)
                finally:
                    os.close(inner)
                for each in names:
                    self.remove(f"{path}/{each}")
                os.rmdir(name, dir_fd=fd)
            else:
                os.unlink(name, dir_fd=fd)

    def folder(self, path: str) -> None:
        """Make a folder, or one that is there writeable for now."""
        with self.parent(path) as (fd, name):
            try:
                os.mkdir(name, 0o700, dir_fd=fd)
            except FileExistsError:
                inner = os.open(name, _FOLDER, dir_fd=fd)
                os.fchmod(inner, 0o700)
                os.close(inner)

    def settle(self, entry: Entry) -> None:
        """Give a folder its permissions and time, or a file its permissions."""
        with self.parent(entry.path) as (fd, name):
            kind = _FOLDER if entry.kind == "folder" else os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            inner = os.open(name, kind, dir_fd=fd)
            try:
                os.fchmod(inner, entry.mode)
                if entry.kind == "folder":
                    os.utime(inner, ns=(entry.mtime_ns, entry.mtime_ns))
            finally:
                os.close(inner)

    def link(self, entry: Entry) -> None:
        with self.parent(entry.path) as (fd, name):
            new = NEW_PREFIX + secrets.token_hex(8)
            os.symlink(entry.target, new, dir_fd=fd)
            os.rename(new, name, src_dir_fd=fd, dst_dir_fd=fd)

    @contextlib.contextmanager
    def write(self, entry: Entry) -> Iterator[int]:
        """Descriptor to write a file to, which is there under its name if the block ends well."""
        with self.parent(entry.path) as (fd, name):
            new = NEW_PREFIX + secrets.token_hex(8)
            file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd)
            try:
                try:
                    yield file
                    os.fchmod(file, entry.mode)
                    os.utime(file, ns=(entry.mtime_ns, entry.mtime_ns))
                finally:
                    os.close(file)
                os.rename(new, name, src_dir_fd=fd, dst_dir_fd=fd)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(new, dir_fd=fd)
                raise

    def _ignore(self) -> list[str]:
        try:
            file, entry = self.open(IGNORE_FILE)
        except OSError:
            return []
        try:
            if entry.size > IGNORE_BYTES:
                raise MigrationError(f"{IGNORE_FILE} is larger than {IGNORE_BYTES} bytes.")
            return os.pread(file, IGNORE_BYTES, 0).decode("utf-8", "replace").splitlines()
        finally:
            os.close(file)

    @staticmethod
    def _entry(fd: int, name: str, path: str) -> Entry | str:
        """What has a name in a folder, or why it cannot be sent."""
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            return _of_file(path, status)
        mode = stat.S_IMODE(status.st_mode) & 0o777
        if stat.S_ISDIR(status.st_mode):
            return Entry(path, "folder", 0, status.st_mtime_ns, mode)
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(name, dir_fd=fd)
            return Entry(path, "link", 0, 0, 0, target) if _is_text(target) else "links to a name that is not UTF-8"
        return "is neither a file nor a folder nor a link"


def _of_file(path: str, status: os.stat_result) -> Entry:
    # Not the bits that let a program run as somebody else.
    return Entry(path, "file", status.st_size, status.st_mtime_ns, stat.S_IMODE(status.st_mode) & 0o777)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unusable(path: str) -> str:
    """Why something of this name cannot be sent; empty if it can."""
    if not _is_text(path):
        return "its name is not UTF-8"
    return "its path is too long" if len(path.encode()) > PATH_BYTES else ""


def _too_much(what: str, setting: str) -> MigrationError:
    return MigrationError(
        f"the session's working folder has {what}, and no more go along.",
        hint=f"List what can stay behind in {IGNORE_FILE}, remove it, or raise the setting {setting}.",
    )


# -- the source ----------------------------------------------------------------------------------------------------


def listed(work: Path | None, most_files: int, most_bytes: int) -> bytes:
    """The list as it is sent; of None, that the folder is shared."""
    if work is None:
        return msgspec.msgpack.encode(Listing(shared=True))
    with _tree(work) as tree:
        data = msgspec.msgpack.encode(tree.listing(most_files, most_bytes))
    if len(data) > LIST_BYTES:
        raise _too_much(f"names of more than {LIST_BYTES} bytes", "sync_files")
    return data


def send_files(connection: socket.socket, work: Path, paths: Iterable[str], *, packs: bool) -> None:
    """Send files as frames; ``packs`` says whether to compress what compresses."""
    with _tree(work) as tree:
        for path in paths:
            try:
                file, entry = tree.open(path)
            except OSError:  # it went, or is something else now: the next list tells
                send(connection, frame(FILE, msgspec.msgpack.encode(Entry(path, "gone"))))
                continue
            try:
                send(connection, frame(FILE, msgspec.msgpack.encode(entry)))
                left = entry.size
                while left and (data := os.read(file, min(left, _PIECE_BYTES))):
                    send(connection, _piece(data, packs))
                    left -= len(data)
            finally:
                os.close(file)


def wanted_paths(body: bytes) -> list[str]:
    """The paths that a request asks for."""
    try:
        paths = msgspec.msgpack.decode(body, type=list[str])
    except UNREADABLE as error:
        raise RemoteProtocolError(f"body: {error}.") from error
    if len(paths) > REQUEST_FILES:
        raise RemoteProtocolError(f"body: asks for {len(paths)} files, at most {REQUEST_FILES} are sent at a time.")
    for path in paths:
        check_path(path)
    return paths


def _piece(data: bytes, packs: bool) -> Parts:
    packed = encode(b"", data) if packs else None
    codec, payload = (packed.codec, memoryview(packed.payload)) if packed else (RAW, memoryview(data))
    return frame(PIECE, payload, codec=codec, raw_bytes=len(data))


def check_path(path: str) -> None:
    """Refuse a name that does not lead to a place in the folder."""
    parts = path.split("/")
    if len(path.encode("utf-8", "replace")) > PATH_BYTES or "\0" in path or not _is_text(path):
        raise RemoteProtocolError(f"path: {path[:80]!r} is no name of a file.")
    if any(part in ("", ".", "..") or part.startswith(NEW_PREFIX) for part in parts):
        raise RemoteProtocolError(f"path: {path[:80]!r} is no name inside the session's working folder.")


# -- the target ----------------------------------------------------------------------------------------------------


def _log(path: str, why: str) -> None:
    log.warning("%s stays behind: %s", path, why)


def fetch_files(
    peer: Peer,
    work: Path,
    *,
    most_bytes: int,
    most_files: int,
    left_out: Callable[[str, str], None] = _log,
    timeout_s: float = 30.0,
) -> int:
    """Make this folder what the session's own working folder is at its host; returns the bytes that came. Blocks.

    Parameters
    ----------
    work
        The session's own folder here: what is in it and not there is removed.
    left_out
        Called with what cannot be sent, and why.

    Raises
    ------
    MigrationError
        It is more than may be sent, or cannot be written here.
    GpuaasError
        The peer cannot be reached, or does what it must not.
    """
    received = 0

    def count(number: int) -> None:
        nonlocal received
        received += number

    for attempt in range(1, _ATTEMPTS + 1):
        link: PeerLink | None = None
        try:
            link = PeerLink(peer, timeout_s=timeout_s, counted=count)
            _mirror(link, work, most_bytes, most_files, left_out)
            return received
        except TransportError:
            if attempt == _ATTEMPTS:
                raise
        except OSError as error:
            raise MigrationError(f"the files of the session cannot be written: {error}.") from error
        finally:
            if link is not None:
                link.close()
    raise AssertionError


def _mirror(link: PeerLink, work: Path, most_bytes: int, most_files: int, left_out: Callable[[str, str], None]) -> None:
    link.ask("POST", "files")
    listing = _checked(link.whole(LIST_BYTES), most_bytes, most_files)
    if listing.shared:
        return
    for path, why in listing.left_out.items():
        left_out(path, why)
    with _tree(work) as tree:
        _clear(tree, listing)
        folders = [entry for entry in listing.entries if entry.kind == "folder"]
        for entry in folders:
            tree.folder(entry.path)
        lacking: dict[str, int] = {}
        for entry in listing.entries:
            here = tree.look(entry.path)
            if entry.kind == "link" and here != entry:
                tree.link(entry)
            elif entry.kind == "file" and here != entry:
                if here is not None and msgspec.structs.replace(here, mode=entry.mode) == entry:
                    tree.settle(entry)
                else:
                    lacking[entry.path] = entry.size
        for paths in _requests(lacking):
            link.ask("POST", "files", msgspec.msgpack.encode(paths))
            _receive(link, tree, paths, most_bytes)
        for entry in reversed(folders):
            tree.settle(entry)


def _checked(data: bytes, most_bytes: int, most_files: int) -> Listing:
    try:
        listing = msgspec.msgpack.decode(data, type=Listing)
    except UNREADABLE as error:
        raise RemoteProtocolError(f"the list of files cannot be read: {error}.") from error
    folders: set[str] = {""}
    seen: set[str] = set()
    if len(listing.entries) > most_files:
        raise _too_much(f"{len(listing.entries)} files", "sync_files")
    for entry in listing.entries:
        check_path(entry.path)
        _check_entry(entry)
        if entry.path in seen or entry.path.rpartition("/")[0] not in folders:
            raise RemoteProtocolError(f"the list of files has {entry.path[:80]!r} twice, or outside of its folder.")
        seen.add(entry.path)
        if entry.kind == "folder":
            folders.add(entry.path)
    size = sum(entry.size for entry in listing.entries)
    if size > most_bytes:
        raise _too_much(f"{size} bytes", "sync_bytes")
    return listing


def _check_entry(entry: Entry) -> None:
    numbers = (entry.size, entry.mode)
    if min(numbers) < 0 or entry.mode > 0o777 or not -(1 << 62) < entry.mtime_ns < 1 << 62:
        raise RemoteProtocolError(f"file {entry.path[:80]!r} has a size, a time or permissions that no file has.")
    if entry.kind == "link" and (not 0 < len(entry.target) <= PATH_BYTES or "\0" in entry.target):
        raise RemoteProtocolError(f"link {entry.path[:80]!r} leads nowhere.")


def _clear(tree: Tree, listing: Listing) -> None:
    """Remove what is not on the list, or of another kind there."""
    ignored = pathspec.GitIgnoreSpec.from_lines(listing.ignore)
    kinds = {entry.path: entry.kind for entry in listing.entries}

    def stays(path: str, is_folder: bool) -> bool:
        return path not in kinds and ignored.match_file(f"{path}/" if is_folder else path)

    for entry in list(tree.walk(stays, {})):
        if kinds.get(entry.path) != entry.kind:
            tree.remove(entry.path)


def _requests(lacking: dict[str, int]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for path in lacking:
        batch.append(path)
        size += len(path.encode()) + 5
        if len(batch) == REQUEST_FILES or size > REQUEST_BYTES // 2:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _receive(link: PeerLink, tree: Tree, paths: Iterable[str], most_bytes: int) -> None:
    head = link.frame()
    for path in paths:
        if head is None or head.kind != FILE:
            raise RemoteProtocolError(f"the peer's answer ends before the file {path[:80]!r}.")
        entry = _decoded(link.payload())
        if entry.path != path or entry.kind not in ("file", "gone"):
            raise RemoteProtocolError(f"the peer sends {entry.path[:80]!r} for {path[:80]!r}.")
        _check_entry(entry)
        if entry.size > most_bytes:
            raise _too_much(f"{entry.size} bytes in {path[:80]}", "sync_bytes")
        if entry.kind == "gone":
            tree.remove(path)
            head = link.frame()
            continue
        with tree.write(entry) as file:
            left = entry.size
            while (head := link.frame()) is not None and head.kind == PIECE:
                left -= _write_piece(link, head, file, left)
            if left:
                raise TransportError(f"file {path[:80]} became shorter while it was sent.")
    if head is not None:
        raise RemoteProtocolError("the peer sends more files than it was asked for.")


def _write_piece(link: PeerLink, head: Frame, file: int, left: int) -> int:
    if not 0 < head.raw_bytes <= min(left, _PIECE_BYTES):
        raise RemoteProtocolError("the peer sends a piece that is larger than its file.")
    payload: Any = link.payload()
    if head.codec != RAW or len(payload) != head.raw_bytes:
        payload = decode(head.codec, payload, head.raw_bytes)
        if payload is None:
            raise RemoteProtocolError("the peer sends a piece packed in a way that cannot be undone.")
    view = memoryview(payload)
    while len(view):
        view = view[os.write(file, view) :]
    return head.raw_bytes


def _decoded(data: bytes) -> Entry:
    try:
        return msgspec.msgpack.decode(data, type=Entry)
    except UNREADABLE as error:
        raise RemoteProtocolError(f"the head of a file cannot be read: {error}.") from error


@contextlib.contextmanager
def _tree(work: Path) -> Iterator[Tree]:
    try:
        tree = Tree(work)
    except OSError as error:
        raise MigrationError(f"the session's working folder cannot be opened: {error}.") from error
    try:
        yield tree
    finally:
        tree.close()
