"""What a jailed kernel sees of its node, without a jail."""

from pathlib import Path

import pytest

from jupyter_gpuaas.node.jailed_kernel import SESSIONS, jail_spec, path_inside


@pytest.fixture
def sessions(tmp_path: Path) -> Path:
    folder = tmp_path / "sessions"
    (folder / "s1" / "work").mkdir(parents=True)
    return folder


def test_working_folder_has_the_same_path_in_the_jails_of_all_nodes(sessions: Path, tmp_path: Path) -> None:
    spec = jail_spec(tmp_path / "jail", sessions, [])
    assert path_inside(sessions / "s1" / "work", spec) == f"{SESSIONS}/s1/work"


def test_folder_that_a_jail_would_hide_is_bound_where_it_is_needed() -> None:
    spec = jail_spec(Path("/var/jail"), Path("/var/sessions"), ["/tmp", "/usr"])
    assert [bind.inside for bind in spec.binds] == [SESSIONS, "/tmp"]
    assert path_inside(Path("/tmp/home/x"), spec) == "/tmp/home/x"


def test_folder_that_a_jail_does_not_show_has_no_path_in_it() -> None:
    spec = jail_spec(Path("/var/jail"), Path("/var/sessions"), [])
    assert path_inside(Path("/tmp/project"), spec) is None
    assert path_inside(Path("/home/ann/project"), spec) == "/home/ann/project"
