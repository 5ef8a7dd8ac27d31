"""What a leash remembers to have stopped, whatever crosses on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_gpuaas.node.leash import Leash
from tests.fault.nodes import is_stopped

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="leashes need /proc and pidfds of Linux")

RUN = "run-of-the-test"


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"], env={**os.environ, "GPUAAS_RUN": RUN}) as made:
        yield made
        made.kill()


def test_what_is_stopped_again_before_its_going_on_is_heard_of_is_not_forgotten(
    tmp_path: Path, process: subprocess.Popen[bytes]
) -> None:
    leash = Leash(tmp_path)
    runs = {RUN: (os.getpid(), str(tmp_path))}
    leash._hear({"number": 1, "until_s": 0.0, "runs": runs})
    leash._stop()
    answer = leash._hear({"number": 2})
    assert is_stopped(process.pid)
    assert [pid for pid, _ in answer["held"][RUN][1]] == [process.pid]
    os.kill(process.pid, signal.SIGCONT)
    leash._stop()
    assert is_stopped(process.pid)
    again = leash._hear({"number": 3, "let_go": {RUN: 2}})
    assert [pid for pid, _ in again["held"][RUN][1]] == [process.pid]
    os.kill(process.pid, signal.SIGCONT)
    assert leash._hear({"number": 4, "let_go": {RUN: 3}})["held"] == {}
