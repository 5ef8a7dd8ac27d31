"""A service that kills itself at a step of a migration: ``python -m tests.fault.mortal``.

Which step, the file ``die-at`` in the service's folder says ("load before"); it is gone when the service dies.
"""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from jupyter_gpuaas.config import load
from jupyter_gpuaas.controller.server import serve

from .steps import Steps

FILE = "die-at"


class Mortal(Steps):
    """Steps whose moment is in a file."""

    def __init__(self, file: Path) -> None:
        super().__init__(random.Random())
        self._file = file

    def at(self, step: str, when: str) -> None:
        self._look()
        super().at(step, when)

    def _look(self) -> None:
        if self.armed is None and self._file.exists():
            step, when = self._file.read_text().split()
            self.arm(step, when, self._die)

    def _die(self) -> None:
        self._file.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    settings = load()
    with pytest.MonkeyPatch.context() as patch:
        Mortal(settings.folder / FILE).watch(patch)
        serve(settings, lambda written: None)


if __name__ == "__main__":
    main()
