"""What a cell really did to the world, as far as Python's audit events tell."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable
from typing import Any

from .effect_tables import INPUT, NETWORK, PROCESS, RANDOM, READS, SUBPROCESS, THREADS, WRITES

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_EVENTS = {
    **dict.fromkeys(("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"), WRITES),
    **dict.fromkeys(("os.chmod", "os.chown", "os.utime", "os.setxattr", "os.removexattr", "os.chflags"), WRITES),
    **dict.fromkeys(("shutil.copyfile", "shutil.copytree", "shutil.move", "shutil.rmtree"), WRITES),
    **dict.fromkeys(("shutil.make_archive", "shutil.unpack_archive", "tempfile.mkstemp", "tempfile.mkdtemp"), WRITES),
    **dict.fromkeys(("os.listdir", "os.scandir", "glob.glob"), READS),
    **dict.fromkeys(("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"), NETWORK),
    **dict.fromkeys(("socket.getaddrinfo", "socket.gethostbyname", "urllib.Request", "http.client.connect"), NETWORK),
    **dict.fromkeys(("ftplib.connect", "smtplib.connect", "imaplib.open", "poplib.connect"), NETWORK),
    **dict.fromkeys(("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork"), SUBPROCESS),
    **dict.fromkeys(("os.forkpty", "pty.spawn", "webbrowser.open", "os.kill"), SUBPROCESS),
    **dict.fromkeys(("os.chdir", "os.fchdir", "os.putenv", "os.unsetenv", "signal.pthread_kill"), PROCESS),
    "builtins.input": INPUT,
    "_thread.start_new_thread": THREADS,
}
_CODE = (".py", ".pyc", ".so", ".pth", ".pyi", ".egg-info", ".zip")


class EffectRefused(BaseException):
    """Code that is run again was about to do what it must not; not an ``Exception``, so that it does not go on."""


class EffectWatch:
    """Records what is done while it is entered; several may be, one within or beside another.

    ::

        with EffectWatch() as watch:
            run(cell)
        watch.seen  # ("writes files",)

    Threads that ran before are not looked at: a kernel has its own. Not seen is what C code does without telling
    Python, such as a database driver that connects by itself.

    Parameters
    ----------
    refuse
        Effects that are not to happen: ``EffectRefused`` is raised before they do.
    """

    def __init__(self, refuse: Iterable[str] = ()) -> None:
        self._refuse = frozenset(refuse)
        self._found: dict[str, str] = {}
        self._before: frozenset[int] = frozenset()
        self._strangers: frozenset[int] = frozenset()

    def __enter__(self) -> EffectWatch:
        global _watches
        _install()
        self._before = frozenset(thread.ident for thread in threading.enumerate() if thread.ident is not None)
        self._strangers = self._before - {threading.get_ident()}
        with _lock:
            _watches = (*_watches, self)
        return self

    def __exit__(self, *_: object) -> None:
        global _watches
        # Python before 3.12 tells nobody of a new thread; one that has ended by now was watched while it ran.
        if left := [thread for thread in threading.enumerate() if thread.ident not in self._before]:
            self._found.setdefault(THREADS, left[0].name)
        with _lock:
            _watches = tuple(watch for watch in _watches if watch is not self)

    @property
    def seen(self) -> tuple[str, ...]:
        """Effects in words, in the order in which each was first seen."""
        return tuple(self._found)

    @property
    def examples(self) -> dict[str, str]:
        """Effect -> what was first seen of it, for people: a path, a command, an address."""
        return dict(self._found)

    def _see(self, effect: str, example: str) -> None:
        if threading.get_ident() in self._strangers:
            return
        self._found.setdefault(effect, example)
        if effect in self._refuse:
            raise EffectRefused(f"{effect} ({example})" if example else effect)


_watches: tuple[EffectWatch, ...] = ()
_lock = threading.Lock()
_installed = False


def _install() -> None:
    """One hook a process, for good: Python cannot take one away."""
    global _installed
    with _lock:
        if not _installed:
            sys.addaudithook(_hook)
            _installed = True


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watches:
        return
    effect = _of_open(arguments) if event == "open" else _EVENTS.get(event, "")
    if event == "sqlite3.connect":
        effect = "" if arguments[:1] == (":memory:",) else WRITES
    if effect:
        example = str(arguments[0])[:200] if arguments and isinstance(arguments[0], (str, bytes)) else ""
        for watch in _watches:
            watch._see(effect, example)


def _of_open(arguments: tuple[Any, ...]) -> str:
    path, mode, flags = (*arguments, None, None, None)[:3]
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if not isinstance(path, str):
        return ""  # A descriptor: opened before.
    if "__pycache__" in path or path == os.devnull:
        return ""
    if isinstance(flags, int) and flags & _WRITING:
        return WRITES
    if isinstance(mode, str) and set(mode) & set("wax+"):
        return WRITES
    if path in ("/dev/urandom", "/dev/random"):
        return RANDOM
    if path.endswith(_CODE) or path.startswith(("/proc/", "/sys/", sys.prefix, sys.base_prefix)):
        return ""  # Imports, and what libraries ask of the machine.
    return READS
