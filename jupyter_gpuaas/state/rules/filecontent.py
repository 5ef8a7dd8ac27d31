"""What is in a file at a capture, and whether it still is at a restore.

A checkpoint holds a handle, not the file: the file must be what it was, else the handle would read or write at a place
that means something else. Small files that the notebook writes are kept whole, to be made again where they are gone.
"""

from __future__ import annotations

import os
import pickle
import time
import weakref
from typing import Any, NamedTuple

import xxhash

from .registry import NotRestorable, restoring

#: Up to here a file is compared whole, and kept whole if the notebook writes it.
WHOLE_BYTES = 16 * 1024**2
#: Of larger files, this much from both ends is compared.
EDGE_BYTES = 1024**2
#: A file changed so short before it was looked at may change again without another time stamp.
_SETTLED_NS = 2_000_000_000
_IN_BAND_BYTES = 64 * 1024

_digests: dict[tuple[int, int, int, int], str] = {}
_open: dict[str, list[weakref.ref[Any]]] = {}


class FileState(NamedTuple):
    """A file as it was; ``content`` if it is kept."""

    path: str
    size: int
    mtime_ns: int
    mode: int
    digest: str
    content: Any


def look(path: str, *, source: str | int | None = None, keep: bool = False) -> FileState:
    """Note what is in a file.

    Parameters
    ----------
    source
        Where to read it: the path unless given, or a descriptor.
    keep
        Take the content with it if it is small.
    """
    through = path if source is None else f"/proc/self/fd/{source}" if isinstance(source, int) else source
    try:
        fd = os.open(through, os.O_RDONLY)
    except OSError as error:
        raise NotRestorable(f"is an open file that cannot be read: {error}") from None
    try:
        found = os.fstat(fd)
        keep = keep and found.st_size <= WHOLE_BYTES
        key = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
        digest = "" if keep else _digests.get(key, "")
        content = b""
        if not digest:
            digest, content = _read(fd, found.st_size)
            if time.time_ns() - found.st_mtime_ns > _SETTLED_NS:
                _digests[key] = digest
    finally:
        os.close(fd)
    return FileState(path, found.st_size, found.st_mtime_ns, found.st_mode & 0o777, digest, kept(content, keep))


def kept(content: bytes, keep: bool = True) -> Any:
    """Content as a rule stores it: much of it out of band."""
    return (pickle.PickleBuffer(content) if len(content) > _IN_BAND_BYTES else content) if keep else None


def _read(fd: int, size: int) -> tuple[str, bytes]:
    """Digest of a file, and its content if it is small."""
    whole = xxhash.xxh3_128()
    spans = [(0, size)] if size <= WHOLE_BYTES else [(0, EDGE_BYTES), (size - EDGE_BYTES, EDGE_BYTES)]
    content = b""
    for start, length in spans:
        parts = []
        while length and (part := os.pread(fd, length, start)):
            parts.append(part)
            start, length = start + len(part), length - len(part)
        content = b"".join(parts)
        whole.update(content)
    return whole.hexdigest(), content


def check(was: FileState, *, writes: bool) -> None:
    """Make sure that a file is what it was; where it is gone and its content is kept, make it again.

    Raises
    ------
    NotRestorable
        It is gone or has changed, and how.
    """
    _flush(was.path)
    if not os.path.exists(was.path):
        if was.content is None:
            raise NotRestorable(f"is an open file, and {was.path} does not exist here")
        write_new(was.path, was.content, was.mode)
        restoring().remark(f"{was.path} did not exist and was made again as it was at the checkpoint")
        return
    now = look(was.path)
    if now.size != was.size:
        raise NotRestorable(
            f"is an open file, and {was.path} has changed since: {now.size:,} bytes, at the checkpoint {was.size:,}"
        )
    if now.digest != was.digest:
        raise NotRestorable(f"is an open file, and the content of {was.path} has changed since the checkpoint")
    if was.size > WHOLE_BYTES and now.mtime_ns != was.mtime_ns:
        if writes:
            raise NotRestorable(f"is a file open for writing, and {was.path} has another time of change than it had")
        restoring().remark(f"{was.path} has another time of change; only its size and its two ends were compared")


def write_new(path: str, content: Any, mode: int) -> None:
    """Make a file; never one that is there."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(fd, "wb") as file:
            file.write(content)
    except OSError as error:
        raise NotRestorable(f"is an open file that cannot be made here: {error}") from None


def remember(path: str, file: Any) -> None:
    """Know a handle that may hold bytes back from this file."""
    alive = [known for known in _open.get(path, ()) if known() is not None and known() is not file]
    _open[path] = [*alive, weakref.ref(file)]


def _flush(path: str) -> None:
    """Let the handles that a restore in place will drop write now what they would write when they are dropped."""
    for known in _open.get(path, ()):
        file = known()
        if file is not None and not file.closed:
            file.flush()
