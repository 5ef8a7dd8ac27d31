"""What of the user's runs beside the cells, and may change anything at any time: threads and tasks."""

from __future__ import annotations

import asyncio
import threading
import weakref
from typing import Any

#: Modules whose threads and tasks leave the user's variables alone.
_KERNEL = frozenset({"ipykernel", "IPython", "IPythonHistorySavingThread", "tornado", "zmq", "tqdm", "jupyter_gpuaas"})


class Beside:
    """Made before the user's first cell: the threads that are there then are not the user's."""

    def __init__(self) -> None:
        self._threads = weakref.WeakSet(threading.enumerate())

    def runs(self) -> bool:
        """Whether threads or tasks of the user run."""
        for thread in threading.enumerate():
            ours = thread in self._threads or thread.name.startswith("gpuaas-")
            if not ours and not _of_the_kernel(type(thread).__module__) and not _of_the_kernel(thread.name):
                return True
        try:
            tasks = asyncio.all_tasks(asyncio.get_running_loop())
        except RuntimeError:
            return False
        return not all(_of_the_kernel(_module_of(task)) for task in tasks)


def _of_the_kernel(name: str) -> bool:
    return name.partition(".")[0] in _KERNEL


def _module_of(task: asyncio.Task[Any]) -> str:
    """Module of the code that a task runs; empty when it cannot be told."""
    frame = getattr(task.get_coro(), "cr_frame", None)
    return str(frame.f_globals.get("__name__", "")) if frame is not None else ""
