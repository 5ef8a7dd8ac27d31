"""Files that come with a cell or a sync, written into the session's working folder and nowhere else."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from jupyter_gpuaas.errors import CellError
from jupyter_gpuaas.state.bundle import Buffer, FileHead
from jupyter_gpuaas.state.files import digest_file


class WorkingFolder:
    """The folder, and what is known of the files in it."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        # path -> (size, mtime, inode) and the digest that the file had then.
        self._known: dict[Path, tuple[tuple[int, int, int], str]] = {}

    def place(self, path: str) -> Path:
        """Where a file of this name lies.

        Raises
        ------
        CellError
            The name leads out of the folder, by itself or through a link.
        """
        name = PurePosixPath(path)
        if not path or "\0" in path or name.is_absolute() or ".." in name.parts:
            raise CellError(f"file {path!r}: not a name inside the session's working folder.")
        place = self.root.joinpath(*name.parts)
        if not place.parent.resolve().is_relative_to(self.root) or place == self.root:
            raise CellError(f"file {path!r}: leads out of the session's working folder.")
        return place

    def wanted(self, files: Iterable[FileHead]) -> list[int]:
        """Positions of the files that are missing or different here."""
        return [index for index, file in enumerate(files) if not self._has(file)]

    def write(self, files: Sequence[FileHead], buffers: Sequence[Buffer]) -> None:
        """Write the files; each appears at once and whole."""
        places = [self.place(file.path) for file in files]  # All are checked before the first is written.
        for file, place in zip(files, places, strict=True):
            place.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=place.parent, prefix=".gpuaas-")
            try:
                with open(descriptor, "wb") as target:
                    target.write(buffers[file.buffer])
                os.utime(temporary, ns=(file.mtime_ns, file.mtime_ns))
                os.chmod(temporary, 0o755 if file.executable else 0o644)
                os.replace(temporary, place)
            except BaseException:
                os.unlink(temporary)
                raise
            self._known[place] = (_state(place), file.digest)

    def _has(self, file: FileHead) -> bool:
        place = self.place(file.path)
        try:
            state = _state(place)
        except OSError:
            return False
        if not place.is_file() or state[0] != file.size or os.access(place, os.X_OK) != file.executable:
            return False
        known = self._known.get(place)
        if known is None or known[0] != state:
            known = (state, digest_file(place))
            self._known[place] = known
        return known[1] == file.digest


def _state(place: Path) -> tuple[int, int, int]:
    status = place.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
