"""Environments with the wheel of this checkout and one release of JupyterLab or Notebook, as a user installs them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".venv-matrix"
PIP = ("-m", "pip", "--disable-pip-version-check")
TIMEOUT_S = 900


class FrontEnd(msgspec.Struct, frozen=True):
    """What is installed beside the wheel, and how it is started."""

    name: str
    module: str
    requires: tuple[str, ...]


#: Oldest and newest of each. Each Notebook brings the JupyterLab that it is made of.
FRONT_ENDS = (
    FrontEnd("lab-4.4", "jupyterlab", ("jupyterlab==4.4.*",)),
    FrontEnd("lab-newest", "jupyterlab", ("jupyterlab>=4.4",)),
    FrontEnd("notebook-7.4", "notebook", ("notebook==7.4.*",)),
    FrontEnd("notebook-newest", "notebook", ("notebook>=7.4",)),
)


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """What a command printed, on both of its outputs; it must succeed."""
    done = subprocess.run(
        [str(part) for part in command],
        env=env, cwd=FOLDER, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def build_wheel() -> Path:
    """The wheel of this checkout; its front end must have been built."""
    assert (ROOT / "jupyter_gpuaas" / "labextension" / "static" / "style.js").exists(), "run `make labextension` first"
    FOLDER.mkdir(exist_ok=True)
    shutil.rmtree(FOLDER / "dist", ignore_errors=True)
    run(sys.executable, *PIP, "wheel", "--quiet", "--no-deps", "--wheel-dir", FOLDER / "dist", ROOT)
    (wheel,) = (FOLDER / "dist").glob("*.whl")
    return wheel


def no_node(python: Path) -> dict[str, str]:
    """An environment of processes in which nothing is found but what the virtual environment has."""
    ours = ("GPUAAS_", "PYTHON", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PATH": str(python.parent)}


def install(front_end: FrontEnd, wheel: Path) -> Path:
    """The Python of an environment with this wheel.

    What an earlier run has installed is brought up to date. What one that was cut off has left is made anew: it may
    lack anything, pip itself included.
    """
    folder = FOLDER / front_end.name
    python = folder / "bin" / "python"
    stamp = folder / "wheel"
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    before = stamp.read_text() if stamp.exists() else ""
    stamp.unlink(missing_ok=True)
    if not before:
        venv.create(folder, clear=True, with_pip=True, symlinks=True)
    wanted = [*front_end.requires, "anywidget>=0.9", "ipywidgets>=8.1"]
    env = no_node(python)
    run(python, *PIP, "install", "--quiet", "--upgrade", "--upgrade-strategy", "only-if-needed", *wanted, env=env)
    if before != digest:
        # Its dependencies first, in versions that suit what is there; then itself, whatever its version is.
        run(python, *PIP, "install", "--quiet", wheel, env=env)
        run(python, *PIP, "install", "--quiet", "--force-reinstall", "--no-deps", wheel, env=env)
    stamp.write_text(digest)
    return python
