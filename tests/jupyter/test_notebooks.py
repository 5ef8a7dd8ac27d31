"""Real notebooks say the same through ``remote_gpu`` as on a plain local kernel."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

import nbformat
import pytest

from tests.conftest import GpuaasHome
from tests.jupyter.compare import assert_same
from tests.jupyter.runner import run_notebook

NOTEBOOKS = sorted((Path(__file__).parent / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def font_cache() -> None:
    """Have matplotlib's font cache made before two kernels are compared: it says so on stderr."""
    subprocess.run([sys.executable, "-c", "import matplotlib.font_manager"], check=True, timeout=120)


def test_there_are_at_least_twelve_notebooks() -> None:
    assert len(NOTEBOOKS) >= 12


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.usefixtures("font_cache")
def test_notebook_gives_the_same_outputs_as_on_a_local_kernel(
    path: Path, module_gpuaas_home: GpuaasHome, tmp_path: Path
) -> None:
    local_dir, remote_dir = tmp_path / "local", tmp_path / "remote"
    local_dir.mkdir()
    remote_dir.mkdir()
    local = run_notebook(path, "python3", work_dir=local_dir)
    remote = run_notebook(
        path,
        "remote_gpu",
        work_dir=remote_dir,
        env={
            "GPUAAS_HOME": str(module_gpuaas_home.path),
            "JPY_SESSION_NAME": f"/notebooks/{path.stem}-{uuid.uuid4().hex}.ipynb",
        },
    )
    assert sum(len(cell.get("outputs", [])) for cell in local.cells) >= 5
    assert_same(local, remote)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_without_outputs(path: Path) -> None:
    nb = nbformat.read(path, as_version=4)
    nbformat.validate(nb)
    assert not any(cell.get("outputs") for cell in nb.cells)
