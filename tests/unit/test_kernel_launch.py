"""Which command starts a kernel, as which user, and what that user is given."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

import pytest

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.errors import SettingError
from jupyter_gpuaas.node.kernel_launch import (
    KernelUser,
    Launch,
    check_reachable,
    find_user,
    give_tree,
    known_ahead,
    launch_of,
    let_through,
    top_of,
)

KNOWN = {"folder": "/f f", "home": "/h", "node": "n", "sessions": "/s", "store": "/c"}
ANN = KernelUser("ann", 12345, 12345, (12345,), "/home/ann")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT ROOT: nobody else's files can be made here")


def test_nothing_set_starts_kernels_as_always() -> None:
    assert launch_of(Settings(), **KNOWN) == Launch()
    assert Launch().popen(Path("/f")) == {}
    assert Launch().environment({"HOME": "/root"}, Settings(), Path("/f")) == {"HOME": "/root"}


def test_command_is_split_first_and_filled_in_word_by_word() -> None:
    settings = Settings(kernel_wrap="box --bind {folder} '--name=a {node}' {user} --")
    own = pwd.getpwuid(os.getuid()).pw_name
    assert launch_of(settings, **KNOWN).wrap == ("box", "--bind", "/f f", "--name=a n", own, "--")


@pytest.mark.parametrize("text", ["box {work}", "box {owner}", "{session}"])
def test_what_is_of_a_session_starts_no_kernel_ahead(text: str) -> None:
    settings = Settings(kernel_wrap=text)
    assert not known_ahead(settings)
    with pytest.raises(SettingError, match="is not known there"):
        launch_of(settings, **KNOWN)
    assert "/w" in " ".join(launch_of(settings, **KNOWN, owner="/w", session="/w", work="/w").wrap)


def test_braces_that_are_not_ours_stay() -> None:
    assert launch_of(Settings(kernel_wrap="sh -c '${X} {}'"), **KNOWN).wrap == ("sh", "-c", "${X} {}")


def test_command_that_is_none_is_refused() -> None:
    with pytest.raises(SettingError, match="kernel_wrap"):
        launch_of(Settings(kernel_wrap="box 'half"), **KNOWN)


@pytest.mark.parametrize(
    ("name", "told"),
    [("root", "is root"), ("no-such-user-here", "has no user"), ("", "has no user"), ("a\0b", "no user")],
)
def test_user_that_must_not_or_cannot_be_is_refused(name: str, told: str) -> None:
    with pytest.raises(SettingError, match=told):
        find_user(name)


def test_owner_who_is_called_root_gets_no_kernel() -> None:
    settings = Settings(kernel_user="{owner}")
    assert not known_ahead(settings)
    with pytest.raises(SettingError, match="is root"):
        launch_of(settings, **KNOWN, owner="root", session="s", work="/w")


def test_process_of_another_user_has_that_users_environment_and_no_secrets() -> None:
    environ = {"HOME": "/root", "XDG_RUNTIME_DIR": "/run/user/0", "SUDO_USER": "x", "PATH": "/bin"}
    settings = Settings(home="/h", token="secret", database_url="postgresql://u:p@h/n", bundle_bytes=7)
    made = Launch(user=ANN).environment(environ, settings, Path("/f"))
    assert made == {
        "HOME": "/home/ann", "USER": "ann", "LOGNAME": "ann", "PATH": "/bin",
        "GPUAAS_HOME": "/f", "GPUAAS_BUNDLE_BYTES": "7",
    }  # fmt: skip
    more = Launch(user=ANN).popen(Path("/f"))
    assert (more["user"], more["group"], more["extra_groups"], more["cwd"]) == (12345, 12345, [12345], "/f")


def test_others_may_pass_through_and_not_look(tmp_path: Path) -> None:
    home, node = tmp_path / "home", tmp_path / "home" / "nodes" / "n"
    node.mkdir(parents=True)
    for each in (tmp_path, home, home / "nodes", node):
        each.chmod(0o700)
    assert top_of(node, Settings(home=str(home))) == home
    assert top_of(tmp_path / "other", Settings(home=str(home))) == tmp_path / "other"
    let_through(node, home)
    assert [stat.S_IMODE(each.stat().st_mode) for each in (tmp_path, home, home / "nodes", node)] == [
        0o700, 0o701, 0o701, 0o701,
    ]  # fmt: skip
    let_through(tmp_path, home)  # above what is ours
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_folder_that_is_closed_to_the_user_is_named(tmp_path: Path) -> None:
    inner = tmp_path / "closed" / "x"
    inner.mkdir(parents=True)
    stranger = KernelUser("stranger", 54321, 54321, (), "/")
    (tmp_path / "closed").chmod(0o700)
    with pytest.raises(SettingError, match="is closed to it"):
        check_reachable(stranger, [inner])


@as_root
def test_what_root_has_made_becomes_the_users_and_nothing_else(tmp_path: Path) -> None:
    root, outside = tmp_path / "work", tmp_path / "outside"
    (root / "deep").mkdir(parents=True)
    for file in (root / "a", root / "deep" / "b", root / "theirs", outside, tmp_path / "twice"):
        file.write_text("x")
    os.chown(root / "theirs", 777, 777)
    (root / "link").symlink_to(outside)
    os.link(tmp_path / "twice", root / "second-name")
    give_tree(root, ANN)
    owners = {
        name: os.lstat(root / name).st_uid for name in ("", "a", "deep", "deep/b", "theirs", "link", "second-name")
    }
    assert owners == {"": 12345, "a": 12345, "deep": 12345, "deep/b": 12345, "theirs": 777, "link": 12345,
                      "second-name": 0}  # fmt: skip
    assert outside.stat().st_uid == 0 and (tmp_path / "twice").stat().st_uid == 0
