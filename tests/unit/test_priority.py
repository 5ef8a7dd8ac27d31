"""What steps back, and comes forth again."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from jupyter_gpuaas.wire.priority import STEPS, step_back

AUTOGROUP = Path("/proc/self/autogroup")
SCRIPT = """
from pathlib import Path
from jupyter_gpuaas.wire.priority import session_steps_back
told = lambda: Path("/proc/self/autogroup").read_text().rpartition("nice")[2].strip() or "ungrouped"
before = told()
session_steps_back(True)
back = told()
session_steps_back(False)
print(before, back, told())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="niceness is a thread's own on Linux only")
def test_thread_steps_back_alone() -> None:
    found: list[int] = []

    def work() -> None:
        step_back()
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    before = os.getpriority(os.PRIO_PROCESS, 0)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [STEPS] and os.getpriority(os.PRIO_PROCESS, 0) == before


@pytest.mark.skipif(not AUTOGROUP.exists(), reason="this Linux does not group processes by session")
def test_process_steps_back_and_comes_forth_only_where_its_session_is_its_own() -> None:
    def told(own: bool) -> str:
        command = [sys.executable, "-c", SCRIPT]
        return subprocess.run(command, start_new_session=own, check=True, capture_output=True, text=True).stdout.strip()

    assert told(own=True) == f"0 {STEPS} 0"
    before = AUTOGROUP.read_text()
    own, *_ = told(own=False).split()
    assert told(own=False) == f"{own} {own} {own}"
    assert AUTOGROUP.read_text() == before
