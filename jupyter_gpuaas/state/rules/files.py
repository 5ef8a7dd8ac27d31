"""Open files: the same path, mode and place, once the content has been found to be what it was.

A text file is a wrapper of a buffer of a raw file, each an object that the notebook may hold, so each has its rule.
Nothing is ever truncated or created by opening: the modes ``w`` and ``x`` are shown, and not done again.
"""

from __future__ import annotations

import io
import os
import stat
import sys
import tempfile
from typing import Any

from .filecontent import WHOLE_BYTES, FileState, check, kept, look, remember
from .iterators import referents
from .registry import Context, NotRestorable, restoring, rule

#: Devices that are the same everywhere.
_DEVICES = frozenset({"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"})
_ITERATED_BYTES = 64 * 1024**2
_NEWLINES = ("", "\n", "\r", "\r\n")


def standard_stream(file: Any) -> tuple[Any, ...] | None:
    """Reduce value of the interpreter's own streams and of what is inside them."""
    for name in ("__stdin__", "__stdout__", "__stderr__"):
        part = getattr(sys, name)
        for depth in range(3):
            if part is file:
                return of_standard, (name, depth)
            part = getattr(part, "raw" if depth else "buffer", None)
    return None


def of_standard(name: str, depth: int) -> Any:
    part = getattr(sys, name)
    for attribute in ("buffer", "raw")[:depth]:
        part = getattr(part, attribute)
    return part


# -- raw files -----------------------------------------------------------------------------------------------------


@rule("_io.FileIO")
def reduce_raw(raw: Any, context: Context) -> Any:
    known = standard_stream(raw)
    if known is not None:
        return known
    attributes = {name: value for name, value in vars(raw).items() if name != "name"} or None
    if raw.closed:
        return closed_raw, (type(raw), getattr(raw, "name", ""), raw.mode), attributes
    fd = raw.fileno()
    found = os.fstat(fd)
    link = os.readlink(f"/proc/self/fd/{fd}") if os.path.exists("/proc/self/fd") else ""
    if not stat.S_ISREG(found.st_mode):
        if link in _DEVICES:
            return device, (type(raw), raw.name, link, raw.mode), attributes
        raise NotRestorable(f"is or holds an open {_kind(found.st_mode)}")
    if not found.st_nlink:
        return (*_anonymous(raw, fd, found, context), attributes)
    path = _path(raw, found, link)
    writes = raw.writable()
    remember(path, raw)
    if writes:
        context.escaped("files")
    context.rebuilt("a file opened again at its place; its content is compared")
    state = look(path, source=fd, keep=writes)
    shown = path if isinstance(raw.name, int) else raw.name
    return reopened, (type(raw), shown, raw.mode, raw.tell(), state), attributes


def _kind(mode: int) -> str:
    for test, name in ((stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"), (stat.S_ISCHR, "terminal or device")):
        if test(mode):
            return name
    return "file of a special kind"


def _path(raw: Any, found: os.stat_result, link: str) -> str:
    """The absolute path of an open file, whatever the working folder has become."""
    named = [] if isinstance(raw.name, int) else [os.path.abspath(os.fsdecode(raw.name))]
    for path in (*named, link):
        try:
            if path and os.path.samestat(os.stat(path), found):
                return path
        except OSError:
            continue
    raise NotRestorable(f"is an open file that is not at its path any more: {named[0] if named else link}")


def _anonymous(raw: Any, fd: int, found: os.stat_result, context: Context) -> tuple[Any, tuple[Any, ...]]:
    if not isinstance(raw.name, int):
        raise NotRestorable(f"is open on a file that was deleted: {raw.name}")
    if found.st_size > WHOLE_BYTES:
        raise NotRestorable(f"is a temporary file of {found.st_size:,} bytes; up to {WHOLE_BYTES:,} are kept")
    context.rebuilt("a new temporary file with the same content")
    return anonymous, (type(raw), raw.mode, raw.tell(), kept(os.pread(fd, found.st_size, 0)))


def _opened(kind: Any, name: Any, mode: str, path: str) -> Any:
    """A raw file as if opened by name and mode, which does to the disk only what reading would."""

    def opener(_: Any, flags: int) -> int:
        return os.open(path, flags & ~(os.O_TRUNC | os.O_CREAT | os.O_EXCL))

    raw = kind.__new__(kind)
    try:
        io.FileIO.__init__(raw, os.devnull, mode, opener=opener)
    except OSError as error:
        raise NotRestorable(f"is an open file that cannot be opened here: {error}") from None
    raw.name = name
    return raw


def reopened(kind: Any, name: Any, mode: str, position: int, state: FileState) -> Any:
    moved = restoring().here(state.path)
    if name == state.path:
        name = moved
    state = state._replace(path=moved)
    check(state, writes=mode != "rb")
    raw = _opened(kind, name, mode, state.path)
    raw.seek(position)
    remember(state.path, raw)
    return raw


def device(kind: Any, name: Any, path: str, mode: str) -> Any:
    return _opened(kind, name, mode, path)


def closed_raw(kind: Any, name: Any, mode: str) -> Any:
    raw = _opened(kind, name, mode, os.devnull)
    # At the end: a buffer or wrapper cannot be put around a closed file.
    restoring().finally_.append(raw.close)
    return raw


def anonymous(kind: Any, mode: str, position: int, content: Any) -> Any:
    raw = kind.__new__(kind)
    with tempfile.TemporaryFile() as file:
        io.FileIO.__init__(raw, os.dup(file.fileno()), mode)
    os.pwrite(raw.fileno(), content, 0)
    raw.seek(position)
    return raw


# -- buffers -------------------------------------------------------------------------------------------------------


@rule("_io.BufferedReader", "_io.BufferedWriter", "_io.BufferedRandom")
def reduce_buffered(buffered: Any, context: Context) -> Any:
    known = standard_stream(buffered)
    if known is not None:
        return known
    try:
        raw = buffered.raw
    except ValueError:
        raise NotRestorable("is a buffer without its file (detached)") from None
    position = None
    if not buffered.closed:
        if buffered.writable():
            buffered.flush()
        position = buffered.tell() if buffered.seekable() else None
        _remember(raw, buffered)
    # The size of the buffer is not told, but counted by sys.getsizeof.
    size = buffered.__sizeof__() - type(buffered).__basicsize__
    attributes = dict(vars(buffered)) or None
    return make_buffered, (type(buffered), raw, size if size > 0 else io.DEFAULT_BUFFER_SIZE, position), attributes


def _remember(raw: Any, file: Any) -> None:
    if isinstance(raw, io.FileIO) and isinstance(raw.name, (str, bytes, os.PathLike)):
        remember(os.path.abspath(os.fsdecode(raw.name)), file)


def make_buffered(kind: Any, raw: Any, size: int, position: int | None) -> Any:
    base: Any = next(base for base in kind.__mro__ if base.__module__ == "_io")
    buffered = kind.__new__(kind)
    base.__init__(buffered, raw, size)
    if position is not None:
        buffered.seek(position)
        _remember(raw, buffered)
    return buffered


@rule("_io.BufferedRWPair", "_pyio.IOBase", "_pyio.BytesIO")
def reduce_pair(file: Any, context: Context) -> Any:
    raise NotRestorable(f"is or holds an open file of a kind that is not kept: {type(file).__qualname__}")


# -- text ----------------------------------------------------------------------------------------------------------


@rule("_io.TextIOWrapper")
def reduce_text(text: Any, context: Context) -> Any:
    known = standard_stream(text)
    if known is not None:
        return known
    try:
        buffer, closed = text.buffer, text.closed
    except ValueError:
        raise NotRestorable("is a text file without its buffer (detached)") from None
    newline, position = None, None
    if not closed:
        newline = _newline(text)
        if text.seekable():
            try:
                position = text.tell()
            except OSError:  # within a for loop over its lines
                position = _tell(text)
        _remember(getattr(buffer, "raw", None), text)
    made = (text.encoding, text.errors, newline, text.line_buffering, text.write_through)
    return make_text, (type(text), buffer, made, position), dict(vars(text)) or None


def make_text(kind: Any, buffer: Any, made: tuple[Any, ...], position: int | None) -> Any:
    text = kind.__new__(kind)
    io.TextIOWrapper.__init__(text, buffer, *made)
    if position is not None:
        text.seek(position)
        _remember(getattr(buffer, "raw", None), text)
    return text


def _newline(text: Any) -> str | None:
    """The argument ``newline`` that it was opened with, which nothing tells but what the wrapper holds."""
    held = referents(text)[1:]  # behind the buffer
    strings = [part for part in held if type(part) is str]
    # The encoding, the newline unless None, characters that are decoded and not yet read, the errors.
    between = strings[1:-1]
    if len(between) > 1 or (between and between[0] in _NEWLINES):
        if len(between) == 1 and text.readable() and any(type(part) is tuple for part in held):
            return None  # A snapshot is there, so these are the decoded characters.
        return str(between[0])
    return None


def _tell(text: Any) -> int:
    """The place within a loop over the lines, where ``tell`` is disabled: by reading what is left, then up to here.

    Leaves the file where it is.
    """
    if os.fstat(text.fileno()).st_size > _ITERATED_BYTES:
        raise NotRestorable("is a large file in the midst of a loop over its lines")
    rest = text.read()
    text.seek(0)
    whole = text.read()
    text.seek(0)
    text.read(len(whole) - len(rest))
    if not whole.endswith(rest):
        raise NotRestorable("is a file in the midst of a loop over its lines, and has changed meanwhile")
    return int(text.tell())


# -- files in memory -----------------------------------------------------------------------------------------------


@rule("_io.BytesIO", "_io.StringIO")
def reduce_memory(file: Any, context: Context) -> Any:
    if file.closed:
        return closed_memory, (type(file),)
    return NotImplemented


def closed_memory(kind: Any) -> Any:
    file = kind()
    restoring().finally_.append(file.close)
    return file


@rule("_io._BytesIOBuffer", exact=True)
def reduce_exported(exported: Any, context: Context) -> Any:
    source = next(held for held in referents(exported) if isinstance(held, io.BytesIO))
    return export, (source,)


def export(source: Any) -> Any:
    return source.getbuffer().obj
