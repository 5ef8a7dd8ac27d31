"""Requests that a kernel was sent and does not begin: found, sent again, explained."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from jupyter_gpuaas.model import Channel
from jupyter_gpuaas.node.dialogue import Dialogue
from jupyter_gpuaas.node.marks import Marks
from jupyter_gpuaas.node.overdue import WAITS, Overdue
from jupyter_gpuaas.wire.jupyter import Header, make_parts, read_header
from jupyter_gpuaas.wire.record import Buffer
from tests.service import eventually

AFTER_S = 0.02


def status(request: list[Buffer], state: str) -> list[Buffer]:
    return make_parts(b"", "status", request[1], {"execution_state": state})[1:]


class Kernel:
    """Answers whoever asks what it does, and loses what it is sent, or not."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.sent: list[list[Buffer]] = []
        self.running: list[str] = []
        self.busy: list[str] = []
        self.loses = 1
        self.looks = self.marks = 0
        self.answers = self.ends = True
        #: What happens while it is asked, and before a mark comes back.
        self.meanwhile: Callable[[], None] = lambda: None
        self.before_mark: Callable[[], None] = lambda: None

    async def ask(self, channel: Channel, msg_type: str, content: dict[str, Any], *, subshell: str = "") -> Any:
        if not self.answers:
            await asyncio.get_running_loop().create_future()
        if msg_type == "gpuaas_look_request":
            assert channel is Channel.CONTROL
            self.looks += 1
            self.meanwhile()
            return {
                "running": self.running,
                "busy": self.busy,
                "doing": "take_a_walk (in/the_park.py:7)",
                "threads": {},
            }
        assert (channel, msg_type, content["op"], subshell) == (Channel.SHELL, "gpuaas_stand_request", "mark", "")
        self.marks += 1
        self.before_mark()
        self.session.marks.heard(content["mark"])
        return {"status": "ok"}

    def take(self, parts: list[Buffer]) -> None:
        self.sent.append(parts)
        if len(self.sent) > self.loses:
            self.session.dialogue.status(status(parts, "busy"), 0.0)
            self.session.answer(parts)
            if self.ends:
                self.session.dialogue.status(status(parts, "idle"), 0.0)


class Session:
    """A host as `Overdue` needs it."""

    may_be_asked = True

    def __init__(self) -> None:
        self.dialogue, self.marks = Dialogue(100), Marks()
        self.kernel: Any = Kernel(self)
        self.overdue = Overdue(self, self.marks, AFTER_S)
        self.told: list[tuple[Channel, list[Buffer]]] = []
        self.notices: list[str] = []

    def send(self) -> list[Buffer]:
        parts = make_parts(b"client", "execute_request", b"{}", {"code": "1"})
        header = self.dialogue.accept(parts)
        assert header is not None
        self.pass_on(Channel.SHELL, header, parts)
        return parts

    def pass_on(self, channel: Channel, header: Header, parts: list[Buffer]) -> None:
        self.dialogue.passed_on(channel, header, parts, asyncio.get_running_loop().time())
        self.overdue.watch()
        self.kernel.take(parts)

    def tell(self, messages: list[tuple[Channel, list[Buffer]]]) -> None:
        self.told += messages

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def begin(self) -> list[Buffer]:
        """Send a request that the kernel begins, and that is old enough to be asked for."""
        parts = self.send()
        self.dialogue.status(status(parts, "busy"), 0.0)
        return parts

    def answer(self, parts: list[Buffer]) -> None:
        self.dialogue.answer(Channel.SHELL, make_parts(b"", "execute_reply", parts[1], {"status": "ok"})[1:])

    def error(self) -> dict[str, Any]:
        ((_, reply),) = [told for told in self.told if told[0] is Channel.SHELL]
        content: dict[str, Any] = msgspec.json.decode(reply[4])
        return content


@pytest.fixture
async def session() -> Any:
    made = Session()
    yield made
    made.overdue.close()


async def test_request_that_an_idle_kernel_has_lost_is_passed_on_again_whole(session: Session) -> None:
    parts = session.send()
    await eventually(lambda: not session.dialogue.busy)
    assert session.kernel.sent == [parts, parts]
    assert ["sent again" in text for text in session.notices] == [True]
    assert not session.told


async def test_request_that_is_lost_twice_is_answered(session: Session) -> None:
    session.kernel.loses = 2
    session.send()
    await eventually(lambda: not session.dialogue.busy)
    assert len(session.kernel.sent) == 2
    assert session.error()["ename"] == "RequestLost" and "not begun" in session.error()["evalue"]


async def test_cell_that_has_ended_and_whose_reply_does_not_come_is_answered_and_not_run_again(
    session: Session,
) -> None:
    parts = session.send()
    for state in ("busy", "idle"):
        session.dialogue.status(status(parts, state), 0.0)
    await eventually(lambda: not session.dialogue.busy)
    assert len(session.kernel.sent) == 1
    assert "reply was lost" in session.error()["evalue"]


async def test_cell_that_was_answered_and_whose_end_is_not_told_has_ended(session: Session) -> None:
    session.kernel.loses, session.kernel.ends = 0, False
    parts = session.send()
    assert not session.dialogue.busy
    await eventually(lambda: session.told)
    ((channel, told),) = session.told
    assert (channel, read_header(told[2])) == (Channel.IOPUB, read_header(parts[1]))
    assert msgspec.json.decode(told[4]) == {"execution_state": "idle"}
    await eventually(lambda: not session.dialogue.waits_for_shell)


async def test_cell_that_runs_is_left_alone_and_so_are_those_behind_it(session: Session) -> None:
    session.kernel.loses = 9
    running = session.send()
    session.dialogue.status(status(running, "busy"), time.monotonic())
    session.send()
    session.overdue._due()
    assert session.overdue._task is None
    assert len(session.kernel.sent) == 2


async def test_cell_of_which_an_idle_kernel_says_no_more_is_answered_and_not_run_again(session: Session) -> None:
    session.begin()
    await eventually(lambda: not session.dialogue.busy)
    assert len(session.kernel.sent) == 1 and not session.dialogue.waits_for_shell
    assert "reply was lost" in session.error()["evalue"]


@pytest.mark.parametrize("told", ["running", "busy"])
async def test_long_cell_is_asked_for_now_and_then_and_left_alone(
    session: Session, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    """A message beside an async cell hides its id from whoever asks, and not that its shell is busy."""
    now_s, dues = 1000.0, []

    def due(timer: Callable[[], None] = session.overdue._due) -> None:
        dues.append(now_s)
        timer()

    monkeypatch.setattr("jupyter_gpuaas.node.overdue.time", SimpleNamespace(monotonic=lambda: now_s))
    monkeypatch.setattr(session.overdue, "_due", due)
    parts = session.begin()
    setattr(session.kernel, told, [read_header(parts[1]).msg_id if told == "running" else ""])
    for looks in (1, 2, 3):
        dues.clear()
        await eventually(lambda: len(dues) > 3)
        assert session.kernel.looks == looks
        now_s += WAITS * AFTER_S
    assert (session.kernel.marks, len(session.kernel.sent)) == (0, 1)
    assert not session.told and not session.notices and session.dialogue.busy


@pytest.mark.parametrize("idle", [True, False])
async def test_reply_that_comes_before_the_mark_is_the_only_one(session: Session, idle: bool) -> None:
    parts = session.begin()

    def end() -> None:
        session.answer(parts)
        if idle:
            session.dialogue.status(status(parts, "idle"), 0.0)

    session.kernel.before_mark = end
    await eventually(lambda: session.kernel.marks)
    await eventually(lambda: session.overdue._task is None)
    assert not session.dialogue.waits_for_shell
    assert [read_header(told[1]).msg_type for _, told in session.told] == ([] if idle else ["status"])


async def test_cell_whose_end_is_heard_of_while_its_kernel_is_asked_is_answered_once(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    parts = session.begin()
    session.kernel.meanwhile = lambda: session.dialogue.status(status(parts, "idle"), 0.0)
    await eventually(lambda: not session.dialogue.waits_for_shell)
    await eventually(lambda: session.overdue._task is None)
    assert "reply was lost" in session.error()["evalue"]
    assert "Traceback" not in caplog.text


async def test_cell_that_begins_behind_the_answer_runs(session: Session) -> None:
    """Where code of the user's handles messages in the middle of it, even the mark comes back while it does."""
    parts = session.send()
    session.kernel.before_mark = lambda: session.dialogue.status(status(parts, "busy"), time.monotonic())
    await eventually(lambda: session.kernel.marks)
    await eventually(lambda: session.overdue._task is None)
    assert len(session.kernel.sent) == 1 and not session.told and session.dialogue.busy


async def test_request_that_the_kernel_says_it_handles_has_begun(session: Session) -> None:
    parts = session.send()
    session.kernel.running, session.kernel.busy = [read_header(parts[1]).msg_id], [""]
    await eventually(lambda: session.kernel.looks)
    await eventually(lambda: session.overdue._task is None)
    assert not session.dialogue.overdue(float("inf"))
    assert (session.kernel.marks, len(session.kernel.sent)) == (0, 1)


async def test_kernel_that_does_something_else_is_left_to_it_and_after_a_while_the_user_is_told_what(
    session: Session,
) -> None:
    session.send()
    session.kernel.busy = [""]
    await eventually(lambda: session.notices)
    assert session.kernel.looks > 1, "not at once"
    assert "take_a_walk (in/the_park.py:7)" in session.notices[0]
    looks = session.kernel.looks
    await eventually(lambda: session.kernel.looks > looks + 2)
    assert len(session.notices) == 1 and not session.told, "it is told once"


async def test_kernel_that_is_about_an_order_of_its_host_is_not_told_of(session: Session) -> None:
    session.send()
    session.kernel.busy, session.kernel.running = [""], ["gpuaas-1"]
    await eventually(lambda: session.kernel.looks > WAITS + 2)
    assert not session.notices


async def test_kernel_that_answers_nobody_is_told_of(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jupyter_gpuaas.node.overdue.ANSWER_S", AFTER_S)
    session.kernel.answers = False
    session.send()
    await eventually(lambda: session.notices)
    assert "answers nobody" in session.notices[0]
    assert len(session.kernel.sent) == 1, "what it was sent may still come"


async def test_nothing_is_asked_while_the_session_stands_still(session: Session) -> None:
    session.may_be_asked = False
    session.send()
    for _ in range(3):
        session.overdue._due()
    assert session.kernel.looks == 0
    session.may_be_asked = True
    await eventually(lambda: len(session.kernel.sent) == 2)


async def test_nobody_looks_when_nothing_waits(session: Session) -> None:
    session.kernel.loses = 0
    session.send()
    await eventually(lambda: session.overdue._timer is None)
    assert session.kernel.looks == 0
