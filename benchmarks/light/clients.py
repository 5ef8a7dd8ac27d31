"""Clients of sessions with light kernels: each sends a cell at its time, and checks all that comes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from benchmarks.light.kernel import OUTPUTS
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.client.session import Message, RemoteSession
from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.wire.record import Kind, Record

ANSWER_S = 120.0


class Cell(msgspec.Struct):
    """One cell as its client saw it."""

    sent_s: float
    done_s: float
    #: Beyond the time for which its kernel ran it.
    added_s: float


class _Heard:
    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.text = ""

    def output(self, message: Message) -> None:
        self.kinds.append(message.msg_type)
        self.text += message.content.get("text", "")

    def asked(self, message: Message) -> None:
        self.kinds.append("input_request")


class LightClient(RemoteSession):
    """The only client of a session: what comes is what its own cells lead to, and nothing else."""

    def __init__(self, service: ServiceClient, session: str, settings: Settings, cell_s: float) -> None:
        super().__init__(service, session, settings)
        self._cell_s = cell_s
        self.sent = 0
        self.cells: list[Cell] = []
        self.problems: list[str] = []
        self.records: Counter[Kind] = Counter()
        #: What the service itself says in the notebook.
        self.notices: Counter[str] = Counter()
        self._asking: set[asyncio.Task[None]] = set()

    def record_received(self, record: Record) -> None:
        content = record.parts[4] if record.kind is Kind.IOPUB else b""
        if b"[remote GPU]" in bytes(content):
            self.notices[msgspec.json.decode(content)["text"].strip()] += 1
        else:
            self.records[record.kind] += 1
        super().record_received(record)

    async def work(self, first_s: float, until_s: float, every_s: float) -> None:
        """Send a cell at each of these times, whether the one before has been answered or not."""
        loop = asyncio.get_running_loop()
        due_s = first_s
        while due_s < until_s:
            await asyncio.sleep(due_s - loop.time())
            self.sent += 1
            task = asyncio.create_task(self._cell(self.sent))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
            due_s += every_s

    async def settle(self) -> None:
        """Wait for all answers, and count."""
        if self._asking:
            _, late = await asyncio.wait(set(self._asking), timeout=ANSWER_S)
            self.problems += ["lost: a cell was not answered"] * len(late)
            for task in late:
                task.cancel()
        want = {Kind.SHELL: self.sent, Kind.IOPUB: len(OUTPUTS) * self.sent}
        for kind, count in want.items():
            if self.records[kind] != count:
                what = "lost" if self.records[kind] < count else "doubled"
                self.problems.append(f"{what}: {self.records[kind]} messages of kind {kind.name} instead of {count}")

    async def _cell(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        heard = _Heard()
        sent_s = loop.time()
        asked = {"code": f"{self._cell_s} {number}", "silent": False, "store_history": False, "allow_stdin": False}
        try:
            reply: dict[str, Any] = await self.request("execute_request", asked, listener=heard)
        except Exception as error:  # whatever it is, it is to be told
            self.problems.append(f"cell {number}: {type(error).__name__}: {error}")
            return
        done_s = loop.time()
        self.cells.append(Cell(sent_s, done_s, done_s - sent_s - reply.get("ran_s", 0.0)))
        if reply.get("execution_count") != number or heard.text != f"{number} {number}":
            said = f"{heard.text!r}, {reply.get('execution_count')}"
            self.problems.append(f"lost or doubled: cell {number} was answered with {said}")
        if tuple(heard.kinds) != OUTPUTS:
            self.problems.append(f"lost or doubled: cell {number} led to {', '.join(heard.kinds)}")


async def attach(service: ServiceClient, name: str, settings: Settings, done: Callable[[RemoteSession], None]) -> float:
    """Come to a session as a kernel proxy does that was started again: seconds until the channel is open."""
    began_s = asyncio.get_running_loop().time()
    view = await service.create_session(name, wait_s=60)
    remote = RemoteSession(service, view.session.id, settings)
    done(remote)
    await remote.open(view.channel)
    return asyncio.get_running_loop().time() - began_s
