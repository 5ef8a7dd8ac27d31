"""Memory to receive into."""

from __future__ import annotations

import mmap

#: Buffers from this size are anonymous mappings, for which the kernel may use huge pages: several times as fast.
MAPPED_BYTES = 4 * 1024**2

#: In the environment of a process that takes large messages from ZMQ, which allocates each with malloc: huge pages for
#: these, too. Read by glibc 2.35 and later, before the process runs any code of ours; without it they are only slower.
MALLOC_VARIABLE = "GLIBC_TUNABLES"
MALLOC_HUGE_PAGES = "glibc.malloc.hugetlb=1"


def allocate(size: int) -> memoryview:
    """Writable memory for one buffer; private to the process even when it forks."""
    if size < MAPPED_BYTES:
        return memoryview(bytearray(size))
    mapped = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        mapped.madvise(mmap.MADV_HUGEPAGE)
    except (OSError, AttributeError):
        pass  # Only slower.
    return memoryview(mapped)
