"""Requests that the kernel was sent and does not begin, or does not answer: found, and sent again or explained.

A cell that never gets an answer is the worst that can happen to a user, so nobody has to be believed here:

1. A request was passed on a while ago, the kernel has not said that it begins it, and no other of its shell runs.
2. The kernel is asked what it does, on its control channel. Its threads look at their sockets once more for that,
   which is all that is needed where one has missed a message (``kernel.look``). A kernel that does something is left
   to it; what that is, is told in the notebook when it takes long.
3. One that does nothing is sent a mark behind the request. When that has come back, the kernel has said all that it
   will ever say of the request: if it has not begun by then, it is lost. It has not run, so it is passed on again.
   A second time it is answered with an error.

A request that has begun may run for as long as it likes, and is asked for more rarely. One that the kernel does not
handle, in a shell that is free, has ended: behind a mark nothing more is said of it, so it is answered with an error.
It has run, and is not run again.

A cell that has ended, and whose reply does not come, is answered with an error as well; and of one whose reply has
come, and nothing more, it is said that it has ended.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Protocol

from ..model import Channel
from ..wire.jupyter import OWN_SESSION, Header
from ..wire.record import Buffer
from .dialogue import Asked, Dialogue, Key
from .kernel_process import Kernel
from .marks import Marks

#: A kernel that does not answer in this time is asked again later.
ANSWER_S = 10.0
#: After so many waits the user is told what the kernel does instead; and so often a request is asked for that runs.
WAITS = 6
ENAME = "RequestLost"

log = logging.getLogger(__name__)

Told = list[tuple[Channel, list[Buffer]]]


class OverdueSession(Protocol):
    """The session's host, as this needs it."""

    kernel: Kernel | None
    dialogue: Dialogue

    @property
    def may_be_asked(self) -> bool:
        """Whether the kernel is to answer now: it runs, and nothing is being done about its standing still."""

    def pass_on(self, channel: Channel, header: Header, parts: list[Buffer]) -> None: ...

    def tell(self, messages: Told) -> None: ...

    def notice(self, text: str) -> None: ...


class Overdue:
    """Watches over the requests of one session's kernel.

    Parameters
    ----------
    after_s
        How long a request waits before anybody asks for it.
    """

    def __init__(self, session: OverdueSession, marks: Marks, after_s: float) -> None:
        self._session = session
        self._marks = marks
        self._after_s = after_s
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._again: set[Key] = set()
        self._told = False

    def watch(self) -> None:
        """Something was passed on."""
        if self._timer is None and self._task is None:
            self._timer = asyncio.get_running_loop().call_later(self._after_s, self._due)

    def close(self) -> None:
        """The session ends."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _due(self) -> None:
        self._timer = None
        session, kernel = self._session, self._session.kernel
        if not session.dialogue.waits_for_shell:
            self._again.clear()
            self._told = False
            return
        if kernel is not None and session.may_be_asked and (self._suspects() or self._running()):
            self._task = asyncio.get_running_loop().create_task(self._look(kernel))
            self._task.add_done_callback(self._looked)
        else:
            self._told = False
            self.watch()

    def _looked(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if task.cancelled():
            return
        if task.exception() is not None:
            log.error("requests that the kernel has not begun:", exc_info=task.exception())
        self.watch()

    def _suspects(self) -> list[Asked]:
        return self._session.dialogue.overdue(time.monotonic() - self._after_s)

    def _running(self) -> list[Asked]:
        return self._session.dialogue.running(time.monotonic() - WAITS * self._after_s)

    async def _look(self, kernel: Kernel) -> None:
        session = self._session
        running = self._running()
        for each in running:
            each.since_s = time.monotonic()
        try:
            found = await self._ask(kernel)
        except asyncio.TimeoutError:
            self._explain("it answers nobody, as code that holds the interpreter runs in it")
            return
        except RuntimeError:
            return  # it ended, and whoever waits is told of that
        for msg_id in found["running"]:
            session.dialogue.began(msg_id, time.monotonic())
        # Those of which the kernel should have said more; one that runs keeps its shell busy.
        silent = [each for each in running if each.key[1] not in found["running"]]
        suspects = self._suspects()
        if any(each.shell in found["busy"] for each in suspects):
            if not any(msg_id.startswith(OWN_SESSION) for msg_id in found["running"]):
                self._explain(f"it is at {found['doing']}")
        for shell in {each.shell for each in (*suspects, *silent)}.difference(found["busy"]):
            suspects = [each for each in self._suspects() if each.shell == shell]
            ended = [each for each in silent if each.shell == shell and each not in suspects]
            try:
                await asyncio.wait_for(self._reach(kernel, shell), ANSWER_S)
            except asyncio.TimeoutError:
                self._explain(f"it is at {found['doing']}")
                continue
            except RuntimeError:
                return
            if kernel is not session.kernel or not session.may_be_asked:
                return  # what was sent meanwhile may have been given back
            for each in ended:
                each.idle = True
            lost = session.dialogue.still([*suspects, *ended])
            for each in lost:
                self._lost(each, found)
            for each in suspects:
                if each not in lost:
                    log.warning("%s %s began when its kernel had been asked for it", each.msg_type, each.key[1])

    @staticmethod
    async def _ask(kernel: Kernel) -> dict[str, Any]:
        asking = kernel.ask(Channel.CONTROL, "gpuaas_look_request", {})
        found: dict[str, Any] = await asyncio.wait_for(asking, ANSWER_S)
        return found

    async def _reach(self, kernel: Kernel, shell: str) -> None:
        """Return when a mark has come back; of its coming, too, the kernel may not have been told."""
        reaching = asyncio.ensure_future(self._marks.reach(kernel, shell=shell))
        try:
            while not (await asyncio.wait({reaching}, timeout=self._after_s))[0]:
                await self._ask(kernel)
            await reaching
        finally:
            reaching.cancel()

    def _lost(self, asked: Asked, found: dict[str, Any]) -> None:
        """Nothing more is heard of this one."""
        session, key = self._session, asked.key
        log.error(
            "%s %s did not come to its end in a kernel that is idle: %s", asked.msg_type, key[1], found["threads"]
        )
        if asked.answered:
            session.tell(session.dialogue.end(asked))
        elif asked.idle:
            session.tell(session.dialogue.give_up(asked, ENAME, "the kernel has run it, and its reply was lost"))
        elif asked.parts and key not in self._again:
            self._again.add(key)
            header, parts = session.dialogue.take_back(asked)
            session.pass_on(asked.channel, header, parts)
            session.notice(
                f"\n[remote GPU] The kernel had lost a request ({asked.msg_type}). It has been sent again.\n"
            )
        else:
            session.tell(session.dialogue.give_up(asked, ENAME, "the kernel has not begun it, though it is idle"))

    def _explain(self, why: str) -> None:
        """Tell the user why a request waits, when it has waited for long."""
        late = self._session.dialogue.overdue(time.monotonic() - WAITS * self._after_s)
        suspects = [each for each in late if not each.answered and not each.idle]
        if suspects and not self._told:
            self._told = True
            waited_s = time.monotonic() - suspects[0].since_s
            log.error("%s has waited for %.0f s: %s", suspects[0].msg_type, waited_s, why)
            self._session.notice(
                f"\n[remote GPU] The kernel has not begun what it was sent {waited_s:.0f} s ago: {why}.\n"
            )
