"""Writes captures to the store in the order in which they were taken, in one thread, while cells run.

What a capture counts on, the one before it must have written. So when one fails, those that wait behind it are given
up as well, and the generation rises: a capture that was begun under a former generation must not be written.
"""

from __future__ import annotations

import contextlib
import logging
import resource
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from ..errors import CheckpointError
from ..model import short_id

log = logging.getLogger(__name__)

CLOSING_S = 0.5
#: Captures that may wait, however small.
MOST_WAITING = 64


class Capture(Protocol):
    """``state.Pending``."""

    id: str
    nbytes: int

    def write(self, progress: Callable[[int, int], None]) -> Any:
        """Write and commit."""


class GivenUp(CheckpointError):
    """The user interrupted it, or a capture that it counts on was not written."""


class Job:
    """One capture on its way to the store."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None
        self.progress = (0, 0)
        self._stopped = False

    def stop(self) -> None:
        """Give it up, if it is not committed yet."""
        self._stopped = True

    def let_end(self) -> None:
        """Give it up and wait until nothing of it is read any more, whatever interrupts."""
        self.stop()
        while not self.done.is_set():
            with contextlib.suppress(KeyboardInterrupt):
                self.done.wait()

    def follow(self, done: int, total: int) -> None:
        self.progress = (done, total)
        if self._stopped:
            raise GivenUp("it was given up.")


class CaptureWriter:
    """The thread and its queue.

    Parameters
    ----------
    ended
        Called in the thread with each job that has ended, well or not.
    between
        Called in the thread when nothing waits: time for retention.
    """

    def __init__(self, most_bytes: int, ended: Callable[[Job], None], between: Callable[[], None]) -> None:
        self.most_bytes = most_bytes
        self._ended = ended
        self._between = between
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.generation = 0

    @property
    def waiting(self) -> int:
        """Captures that are not written yet."""
        return len(self._jobs)

    def submit(self, capture: Capture, generation: int) -> Job | None:
        """Queue a capture; None when the generation under which it was begun is over."""
        with self._changed:
            if generation != self.generation or self._closed:
                return None
            job = Job(capture)
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="gpuaas-checkpoints", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return job

    def has_room(self) -> bool:
        """Whether another capture may be added."""
        with self._changed:  # the thread takes them out meanwhile
            return len(self._jobs) < MOST_WAITING and sum(job.capture.nbytes for job in self._jobs) <= self.most_bytes

    def wait_for_room(self, timeout_s: float) -> bool:
        """Wait until there is room; False when there was none in time."""
        with self._changed:
            return self._changed.wait_for(self.has_room, timeout_s)

    def drain(self, timeout_s: float) -> bool:
        """Wait until all that waits has been written; False when it took longer."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs, timeout_s)

    def close(self, timeout_s: float) -> None:
        """Write what waits, as far as the time allows, and end the thread."""
        self.drain(timeout_s)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            # It may be collecting, which may be broken off at any point.
            self._thread.join(min(timeout_s, CLOSING_S))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closed)
                if self._closed:
                    return
                job = self._jobs[0]
            try:
                job.result = job.capture.write(job.follow)
            except BaseException as error:
                job.error = error
            with self._changed:
                self._jobs.popleft()
                given_up: list[Job] = []
                if job.error is not None:
                    self.generation += 1
                    given_up = list(self._jobs)
                    self._jobs.clear()
            for other in given_up:
                other.error = GivenUp(f"checkpoint {short_id(job.capture.id)}, which it follows, was not written.")
            for ended in (job, *given_up):
                self._tell(ended)
            with self._changed:
                self._changed.notify_all()
            if not self._jobs:
                self._quietly(self._between)

    def _tell(self, job: Job) -> None:
        self._quietly(lambda: self._ended(job))
        job.done.set()

    @staticmethod
    def _quietly(act: Callable[[], None]) -> None:
        try:
            act()
        except Exception:
            log.warning("after a checkpoint:", exc_info=True)


def most_waiting(setting_bytes: int) -> int:
    """What may wait in memory: the setting (0 for any), and of a process with a cap no more than a quarter."""
    most = setting_bytes or 2**62
    limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
    return most if limit == resource.RLIM_INFINITY else min(most, limit // 4)


def wait(job: Job, told: Callable[[int, int], None], *, every_s: float = 0.5) -> Any:
    """Wait for a job in the main thread, telling how far it is; a KeyboardInterrupt gives it up.

    Raises what the job failed with.
    """
    try:
        began = time.monotonic()
        while not job.done.wait(0.05 if time.monotonic() - began < 1 else every_s):
            if time.monotonic() - began >= 1:
                told(*job.progress)
    except KeyboardInterrupt:
        job.stop()
        raise
    if job.error is not None:
        raise job.error
    return job.result
