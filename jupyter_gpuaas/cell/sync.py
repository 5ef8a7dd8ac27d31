"""Which files of the notebook's folder a sync sends."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import pathspec

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.errors import CellError
from jupyter_gpuaas.state.bundle import Buffer, FileHead
from jupyter_gpuaas.state.files import BLOCK_BYTES, digest_file

IGNORE_FILE = ".gpuaasignore"
#: Left out unless named, or brought back by ``!`` in the ignore file.
ALWAYS_IGNORED = (
    ".git/",
    ".hg/",
    ".venv/",
    "__pycache__/",
    ".ipynb_checkpoints/",
    "node_modules/",
    "*.pyc",
    ".DS_Store",
)


class Plan(msgspec.Struct):
    """What is to be kept in step, with what was left out and why."""

    files: list[FileHead] = []
    #: path -> reason.
    refused: dict[str, str] = {}

    @property
    def nbytes(self) -> int:
        """Size of all files together."""
        return sum(file.size for file in self.files)


class Synchroniser:
    """Looks at files; remembers digests of those that have not changed since.

    Parameters
    ----------
    root
        The notebook's folder.
    """

    def __init__(self, root: Path, settings: Settings) -> None:
        self.root = root.resolve()
        self._settings = settings
        self._digests: dict[str, tuple[tuple[int, int], str]] = {}

    def plan(self, paths: Sequence[str] = ()) -> Plan:
        """Describe the files under these paths, all of the folder when there are none.

        Raises
        ------
        CellError
            A path does not exist or is outside the folder.
        """
        plan = Plan()
        ignored = self._ignored()
        seen: set[str] = set()
        for start in [self._inside(path) for path in paths] or [self.root]:
            for file in self._walk(start, ignored, plan):
                path = file.relative_to(self.root).as_posix()
                if path not in seen:
                    seen.add(path)
                    plan.files.append(self._describe(file, path))
        return plan

    def check_bounds(self, files: Iterable[FileHead]) -> None:
        """Refuse more than the settings allow to be sent at once.

        Raises
        ------
        CellError
            Naming the setting.
        """
        files = list(files)
        total = sum(file.size for file in files)
        advice = f"Name fewer paths, list what is not needed in {IGNORE_FILE}, or raise the setting."
        if len(files) > self._settings.sync_files:
            raise CellError(
                f"{len(files)} files would be sent, and the setting sync_files allows {self._settings.sync_files}.",
                hint=advice,
            )
        if total > self._settings.sync_bytes:
            raise CellError(
                f"{total} bytes would be sent, and the setting sync_bytes allows {self._settings.sync_bytes}.",
                hint=advice,
            )

    def content(self, file: FileHead) -> Buffer:
        """The bytes of a file, mapped and not read where it is large.

        Raises
        ------
        CellError
            It has changed since the plan was made.
        """
        with open(self.root / file.path, "rb") as source:
            if os.fstat(source.fileno()).st_size != file.size:
                raise CellError(f"file {file.path} changes while it is being sent.", hint="Sync again.")
            if file.size < BLOCK_BYTES:
                return source.read()
            return memoryview(mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ))

    # --------------------------------------------------------------------------------------------

    def _inside(self, path: str) -> Path:
        place = Path(os.path.normpath(self.root / Path(path).expanduser()))
        if not place.is_relative_to(self.root):
            raise CellError(
                f"path {path!r} is outside the notebook's folder {self.root}.",
                hint="Copy it there; the session has no place for files from elsewhere.",
            )
        if not os.path.lexists(place):
            raise CellError(f"path {path!r} does not exist in {self.root}.")
        return place

    def _ignored(self) -> pathspec.PathSpec:  # type: ignore[type-arg, unused-ignore]
        lines = list(ALWAYS_IGNORED)
        try:
            lines += (self.root / IGNORE_FILE).read_text("utf-8").splitlines()
        except FileNotFoundError:
            pass
        return pathspec.GitIgnoreSpec.from_lines(lines)

    def _walk(self, start: Path, ignored: pathspec.PathSpec, plan: Plan) -> Iterator[Path]:  # type: ignore[type-arg, unused-ignore]
        """Files below a path; one that is named itself is taken even if it is ignored."""
        path = start.relative_to(self.root).as_posix()
        if start.is_symlink() and not start.resolve().is_relative_to(self.root):
            plan.refused[path] = f"a link to {start.resolve()}, outside the notebook's folder"
            return
        try:
            status = start.stat()
        except OSError as error:
            plan.refused[path] = f"cannot be read: {error.strerror}"
            return
        if stat.S_ISREG(status.st_mode):
            yield start
        elif not stat.S_ISDIR(status.st_mode):
            plan.refused[path] = "neither a file nor a folder"
        elif start.is_symlink():
            plan.refused[path] = f"a link to the folder {start.resolve().relative_to(self.root)}, which is sent itself"
        else:
            for entry in sorted(os.scandir(start), key=lambda entry: entry.name):
                inner = f"{path}/{entry.name}" if path != "." else entry.name
                is_folder = entry.is_dir(follow_symlinks=False)
                if not ignored.match_file(f"{inner}/" if is_folder else inner):
                    yield from self._walk(Path(entry.path), ignored, plan)

    def _describe(self, file: Path, path: str) -> FileHead:
        status = file.stat()
        state = (status.st_size, status.st_mtime_ns)
        known = self._digests.get(path)
        if known is None or known[0] != state:
            known = (state, digest_file(file))
            self._digests[path] = known
        executable = bool(status.st_mode & stat.S_IXUSR)
        return FileHead(path, status.st_size, status.st_mtime_ns, known[1], executable)
