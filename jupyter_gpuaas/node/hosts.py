"""The hosts of one node as its agent knows them: started, found again, spoken to, and missed when they die."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil

from ..config import Settings
from ..errors import GpuaasError, MigrationError, TransportError, from_wire
from ..image.criu import Criu
from ..model import Device, HostReport, HostSpec, HostState
from ..wire.memory import MALLOC_HUGE_PAGES, MALLOC_VARIABLE
from .processes import RUN_MARK, below, end_marked
from .remains import Shelf, note

LINE_BYTES = 1 << 26
#: Until a spare host that died is replaced: what ended it may end the next one, too.
SPARE_PAUSE_S = 5.0
#: Until one is started where a session has just begun or ended: that needs the processor more.
SPARE_LATER_S = 0.5
#: And where a session is about to come that is in use elsewhere: its cells, and what is copied of it, need it, too.
SPARE_MUCH_LATER_S = 10.0
#: So often a host that does not answer is asked before it is ended.
TRIES = 3
#: Whoever is so much later than it wanted to be stood still.
SLEPT_S = 1.0
ENDED = "the host process of the session ended unexpectedly"

log = logging.getLogger(__name__)


class HostRecord(msgspec.Struct, frozen=True):
    """What is on disk about a host, so that another agent process can find it."""

    run_id: str
    #: 0 while it is being started: then its mark alone tells which process it is.
    pid: int
    #: Start time of the process, because pids are used again.
    started_s: float
    run_folder: str
    #: Where its images lie.
    images: str = ""
    session_id: str = ""
    #: Of the session, for what is left of it when the host dies.
    epoch: int = 0
    secret: str = ""
    #: It has nothing of its own yet.
    stands_by: bool = False

    def __repr__(self) -> str:
        return f"HostRecord(run_id={self.run_id!r}, pid={self.pid}, session_id={self.session_id!r})"


class HostHandle:
    """One host process, spare or with a session."""

    def __init__(self, record: HostRecord, path: Path, changed: Callable[[HostHandle], None]) -> None:
        self.record = record
        self.path = path
        self.report: HostReport | None = None
        self._changed = changed
        self._writer: asyncio.StreamWriter | None = None
        self._connecting = asyncio.Lock()
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ids = itertools.count(1)
        #: How long it has not answered, by an agent that was awake meanwhile.
        self.silent_s = 0.0
        self._reading: asyncio.Task[None] | None = None
        self.gone = asyncio.Event()
        #: Why it was ended, where it was.
        self.cause = ""

    async def connect(self, timeout_s: float) -> None:
        """Connect to the host's control socket, as soon as it listens; once, however many ask for it."""
        async with self._connecting:
            if self._reading is None:
                await self._connect(timeout_s)

    async def _connect(self, timeout_s: float) -> None:
        control = Path(self.record.run_folder) / "control"
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            try:
                reader, self._writer = await asyncio.open_unix_connection(str(control), limit=LINE_BYTES)
                break
            except OSError as error:
                if asyncio.get_running_loop().time() > deadline or not self.alive():
                    raise TransportError(f"host {self.record.run_id} does not listen: {error}.") from error
                await asyncio.sleep(0.01)
        try:
            line = await asyncio.wait_for(reader.readline(), max(0.1, deadline - asyncio.get_running_loop().time()))
        except (asyncio.TimeoutError, TimeoutError):
            # The system lets us in; the host itself does nothing.
            self._writer.close()
            self._writer = None
            raise TransportError(f"host {self.record.run_id} does not answer.") from None
        self._take(msgspec.json.decode(line))
        self._reading = asyncio.create_task(self._read(reader))

    def alive(self) -> bool:
        """Whether the process runs."""
        process = self.process()
        try:
            return process is not None and bool(process.status() != psutil.STATUS_ZOMBIE)
        except psutil.Error:
            return False

    def process(self) -> psutil.Process | None:
        """The process, unless it is gone."""
        if not self.record.pid:
            return None
        try:
            process = psutil.Process(self.record.pid)
            return process if abs(process.create_time() - self.record.started_s) < 1 else None
        except psutil.Error:
            return None

    async def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Send a command and wait for its answer.

        Raises
        ------
        MigrationError
            The session is on its way to another host.
        TransportError
            The host is gone, or refuses for another reason.
        """
        answer = await self._ask(op, **fields)
        if answer.get("failure", {}).get("error") == MigrationError.__name__:
            raise from_wire(answer["failure"], status=MigrationError.status)
        if "error" in answer:
            raise TransportError(str(answer["error"]))
        return answer

    async def move(self, op: str, content: dict[str, Any]) -> dict[str, Any]:
        """One step of a move; raises what the host raised."""
        answer = await self._ask("move", move=op, content=content)
        if "failure" in answer:
            raise from_wire(answer["failure"], status=500)
        if "error" in answer:
            raise TransportError(str(answer["error"]))
        return dict(answer["reply"])

    async def _ask(self, op: str, **fields: Any) -> dict[str, Any]:
        if self._writer is None or self.gone.is_set():
            raise TransportError(f"host {self.record.run_id} is gone.")
        number = next(self._ids)
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = future
        self._writer.write(msgspec.json.encode({"id": number, "op": op, **fields}) + b"\n")
        try:
            return await future
        finally:
            self._answers.pop(number, None)

    async def answers(self, within_s: float) -> bool:
        """Whether it does at all; also False when it is gone."""
        if self._writer is None or self.gone.is_set():
            return False
        try:
            await asyncio.wait_for(self._ask("ping"), within_s)
        except (GpuaasError, OSError, asyncio.TimeoutError, TimeoutError):
            return False
        return not self.gone.is_set()

    def pass_client(self, connection: socket.socket, passed: dict[str, Any]) -> None:
        """Hand a client's connection to the host; raises OSError when it is gone."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
            channel.settimeout(5)
            channel.connect(str(Path(self.record.run_folder) / "clients"))
            socket.send_fds(channel, [msgspec.json.encode(passed)], [connection.fileno()])

    def save(self) -> None:
        """Write the record to disk, for its user only."""
        temporary = self.path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.encode(self.record))
        temporary.replace(self.path)

    def _take(self, message: dict[str, Any]) -> None:
        if message.get("report"):
            self.report = msgspec.convert(message["report"], HostReport)
            self._changed(self)
        future = self._answers.pop(message.get("id", 0), None)
        if future is not None and not future.done():
            future.set_result(message)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._take(msgspec.json.decode(line))
        except (OSError, ValueError, msgspec.DecodeError):
            pass
        finally:
            self.gone.set()
            if self._writer is not None:
                self._writer.close()
            for future in self._answers.values():
                if not future.done():
                    future.set_result({"error": f"host {self.record.run_id} ended"})
            self._changed(self)


class Hosts:
    """All hosts of a node.

    Parameters
    ----------
    changed
        Called with the new report of a session, DEAD ones included.
    """

    def __init__(self, folder: Path, node: str, settings: Settings, changed: Callable[[HostReport], None]) -> None:
        self._folder = folder
        #: Makes process images; None where there is none, or none is wanted.
        self.criu: Criu | None = None
        self._node = node
        self._settings = settings
        self._changed = changed
        #: Hears of a host that is about to begin with a session; may refuse it with an error.
        self.before_start: Callable[[], Awaitable[None]] = _nothing
        self._spares: list[HostHandle] = []
        self.sessions: dict[str, HostHandle] = {}
        #: Whether ``find`` has found hosts of sessions that were dead.
        self.lost_some = False
        self.remains = Shelf(folder / "remains", settings)
        self._ending: set[str] = set()
        self._dying: dict[str, asyncio.Task[Any]] = {}
        self._closing = False
        self._tasks: set[asyncio.Task[Any]] = set()
        (folder / "hosts").mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "sessions").mkdir(mode=0o700, exist_ok=True)

    async def find(self) -> None:
        """Find the hosts that a former agent left: those that run are ours, the rest is cleaned away."""
        left = []
        for path in (self._folder / "hosts").glob("*.json"):
            try:
                record = msgspec.json.decode(path.read_bytes(), type=HostRecord)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                # Of before a power cut: nothing that it told of runs any more.
                log.error("%s tells of no host, and is removed: %s", path, error)
                path.unlink()
                continue
            left.append(HostHandle(record, path, self._host_changed))
        # Side by side: who waits for what a dead one has left waits for all of them.
        await asyncio.gather(*(self._find(handle) for handle in left))
        self.remains.expire(time.time())
        known = set(self.sessions)
        for folder in (self._folder / "sessions").iterdir():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)

    async def _find(self, handle: HostHandle) -> None:
        session_id = handle.record.session_id
        if handle.alive():
            if not session_id:
                # A spare of a former agent may have been made with other settings. Nobody waits for its end.
                self._task(asyncio.to_thread(self._clean, handle))
                return
            with contextlib.suppress(GpuaasError, msgspec.DecodeError):
                await handle.connect(5)
                if handle.report is not None:
                    self.sessions[session_id] = handle
                    return
        self.lost_some |= bool(session_id)
        await asyncio.to_thread(self._clean, handle, keep=True)

    def keep_spares(self) -> None:
        """Start hosts ahead, as many as the settings say."""
        while len(self._spares) < self._settings.spare_kernels and not self._closing:
            try:
                handle = self._spawn()
            except OSError as error:
                log.error("no spare host started: %s", error)
                self._replace_spare()
                return
            self._spares.append(handle)
            self._task(self._connect_spare(handle))

    async def start(self, spec: HostSpec, devices: list[Device], machine: str) -> HostReport:
        """Give a session to a spare host, or to a new one."""
        try:
            handle = self._spares.pop(0) if self._spares else self._spawn()
        except OSError as error:
            raise TransportError(f"no host started: {error}.") from error
        try:
            # A spare may have been taken while it was still being connected to.
            await handle.connect(self._settings.start_timeout_s)
            self.sessions[spec.session_id] = handle
            handle.record = msgspec.structs.replace(
                handle.record,
                session_id=spec.session_id,
                epoch=spec.lease.epoch,
                secret=spec.secret,
                stands_by=spec.peer is not None,
            )
            handle.save()
            await self.before_start()
            answer = await handle.ask(
                "adopt",
                spec=spec,
                devices=devices,
                folder=str(self._folder / "sessions" / spec.session_id),
                machine=machine,
            )
        except (GpuaasError, OSError) as error:
            self.sessions.pop(spec.session_id, None)
            await asyncio.to_thread(self._clean, handle)
            if isinstance(error, OSError):
                raise TransportError(f"no host started: {error}.") from error
            raise
        # The next spare is started when this session's own start no longer needs the processor.
        self._spares_later(SPARE_LATER_S if spec.peer is None else SPARE_MUCH_LATER_S)
        return msgspec.convert(answer["report"], HostReport)

    async def make_live(self, session_id: str, content: dict[str, Any]) -> dict[str, Any]:
        """A host that stood by becomes its session's host; see ``HostHandle.move``."""
        handle = self.sessions[session_id]
        if handle.gone.is_set() or session_id in self._ending:
            # Its record is being removed. Written once more, it would be taken for one of the session's next host here,
            # whose folder goes with it when this agent is started again.
            raise TransportError(f"host {handle.record.run_id} is gone.")
        stood_by = handle.record.stands_by
        # Before it runs its first cell: if it dies then, what it leaves is the session's newest.
        self._note_standby(handle, False)
        try:
            answer = await handle.move("live", content)
            self._spares_later(SPARE_LATER_S)
            return answer
        except GpuaasError:
            if not handle.gone.is_set():
                self._note_standby(handle, stood_by)
            raise

    @staticmethod
    def _note_standby(handle: HostHandle, stands_by: bool) -> None:
        if handle.record.stands_by is stands_by:
            return
        handle.record = msgspec.structs.replace(handle.record, stands_by=stands_by)
        try:
            handle.save()
        except OSError as error:
            # It matters only to a next agent, if the host dies too.
            log.error("session %s: not noted that its host is live: %s", handle.record.session_id, error)

    async def stop(self, session_id: str, reason: str, *, keep: bool = False, moved: bool = False) -> None:
        """End a session's host and everything that it started; nothing of it is left when this returns.

        Parameters
        ----------
        keep
            Journal, handover and working folder stay, as remains.
        moved
            Clients are told to ask where their session is, not that it has ended.
        """
        handle = self.sessions[session_id]
        dying = self._dying.get(session_id)
        if dying is not None:
            # It ended by itself, and is being cleared up: what it leaves is there when that is done.
            await asyncio.wait({dying})
            if keep:
                self.remains.order(session_id, handle.record.epoch)
            return
        self._ending.add(session_id)
        process = handle.process()
        try:
            # Afterwards nobody could tell what was below it.
            below_it = [] if process is None else await asyncio.to_thread(below, process)
            with contextlib.suppress(asyncio.TimeoutError, GpuaasError):
                await asyncio.wait_for(
                    handle.ask("stop", reason=reason, keep=keep, moved=moved), self._settings.stop_timeout_s * 2 + 5
                )
            await asyncio.to_thread(self._clean, handle, below_it, keep=keep, ordered=keep)
            self.sessions.pop(session_id, None)
        finally:
            self._ending.discard(session_id)

    async def end_hung(self) -> None:
        """Kill hosts that do not answer for too long, as they are of no use any more; never returns."""
        limit_s = self._settings.host_silence_s
        try_s = limit_s / (2 * TRIES)
        while True:
            await asyncio.sleep(try_s)
            await asyncio.gather(*(self._try(handle, try_s) for handle in list(self.sessions.values())))

    async def _try(self, handle: HostHandle, try_s: float) -> None:
        began_s = time.monotonic()
        if await handle.answers(try_s):
            handle.silent_s = 0.0
            return
        took_s = time.monotonic() - began_s
        # An agent that slept cannot tell who was silent meanwhile.
        handle.silent_s = 0.0 if took_s > try_s + SLEPT_S else handle.silent_s + 2 * try_s
        if handle.silent_s < self._settings.host_silence_s or handle.gone.is_set():
            return
        process = handle.process()
        if process is not None:
            handle.cause = f"the host process of the session did not answer for {handle.silent_s:.0f} s, and was ended"
            log.error("session %s: %s", handle.record.session_id, handle.cause)
            with contextlib.suppress(psutil.Error):
                process.kill()

    async def close(self) -> None:
        """End all hosts."""
        self._closing = True
        await asyncio.gather(*(self.stop(session_id, "its node was stopped") for session_id in list(self.sessions)))
        self.remains.close()
        spares, self._spares = self._spares, []
        for handle in spares:
            await asyncio.to_thread(self._clean, handle)

    def _spawn(self) -> HostHandle:
        run_id = os.urandom(6).hex()
        # Paths of unix sockets are short (107 bytes), so the run folder is not in the node's.
        base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
        if self._settings.kernel_user:
            base = "/tmp"  # the runtime folder of our own user is closed to others
        base = base if os.access(base, os.W_OK) and len(base) < 50 else "/tmp"
        run_folder = tempfile.mkdtemp(prefix="gpuaas-", dir=base)
        environ = {**os.environ, **self._settings.environment(secrets=False), RUN_MARK: run_id}
        environ.setdefault(MALLOC_VARIABLE, MALLOC_HUGE_PAGES)
        path = self._folder / "hosts" / f"{run_id}.json"
        # Large, unlike what is in the run folder, and that may be in memory.
        images = str(Path(self._settings.image_folder or self._folder / "images").expanduser().absolute() / run_id)
        handle = HostHandle(HostRecord(run_id, 0, 0.0, run_folder, images), path, self._host_changed)
        try:
            # First, so that an agent which is killed in between leaves no process that the next one does not know.
            handle.save()
            with open(path.with_suffix(".log"), "ab", opener=_private) as output:
                arguments = [
                    "--run-id", run_id, "--run-folder", run_folder, "--node", self._node,
                    "--sessions", str(self._folder / "sessions"), "--images", images,
                    "--criu", msgspec.json.encode(self.criu).decode() if self.criu is not None else "",
                ]  # fmt: skip
                pid = self.launch(arguments, environ, output.fileno())
            # While nobody waits for it, even a process that has ended has a start time.
            started_s = psutil.Process(pid).create_time()
            threading.Thread(target=_reap, args=(pid,), daemon=True, name=f"reap-{pid}").start()
            handle.record = msgspec.structs.replace(handle.record, pid=pid, started_s=started_s)
            handle.save()
        except OSError:
            self._clean(handle)
            raise
        return handle

    @staticmethod
    def launch(arguments: list[str], environ: dict[str, str], output: int) -> int:
        """Start a host process that writes to this descriptor; its id."""
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "jupyter_gpuaas.node.host", *arguments],
            environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
            ],
            setsid=True,
        )

    async def _connect_spare(self, handle: HostHandle) -> None:
        try:
            await handle.connect(self._settings.start_timeout_s)
        except GpuaasError:
            if handle in self._spares:
                self._spares.remove(handle)
                self._replace_spare()
            await asyncio.to_thread(self._clean, handle)

    def _replace_spare(self) -> None:
        self._spares_later(SPARE_PAUSE_S)

    def _spares_later(self, after_s: float) -> None:
        asyncio.get_running_loop().call_later(after_s, self.keep_spares)

    def _host_changed(self, handle: HostHandle) -> None:
        session_id = handle.record.session_id
        if not handle.gone.is_set():
            if handle.report is not None and session_id in self.sessions:
                self._changed(handle.report)
            return
        if handle in self._spares:
            self._spares.remove(handle)
            self._replace_spare()
            self._task(asyncio.to_thread(self._clean, handle))
        if self.sessions.get(session_id) is handle and session_id not in self._ending:
            dying = self._dying[session_id] = self._task(self._died(handle))
            dying.add_done_callback(lambda _: self._dying.pop(session_id, None))

    async def _died(self, handle: HostHandle) -> None:
        """A host ended that nobody asked to: clear up, then say so, so that its devices are free when it is known."""
        await asyncio.to_thread(self._clean, handle, keep=True)
        self.sessions.pop(handle.record.session_id, None)
        if handle.report is not None:
            self._changed(
                msgspec.structs.replace(
                    handle.report,
                    state=HostState.DEAD,
                    clients=0,
                    cause=f"{handle.cause or ENDED}; what was in memory is lost",
                )
            )

    def _clean(
        self,
        handle: HostHandle,
        below_it: Sequence[psutil.Process] = (),
        *,
        keep: bool = False,
        ordered: bool = False,
    ) -> None:
        """End every process of a host and remove its folders, but for its remains; runs in a thread."""
        record = handle.record
        end_marked(record.run_id, also=below_it)
        shutil.rmtree(record.run_folder, ignore_errors=True)
        if record.images:
            shutil.rmtree(record.images, ignore_errors=True)
        if record.session_id:
            folder = self._folder / "sessions" / record.session_id
            if keep and record.secret and not record.stands_by:
                with contextlib.suppress(OSError):
                    self.remains.add(note(record.session_id, record.epoch, record.secret, ordered=ordered), folder)
            shutil.rmtree(folder, ignore_errors=True)
        handle.path.unlink(missing_ok=True)
        handle.path.with_suffix(".log").unlink(missing_ok=True)

    def _task(self, coroutine: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _nothing() -> None:
    pass


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _reap(pid: int) -> None:
    """Wait for a child, so that it does not stay as a zombie."""
    with contextlib.suppress(ChildProcessError):  # somebody else waited for it
        os.waitpid(pid, 0)
