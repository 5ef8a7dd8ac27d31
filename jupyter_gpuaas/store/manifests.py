"""The manifests of a folder: one file each, whole or not there."""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path

from ..errors import NoSuchCheckpoint, StoreError
from .base import Objection, no_objection
from .defects import TooLarge
from .lease import FILE_MODE
from .packwriter import NEW_SUFFIX, write_all

#: A manifest of 64 MiB names more than 100,000 groups.
MANIFEST_BYTES = 64 * 1024**2

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FILE = re.compile(r"([0-9]{16})\.([A-Za-z0-9_-]{1,64})")


def check_manifest(manifest_id: str, manifest: bytes) -> None:
    """Refuse what no store takes."""
    if not _ID.fullmatch(manifest_id):
        raise StoreError(f"{manifest_id!r} is no id of a checkpoint: 1 to 64 of A-Z a-z 0-9 _ -.")
    if len(manifest) > MANIFEST_BYTES:
        raise StoreError(f"a manifest of {len(manifest)} bytes is larger than {MANIFEST_BYTES}.")


def no_such(manifest_id: str) -> NoSuchCheckpoint:
    return NoSuchCheckpoint(f"there is no checkpoint {manifest_id!r} in this store.")


def file_name(number: int, manifest_id: str) -> str:
    """Names sort by the order of commits."""
    return f"{number:016d}.{manifest_id}"


def parse_name(name: str) -> tuple[int, str] | None:
    """The number and the id in the name of a manifest's file; None for anything else."""
    found = _FILE.fullmatch(name)
    return (int(found[1]), found[2]) if found else None


class Manifests:
    """The folder ``manifests/``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: Of the last listing: whoever reads all that there is needs not list the folder each time.
        self._listed: dict[str, str] = {}

    def files(self) -> dict[str, str]:
        """Id -> name of its file, oldest commit first. Of two files of one id the newer counts."""
        found: dict[str, str] = {}
        with os.scandir(self.folder) as listing:
            names = sorted(entry.name for entry in listing if entry.is_file(follow_symlinks=False))
        for name in names:
            parsed = parse_name(name)
            if parsed:
                found.pop(parsed[1], None)
                found[parsed[1]] = name
        self._listed = found
        return dict(found)

    def read(self, manifest_id: str) -> bytes:
        # Between looking and opening, a second commit of the same id may put another file in its place.
        for again in range(4):
            name = (self.files() if again else self._listed).get(manifest_id)
            if name is None:
                if again:
                    break
                continue
            try:
                return self.read_file(name)
            except FileNotFoundError:
                continue
        raise no_such(manifest_id)

    def write(self, manifest_id: str, manifest: bytes, unless: Objection = no_objection) -> None:
        """The commit: afterwards the manifest is there for good."""
        files = self.files()
        unless(files)
        last = parse_name(next(reversed(files.values()))) if files else None
        name = file_name(last[0] + 1 if last else 1, manifest_id)
        self._put(name, manifest)
        if manifest_id in files:
            (self.folder / files[manifest_id]).unlink(missing_ok=True)

    def rewrite(self, manifest_id: str, manifest: bytes) -> None:
        """Put it in the place of the one that is there, at any moment the one or the other."""
        name = self.files().get(manifest_id)
        if name is None:
            raise no_such(manifest_id)
        self._put(name, manifest)

    def _put(self, name: str, manifest: bytes) -> None:
        new = self.folder / (uuid.uuid4().hex + NEW_SUFFIX)
        try:
            file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
            try:
                write_all(file, [manifest], 0)
                os.fsync(file)
            finally:
                os.close(file)
            os.rename(new, self.folder / name)
        except OSError:
            new.unlink(missing_ok=True)
            raise
        sync_folder(self.folder)

    def remove(self, manifest_id: str) -> None:
        found = False
        while (name := self.files().get(manifest_id)) is not None:
            (self.folder / name).unlink(missing_ok=True)
            found = True
        if not found:
            raise no_such(manifest_id)
        sync_folder(self.folder)

    def stored_bytes(self) -> int:
        total = 0
        for name in self.files().values():
            try:
                total += (self.folder / name).lstat().st_size
            except FileNotFoundError:
                continue
        return total

    def read_file(self, name: str) -> bytes:
        file = os.open(self.folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with open(file, "rb") as opened:
            if os.fstat(file).st_size > MANIFEST_BYTES:
                raise TooLarge(f"the manifest {name} is larger than {MANIFEST_BYTES} bytes.")
            return opened.read(MANIFEST_BYTES)


def sync_folder(folder: Path) -> None:
    """Make names durable: those that were given and those that were taken away."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)
