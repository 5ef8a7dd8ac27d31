"""Which session a kernel belongs to: noted down by its proxy, for those who know only the kernel's id.

One small file a kernel in ``HOME/kernels``, called as the kernel's connection file, which holds its id
(``kernel-<id>.json``). It goes with its proxy; one that was left behind names a process that is gone. Beside it, a mark
tells the proxy that the end of the kernel is not to be that of the session.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

FOLDER = "kernels"


class KernelNote(msgspec.Struct, frozen=True, kw_only=True):
    """What a proxy knows of its session."""

    pid: int
    #: Of the service, and of the session; empty while they are not known.
    url: str = ""
    session_id: str = ""
    session_name: str = ""
    #: Why there is none, and none is sought any more.
    problem: str = ""


def write_note(home: Path, kernel: str, note: KernelNote) -> None:
    """Put a note in the place of a former one.

    Parameters
    ----------
    kernel
        Stem of the connection file.

    Raises
    ------
    OSError
    """
    path = _path(home, kernel, ".json")
    path.parent.mkdir(mode=0o700, exist_ok=True)
    draft = path.with_suffix(".new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(note))
    draft.replace(path)


def read_note(home: Path, kernel: str) -> KernelNote | None:
    """The note of a proxy that runs; None where there is none."""
    try:
        note = msgspec.json.decode(_path(home, kernel, ".json").read_bytes(), type=KernelNote)
    except (OSError, msgspec.MsgspecError):
        return None
    return note if _lives(note.pid) else None


def drop_note(home: Path, kernel: str) -> None:
    """The proxy ends."""
    for suffix in (".json", ".detach"):
        with contextlib.suppress(OSError):
            _path(home, kernel, suffix).unlink(missing_ok=True)


def drop_stale_notes(home: Path) -> None:
    """Remove the notes of proxies that were killed."""
    for path in (home / FOLDER).glob("*.json"):
        if read_note(home, path.stem) is None:
            drop_note(home, path.stem)


def ask_to_detach(home: Path, kernel: str) -> None:
    """The session is to go on when this kernel is shut down; raises OSError where that cannot be told."""
    path = _path(home, kernel, ".detach")
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.touch(mode=0o600)


def is_to_detach(home: Path, kernel: str) -> bool:
    """Whether somebody has asked for that since the proxy began."""
    return _path(home, kernel, ".detach").exists()


def _path(home: Path, kernel: str, suffix: str) -> Path:
    return home / FOLDER / f"{os.path.basename(kernel)}{suffix}"


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it lives, as somebody else
    return True
