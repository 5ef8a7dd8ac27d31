"""Threads that step back: what is done beside the user's cells takes the processor time that these leave.

Where Linux groups processes by login session (``/proc/sys/kernel/sched_autogroup_enabled``; not in containers), the
niceness of a thread counts against its own session only, and each session has an equal share. There a process that is
alone in its session steps back with all of that, and may come forth again without any privilege.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading

#: As ``nice`` has it: against a busy thread of ordinary priority, about a tenth of a processor.
STEPS = 10
_TRIES = 50
_PAUSE_S = 0.02


def step_back() -> None:
    """Let the calling thread, and no other, take what others leave; on Linux, where niceness is a thread's own."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), STEPS)


def session_steps_back(back: bool) -> None:
    """Let all of the calling process's login session take what others leave, if that is its own; False undoes it."""
    if sys.platform != "linux" or os.getsid(0) != os.getpid():
        return
    for _ in range(_TRIES):
        try:
            with open("/proc/self/autogroup", "w", encoding="ascii") as file:
                file.write(f"{STEPS if back else 0}\n")
            return
        except BlockingIOError:  # Linux lets all unprivileged processes together do so ten times a second
            threading.Event().wait(_PAUSE_S)
        except OSError:
            return
