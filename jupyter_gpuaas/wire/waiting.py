"""Requests that wait because there is no link: explained to their cells, and failed when that is honest."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from ..model import Channel
from .jupyter import make_parts
from .record import Buffer

#: A wait shorter than this is not worth a word.
QUIET_S = 1.0
#: A front end shows the kernel as connecting until it gets this answer; a session in a queue may take long.
KERNEL_INFO_S = 3.0
#: What a request takes in memory beside the bytes of its parts.
BESIDE_BYTES = 2048

Reply = Callable[[Channel, bytes, list[Buffer]], object]
Publish = Callable[[Buffer, list[Buffer]], object]


class Held(msgspec.Struct):
    """One request that has not been sent on."""

    channel: Channel
    address: bytes
    msg_id: str
    msg_type: str
    parts: list[Buffer]
    since_s: float
    shown: bool = False
    #: Of the record that it was sent as.
    serial: int = 0
    #: Whether the kernel has said that it runs, and that it has ended.
    begun: bool = False
    ended: bool = False


class Waiting:
    """The requests that came while there was no link to the session.

    Parameters
    ----------
    unreachable_s
        A cell fails when the service could not be reached for this long.
    most_bytes
        How much may wait here.
    """

    def __init__(self, reply: Reply, publish: Publish, unreachable_s: float, most_bytes: int) -> None:
        self._reply = reply
        self._publish = publish
        self._unreachable_s = unreachable_s
        self._most_bytes = most_bytes
        self._loop = asyncio.get_running_loop()
        self._held: list[Held] = []
        self._held_bytes = 0
        self._status = "starting"
        self._trouble = ""
        self._trouble_since_s = 0.0
        self._known = False  # a client was told before what kernel this will be
        self._timer: asyncio.TimerHandle | None = None

    def hold(self, held: Held) -> bool:
        """Keep a request until ``release``; False when too much waits already."""
        size = memory_bytes(held.parts)
        if self._held and self._held_bytes + size > self._most_bytes:
            return False
        # The others are not looked at for each that comes: they may be many.
        if self._waits_on(held, self._loop.time()):
            self._held.append(held)
            self._held_bytes += size
            self._look_again()
        return True

    def status(self, text: str) -> None:
        """How things stand, for people: ``queued, place 2``; ends a trouble."""
        self._status, self._trouble, self._trouble_since_s = text, "", 0.0
        self._show_again()

    def trouble(self, text: str) -> None:
        """The service cannot be reached, and why."""
        self._trouble = text
        self._trouble_since_s = self._trouble_since_s or self._loop.time()
        self._show_again()
        self._tick()

    def retrying(self, text: str) -> None:
        """A step of a new try: not yet the end of a trouble."""
        if not self._trouble:
            self.status(text)

    def release(self) -> list[Held]:
        """The session is there: take down what was shown, and hand out the requests in their order."""
        held = self._held
        self._keep([])
        for one in held:
            self._take_down(one)
        return held

    def fail(self, ename: str, why: str) -> None:
        """No session comes: every request gets its answer."""
        held = self._held
        self._keep([])
        for one in held:
            self._fail(one, ename, why)

    def cancel_cells(self) -> None:
        """The user interrupts: cells that have not been sent will not run."""
        cells = [held for held in self._held if held.msg_type == "execute_request"]
        self._keep([held for held in self._held if held.msg_type != "execute_request"])
        for one in cells:
            self._fail(one, "KeyboardInterrupt", "cancelled before it was sent")

    def _tick(self) -> None:
        now = self._loop.time()
        self._keep([held for held in self._held if self._waits_on(held, now)])

    def _waits_on(self, held: Held, now: float) -> bool:
        """Whether a request is to wait on; else it has got its answer."""
        waited = now - held.since_s
        if held.msg_type == "execute_request":
            if self._trouble and now - self._trouble_since_s >= self._unreachable_s:
                self._fail(held, "RemoteUnreachable", self._trouble)
                return False
            if waited >= QUIET_S and not held.shown:
                self._show(held)
        elif held.msg_type == "kernel_info_request" and (waited >= KERNEL_INFO_S or self._known or self._trouble):
            # Answered late it holds up everything that a front end does next, so only the first one waits.
            self._known = True
            answer_kernel_info(held, self._reply, self._publish)
            return False
        return True

    def _keep(self, held: list[Held]) -> None:
        """These wait, and no others."""
        self._held, self._held_bytes = held, sum(memory_bytes(one.parts) for one in held)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._look_again()

    def _look_again(self) -> None:
        if self._held and self._timer is None:
            self._timer = self._loop.call_later(0.25, self._tick)

    def _fail(self, held: Held, ename: str, why: str) -> None:
        self._take_down(held)
        fail_request(held, ename, why, self._reply, self._publish)

    def _take_down(self, held: Held) -> None:
        if held.shown:
            self._publish(b"clear_output", make_parts(b"", "clear_output", held.parts[0], {"wait": False})[1:])

    def _show_again(self) -> None:
        for held in self._held:
            if held.shown:
                self._show(held)

    def _show(self, held: Held) -> None:
        """Say in the cell what it waits for; the text is replaced in place as things change."""
        msg_type = "update_display_data" if held.shown else "display_data"
        parent = held.parts[0]
        if not held.shown:
            busy = make_parts(b"", "status", parent, {"execution_state": "busy"})
            self._publish(b"status", busy[1:])
        held.shown = True
        content = {
            "data": {"text/plain": f"Remote GPU: {self._trouble or self._status}"},
            "metadata": {},
            "transient": {"display_id": f"gpuaas-waiting-{held.msg_id}"},
        }
        self._publish(b"display_data", make_parts(b"", msg_type, parent, content)[1:])


def memory_bytes(parts: Iterable[Buffer]) -> int:
    """About what a request takes that waits in memory."""
    return BESIDE_BYTES + sum(len(part) for part in parts)


def fail_request(held: Held, ename: str, why: str, reply: Reply, publish: Publish) -> None:
    """Answer a request that cannot be carried out, as a kernel would: busy, error, reply, idle."""
    if held.msg_type == "kernel_info_request":  # a client that cannot have this would not show the reason
        answer_kernel_info(held, reply, publish)
        return
    parent = held.parts[0]
    error = {"ename": ename, "evalue": why, "traceback": [f"\x1b[31m{ename}\x1b[0m: {why}"]}
    content: dict[str, Any] = {"status": "error", **error}
    publish(b"status", make_parts(b"", "status", parent, {"execution_state": "busy"})[1:])
    if held.msg_type == "execute_request":
        publish(b"error", make_parts(b"", "error", parent, error)[1:])
        content |= {"execution_count": 0, "user_expressions": {}, "payload": []}
    if held.msg_type == "debug_request":  # as the debug adapter protocol has it, or a front end trips over it
        content |= {"type": "response", "success": False, "message": why, "body": {}}
    answer = held.msg_type.replace("_request", "_reply")
    if answer != held.msg_type:
        reply(held.channel, held.address, make_parts(b"", answer, parent, content)[1:])
    tell_ended(held, publish)


def answer_kernel_info(held: Held, reply: Reply, publish: Publish) -> None:
    """Tell what the kernel will be able to do, before it is there."""
    parent = held.parts[0]
    content = {
        "status": "ok",
        "protocol_version": "5.4",
        "implementation": "ipython",
        "implementation_version": "",
        "language_info": {
            "name": "python",
            "version": platform.python_version(),
            "mimetype": "text/x-python",
            "codemirror_mode": {"name": "ipython", "version": 3},
            "pygments_lexer": "ipython3",
            "nbconvert_exporter": "python",
            "file_extension": ".py",
        },
        "banner": "Python 3 (remote GPU); the session is not ready yet\n",
        "help_links": [],
        "supported_features": ["kernel subshells", "debugger"],
    }
    publish(b"status", make_parts(b"", "status", parent, {"execution_state": "busy"})[1:])
    reply(held.channel, held.address, make_parts(b"", "kernel_info_reply", parent, content)[1:])
    tell_ended(held, publish)


def tell_ended(held: Held, publish: Publish) -> None:
    """Say that a request has ended, behind its reply: clients wait for both."""
    publish(b"status", make_parts(b"", "status", held.parts[0], {"execution_state": "idle"})[1:])
