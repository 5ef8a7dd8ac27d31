"""A client that counts, on a session that is hurt while it moves, and what must hold afterwards.

Each cell writes its number to a file that all nodes see, and to a list in the session. So whatever happens, it can be
told which cells ran, how often, and which of them the session remembers.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import psutil

from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.client.session import RemoteSession
from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.errors import AllocationError, CellError, GpuaasError, MigrationError, TransportError
from jupyter_gpuaas.lifecycle.node_loss import ENAME
from jupyter_gpuaas.model import GpuSession, MigrationView, Phase, SessionState, Via
from jupyter_gpuaas.wire.record import Kind, Record
from tests.conftest import processes_with
from tests.roaming import Outputs
from tests.service import eventually

S = SessionState
ENDED = (Phase.DONE, Phase.FAILED, Phase.CANCELLED)
DEADLINE_S = 120.0
#: What each cell changes beside its number, so that there is always something to copy.
BEGIN = """
import os, time
done = []
def note(number):
    global ballast
    with open({path!r}, "a") as file:
        file.write(f"{{number}}\\n")
    done.append(number)
    ballast = os.urandom(100_000)
    time.sleep(0.01)
"""
LOST = re.compile(r"as after cell (\d+)(?:; the effects of cells? ([\d, ]+) on them are lost)?")
#: Modules of the processes that a session has, once each.
MODULES = ("jupyter_gpuaas.node.host", "jupyter_gpuaas.kernel")


class Follower(RemoteSession):
    """Also notes the numbers of the records that come, by journal, and what is said beside all requests."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.numbers: dict[str, list[int]] = {}
        self.notices: list[str] = []
        self.losses = 0
        self._of = ""

    def channel_linked(self, welcome: dict[str, Any]) -> None:
        self._of = welcome["journal"]
        super().channel_linked(welcome)

    def host_lost(self, welcome: dict[str, Any], kept: frozenset[int], *, anew: bool) -> Any:
        self.losses += 1
        return super().host_lost(welcome, kept, anew=anew)

    def record_received(self, record: Record) -> None:
        numbers = self.numbers.setdefault(self._of, [])
        assert not numbers or record.number == numbers[-1] + 1, f"record {record.number} after {numbers[-1]}"
        numbers.append(record.number)
        if record.kind is Kind.IOPUB:
            header, parent, _, content = (msgspec.json.decode(part) for part in record.parts[1:5])
            if header["msg_type"] == "stream" and not parent.get("msg_id"):
                self.notices.append(content["text"])
        super().record_received(record)


class Walker:
    """One session, its client, and the book that it keeps."""

    def __init__(self, client: ServiceClient, remote: Follower, session: str, home: Path, book: Path) -> None:
        self.client = client
        self.remote = remote
        self.id = session
        self._home = home
        self._book = book
        self._number = 0
        #: Number of a cell -> its execution count; of those that ended well.
        self.well: dict[int, int] = {}
        #: Those of which the user was told that they were cut off.
        self.cut_off: set[int] = set()
        #: Those whose effects are there, by the last check: of one that was cut off, too, where a checkpoint had them.
        self._there: set[int] = set()

    async def run(self, code: str, outputs: Outputs | None = None) -> dict[str, Any]:
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}}
        content |= {"allow_stdin": False, "stop_on_error": True}
        outputs = outputs or Outputs()
        asking = asyncio.ensure_future(self.remote.request("execute_request", content, listener=outputs))
        try:
            if (await asyncio.wait({asking}, timeout=DEADLINE_S))[0]:
                return asking.result()
            raise AssertionError(f"{code!r} got no answer: {await self._why_not(outputs)}")
        finally:
            asking.cancel()

    async def _why_not(self, outputs: Outputs) -> str:
        """What has come for the cell with these, and what the session is at, and its kernel."""
        (cell,) = (each for each in self.remote._requests.values() if each.listener is outputs)
        found = f"reply: {cell.reply}, idle: {cell.idle}, linked: {self.remote._channel.linked}, {await self.look()}"
        asking = self.remote.request("gpuaas_look_request", {}, channel="control")
        try:
            return f"{found}, {await asyncio.wait_for(asking, 10.0)}"
        except (asyncio.TimeoutError, TimeoutError):
            return f"{found}; the kernel does not say what it does"

    async def said(self, code: str) -> str:
        """What a cell prints; one that a loss cut off is run again, as its user would."""
        while True:
            outputs = Outputs()
            try:
                reply = await self.run(code, outputs)
            except CellError:
                continue
            if reply["status"] == "ok":
                return outputs.text.strip()
            assert reply["ename"] == ENAME, reply

    async def step(self) -> None:
        """Run one cell and note what became of it."""
        self._number += 1
        number = self._number
        try:
            reply = await self.run(f"note({number})")
        except CellError:
            self.cut_off.add(number)
            return
        if reply["status"] == "ok":
            self.well[number] = reply["execution_count"]
        else:
            assert reply["ename"] == ENAME, reply
            self.cut_off.add(number)

    async def walk(self, until: asyncio.Event) -> None:
        """Run one cell after the other."""
        while not until.is_set():
            await self.step()

    async def kept(self) -> None:
        """Return when the newest checkpoint is of the newest cell, so that a loss would lose nothing."""
        newest = max(self.well.values(), default=0)

        async def there() -> bool:
            status = (await self.client.session(self.id)).checkpoints
            return status is not None and status.last is not None and status.last.cell >= newest

        await eventually(there, DEADLINE_S)

    async def look(self) -> GpuSession:
        return (await self.client.session(self.id)).session

    async def begun(self, via: Via = "auto") -> MigrationView:
        """A migration, as soon as there is a node that it can go to, and whoever has to answers."""

        refusal = ""

        async def begun() -> MigrationView | None:
            nonlocal refusal
            try:
                return await self.client.migrate(self.id, via=via)
            except (AllocationError, MigrationError, TransportError) as error:
                refusal = str(error)
                return None

        try:
            found: MigrationView = await eventually(begun, DEADLINE_S)
        except AssertionError:
            leases, session = await self.client.allocations(), await self.look()
            raise AssertionError(f"no move begins: {refusal}; {leases}; {session}") from None
        return found

    async def settled(self) -> MigrationView | None:
        """The session when it rests on a node and nothing moves it; its last migration."""
        found: list[MigrationView | None] = []

        async def rests() -> bool:
            try:
                view = await self.client.session(self.id)
            except GpuaasError:
                return False  # the service is being started again
            assert view.session.state not in (S.CLOSED, S.FAILED), view.session.cause
            found[:] = [view.migration]
            moving = view.migration is not None and view.migration.phase not in ENDED
            return view.session.state in (S.IDLE, S.BUSY) and not moving

        await eventually(rests, DEADLINE_S)
        return found[0]

    async def check(self, *, died: bool) -> None:
        """One session, whole, with the state of its last cell; and nothing anywhere else.

        Parameters
        ----------
        died
            Whether a host died that ran it: then cells that were cut off, and what the notice names, may be lost.
        """
        await self.step()
        told = [int(number) for number in (await self.said("print(*done)")).split()]
        ran = Counter(int(line) for line in self._book.read_text().split())
        twice = [number for number, times in ran.items() if times > 1]
        assert not twice, f"cells ran twice: {twice}"
        assert all(ran[number] == 1 for number in self.well), "a cell that ended well never ran"
        assert told == sorted(set(told)), told
        lost = {self._at(count) for text in self.remote.notices for count in _lost(text)} if died else set()
        missing = set(self.well) - set(told) - lost
        assert not missing, f"the session forgot cells {sorted(missing)}; told: {self.remote.notices}"
        assert set(told) <= set(self.well) | self.cut_off | self._there
        assert died or not (self.cut_off or self.remote.losses), (self.cut_off, self.remote.losses)
        await self._nothing_elsewhere()
        # From here it is counted anew: what is lost is lost.
        self.well = {number: count for number, count in self.well.items() if number in told}
        self.cut_off.clear()
        self._there = set(told)
        self.remote.notices.clear()
        self.remote.losses = 0

    def _at(self, count: int) -> int:
        return next((number for number, at in self.well.items() if at == count), 0)

    async def _nothing_elsewhere(self) -> None:
        lease = (await self.look()).lease
        assert lease is not None
        home, found = self._home, ""

        async def alone() -> bool:
            nonlocal found
            leases = [lease.id for lease in await self.client.allocations()]
            here = [path.parent.parent.name for path in home.glob(f"nodes/*/sessions/{self.id}")]
            remains = list(home.glob("nodes/*/remains/*"))
            hosts = [path.parent.parent.name for path in home.glob("nodes/*/hosts/*.json")]
            found = f"leases {leases}, folders {here}, remains {remains}, hosts {hosts}, on {lease.node_id}"
            if remains or (leases, here, hosts) != ([lease.id], [lease.node_id], [lease.node_id]):
                return False
            processes = Counter(_module(process) for process in processes_with("GPUAAS_HOME", str(home)))
            found += f", {processes}"
            return [processes[module] for module in MODULES] == [1, 1]

        try:
            await eventually(alone, 40.0)
        except AssertionError:
            raise AssertionError(f"not one host only: {found}") from None


def _module(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        command = process.cmdline()
        return next((word for word in command if word in MODULES), "")
    return ""


def _lost(notice: str) -> list[int]:
    found = LOST.search(notice)
    return [int(number) for number in (found.group(2) or "").split(",") if number.strip()] if found else []


@contextlib.asynccontextmanager
async def walking(client: ServiceClient, settings: Settings, book: Path, name: str) -> AsyncIterator[Walker]:
    """A session that is ready, with a client that has made its first steps."""
    view = await client.create_session(name, wait_s=60)
    remote = Follower(client, view.session.id, settings)
    await remote.open(view.channel)
    try:
        walker = Walker(client, remote, view.session.id, settings.folder, book)
        await walker.said(BEGIN.format(path=str(book)))
        await walker.step()
        yield walker
    finally:
        await remote.close()
