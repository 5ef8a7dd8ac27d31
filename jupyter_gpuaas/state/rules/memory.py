"""Views of memory: mappings of files, anonymous mappings, memoryviews; views of one memory stay views of one memory."""

from __future__ import annotations

import ctypes
import mmap
import os
import pickle
from typing import Any

from .filecontent import WHOLE_BYTES, FileState, check, look
from .registry import Context, NotRestorable, restoring, rule


class _Buffer(ctypes.Structure):
    """Py_buffer, to learn an address that Python does not tell."""

    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


def address_of(exporter: Any) -> int:
    """Address of the first element of what exports a buffer."""
    buffer = _Buffer()
    full_read_only = 0x011C  # PyBUF_FULL_RO
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(exporter), ctypes.byref(buffer), full_read_only)
    try:
        return int(buffer.buf or 0)
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))


# -- memoryview ----------------------------------------------------------------------------------------------------


@rule("builtins.memoryview", exact=True)
def reduce_memoryview(view: Any, context: Context) -> Any:
    try:
        exporter = view.obj
    except ValueError:
        return released_view, ()
    if exporter is None:
        raise NotRestorable("is a memoryview of memory that no object owns")
    plan = _plan(view, exporter)
    try:
        is_same = _layout(make_view(exporter, *plan)) == _layout(view)
    except (TypeError, ValueError):
        is_same = False
    if not is_same:
        raise NotRestorable(f"is a memoryview of a {type(exporter).__name__} that cannot be taken again")
    return make_view, (exporter, *plan)


def _plan(view: Any, exporter: Any) -> tuple[Any, ...]:
    """How to get this view from its exporter: first byte, bytes, format, shape, step; see ``make_view``."""
    whole = memoryview(exporter)
    if _layout(whole)[:-1] == _layout(view)[:-1]:
        return None, view.readonly
    if not whole.nbytes or not view.nbytes or view.ndim == 0:
        return (0, 0, view.format, view.shape, 1), view.readonly
    offset = address_of(view) - address_of(whole)
    if view.c_contiguous:
        return (offset, view.nbytes, view.format, view.shape, 1), view.readonly
    # One dimension with a step; the lowest byte first, from where a slice begins either way.
    stride, length = view.strides[0], view.shape[0]
    start = offset if stride > 0 else offset + stride * (length - 1)
    size = abs(stride) * (length - 1) + view.itemsize
    return (start, size, view.format, (size // view.itemsize,), stride // view.itemsize), view.readonly


def _layout(view: Any) -> tuple[Any, ...]:
    place = address_of(view) if view.nbytes else 0
    return place, view.format, view.shape, view.strides, view.itemsize, view.readonly


def make_view(exporter: Any, part: tuple[Any, ...] | None, readonly: bool) -> Any:
    view = memoryview(exporter)
    if part is not None:
        start, size, form, shape, step = part
        if view.ndim != 1 or view.format != "B":
            view = view.cast("B")
        view = view[start : start + size]
        if form != "B" or len(shape) != 1:
            view = view.cast(form, shape) if size else view.cast(form)
        if step != 1:
            view = view[::step]
    return view.toreadonly() if readonly and not view.readonly else view


def released_view() -> Any:
    view = memoryview(b"")
    view.release()
    return view


# -- mmap ----------------------------------------------------------------------------------------------------------


@rule("mmap.mmap")
def reduce_mmap(mapping: Any, context: Context) -> Any:
    own = getattr(mapping, "__dict__", None) or None
    if mapping.closed:
        return closed_mapping, (type(mapping),), own
    readonly = memoryview(mapping).readonly
    shared, offset, path = _mapped(address_of(mapping))
    position, length = mapping.tell(), len(mapping)
    if not path:
        context.rebuilt("new memory with the same content, for an anonymous mapping")
        content = pickle.PickleBuffer(mapping)
        return anonymous_mapping, (type(mapping), length, shared, readonly, content, position), own
    if not os.path.exists(path):
        raise NotRestorable(f"maps a file that was deleted: {path.removesuffix(' (deleted)')}")
    context.rebuilt("a file mapped again; its content is compared")
    writes = shared and not readonly
    if writes:
        mapping.flush()
        context.escaped("files")
    # A private mapping may hold what its file does not: its memory is kept.
    private = None if shared or readonly else pickle.PickleBuffer(mapping)
    state = look(path, keep=writes)
    return mapped, (type(mapping), state, length, offset, shared, readonly, private, position), own


def _mapped(address: int) -> tuple[bool, int, str]:
    """Of a mapping: whether it is shared, its offset in the file, and the file; none for anonymous memory."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            fields = line.split(maxsplit=5)
            low, high = (int(end, 16) for end in fields[0].split("-"))
            if low <= address < high:
                path = fields[5].rstrip("\n") if len(fields) > 5 and fields[4] != "0" else ""
                if path.startswith(("/dev/zero", "/memfd:", "[")):
                    path = ""
                # Neighbouring mappings may be shown as one.
                return fields[1][3] == "s", int(fields[2], 16) + address - low, path
    raise NotRestorable("is a mapping that the system does not list")


def closed_mapping(kind: Any) -> Any:
    mapping = kind(-1, 1)
    mapping.close()
    return mapping


def anonymous_mapping(kind: Any, length: int, shared: bool, readonly: bool, content: Any, position: int) -> Any:
    mapping = kind(-1, length, flags=mmap.MAP_ANONYMOUS | (mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE))
    mapping[:] = bytes(content) if length <= WHOLE_BYTES else memoryview(content)
    if readonly:
        raise NotRestorable("is anonymous memory that is read-only")
    mapping.seek(position)
    return mapping


def mapped(
    kind: Any, state: FileState, length: int, offset: int, shared: bool, readonly: bool, content: Any, position: int
) -> Any:
    state = state._replace(path=restoring().here(state.path))
    check(state, writes=shared and not readonly)
    fd = os.open(state.path, os.O_RDWR if shared and not readonly else os.O_RDONLY)
    try:
        flags = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
        protection = mmap.PROT_READ if readonly else mmap.PROT_READ | mmap.PROT_WRITE
        mapping = kind(fd, length, flags=flags, prot=protection, offset=offset)
    finally:
        os.close(fd)
    if content is not None:
        mapping[:] = memoryview(content).cast("B")
    mapping.seek(position)
    return mapping


# -- ctypes --------------------------------------------------------------------------------------------------------


@rule("_ctypes._CData")
def reduce_data(data: Any, context: Context) -> Any:
    if data._b_base_ is not None or not data._b_needsfree_:
        raise NotRestorable("is a ctypes object in memory that another object owns")
    return NotImplemented  # A copy of the memory; pointers refuse themselves.


@rule("_ctypes.CFuncPtr")
def reduce_function(function: Any, context: Context) -> Any:
    raise NotRestorable("is or holds a ctypes function pointer")


@rule("ctypes.CDLL")
def reduce_library(library: Any, context: Context) -> Any:
    kind = type(library)
    if kind.__module__ != "ctypes":
        raise NotRestorable(f"is or holds a library loaded by {kind.__module__}.{kind.__qualname__}")
    context.rebuilt("a library in C, loaded again by its name; what was set in it is lost")
    return load_library, (kind.__name__, library._name)


def load_library(kind: str, name: str | None) -> Any:
    try:
        return getattr(ctypes, kind)(name)
    except OSError as error:
        raise NotRestorable(f"needs a library in C: {error}") from None
