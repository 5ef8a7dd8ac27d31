"""Standstills in whatever order things happen: each cell is answered once, and runs no more than once.

The host of the session is the real one; so are the rules by which its kernel gives requests back. The kernel itself is
a model that works off its queues, one message at a time, whenever chance says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.errors import CheckpointError, GpuaasError, to_wire
from jupyter_gpuaas.kernel.returning import RETURNED, Returning
from jupyter_gpuaas.model import Channel, HostSpec, Lease
from jupyter_gpuaas.node.attachment import Attachment
from jupyter_gpuaas.node.kernel_process import Kernel
from jupyter_gpuaas.node.session_host import SessionHost
from jupyter_gpuaas.wire.jupyter import OWN_SESSION, make_parts, read_header
from jupyter_gpuaas.wire.record import Buffer, Kind, Record, RecordReader

#: How many orders are tried.
ORDERS = int(os.environ.get("GPUAAS_ORDERS", "60"))
STEPS = 60
VIEW = {
    "id": "c", "created_s": 0.0, "cell": 1, "epoch": 1, "label": "", "owner": "", "session": "s",
    "names": 1, "host_bytes": 1, "device_bytes": 0, "written_bytes": 1, "stall_s": 0.0, "capture_s": 0.0,
}  # fmt: skip


class ModelKernel:
    """Works off one message at a time, when it is told to."""

    pid = 0
    alive = True

    def __init__(self, chance: random.Random) -> None:
        self.host: SessionHost
        self.chance = chance
        self.stopped = self.halted = False
        self.returning = Returning()
        self.shell: deque[list[Buffer]] = deque()
        self.control: deque[list[Buffer]] = deque()
        #: On their way to the host, which hears each channel in its order: topic or empty, parts.
        self.out: dict[Channel, deque[tuple[bytes, list[Buffer]]]] = {channel: deque() for channel in Channel}
        self.asked: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self.ran: list[str] = []
        self.aborting = False

    async def ask(self, channel: Channel, msg_type: str, content: dict[str, Any], *, subshell: str = "") -> Any:
        parts = make_parts(b"", msg_type, b"{}", content)[1:]
        msg_id = read_header(parts[0]).msg_id
        self.asked[msg_id] = asyncio.get_running_loop().create_future()
        self.send(channel, parts)
        try:
            return await self.asked[msg_id]
        finally:
            del self.asked[msg_id]

    def send(self, channel: Channel, parts: list[Buffer]) -> None:
        (self.shell if channel is Channel.SHELL else self.control).append(parts)

    def hold_outputs(self) -> None: ...

    def take_outputs(self) -> None: ...

    async def pause(self) -> None:
        self.stopped = self.halted = True

    async def resume(self) -> None:
        self.stopped = self.halted = False

    def interrupt(self) -> None: ...

    def remind(self) -> None: ...

    def kill(self) -> None: ...

    async def ended(self, timeout_s: float | None = None) -> bool:
        return True

    def close(self) -> None: ...

    # -- steps -------------------------------------------------------------------------------------------------

    def steps(self) -> list[Callable[[], None]]:
        """What it, or the way to its host, could do now."""
        found: list[Callable[[], None]] = []
        if self.shell and not self.stopped:
            found.append(self._main)
        if self.control and not self.stopped:
            found.append(self._at_control)
        return found + [lambda channel=channel: self._deliver(channel) for channel, out in self.out.items() if out]  # type: ignore[misc]

    def _main(self) -> None:
        parts = self.shell.popleft()
        header = read_header(parts[0])
        if header.msg_type == "stop aborting":
            self.aborting = False
            return
        if self.returning.active and self.returning.takes(
            header.msg_type, header.session, subshell=False, aborting=self.aborting
        ):
            self.out[Channel.SHELL].append((b"", [*make_parts(b"", RETURNED, parts[0], {})[1:], *parts]))
        elif header.session == OWN_SESSION:
            self._own(header.msg_type, parts, msgspec.json.decode(parts[3]))
        else:
            self._cell(header.msg_id, parts)

    def _own(self, msg_type: str, parts: list[Buffer], content: dict[str, Any]) -> None:
        reply: dict[str, Any] = {"status": "ok"}
        if msg_type == "gpuaas_checkpoint_request":
            assert content == {"op": "take", "stands": True}  # else all that has changed is copied first
            failed = to_wire(CheckpointError("the disk is full."))
            reply = {"status": "error", **failed} if self.chance.random() < 0.2 else {"status": "ok", "result": VIEW}
        elif content["op"] == "go_on":
            self.returning.end(in_order=True)
        elif content["op"] == "mark":
            self._note({"kind": "mark", "mark": content["mark"]})
        self._reply(Channel.SHELL, "reply", parts, reply)

    def _cell(self, msg_id: str, parts: list[Buffer]) -> None:
        code = msgspec.json.decode(parts[3])["code"]
        self._status(parts, "busy")
        if self.aborting:
            self._reply(Channel.SHELL, "execute_reply", parts, {"status": "aborted"})
        else:
            self.ran.append(msg_id)
            self._reply(Channel.SHELL, "execute_reply", parts, {"status": "error" if code == "fail" else "ok"})
            if code == "fail":
                self.aborting = True
                self.shell.append(make_parts(b"", "stop aborting", b"{}", {})[1:])
                if self.returning.active:
                    self._note({"kind": "aborting", "subshell": None})
        self._status(parts, "idle")

    def _at_control(self) -> None:
        parts = self.control.popleft()
        op = msgspec.json.decode(parts[3])["op"]
        reply: dict[str, Any] = {"status": "ok"}
        if op == "return":
            self.returning.begin()
            reply["subshells"] = []
        elif op == "go_on":
            reply["done"] = self.returning.end(in_order=False)
        elif op == "freeze":
            self.returning.frozen = True
        self._reply(Channel.CONTROL, "reply", parts, reply)

    def _reply(self, channel: Channel, kind: str, parts: list[Buffer], content: dict[str, Any]) -> None:
        self.out[channel].append((b"", make_parts(b"", kind, parts[0], content)[1:]))

    def _status(self, parts: list[Buffer], state: str) -> None:
        message = make_parts(b"", "status", parts[0], {"execution_state": state})[1:]
        self.out[Channel.IOPUB].append((b"kernel.1.status", message))

    def _note(self, content: dict[str, Any]) -> None:
        self.out[Channel.IOPUB].append((b"gpuaas_stand", make_parts(b"", "gpuaas_stand", b"{}", content)[1:]))

    def _deliver(self, channel: Channel) -> None:
        topic, parts = self.out[channel].popleft()
        msg_id = read_header(parts[1]).msg_id
        if channel is Channel.IOPUB or not msg_id.startswith(OWN_SESSION):
            self.host.kernel_said(channel, [(topic, parts)])
        elif msg_id in self.asked and not self.asked[msg_id].done():
            self.asked[msg_id].set_result(msgspec.json.decode(parts[3]))


class Play:
    """One session, and all that may happen to it."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        (folder / "journal").mkdir(parents=True)
        lease = Lease(id="l", session_id="s", node_id="n", device_ids=("d",), epoch=1)
        spec = HostSpec(session_id="s", name="s", owner="me", lease=lease, secret="k")
        self.kernel = ModelKernel(chance)
        self.host = SessionHost(
            spec, folder, Settings(begin_s=600.0), start_kernel=lambda: None, changed=lambda report: None
        )
        self.kernel.host = self.host
        self.host.kernel_ready(cast(Kernel, self.kernel))
        self.chance = chance
        self.sent: list[str] = []
        self.fails: set[str] = set()
        self.ops: list[asyncio.Task[Any]] = []
        self.told: list[str] = []

    def cell(self) -> None:
        msg_id = f"cell-{len(self.sent)}"
        self.sent.append(msg_id)
        code = "fail" if self.chance.random() < 0.15 else "note"
        self.fails |= {msg_id} if code == "fail" else set()
        header = msgspec.json.encode({"msg_id": msg_id, "msg_type": "execute_request", "session": "client"})
        parts: list[Buffer] = [b"client", header, b"{}", b"{}", msgspec.json.encode({"code": code})]
        record = Record(Kind.SHELL, len(self.sent), 0, tuple(parts))
        self.host.requests_received(cast(Attachment, None), [record])

    def order(self, op: str) -> None:
        standstill = self.host.standstill
        wait_s = self.chance.choice([None, 0.0])
        work = {"quiesce": lambda: standstill.quiesce(wait_s), "hand_over": standstill.hand_over}.get(
            op, standstill.resume
        )
        self.told.append(op)
        self.ops.append(asyncio.ensure_future(cast(Any, work)()))

    def order_something(self) -> None:
        self.order(self.chance.choice(["quiesce", "quiesce", "hand_over", "resume", "resume"]))

    def interrupt(self) -> None:
        with contextlib.suppress(GpuaasError):
            self.host.interrupt()

    async def turn(self) -> None:
        """Let everybody do what follows from the last step, or not all of it."""
        for _ in range(self.chance.choice([1, 1, 2, 5])):
            await asyncio.sleep(0)

    async def play(self) -> None:
        for _ in range(STEPS):
            steps = self.kernel.steps() * 3
            if self.chance.random() < 0.35 or not steps:
                steps = [self.cell, self.cell, self.order_something, self.interrupt]
            self.chance.choice(steps)()
            await self.turn()

    async def come_to_rest(self) -> None:
        """The session is to go on; everything on its way arrives."""
        self.order("resume")
        for _ in range(2000):
            await asyncio.sleep(0)
            steps = self.kernel.steps()
            if steps:
                self.chance.choice(steps)()
            elif all(task.done() for task in self.ops) and self.host.standstill.goes_on:
                break
        for task in self.ops:
            task.cancel()
        await asyncio.gather(*self.ops, return_exceptions=True)

    def answers(self) -> Counter[str]:
        """How often each cell was answered."""
        records = RecordReader(1 << 24).feed(self.host.journal.reader(0).read(1 << 24))
        replies = [record for record in records if record.kind is Kind.SHELL]
        return Counter(read_header(record.parts[2]).msg_id for record in replies)


@pytest.mark.parametrize("seed", range(10))
async def test_each_cell_is_answered_once_whatever_comes_in_which_order(tmp_path: Path, seed: int) -> None:
    for number in range(seed, ORDERS, 10):
        play = Play(tmp_path / str(number), random.Random(number))
        await play.play()
        await play.come_to_rest()
        where = f"order {number}: {play.told}"
        assert play.host.standstill.goes_on, where
        assert play.answers() == Counter(play.sent), where
        assert not play.host.dialogue.busy and not play.host.dialogue.waits_for_shell, where
        # In their order, and none twice; those that were not run wait behind one that failed or was interrupted.
        assert play.kernel.ran == sorted(set(play.kernel.ran), key=play.sent.index), where
        await play.host.close("the test is over")
