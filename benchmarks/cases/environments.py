"""Virtual environments of the systems that are no dependency of ours, with pinned versions, beside this folder."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

INSTALL_TIMEOUT_S = 600
PINNED: dict[str, tuple[str, ...]] = {
    "kishu": (
        "kishu==0.3.4",
        "dataclasses-json==0.6.7",
        "ipylab==1.1.0",
        "jupyter-ui-poll==1.0.0",
        "loguru==0.7.3",
        "marshmallow==3.26.2",
        "shortuuid==1.0.13",
        "typer==0.29.2",
    ),
    "elasticnotebook": ("elastic-notebook==0.0.1",),
    # The library of ElasticNotebook, packaged by somebody else; the newest version cannot load what it stores.
    "elastic": ("elastic-notebook-slim==0.0.6",),
    "safetensors": ("safetensors==0.8.0",),
}


class DoesNotInstall(Exception):
    """pip said no; the message is its last error."""


def environment(system: str) -> str:
    """Python of the environment of a system; makes it when it is not there.

    It sees the packages of this interpreter too, so that every system meets the same numpy, pandas and torch.
    """
    folder = Path(__file__).resolve().parents[1] / f".venv-{system}"
    python, stamp = folder / "bin" / "python", folder / "pinned.json"
    if stamp.exists() and json.loads(stamp.read_text()) == list(PINNED[system]):
        return str(python)
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    paths = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
        timeout=INSTALL_TIMEOUT_S,
    )
    (Path(paths.stdout.strip()) / "of_the_benchmark.pth").write_text(sysconfig.get_path("purelib") + "\n")
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PINNED[system]])
    stamp.write_text(json.dumps(PINNED[system]))
    return str(python)


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise DoesNotInstall(f"not within {INSTALL_TIMEOUT_S} s") from error
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        raise DoesNotInstall(lines[-1].removeprefix("ERROR: ")) from error
