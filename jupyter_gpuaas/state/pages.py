"""Which pages of this process's memory were written to since they were last asked about, whoever wrote.

Linux 6.7 and later can tell: memory is registered with a userfaultfd for asynchronous write protection, and
``PAGEMAP_SCAN`` gives the pages that were written since, and protects them again, in one step. The first write to a
protected page costs its writer a page fault; nobody is told and nothing waits.

A page counts as untouched only when it is there and still protected. What was unmapped, mapped anew, moved, given back
(``MADV_DONTNEED``) or swapped out counts as written. What is never asked about this way: memory that is shared or of a
file, which others write through tables of their own; and nothing at all while devices may write past the tables (see
`is_exact`), in a child after a fork until it begins by itself, and where the system lacks any of this.
"""

from __future__ import annotations

import bisect
import ctypes
import fcntl
import itertools
import mmap
import os
import platform
import struct
import threading
from typing import NamedTuple

PAGE_BYTES = mmap.PAGESIZE

_USERFAULTFD = {"x86_64": 323, "aarch64": 282}
_USER_MODE_ONLY = 1
_WP_UNPOPULATED, _WP_ASYNC = 1 << 13, 1 << 15

_API = struct.Struct("QQQ")  # api, features, ioctls
_REGISTER = struct.Struct("QQQQ")  # start, length, mode, ioctls
_RANGE = struct.Struct("QQ")
_PROTECT = struct.Struct("QQQ")  # start, length, mode
_SCAN = struct.Struct(
    "12Q"
)  # size, flags, start, end, walk_end, vec, vec_len, max_pages, inverted, mask, anyof, return
_API_VERSION, _MODE_WP = 0xAA, 2
_PROTECT_WP = 1
_PROTECT_MATCHING, _CHECK_ASYNC = 1, 2
_WRITTEN, _PRESENT = 2, 8
_VECTOR = 2048
#: Of a scan, ranges with more pieces are not worth telling apart.
_PIECES = 200_000

_O_DIRECT = getattr(os, "O_DIRECT", 0)


def _ioctl(direction: int, kind: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | kind << 8 | number


_IOCTL_API = _ioctl(3, 0xAA, 0x3F, _API.size)
_IOCTL_REGISTER = _ioctl(3, 0xAA, 0x00, _REGISTER.size)
_IOCTL_UNREGISTER = _ioctl(2, 0xAA, 0x01, _RANGE.size)
_IOCTL_PROTECT = _ioctl(3, 0xAA, 0x06, _PROTECT.size)
_IOCTL_SCAN = _ioctl(3, ord("f"), 16, _SCAN.size)

Ranges = list[tuple[int, int]]


class Unwatched(Exception):
    """Nothing can be said of this memory."""


class Written(NamedTuple):
    """What was written to since the mark that was asked about, and the mark to ask about next."""

    ranges: Ranges
    mark: int


class Pages:
    """The pages of this process. From any thread.

    A *mark* stands for one moment of one stretch of memory. Whoever has it may ask once what was written since, which
    gives the next mark. Marks of stretches that overlap end each other.
    """

    def __init__(self) -> None:
        """Raises OSError where the system cannot do it."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._vector = (ctypes.c_uint64 * (3 * _VECTOR))()
        self._marks = itertools.count(1)
        #: First page of each stretch in ascending order, and its end and mark.
        self._starts: list[int] = []
        self._stretches: dict[int, tuple[int, int]] = {}
        self._pagemap = self._fault = -1
        try:
            self._pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
            self._fault = _userfaultfd()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give all marks up; the system forgets what it watches."""
        self._starts, self._stretches = [], {}
        files, self._pagemap, self._fault = (self._pagemap, self._fault), -1, -1
        for file in files:
            if file >= 0:
                os.close(file)

    def watch(self, low: int, high: int) -> int:
        """Begin to watch whole pages; gives the mark of this moment. Raises Unwatched."""
        self._check()
        with self._lock:
            self._forget(low, high)
            try:
                fcntl.ioctl(self._fault, _IOCTL_REGISTER, bytearray(_REGISTER.pack(low, high - low, _MODE_WP, 0)))
                # Not by a scan, which passes over pages that seem to be protected already.
                fcntl.ioctl(self._fault, _IOCTL_PROTECT, bytearray(_PROTECT.pack(low, high - low, _PROTECT_WP)))
            except OSError as error:
                raise Unwatched from error
            return self._mark(low, high)

    def take(self, low: int, high: int, mark: int) -> Written:
        """What was written to since the mark, which ends; watched on from the very moment at which this was seen.

        Raises Unwatched.
        """
        self._check()
        with self._lock:
            self._known(low, high, mark)
            self._forget(low, high)
            return Written(self._scan(low, high), self._mark(low, high))

    def leave(self, low: int, high: int) -> None:
        """Watch no longer; writes cost nothing any more."""
        self._check()
        with self._lock:
            self._forget(low, high)
            try:
                fcntl.ioctl(self._fault, _IOCTL_UNREGISTER, bytearray(_RANGE.pack(low, high - low)))
            except OSError:
                pass  # it is not there any more

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise Unwatched  # the files are those of the parent, and tell of its memory

    def _known(self, low: int, high: int, mark: int) -> None:
        if self._stretches.get(low) != (high, mark):
            raise Unwatched

    def _mark(self, low: int, high: int) -> int:
        mark = next(self._marks)
        bisect.insort(self._starts, low)
        self._stretches[low] = high, mark
        return mark

    def _forget(self, low: int, high: int) -> None:
        """End the marks of all stretches that overlap with this one."""
        first = max(bisect.bisect_right(self._starts, low) - 1, 0)
        last = bisect.bisect_left(self._starts, high)
        kept = [start for start in self._starts[first:last] if self._stretches[start][0] <= low]
        for start in self._starts[first:last]:
            if start not in kept:
                del self._stretches[start]
        self._starts[first:last] = kept

    def _scan(self, low: int, high: int) -> Ranges:
        found: Ranges = []
        at = low
        while at < high:
            # Written or not there: all but pages that are there and protected.
            asked = bytearray(
                _SCAN.pack(
                    _SCAN.size, _PROTECT_MATCHING | _CHECK_ASYNC, at, high, 0,
                    ctypes.addressof(self._vector), _VECTOR, 0,
                    _PRESENT, 0, _WRITTEN | _PRESENT, _WRITTEN | _PRESENT,
                )
            )  # fmt: skip
            try:
                count = fcntl.ioctl(self._pagemap, _IOCTL_SCAN, asked)
            except OSError as error:
                raise Unwatched from error
            found += [(self._vector[3 * n], self._vector[3 * n + 1]) for n in range(count)]
            reached = _SCAN.unpack(asked)[4]
            if reached <= at or len(found) > _PIECES:
                raise Unwatched
            at = reached
        return found


def _userfaultfd() -> int:
    number = _USERFAULTFD.get(platform.machine())
    if number is None:
        raise OSError("userfaultfd: not known on this kind of processor")
    libc = ctypes.CDLL(None, use_errno=True)
    file = int(libc.syscall(number, os.O_CLOEXEC | os.O_NONBLOCK | _USER_MODE_ONLY))
    if file < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    try:
        fcntl.ioctl(file, _IOCTL_API, bytearray(_API.pack(_API_VERSION, _WP_ASYNC | _WP_UNPOPULATED, 0)))
    except BaseException:
        os.close(file)
        raise
    return file


# -- the one of this process -------------------------------------------------------------------------------

_lock = threading.Lock()
_pages: Pages | None = None
_tried = False


def pages() -> Pages | None:
    """The watch of this process; None where the system has none, or where it does not keep its word."""
    global _pages, _tried
    with _lock:
        if not _tried:
            _tried = True
            found = None
            try:
                found = Pages()
                if _keeps_its_word(found):
                    _pages, found = found, None
            except (OSError, Unwatched, ValueError):
                pass
            finally:
                if found is not None:
                    found.close()
        return _pages


def _keeps_its_word(watch: Pages) -> bool:
    """Try it: a write, a write by the system, memory given back, memory never touched, memory mapped anew."""
    count = 16
    memory = mmap.mmap(-1, count * PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    view = memoryview(memory)
    low = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    high = low + count * PAGE_BYTES
    for page in range(count - 1):
        view[page * PAGE_BYTES] = 1
    mark = watch.watch(low, high)
    view[2 * PAGE_BYTES] = 2
    source = os.open("/dev/zero", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.readv(source, [view[5 * PAGE_BYTES : 6 * PAGE_BYTES]])
    finally:
        os.close(source)
    memory.madvise(mmap.MADV_DONTNEED, 9 * PAGE_BYTES, PAGE_BYTES)
    first = watch.take(low, high, mark)
    again = watch.take(low, high, first.mark)
    view[7 * PAGE_BYTES] = view[7 * PAGE_BYTES]  # the same content is written, too
    last = watch.take(low, high, again.mark)
    watch.leave(low, high)
    del view
    written = [_pages_of(ranges, low) for ranges in (first.ranges, again.ranges, last.ranges)]
    missing = {9, count - 1}
    return written == [{2, 5} | missing, missing, {7} | missing]


def _pages_of(ranges: Ranges, low: int) -> set[int]:
    return {page for start, end in ranges for page in range((start - low) // PAGE_BYTES, (end - low) // PAGE_BYTES)}


def _after_fork() -> None:
    global _pages, _tried, _lock
    _lock = threading.Lock()
    if _pages is not None:
        _pages.close()
    _pages, _tried = None, False


os.register_at_fork(after_in_child=_after_fork)


def is_exact() -> bool:
    """Whether all writers of this process go by its page tables now.

    Devices do not that were given memory to write to: GPUs, and disks and networks that work past the system's cache.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            pinned = next((line for line in status if line.startswith("VmPin:")), "VmPin: 1 kB").split()[1]
        if pinned != "0":
            return False
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            if any(device in line for line in maps for device in ("/dev/nvidia", "/dev/infiniband", "/[aio]")):
                return False
        for name in os.listdir("/proc/self/fd"):
            try:
                target = os.readlink(f"/proc/self/fd/{name}")
                if target.startswith(
                    ("/dev/nvidia", "/dev/kfd", "/dev/dri", "/dev/infiniband", "anon_inode:[io_uring]")
                ):
                    return False
                if _O_DIRECT and fcntl.fcntl(int(name), fcntl.F_GETFL) & _O_DIRECT and not target.startswith("pipe:"):
                    return False
            except OSError:
                continue  # closed since
    except (OSError, ValueError, IndexError):
        return False
    return True


class Private:
    """The private, anonymous memory of this process as it is now."""

    def __init__(self) -> None:
        #: First and last address of each run, in ascending order.
        self._runs: Ranges = []
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            for line in maps:
                fields = line.split(maxsplit=5)
                path = fields[5].strip() if len(fields) > 5 else ""
                if fields[1] != "rw-p" or fields[4] != "0" or not (not path or path.startswith(("[heap]", "[anon:"))):
                    continue
                low, high = (int(end, 16) for end in fields[0].split("-"))
                if self._runs and self._runs[-1][1] == low:
                    self._runs[-1] = (self._runs[-1][0], high)
                else:
                    self._runs.append((low, high))

    def covers(self, low: int, high: int) -> bool:
        """Whether all of a stretch is such memory."""
        at = bisect.bisect_right(self._runs, (low, 1 << 64)) - 1
        return at >= 0 and self._runs[at][0] <= low and high <= self._runs[at][1]
