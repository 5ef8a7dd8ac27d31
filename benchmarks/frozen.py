"""Whole processes frozen and restored: sessions that move as process images, and CRIU by hand on a plain process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from arrays import touch

from jupyter_gpuaas.errors import ImageUnavailable
from jupyter_gpuaas.image.criu import Criu, find_criu

STARTED_S = 60.0
#: The same state as in the other rows, and a sign of life in a file.
PROGRAM = """
import sys, time
{setup}
while True:
    with open({alive!r}, "w") as file:
        file.write(str(time.time()))
    step()
    time.sleep(0.01)
"""


def criu_here() -> Criu | str:
    """The CRIU of this machine, or why there is none."""
    try:
        return find_criu()
    except ImageUnavailable as error:
        return str(error)


def by_hand(criu: Criu, setup: str, size_mb: int) -> dict[str, Any]:
    """Dump a process, copy the images as they would go to another machine, end it, restore it from the copy.

    ``downtime_s`` is from the beginning of the dump to the restored process's first sign of life.
    """
    with tempfile.TemporaryDirectory(prefix="gpuaas-bench-") as name:
        folder = Path(name)
        alive, images, copied = folder / "alive", folder / "images", folder / "copied"
        images.mkdir()
        null = subprocess.DEVNULL
        program = PROGRAM.format(setup=setup, alive=str(alive))
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=null, stdout=null, stderr=null, start_new_session=True, cwd=folder
        )
        try:
            _wait(alive.exists, process)
            common = ["--manage-cgroups=ignore", "-v1"]
            touch(size_mb * 3_000_000)
            begun_s = time.time()
            _criu(criu, ["dump", "--tree", str(process.pid), "--images-dir", str(images), *common])
            process.wait()
            shutil.copytree(images, copied)
            restored_s = time.time()
            _criu(criu, ["restore", "--images-dir", str(copied), "--restore-detached", *common])
            try:
                _wait(lambda: float(alive.read_text() or 0) > restored_s, None)
                took_s = float(alive.read_text()) - begun_s
            finally:
                os.kill(process.pid, signal.SIGKILL)
            size = sum(path.stat().st_size for path in copied.iterdir())
        finally:
            if process.poll() is None:
                process.kill()
    return {"what": f"CRIU by hand, {size_mb} MB", "downtime_s": round(took_s, 3), "bytes": size}


def _criu(criu: Criu, arguments: list[str]) -> None:
    done = subprocess.run([criu.path, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"criu {arguments[0]}: {done.stdout[-500:]} {done.stderr[-500:]}")


def _wait(true: Callable[[], bool], process: subprocess.Popen[bytes] | None) -> None:
    deadline_s = time.monotonic() + STARTED_S
    while not true():
        if time.monotonic() > deadline_s or (process is not None and process.poll() is not None):
            raise RuntimeError("a process that was to be frozen, or was restored, shows no sign of life")
        time.sleep(0.001)
