"""Interrupts of the kernel's main thread while it does what is not the user's cell."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


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
            self._former = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._former is not None:
            signal.signal(signal.SIGINT, self._former)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.pressed = True
