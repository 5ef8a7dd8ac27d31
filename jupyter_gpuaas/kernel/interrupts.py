"""Interrupts of the kernel's main thread while it does what is not the user's cell."""

from __future__ import annotations

import importlib
import signal
import threading
from types import FrameType
from typing import Any

try:
    #: ``signal.signal`` without its enums, which take ten times as long as what it does.
    _handle: Any = importlib.import_module("_signal").signal
except (ImportError, AttributeError):  # not CPython
    _handle = signal.signal


class Held:
    """SIGINT within the block is noted and not raised, so that what happens there happens as a whole.

    ::

        with Held() as held:
            prepare()
        if held.pressed:
            raise KeyboardInterrupt
    """

    pressed = False
    _former: Any = None

    def __enter__(self) -> Held:
        if threading.current_thread() is threading.main_thread():
            self._former = _handle(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._former is not None:
            _handle(signal.SIGINT, self._former)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.pressed = True


class Postponed(Held):
    """SIGINT within the block comes right after it, to whoever handles it there."""

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        if self.pressed:
            signal.raise_signal(signal.SIGINT)
