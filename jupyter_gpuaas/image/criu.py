"""CRIU: found, judged by what it says and does on this machine, and told what to do.

It is a program that is run, never a library that is linked.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..errors import ImageUnavailable
from .jail import jail_reasons

#: Names the program, before any other is looked for.
VARIABLE = "GPUAAS_CRIU"
CHECK_TIMEOUT_S = 30.0
#: An unlinked file that is still open goes into the image itself, up to this size.
GHOST_BYTES = (1 << 31) - 1
INSTALL_HINT = "tools/install-criu.sh installs one on Debian."

#: In what CRIU logs when it fails -> what that means for a user. First match wins.
MEANINGS = (
    ("half of stream unix connection", "a process is connected to one outside of its session by a unix socket"),
    ("External socket is used", "a process is connected to one outside of its session by a unix socket"),
    ("Can't lookup mount", "a process has a file open that was opened outside of its jail"),
    ("Can't bind inet socket", "a port on which the processes listen is taken on this node"),
    ("has bad size", "a file that a process has open or mapped has another size on this node"),
    ("has bad build-ID", "a program or library is of another build on this node"),
    ("Can't open file", "a file that a process has open or mapped is not there on this node"),
    ("Unsupported FD type", "a process has something open that CRIU does not know, a device for instance"),
    ("Can't dump file", "a process has a file open that cannot be dumped"),
    ("ghost file", f"an unlinked file that is still open is larger than {GHOST_BYTES} bytes"),
    ("PID mismatch", "a number that a process had is taken on this node"),
    ("No space left", "the disk is full"),
)
_ERROR = re.compile(r"Error \([^)]*\): *(.*)")
_TRIAL = """
import os, socket, time
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
null = os.open(os.devnull, os.O_RDWR)
os.dup2(null, 1)
time.sleep(60)
"""
#: Logged where limits of the machine forbid what CRIU would like; it goes on.
_HARMLESS = ("RLIMIT_NOFILE",)


class Criu(msgspec.Struct, frozen=True, kw_only=True):
    """A CRIU that works here."""

    path: str
    #: For documents and reports; nothing is decided by it.
    version: str
    #: Linux marks pages that were written (CONFIG_MEM_SOFT_DIRTY), so memory can go in rounds.
    dirty_tracking: bool
    #: Memory can be brought after the processes run (userfaultfd).
    lazy_pages: bool


def candidates(environ: dict[str, str]) -> list[str]:
    """Programs to try: the one that was named, or else our own and that of the system."""
    if named := environ.get(VARIABLE):
        return [named]
    found = [str(Path(sys.prefix) / "criu" / "bin" / "criu"), shutil.which("criu", path=_search_path(environ))]
    return [path for path in found if path and os.access(path, os.X_OK)]


def find_criu(environ: dict[str, str] | None = None) -> Criu:
    """The first candidate that passes ``criu check`` and then dumps a process. Blocks for some tenths of a second.

    Raises
    ------
    ImageUnavailable
        There is none, with the reason for each.
    """
    reasons = jail_reasons()
    if reasons:
        raise ImageUnavailable(f"this node makes no process images: {'; '.join(reasons)}.")
    found = candidates(dict(os.environ) if environ is None else environ)
    for path in found:
        status, output = _ask(path, "check")
        if status == 0:
            status, output = _try(path)
        if status == 0:
            return Criu(
                path=path,
                version=_version(path),
                dirty_tracking=has_feature(path, "mem_dirty_track"),
                lazy_pages=has_feature(path, "uffd-noncoop"),
            )
        reasons.append(f"{path}: {explain(output) or f'it ended with status {status}'}")
    if not found:
        reasons.append("no program criu is there")
    raise ImageUnavailable(f"this node makes no process images: {'; '.join(reasons)}.", hint=INSTALL_HINT)


def has_feature(path: str, feature: str) -> bool:
    """What CRIU says of one ability; one that it does not know is not there."""
    return _ask(path, "check", "--feature", feature)[0] == 0


def dump_arguments(
    criu: Criu, *, root_pid: int, folder: str, parent: str = "", track: bool = False, pre: bool = False
) -> list[str]:
    """The command for a dump, or with ``pre`` for a round before it, after which the processes go on.

    Parameters
    ----------
    parent
        Folder of the round before, relative to ``folder``.
    track
        Mark what is written from now on, for a next round.
    """
    command = [criu.path, "pre-dump" if pre else "dump", "--tree", str(root_pid), *_common(folder)]
    if parent:
        command += ["--prev-images-dir", parent]
    if track or parent:
        command.append("--track-mem")
    if not pre:
        # Stopped is what they are, and stay until the caller knows how it went on.
        command += ["--leave-stopped", "--tcp-close", "--file-locks", "--link-remap"]
        command += ["--ghost-limit", str(GHOST_BYTES)]
    return command


def restore_arguments(criu: Criu, *, folder: str) -> list[str]:
    """The command for a restore; the processes are stopped as they were when they were dumped."""
    return [criu.path, "restore", *_common(folder), "--restore-detached", "--tcp-close", "--file-locks", "--link-remap"]


def explain(log: str) -> str:
    """What went wrong, from CRIU's log; empty when it names no error."""
    errors = [found[1].strip() for found in map(_ERROR.search, log.splitlines()) if found]
    errors = [error for error in errors if not any(harmless in error for harmless in _HARMLESS)]
    if not errors:
        return ""
    for mark, meaning in MEANINGS:
        for error in errors:
            if mark in error:
                return f"{meaning} ({error})"
    return errors[0]


def _common(folder: str) -> Sequence[str]:
    # Cgroups are the node's own matter, and different on each.
    return ["--images-dir", folder, "--log-file", "criu.log", "-v1", "--manage-cgroups=ignore"]


def _search_path(environ: dict[str, str]) -> str:
    # An ordinary user's path lacks the folder in which distributions put it.
    return os.pathsep.join([environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])


def _version(path: str) -> str:
    found = re.search(r"Version:\s*(\S+)", _ask(path, "--version")[1])
    return found[1] if found else "unknown"


def _try(path: str) -> tuple[int, str]:
    """Dump a process with a TCP socket. ``criu check`` does not look at what dumping one needs: CRIU 4.1 passes it on
    Linux 6.16 and later, and then fails on every such socket."""
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _TRIAL],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with process, tempfile.TemporaryDirectory(prefix="gpuaas-criu-") as folder:
            assert process.stdout is not None
            process.stdout.read()  # it has closed its end: from now on it holds nothing of ours
            place = ("--images-dir", folder, "--manage-cgroups=ignore", "-v1")
            result = _ask(path, "dump", "--tree", str(process.pid), *place, "--leave-running")
            process.kill()
            return result
    except OSError as error:
        process.kill()
        return -1, f"Error (start): {error}"


def _ask(path: str, *arguments: str) -> tuple[int, str]:
    try:
        done = subprocess.run(
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=CHECK_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return -1, f"Error (start): {error}"
    return done.returncode, done.stdout.decode(errors="replace")
