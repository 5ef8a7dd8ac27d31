"""When a kernel takes the checkpoint that is due: between two messages, or as soon as nothing has come for a while."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Protocol


class Takes(Protocol):
    """``Checkpoints``, as this needs them."""

    @property
    def wants_one(self) -> bool: ...

    @property
    def quiet_s(self) -> float: ...

    def wait_s(self) -> float: ...

    def is_fresh(self) -> bool: ...

    def between_messages(self) -> bool: ...

    def quiet(self) -> None: ...

    def catch_up(self) -> None: ...


class Due:
    """Works in the main thread, where captures are taken; ``after_subshell`` and ``catch_up`` come from any.

    Parameters
    ----------
    free
        Whether a capture may be taken now: no message is handled, and the session does not stand still.
    before
        Called before a capture that holds up whoever sends replies.
    """

    def __init__(
        self, checkpoints: Takes, *, free: Callable[[], bool], before: Callable[[], None], log: logging.Logger
    ) -> None:
        self._checkpoints = checkpoints
        self._free = free
        self._before = before
        self._log = log
        #: That of the main thread, once it has handled a message.
        self._loop: asyncio.AbstractEventLoop | None = None
        #: Until it is asked again.
        self._timer: asyncio.TimerHandle | None = None

    def after_message(self) -> None:
        """A message of the main shell was handled, and the next one waits for this."""
        self._loop = asyncio.get_running_loop()
        wait_s = self._checkpoints.wait_s()
        if wait_s > 0:
            self._ask_in(wait_s, self._no_other_came)
        else:
            self._take()

    def after_subshell(self) -> None:
        """One of a subshell was handled, in its thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._ask_when_quiet)

    def catch_up(self, timeout_s: float) -> None:
        """The kernel ends: take now what waits; not later than so long from now, unless it is under way then."""
        if self._timer is None or self._loop is None:
            return
        done = threading.Event()

        def act() -> None:
            if self._free():
                self._checkpoints.catch_up()
            done.set()

        if threading.current_thread() is threading.main_thread():
            act()
        else:
            self._loop.call_soon_threadsafe(act)
            done.wait(timeout_s)

    def _take(self) -> None:
        """Take the checkpoint that is due, or see to it that the question comes again."""
        try:
            if self._checkpoints.wants_one:
                self._before()
            done = self._checkpoints.between_messages()
        except Exception:
            # A bug of ours; cells go on.
            self._log.warning("no checkpoint:", exc_info=True)
            done = True
        if done:
            self._ask_no_more()
        else:
            self._ask_when_quiet()

    def _no_other_came(self) -> None:
        """No cell has come to share the checkpoint."""
        self._timer = None
        if self._free():
            self._take()
        else:
            self._ask_when_quiet()

    def _is_quiet(self) -> None:
        self._timer = None
        if self._free():
            self._checkpoints.quiet()
        else:
            # A cell that awaits something lets this run in its middle; or the session stands still, and may go on.
            self._ask_when_quiet()

    def _ask_when_quiet(self) -> None:
        if not self._checkpoints.is_fresh() and self._timer is not None:
            return  # a front end that asks something is no reason to wait longer
        self._ask_in(self._checkpoints.quiet_s, self._is_quiet)

    def _ask_in(self, wait_s: float, ask: Callable[[], None]) -> None:
        assert self._loop is not None
        self._ask_no_more()
        self._timer = self._loop.call_later(wait_s, ask)

    def _ask_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
