"""What a service's processes hold, and what lies on disk: to be compared with what it was before."""

from __future__ import annotations

from pathlib import Path


def size_of(folder: Path) -> tuple[int, int]:
    """Bytes on disk, and how many entries."""
    total = files = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
            files += 1
        except OSError:
            continue  # gone since it was listed
    return total, files
