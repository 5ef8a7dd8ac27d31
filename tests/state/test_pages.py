"""Pages that were written to, and captures that believe it: whoever wrote, nothing is missed."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jupyter_gpuaas.state import Checkpointer, looking, pages
from jupyter_gpuaas.state.pages import PAGE_BYTES, Pages, Private, Unwatched, is_exact
from jupyter_gpuaas.store import MemoryStore
from jupyter_gpuaas.store.base import CHUNK_BYTES

numpy = pytest.importorskip("numpy")
KEY = b"0123456789abcdef"

needs_pages = pytest.mark.skipif(pages.pages() is None, reason="this system does not tell which pages were written")


def _memory(count: int, *, huge: bool = False) -> tuple[mmap.mmap, int, int]:
    memory = mmap.mmap(-1, count * PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge:
        memory.madvise(mmap.MADV_HUGEPAGE)
    memory[:] = b"\1" * len(memory)
    low = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return memory, low, low + len(memory)


def _numbers(ranges: pages.Ranges, low: int) -> list[int]:
    return [n for start, end in ranges for n in range((start - low) // PAGE_BYTES, (end - low) // PAGE_BYTES)]


def _by_assignment(memory: mmap.mmap, page: int) -> None:
    memory[page * PAGE_BYTES + 5] = 7


def _by_the_system(memory: mmap.mmap, page: int) -> None:
    with open("/dev/zero", "rb", buffering=0) as zeros:
        zeros.readinto(memoryview(memory)[page * PAGE_BYTES : page * PAGE_BYTES + 3])


def _by_memmove(memory: mmap.mmap, page: int) -> None:
    ctypes.memmove(ctypes.addressof(ctypes.c_char.from_buffer(memory)) + page * PAGE_BYTES, b"xyz", 3)


def _by_the_file_of_the_process(memory: mmap.mmap, page: int) -> None:
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + page * PAGE_BYTES
    with open("/proc/self/mem", "r+b", buffering=0) as process:
        process.seek(address)
        process.write(b"abc")


def _by_giving_back(memory: mmap.mmap, page: int) -> None:
    memory.madvise(mmap.MADV_DONTNEED, page * PAGE_BYTES, PAGE_BYTES)


WRITERS = [_by_assignment, _by_the_system, _by_memmove, _by_the_file_of_the_process, _by_giving_back]


@needs_pages
@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("huge", [False, True])
def test_a_write_is_seen_once_whoever_writes(write: Callable[[mmap.mmap, int], None], huge: bool) -> None:
    memory, low, high = _memory(4 * 1024 if huge else 64, huge=huge)
    watch = Pages()
    try:
        mark = watch.watch(low, high)
        nothing = watch.take(low, high, mark)
        assert nothing.ranges == []
        write(memory, 17)
        write(memory, 42)
        seen = watch.take(low, high, nothing.mark)
        assert _numbers(seen.ranges, low) == [17, 42]
        if write is not _by_giving_back:  # until it is touched, it is not there
            assert watch.take(low, high, seen.mark).ranges == []
    finally:
        watch.close()


@needs_pages
def test_a_mark_is_good_once_and_ends_with_any_that_overlaps() -> None:
    _kept, low, high = _memory(64)
    middle = low + 32 * PAGE_BYTES
    watch = Pages()
    try:
        mark = watch.watch(low, middle)
        other = watch.watch(middle, high)
        later = watch.take(low, middle, mark).mark
        with pytest.raises(Unwatched):
            watch.take(low, middle, mark)
        with pytest.raises(Unwatched):
            watch.take(low, middle - PAGE_BYTES, later)
        watch.watch(middle - PAGE_BYTES, middle + PAGE_BYTES)
        for first, last, old in ((low, middle, later), (middle, high, other)):
            with pytest.raises(Unwatched):
                watch.take(first, last, old)
    finally:
        watch.close()


@needs_pages
def test_memory_that_was_mapped_anew_or_moved_is_not_believed() -> None:
    watch = Pages()
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long]
    memory, low, high = _memory(64)
    try:
        mark = watch.watch(low, high)
        fixed = 0x10
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | fixed
        # A part in the middle becomes other memory under the same address.
        assert libc.mmap(low + 8 * PAGE_BYTES, 4 * PAGE_BYTES, 3, flags, -1, 0) == low + 8 * PAGE_BYTES
        with pytest.raises(Unwatched):
            watch.take(low, high, mark)
        assert memory[9 * PAGE_BYTES] == 0
    finally:
        watch.close()


@needs_pages
def test_what_a_child_writes_after_a_fork_is_its_own_and_what_the_parent_writes_is_seen() -> None:
    memory, low, high = _memory(64)
    watch = Pages()
    try:
        mark = watch.watch(low, high)
        ready, go = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            try:
                memory[3 * PAGE_BYTES] = 9
                try:
                    watch.take(low, high, mark)
                except Unwatched:
                    os.write(ready[1], b"1")
                os.read(go[0], 1)
            finally:
                os._exit(0)
        assert os.read(ready[0], 1) == b"1"
        memory[5 * PAGE_BYTES] = 9
        assert _numbers(watch.take(low, high, mark).ranges, low) == [5]
        os.write(go[1], b"1")
        os.waitpid(child, 0)
        for end in (*ready, *go):
            os.close(end)
    finally:
        watch.close()


def test_nothing_is_believed_while_a_file_is_open_that_the_disk_reads_past_the_tables(tmp_path: Path) -> None:
    before = is_exact()
    file = os.open(tmp_path / "direct", os.O_RDWR | os.O_CREAT)
    try:
        assert is_exact() == before
        direct = os.open(tmp_path / "direct", os.O_RDONLY | os.O_DIRECT)
    except OSError:
        pytest.skip("this file system has no direct access")
    finally:
        os.close(file)
    try:
        assert not is_exact()
    finally:
        os.close(direct)


def test_memory_of_files_and_shared_memory_is_not_private(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(16 * PAGE_BYTES))
    with open(tmp_path / "file", "r+b") as file:
        maps = {
            True: mmap.mmap(-1, 16 * PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS),
            False: mmap.mmap(-1, 16 * PAGE_BYTES, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS),
            None: mmap.mmap(file.fileno(), 16 * PAGE_BYTES, flags=mmap.MAP_PRIVATE),
        }
        private = Private()
        for expected, memory in maps.items():
            low = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            assert private.covers(low, low + 16 * PAGE_BYTES) == bool(expected)


# -- captures ----------------------------------------------------------------------------------------------


class _Watched:
    """One array that is captured again and again, and what must come back."""

    def __init__(self, megabytes: int) -> None:
        self.values = numpy.random.default_rng(0).integers(0, 255, megabytes * CHUNK_BYTES, numpy.uint8)
        self.namespace = {"values": self.values}
        self.checkpointer = Checkpointer(MemoryStore(), key=KEY)
        self.newest: Any = self.checkpointer.capture(self.namespace)

    def capture(self, touched: frozenset[str] | None = frozenset({"values"})) -> None:
        self.newest = self.checkpointer.begin(self.namespace, parent=self.newest, touched=touched).write()

    def settle(self) -> None:
        for _ in range(2):
            self.capture()

    @property
    def is_watched(self) -> bool:
        tracker = self.checkpointer.tracker
        assert tracker is not None
        (group,) = (group for group in tracker.groups if "values" in group.names)
        return bool(group.regions[0].mark)


def _check_by(other: Checkpointer, watched: _Watched) -> None:
    back = other.restore(watched.newest).namespace["values"]
    numpy.testing.assert_array_equal(back, watched.namespace["values"])


@needs_pages
def test_captures_find_every_write_by_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "is_exact", lambda: True)
    watched = _Watched(16)
    reader = Checkpointer(watched.checkpointer.store, key=KEY)
    watched.settle()
    assert watched.is_watched
    looked: list[int] = []
    digests = looking.Looker._digests

    def counted(self: Any, content: memoryview, numbers: Any = None) -> list[bytes]:
        numbers = range(-(-content.nbytes // CHUNK_BYTES)) if numbers is None else list(numbers)
        looked.append(len(numbers))
        return digests(self, content, numbers)

    monkeypatch.setattr(looking.Looker, "_digests", counted)
    make = random.Random(1)
    for _ in range(30):
        for _ in range(make.randrange(4)):
            # The first and last bytes share their pages with what lies beside them.
            at = make.choice([0, 1, watched.values.nbytes - 1, make.randrange(watched.values.nbytes)])
            watched.values[at] ^= 1 + make.randrange(255)
        watched.capture()
        _check_by(reader, watched)
    assert sum(looked) < 30 * 16 / 2, "all chunks were digested each time"


@needs_pages
def test_two_who_watch_the_same_memory_take_nothing_from_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "is_exact", lambda: True)
    one = _Watched(8)
    other = _Watched(8)
    other.values = other.namespace["values"] = one.values
    other.capture(None)
    make = random.Random(2)
    readers = [(each, Checkpointer(each.checkpointer.store, key=KEY)) for each in (one, other)]
    for _ in range(40):
        one.values[make.randrange(one.values.nbytes)] ^= 1 + make.randrange(255)
        each, reader = make.choice(readers)
        each.capture()
        _check_by(reader, each)


@needs_pages
def test_arrays_that_follow_each_other_at_one_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "is_exact", lambda: True)
    watched = _Watched(8)
    reader = Checkpointer(watched.checkpointer.store, key=KEY)
    make = numpy.random.default_rng(3)
    for turn in range(30):
        if turn % 3 == 0:
            size = watched.values.nbytes
            watched.namespace["values"] = watched.values = None
            watched.values = watched.namespace["values"] = numpy.empty(size, numpy.uint8)
            watched.values[: size // 2] = make.integers(0, 255, size // 2, numpy.uint8)
        else:
            watched.values[int(make.integers(watched.values.nbytes))] ^= 5
        watched.capture()
        _check_by(reader, watched)


@needs_pages
def test_memory_that_changes_much_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "is_exact", lambda: True)
    watched = _Watched(16)
    reader = Checkpointer(watched.checkpointer.store, key=KEY)
    for _ in range(3):
        watched.values += 1
        watched.capture()
        assert not watched.is_watched
    watched.settle()
    assert watched.is_watched
    watched.values += 1
    watched.capture()
    assert not watched.is_watched
    _check_by(reader, watched)
    # It has to stay as it is longer than the first time.
    watched.capture()
    assert not watched.is_watched
    watched.settle()
    assert watched.is_watched


def test_where_nothing_can_be_believed_digests_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "is_exact", lambda: False)
    watched = _Watched(8)
    watched.settle()
    assert not watched.is_watched
    watched.values[12345] ^= 1
    watched.capture()
    _check_by(Checkpointer(watched.checkpointer.store, key=KEY), watched)


@needs_pages
def test_a_child_that_goes_on_with_the_checkpointer_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "is_exact", lambda: True)
    watched = _Watched(8)
    watched.settle()
    assert watched.is_watched
    result = os.pipe()
    child = os.fork()
    if child == 0:
        answer = b"an error"
        try:
            for at in (1, 3 * CHUNK_BYTES + 7, 3 * CHUNK_BYTES + 8):
                watched.values[at] ^= 1
                watched.capture()
                _check_by(Checkpointer(watched.checkpointer.store, key=KEY), watched)
            answer = b"right"
        finally:
            os.write(result[1], answer)
            os._exit(0)
    os.close(result[1])
    with open(result[0], "rb") as told:
        assert told.read() == b"right"
    os.waitpid(child, 0)
    watched.values[5] ^= 1
    watched.capture()
    _check_by(Checkpointer(watched.checkpointer.store, key=KEY), watched)
