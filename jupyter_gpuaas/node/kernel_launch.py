"""How a kernel's process is started: by which command, and as which user (settings kernel_wrap and kernel_user).

A host of root's gives the kernel's user what the kernel needs: its folder of sockets, the working folder, and the part
of a checkpoint folder that is its owner's. On the way there it lets others through the folders of the node, but not
look into them; what lies in them is for root only.
"""

from __future__ import annotations

import os
import pwd
import shlex
import stat
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ..config import PREFIX, Settings
from ..errors import SettingError

#: What is known only when a host gets its session: with these in a setting, no kernel is started ahead.
_OF_A_SESSION = ("owner", "session", "work")
_KNOWN = ("folder", "home", "node", "sessions", "store", "python", "user", *_OF_A_SESSION)
#: Of root's environment, and not of the kernel's user.
_OF_A_USER = ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "SUDO_")
_UMASK = 0o022


class KernelUser(msgspec.Struct, frozen=True):
    """A user of the operating system, never root."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str

    @property
    def owner(self) -> tuple[int, int]:
        return self.uid, self.gid


class Launch(msgspec.Struct, frozen=True):
    """How one kernel is started."""

    wrap: tuple[str, ...] = ()
    user: KernelUser | None = None

    def popen(self, folder: Path) -> dict[str, Any]:
        """Arguments for whoever starts the process."""
        if self.user is None:
            return {}
        user = self.user
        # Not in the host's folder, which is closed to it.
        return {
            "user": user.uid,
            "group": user.gid,
            "extra_groups": list(user.groups),
            "umask": _UMASK,
            "cwd": str(folder),
        }

    def environment(self, environ: Mapping[str, str], settings: Settings, folder: Path) -> dict[str, str]:
        """The environment of the process."""
        if self.user is None:
            return dict(environ)
        kept = {name: value for name, value in environ.items() if not name.startswith(_OF_A_USER)}
        kept |= {"HOME": self.user.home, "USER": self.user.name, "LOGNAME": self.user.name}
        # It cannot read the settings of the service, which may hold secrets.
        return kept | settings.environment(secrets=False) | {PREFIX + "HOME": str(folder)}

    def give(self, *paths: Path) -> None:
        """Make these the kernel's user's."""
        if self.user is not None:
            for path in paths:
                os.chown(path, *self.user.owner, follow_symlinks=False)


def known_ahead(settings: Settings) -> bool:
    """Whether a kernel can be started before it is known for which session."""
    return not any(f"{{{name}}}" in settings.kernel_user + settings.kernel_wrap for name in _OF_A_SESSION)


def is_plain(settings: Settings) -> bool:
    """Whether kernels are started as always."""
    return not (settings.kernel_user or settings.kernel_wrap)


def launch_of(settings: Settings, **known: str) -> Launch:
    """How to start a kernel.

    Parameters
    ----------
    known
        What is filled in; all of ``folder, home, node, sessions, store``, and of a session ``owner, session, work``.

    Raises
    ------
    SettingError
        There is no such user, it is root, or we are not; the command is none.
    """
    user = find_user(_filled("kernel_user", settings.kernel_user, known)) if settings.kernel_user else None
    known |= {"python": sys.prefix, "user": user.name if user is not None else pwd.getpwuid(os.getuid()).pw_name}
    return Launch(_words(settings.kernel_wrap, known), user)


def _words(text: str, known: Mapping[str, str]) -> tuple[str, ...]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise SettingError(f"setting kernel_wrap: cannot be split into words: {error}.") from error
    # Word by word, so that a folder with a space in its name stays one.
    return tuple(_filled("kernel_wrap", word, known) for word in words)


def _filled(setting: str, text: str, known: Mapping[str, str]) -> str:
    for name in _KNOWN:
        if f"{{{name}}}" in text:
            if name not in known:
                raise SettingError(f"setting {setting}: {{{name}}} is not known there.")
            text = text.replace(f"{{{name}}}", known[name])
    return text


def find_user(name: str) -> KernelUser:
    """A user to run kernels as.

    Raises
    ------
    SettingError
        There is none of this name, it is root, or we may not become it.
    """
    try:
        found = pwd.getpwnam(name)
    except (KeyError, ValueError, UnicodeError):
        raise SettingError(f"setting kernel_user: this machine has no user {name!r}.") from None
    if found.pw_uid == 0:
        raise SettingError(f"setting kernel_user: {name!r} is root, as which no kernel is run.")
    if os.geteuid() not in (0, found.pw_uid):
        raise SettingError(
            f"setting kernel_user: only root can start kernels as {name!r}.",
            hint="Start the service as root.",
        )
    groups = tuple(os.getgrouplist(name, found.pw_gid)) if os.geteuid() == 0 else tuple(os.getgroups())
    return KernelUser(found.pw_name, found.pw_uid, found.pw_gid, groups, found.pw_dir)


# -- folders -----------------------------------------------------------------------------------------------------------


def top_of(node: Path, settings: Settings) -> Path:
    """The highest folder that is ours: the home folder, or that of the node where it lies elsewhere."""
    return settings.folder if node.is_relative_to(settings.folder) else node


def let_through(folder: Path, upto: Path) -> None:
    """Let others pass through a folder of ours and those above it, up to and with ``upto``; not look into them."""
    if not folder.is_relative_to(upto):
        return
    for each in (folder, *folder.parents):
        mode = stat.S_IMODE(each.stat().st_mode)
        if not mode & stat.S_IXOTH:
            each.chmod(mode | stat.S_IXOTH)
        if each == upto:
            return


def check_reachable(user: KernelUser, paths: Iterable[str | Path]) -> None:
    """Raise SettingError where the user cannot come to one of these, by the permissions of the folders above it."""
    for path in map(Path, paths):
        for folder in reversed(Path(os.path.realpath(path)).parents):
            if not _may_enter(user, folder):
                raise SettingError(
                    f"setting kernel_user: {user.name!r} cannot come to {path}: {folder} is closed to it.",
                    hint="Python and the home folder (GPUAAS_HOME) have to be where that user can read.",
                )


def _may_enter(user: KernelUser, folder: Path) -> bool:
    found = folder.stat()
    if found.st_uid == user.uid:
        return bool(found.st_mode & stat.S_IXUSR)
    if found.st_gid in (user.gid, *user.groups):
        return bool(found.st_mode & stat.S_IXGRP)
    return bool(found.st_mode & stat.S_IXOTH)


def give_tree(root: Path, user: KernelUser) -> None:
    """Make a folder and what root has made in it that user's.

    A name in it may be changed by that user at any moment, so nothing is followed, and what has two names is left: the
    other one may be elsewhere.
    """
    mine = os.geteuid()
    os.chown(root, *user.owner, follow_symlinks=False)
    for _, folders, files, fd in os.fwalk(root):
        for name in (*folders, *files):
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            alone = stat.S_ISDIR(found.st_mode) or found.st_nlink == 1
            if found.st_uid == mine and alone:
                os.chown(name, *user.owner, dir_fd=fd, follow_symlinks=False)
