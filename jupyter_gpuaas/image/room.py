"""Whether there is room for an image, before anything is written of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from ..errors import NotDumpable

#: Lines of ``/proc/PID/status`` that tell of memory that has no other place than the process.
_OWN = ("RssAnon:", "VmSwap:")
GIB = 2**30


def check_room(folder: Path, pids: Iterable[int]) -> None:
    """Raise NotDumpable, which names the folder, where the memory of these processes does not fit into it.

    An image is a little larger than that: what is refused here would have failed in any case, after a while, and with
    the disk full meanwhile.
    """
    wants_bytes, free_bytes = sum(map(own_bytes, pids)), shutil.disk_usage(folder).free
    if wants_bytes > free_bytes:
        raise NotDumpable(
            f"there is no room for an image of {wants_bytes / GIB:.2f} GiB in {folder}, which has "
            f"{free_bytes / GIB:.2f} GiB left.",
            hint="Setting image_folder names another place.",
        )


def own_bytes(pid: int) -> int:
    """Memory of a process that an image has to hold; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(_OWN))
