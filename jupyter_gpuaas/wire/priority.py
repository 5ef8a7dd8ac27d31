"""Threads that step back: what is done beside the user's cells takes the processor time that these leave."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

#: As ``nice`` has it: against a busy thread of ordinary priority, about a tenth of a processor.
STEPS = 10


def step_back() -> None:
    """Let the calling thread, and no other, take what others leave; on Linux, where niceness is a thread's own."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), STEPS)
