"""A training run on a GPU that goes on in one fresh process after another is the run that was never interrupted."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .training import PROGRAM

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

ROOT = Path(__file__).resolve().parents[2]
STEPS = 40


def begin(folder: Path, start: str, until: int) -> subprocess.Popen[str]:
    asked = json.dumps({"folder": str(folder), "start": start, "until": until})
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, asked],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )


def end(process: subprocess.Popen[str]) -> dict[str, Any]:
    said, complaints = process.communicate(timeout=120)
    assert process.returncode == 0, complaints
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def test_a_run_over_five_processes_is_bit_equal(tmp_path: Path) -> None:
    undisturbed = begin(tmp_path / "twin", "", STEPS)
    stops = sorted(random.Random(os.urandom(8)).sample(range(1, STEPS), 5))
    start = ""
    for until in (*stops, STEPS):
        found = end(begin(tmp_path / "store", start, until))
        assert not [name for name, (outcome, _) in found["report"].items() if outcome == "lost"], found["report"]
        start = found["id"]
    expected = end(undisturbed)
    assert found["losses"] == expected["losses"], stops
    assert found["digest"] == expected["digest"], stops
