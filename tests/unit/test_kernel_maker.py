"""How a host makes kernels, without making any."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.errors import ImageUnavailable
from jupyter_gpuaas.node.kernel_maker import DEFAULTS, KernelMaker


def maker(folder: Path, images: Path) -> KernelMaker:
    return KernelMaker(
        Settings(home=str(folder)),
        run_id="r",
        run_folder=folder,
        node="n",
        sessions=folder / "sessions",
        images=images,
        criu=None,
        handler=cast(Any, None),
        log=2,
    )


def test_images_and_a_sessions_tmp_lie_where_nobody_else_can_enter(tmp_path: Path) -> None:
    disk = tmp_path / "disk" / "run"
    kernels = maker(tmp_path, disk)
    assert kernels._jail(tmp_path / "k").disk == str(disk / "k")
    assert disk.stat().st_mode & 0o777 == 0o700
    kernels.forget_images()
    assert not disk.exists()


def test_folder_for_images_that_cannot_be_made_is_told_with_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ImageUnavailable, match="file") as refused:
        maker(tmp_path, tmp_path / "file" / "run")._jail(tmp_path / "k")
    assert "image_folder" in refused.value.hint


def test_what_the_node_says_of_the_environment_comes_before_what_a_kernel_has_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels = maker(tmp_path, tmp_path)
    monkeypatch.setenv("GPUAAS_TOKEN", "secret")
    for name in DEFAULTS:
        monkeypatch.delenv(name, raising=False)
    made = kernels._environment()
    assert made.items() >= DEFAULTS.items() and "GPUAAS_TOKEN" not in made
    for name in DEFAULTS:
        monkeypatch.setenv(name, "mine")
    assert kernels._environment().items() >= dict.fromkeys(DEFAULTS, "mine").items()
