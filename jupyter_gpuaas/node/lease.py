"""The lease of a node as its agent keeps it: renewed by the controller, enforced by the leash."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from ..errors import GpuaasError, TransportError
from ..model import LeaseGrant, LeaseRenewal
from . import leash
from .hosts import HostHandle
from .leash import now_s

#: A leash that does not answer in this time is replaced.
ANSWER_S = 2.0
#: A host that does not answer is told again at one of the next renewals.
HOST_S = 5.0
#: Pause between two tries to have a leash.
AGAIN_S = 0.5

log = logging.getLogger(__name__)


class _Left(msgspec.Struct):
    """What the leash of a former agent has written."""

    pid: int
    started: int
    held: dict[str, tuple[float, list[tuple[int, int]]]]


class _Answer(msgspec.Struct):
    number: int
    #: Run id -> since when, and which processes.
    held: dict[str, tuple[float, list[tuple[int, int]]]]


class NodeLease:
    """One node's lease.

    Parameters
    ----------
    hosts
        The hosts that have a session, by its id.
    """

    def __init__(self, folder: Path, hosts: Callable[[], Mapping[str, HostHandle]]) -> None:
        self._folder = folder
        self._hosts = hosts
        self._agent = os.urandom(8).hex()
        self._until_s: float | None = None
        self._leash: asyncio.subprocess.Process | None = None
        #: Pid of the last one that has answered.
        self._last = 0
        self._number = 0
        self._turn = asyncio.Lock()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._watching: asyncio.Task[None] | None = None

    async def renew(self, renewal: LeaseRenewal) -> LeaseGrant:
        """Let the node go on until ``ttl_s`` after a beat of its own.

        Raises
        ------
        TransportError
            Nothing here would stop the kernels at the end of the lease, so there is none.
        """
        if not renewal.ttl_s:
            if self._leash is not None or self._left():
                self._until_s = None
                await self._go_on(await self._tell(until_s=None, runs=self._runs()), renewal.stands)
            return LeaseGrant(agent=self._agent, beat_s=now_s(), runs=True)
        if renewal.agent == self._agent and renewal.beat_s <= now_s():
            # An older renewal may come later.
            self._until_s = max(renewal.beat_s + renewal.ttl_s, self._until_s or 0.0)
        runs = self._until_s is not None and now_s() < self._until_s
        if runs:
            held = await self._tell(until_s=self._until_s, runs=self._runs())
            await self._go_on(held, renewal.stands)
        return LeaseGrant(agent=self._agent, beat_s=now_s(), runs=runs)

    async def hosts_changed(self) -> None:
        """A host has got a session, which does not begin before this returns."""
        if self._leash is not None:
            await self._tell(runs=self._runs())

    async def close(self) -> None:
        """There are no hosts any more."""
        for task in [*self._tasks.values(), *([self._watching] if self._watching else ())]:
            task.cancel()
        await self._end()
        await asyncio.to_thread(self._end_former, None)

    def _runs(self) -> dict[str, tuple[int, str]]:
        records = [handle.record for handle in self._hosts().values()]
        return {record.run_id: (record.pid, record.run_folder) for record in records}

    # -- what was stopped goes on -------------------------------------------------------------------------------

    async def _go_on(self, held: _Answer, stands: Mapping[str, int]) -> None:
        for session_id, handle in self._hosts().items():
            run = handle.record.run_id
            if run not in held.held or run in self._tasks or stands.get(session_id) != handle.record.epoch:
                continue  # Whoever does not stand any more is ended by order.
            since_s, processes = held.held[run]
            task = asyncio.create_task(
                self._let_go(handle, since_s, processes, held.number), name=f"let go {session_id}"
            )
            self._tasks[run] = task
            task.add_done_callback(lambda _, run=run: self._tasks.pop(run, None))  # type: ignore[misc]

    async def _let_go(self, handle: HostHandle, since_s: float, processes: list[tuple[int, int]], known: int) -> None:
        run = handle.record.run_id
        asked = {"processes": processes, "since_s": since_s, "until_s": self._until_s}
        try:
            answer = await asyncio.wait_for(handle.ask("go_on", **asked), HOST_S)
            if answer["reply"]["done"]:
                await self._tell(let_go={run: known})
        except (GpuaasError, OSError, asyncio.TimeoutError, TimeoutError) as error:
            log.warning("session %s: its host does not go on yet: %s", handle.record.session_id, error)

    # -- the leash ----------------------------------------------------------------------------------------------

    async def _tell(self, **line: Any) -> _Answer:
        async with self._turn:
            if self._leash is None or self._leash.returncode is not None:
                if not Path("/proc/self/stat").exists():
                    raise TransportError("a node of this system cannot stop its kernels by itself.")
                answer = await self._start(line)
            else:
                answer = await self._ask(line)
            return answer

    async def _start(self, line: dict[str, Any]) -> _Answer:
        """A leash of our own; only then a former one is ended, and what it had stopped is ours."""
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="watch the leash")
        self._leash = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            leash.__file__,
            str(self._folder),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 26,
            start_new_session=True,
        )
        line = {"until_s": self._until_s, "runs": self._runs(), **line}
        answer = await self._ask(line)
        last, self._last = self._last, self._leash.pid
        taken = await asyncio.to_thread(self._end_former, self._leash.pid, last, self._runs())
        if taken:
            answer = await self._ask({"take": taken})
            await asyncio.to_thread(self._forget_former, self._leash.pid)
        return answer

    async def _watch(self) -> None:
        """From the first leash on there is one: no renewal may come any more that would start another."""
        while True:
            if (process := self._leash) is not None:
                status = await process.wait()
                log.error("the leash of the node ended with status %d; another one is started", status)
            try:
                await self._tell()
            except (GpuaasError, OSError) as error:
                log.error("the node has no leash: %s", error)
                await asyncio.sleep(AGAIN_S)

    async def _ask(self, line: dict[str, Any]) -> _Answer:
        assert self._leash is not None and self._leash.stdin is not None and self._leash.stdout is not None
        self._number += 1
        try:
            self._leash.stdin.write(msgspec.json.encode({"number": self._number, **line}) + b"\n")
            while True:
                text = await asyncio.wait_for(self._leash.stdout.readline(), ANSWER_S)
                answer = msgspec.json.decode(text, type=_Answer)
                if answer.number == self._number:
                    return answer
        except (OSError, msgspec.MsgspecError, asyncio.TimeoutError, TimeoutError) as error:
            await self._end()
            raise TransportError(f"the leash of the node does not answer: {error or type(error).__name__}.") from error

    async def _end(self) -> None:
        process, self._leash = self._leash, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _left(self) -> list[Path]:
        return list(self._folder.glob("leash-*.json"))

    def _end_former(
        self, mine: int | None, last: int = 0, runs: Mapping[str, tuple[int, str]] = MappingProxyType({})
    ) -> dict[str, Any]:
        """End leashes that are not ours; what they had stopped.

        Parameters
        ----------
        last
            One that is known to have been there. What it has stopped, like any other that has left no file, is found by
            its state.
        runs
            The hosts that have a session; see ``_runs``.
        """
        held: dict[str, Any] = {}
        unwritten = bool(last) and not self._file(last).exists()
        for pid in self._unwritten(mine):
            unwritten = True
            self._kill(pid, leash.started(pid))
        for path, left in self._former(mine):
            self._kill(left.pid, left.started)
            with contextlib.suppress(OSError, msgspec.MsgspecError):  # it may have written since
                left = msgspec.json.decode(path.read_bytes(), type=_Left)
            for run, (since_s, processes) in left.held.items():
                before = held.setdefault(run, (since_s, []))
                held[run] = (min(since_s, before[0]), [*before[1], *processes])
            if not left.held or mine is None:
                path.unlink(missing_ok=True)
        if unwritten:
            for run, stopped in leash.standing({run: pid for run, (pid, _) in runs.items()}).items():
                since_s, known = held.get(run, (now_s(), []))
                held[run] = (since_s, list({**dict(known), **stopped}.items()))
        return held

    @staticmethod
    def _kill(pid: int, started: int) -> None:
        """Return when it has ended."""
        leash.send(pid, started, signal.SIGKILL)
        deadline_s = now_s() + ANSWER_S
        while leash.is_there(pid, started) and now_s() < deadline_s:
            time.sleep(0.002)

    def _forget_former(self, mine: int) -> None:
        if self._file(mine).exists():
            for path, _ in self._former(mine):
                path.unlink(missing_ok=True)

    def _file(self, pid: int) -> Path:
        return self._folder / f"leash-{pid}.json"

    def _unwritten(self, mine: int | None) -> list[int]:
        """Leashes of this node that are not ours and have no file, as they cannot write one."""
        command = [os.fsencode(leash.__file__), os.fsencode(self._folder), b""]
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "cmdline").read_bytes().split(b"\0")[-3:] == command:
                    found.append(int(process.name))
        return [pid for pid in found if pid != mine and not self._file(pid).exists()]

    def _former(self, mine: int | None) -> list[tuple[Path, _Left]]:
        found = []
        for path in self._left():
            try:
                left = msgspec.json.decode(path.read_bytes(), type=_Left)
            except (OSError, msgspec.MsgspecError):
                continue
            if left.pid != mine:
                found.append((path, left))
        return found
