"""When a due checkpoint is taken, without a kernel."""

from __future__ import annotations

import asyncio
import logging
import threading

from jupyter_gpuaas.kernel.due import Due


class Checkpoints:
    """One is due, and waits a moment for another cell to share it."""

    quiet_s = 0.001

    def __init__(self) -> None:
        self.wants_one = True
        self.taken: list[str] = []
        self.asked = asyncio.Event()
        self.took = asyncio.Event()

    def wait_s(self) -> float:
        return 0.001

    def is_fresh(self) -> bool:
        return False

    def between_messages(self) -> bool:
        return self._take("between messages")

    def quiet(self) -> None:
        self._take("when quiet")

    def catch_up(self) -> None:
        self._take("at the end")

    def _take(self, when: str) -> bool:
        self.wants_one = False
        self.taken.append(when)
        self.took.set()
        return True


class Session:
    """What keeps a capture from being taken."""

    def __init__(self) -> None:
        self.checkpoints = Checkpoints()
        self.still = False
        self.due = Due(
            self.checkpoints, free=self._free, before=lambda: None, log=logging.getLogger("jupyter_gpuaas.test")
        )
        self._asked = 0

    def _free(self) -> bool:
        self._asked += 1
        if self._asked == 3:
            self.checkpoints.asked.set()
        return not self.still


async def test_capture_that_waited_for_a_cell_is_not_taken_while_the_session_stands_still() -> None:
    session = Session()
    session.due.after_message()
    session.still = True
    await asyncio.wait_for(session.checkpoints.asked.wait(), 30)
    assert not session.checkpoints.taken
    session.still = False
    await asyncio.wait_for(session.checkpoints.took.wait(), 30)
    assert session.checkpoints.taken == ["when quiet"]


async def test_capture_that_waits_is_taken_when_the_kernel_ends() -> None:
    session = Session()
    session.checkpoints.wait_s = lambda: 3600.0  # type: ignore[method-assign]
    session.due.after_message()
    ending = threading.Thread(target=session.due.catch_up, args=(30.0,))
    ending.start()
    await asyncio.wait_for(session.checkpoints.took.wait(), 30)
    await asyncio.to_thread(ending.join)
    assert session.checkpoints.taken == ["at the end"]
