"""CRIU, or a skip that says loudly why there is none."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest

from jupyter_gpuaas.errors import ImageUnavailable
from jupyter_gpuaas.image.criu import Criu, find_criu

_found: Criu | str | None = None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What freezes and restores real processes is slow enough for a run of its own: ``make test-images``."""
    for item in items:
        if "criu" in getattr(item, "fixturenames", ()):
            item.add_marker("images")


@pytest.fixture
def criu() -> Criu:
    """The CRIU of this machine; where there is none, the test is skipped."""
    global _found
    if _found is None:
        try:
            if Path(sys.prefix).resolve().is_relative_to("/tmp"):
                raise ImageUnavailable("this environment lies in /tmp, and a jail has a /tmp of its own.")
            _found = find_criu()
        except ImageUnavailable as error:
            _found = str(error)
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.warn(f"PROCESS IMAGES ARE NOT TESTED HERE: {error}", RuntimeWarning, stacklevel=1)
    if isinstance(_found, str):
        pytest.skip(f"PROCESS IMAGES ARE NOT TESTED HERE: {_found}")
    return _found


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A folder tree that stands for one node."""
    folder = tmp_path / "node"
    folder.mkdir(mode=0o700)
    return folder
