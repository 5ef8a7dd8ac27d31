"""How much memory a kernel in standby takes, what it imports ahead, and where paths lead on another node."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jupyter_gpuaas.kernel.standby import RESERVE_BYTES, _modules, room
from jupyter_gpuaas.state.checkpointer import Checkpointer
from jupyter_gpuaas.state.world import relocated, world_of
from jupyter_gpuaas.store import MemoryStore
from jupyter_gpuaas.store.manifest import World

M = 1024**2


@pytest.mark.parametrize(
    ("state", "largest"), [(0, 0), (10, 10), (1000, 10), (1000, 1000), (5000, 100), (70_000, 9000)]
)
@pytest.mark.parametrize("free", [0, 100, 2000, 8000, 300_000])
def test_chunks_never_keep_the_state_from_fitting(state: int, largest: int, free: int) -> None:
    state, largest, free = state * M, largest * M, free * M
    most = room(state, largest, free)
    assert most >= 0
    if state + largest <= free - RESERVE_BYTES:
        assert state <= most <= free - largest
    elif most:
        assert most + state <= free - RESERVE_BYTES


def test_packages_are_imported_by_the_names_of_their_modules() -> None:
    assert _modules(["numpy", "pytest-asyncio", "nothing-of-this-name"]) == ["numpy", "pytest_asyncio"]


@pytest.mark.parametrize(
    ("path", "here"),
    [
        ("/one/work", "/two/w"),
        ("/one/work/sub/a.txt", "/two/w/sub/a.txt"),
        ("/one/workshop", "/one/workshop"),
        ("/one", "/one"),
        ("relative", "relative"),
        ("", ""),
    ],
)
def test_what_lies_in_the_working_folder_is_found_in_the_new_one(
    path: str, here: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World("", "", {}, work="/one/work/")
    monkeypatch.setenv("GPUAAS_WORK", "/two/w")
    assert relocated(world)(path) == here
    monkeypatch.delenv("GPUAAS_WORK")
    assert relocated(world)(path) == path
    monkeypatch.setenv("GPUAAS_WORK", "/two/w")
    assert relocated(World("", "", {}))(path) == path


def test_open_files_and_the_folder_move_with_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "data").write_text("hello world")
    monkeypatch.chdir(tmp_path / "one" / "sub")
    monkeypatch.setenv("GPUAAS_WORK", str(tmp_path / "one"))
    store = MemoryStore()
    with open(tmp_path / "one" / "sub" / "data") as file:
        file.read(6)
        checkpoint = Checkpointer(store, key=b"k" * 16).capture({"__name__": "__main__", "file": file})
    assert checkpoint.manifest.world.work == str(tmp_path / "one") == world_of([]).work
    monkeypatch.setenv("GPUAAS_WORK", str(tmp_path / "two"))
    found = Checkpointer(store, key=b"k" * 16).restore(checkpoint).namespace["file"]
    with found:
        assert found.name == str(tmp_path / "two" / "sub" / "data")
        assert found.read() == "world"
    assert os.getcwd() == str(tmp_path / "two" / "sub")
