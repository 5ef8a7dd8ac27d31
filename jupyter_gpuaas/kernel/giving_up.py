"""How what takes long is given up: by an interrupt, or because whoever asked for it says so."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

#: Requests given up that are remembered.
MOST_STOPPED = 1000


class GivingUp:
    """Used by the main thread, which does what can be given up; ``stop_request`` comes from any."""

    def __init__(self) -> None:
        self._armed = self._interrupted = False
        #: The request that is carried out; empty for none.
        self.request = ""
        #: A cell of the user's runs once more: it asks nobody whether it is to go on.
        self.replaying = False
        self._stopped: dict[str, None] = {}

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Turn SIGINT into a KeyboardInterrupt for the block; outside of messages ipykernel ignores it."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._interrupted = False
        former = signal.signal(signal.SIGINT, self._on_signal)
        try:
            self._armed = True
            yield
            self._armed = False
            self.check()  # the exception may have been swallowed, by a finalizer for instance
        finally:
            self._armed = self.replaying = self._interrupted = False
            signal.signal(signal.SIGINT, former)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True
        if self._armed:
            self._armed = False
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt if what is done has been given up."""
        if self._interrupted or (self.request and self.request in self._stopped):
            raise KeyboardInterrupt

    def begin(self, request: str) -> None:
        """Carry out what came under this name."""
        self.request = request

    def end(self) -> None:
        self._stopped.pop(self.request, None)
        self.request = ""

    def stop_request(self, request: str) -> None:
        """Give up what came under this name, or is still to come."""
        if len(self._stopped) >= MOST_STOPPED:  # of requests that had ended before they were given up
            oldest, *_ = self._stopped
            self._stopped.pop(oldest, None)
        self._stopped[request] = None
        if self.replaying and self._armed and request == self.request:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
