"""A jail: namespaces of its own (PID, mounts, IPC) in which a kernel runs, so that it can be put into an image.

Its pids are then free on every node, and its paths are the same there. The network is the node's.

What a jail sees: the node's files; its own folder as ``HOME``; ``binds``, folders of the node under a path that all
nodes agree on; and ``scratch``, folders that are its own and empty at first (``/tmp``, ``/dev/shm``), whose content
belongs to an image.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from ..errors import ImageError, ImageUnavailable

#: Where each jail sees its own folder.
HOME = "/run/gpuaas"
IMAGES = "images"
#: The first process of the tree; process 1 is the jail's own.
ROOT_PID = 2
INIT = Path(__file__).with_name("init.py")
#: How often something is looked at that no event tells of.
LOOK_S = 0.002
#: A process in an uninterruptible call of the operating system stops only when that ends.
STOP_TIMEOUT_S = 10.0
START_TIMEOUT_S = 20.0
#: Shared memory of the C library lies there, and nowhere else.
SHARED_MEMORY = "/dev/shm"


class Bind(msgspec.Struct, frozen=True):
    """A folder of the node, and the path under which the jail sees it; the same path on every node."""

    inside: str
    outside: str


class JailSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a jail is to see.

    Parameters
    ----------
    folder
        The jail's own, 0700, seen inside as ``HOME``; holds sockets. Its path is to be short.
    disk
        For what may be large: ``scratch`` and, while they are made, images. In ``folder`` if empty.
    binds
        Mounted in this order. A mount point that the node does not have is made there, as an empty folder.
    scratch
        Paths inside whose content is the jail's own and goes along in an image.
    cwd
        Where the tree starts, as seen inside.
    """

    folder: str
    disk: str = ""
    binds: tuple[Bind, ...] = ()
    scratch: tuple[str, ...] = ("/tmp", SHARED_MEMORY)
    cwd: str = HOME

    @property
    def images(self) -> Path:
        """Where images are made, and processes made of them; seen inside as ``images`` in ``HOME``."""
        return Path(self.disk or self.folder) / IMAGES


class Process(msgspec.Struct, frozen=True):
    """One process of a jail, by its number outside and inside."""

    pid: int
    inner_pid: int
    state: str


class Jail:
    """A running jail. Made by ``Jail.start``."""

    def __init__(self, spec: JailSpec, process: asyncio.subprocess.Process, init_pid: int) -> None:
        self.spec = spec
        #: Process 1 of the jail, as a pid of the node.
        self.init_pid = init_pid
        self._process = process
        self.ended: asyncio.Task[int] = asyncio.create_task(process.wait())

    @classmethod
    async def start(
        cls,
        spec: JailSpec,
        argv: Sequence[str] | None,
        environ: Mapping[str, str],
        *,
        log: int | None = None,
        last_pid: int = 0,
    ) -> Jail:
        """Make a jail, and start ``argv`` in it as the root of its tree.

        Parameters
        ----------
        argv
            None when a tree is going to be restored.
        log
            Descriptor for what goes wrong before the tree runs.
        last_pid
            Pids are given out above this one, so that those of a tree to be restored stay free.

        Raises
        ------
        ImageUnavailable
            The node cannot make such a jail.
        """
        check_visible(spec, [sys.prefix, os.path.realpath(sys.executable), str(INIT)])
        scratch = []
        for inside in spec.scratch:
            outside = Path(spec.disk or spec.folder) / "scratch" / inside.strip("/").replace("/", "-")
            if inside != SHARED_MEMORY:
                outside.mkdir(parents=True, exist_ok=True)
                outside.chmod(0o1777)
            scratch.append([inside, "" if inside == SHARED_MEMORY else str(outside)])
        binds = [[bind.inside, bind.outside] for bind in spec.binds]
        if spec.disk:
            spec.images.mkdir(mode=0o700, parents=True, exist_ok=True)
            binds.append([f"{HOME}/{IMAGES}", str(spec.images)])
        told = {
            "home": HOME,
            "folder": spec.folder,
            "binds": binds,
            "scratch": scratch,
            "argv": list(argv) if argv is not None else None,
            "root": ROOT_PID,
            "last_pid": last_pid,
            "cwd": spec.cwd,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(INIT),
            msgspec.json.encode(told).decode(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env=environ,
            start_new_session=True,
        )
        try:
            return cls(spec, process, await asyncio.wait_for(_hear(process), START_TIMEOUT_S))
        except BaseException as failure:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            if isinstance(failure, asyncio.TimeoutError):
                error = f"it was not ready within {START_TIMEOUT_S:g} s"
            elif isinstance(failure, OSError):
                error = str(failure)
            else:
                raise
        raise ImageUnavailable(f"a jail for the kernel cannot be made: {error}.")

    @property
    def root(self) -> Path:
        """The file tree as the jail sees it."""
        return Path(f"/proc/{self.init_pid}/root")

    def processes(self) -> list[Process]:
        """The tree: every process below process 1, parents first."""
        found: list[Process] = []
        waiting = [self.init_pid]
        while waiting:
            for pid in _children(waiting.pop(0)):
                waiting.append(pid)
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    status = _status(pid)
                    inner = status["NSpid"].split()
                    if len(inner) > 1:
                        found.append(Process(pid, int(inner[1]), status["State"][0]))
        return found

    def last_pid(self) -> int:
        """The highest number inside: threads have numbers of the same kind as processes."""
        found = ROOT_PID
        for process in self.processes():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for thread in os.listdir(f"/proc/{process.pid}/task"):
                    inner = _status(f"{process.pid}/task/{thread}")["NSpid"].split()
                    found = max(found, int(inner[1]))
        return found

    async def stop_tree(self) -> list[Process]:
        """SIGSTOP to every process of the tree; returns when none of them runs any more.

        Raises
        ------
        ImageError
            One did not stop in time; all go on again.
        """
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        sent: set[int] = set()
        while True:
            # 1. A process may start another between the look and its stop. 2. So it is looked again until all that are
            # there were stopped before.
            processes = self.processes()
            for process in processes:
                if process.pid not in sent:
                    sent.add(process.pid)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGSTOP)
            running = [process for process in processes if process.state not in "TtZX"]
            if not running:
                return processes
            if time.monotonic() > deadline_s:
                self.continue_tree()
                pids = ", ".join(str(process.inner_pid) for process in running)
                raise ImageError(f"processes {pids} do not stop: an uninterruptible call holds them.")
            await asyncio.sleep(LOOK_S)

    def continue_tree(self) -> None:
        """SIGCONT to every process of the tree, parents first."""
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)

    async def run(self, command: Sequence[str]) -> tuple[int, str]:
        """Run a program of the node in the jail's PID and mount namespaces; gives status and output.

        Not in its IPC namespace: CRIU carries System V objects along only where it sees that it has others. A time
        namespace is its own matter: it makes one at each restore, so that the clock of the tree goes on.
        """
        entering = [nsenter(), "-t", str(self.init_pid), "-p", "-m"]
        process = await asyncio.create_subprocess_exec(
            *entering,
            "--",
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        # Not to be cut short: a CRIU that is killed may leave its code in the processes that it was looking at.
        waiting = asyncio.ensure_future(process.communicate())
        try:
            output, _ = await asyncio.shield(waiting)
        except asyncio.CancelledError:
            await waiting
            raise
        assert process.returncode is not None
        return process.returncode, output.decode(errors="replace")

    def kill(self) -> None:
        """Kill everything in the jail."""
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.init_pid, signal.SIGKILL)

    async def end(self) -> None:
        """Kill everything in the jail; returns when nothing of it is left."""
        self.kill()
        await self.ended


def check_visible(spec: JailSpec, paths: Sequence[str]) -> None:
    """Raise ``ImageUnavailable`` when a program that the jail needs is hidden by one of its own folders."""
    for path in paths:
        for hiding in spec.scratch:
            shown = any(is_below(path, bind.inside) for bind in spec.binds)
            if is_below(path, hiding) and not shown:
                raise ImageUnavailable(
                    f"{path} cannot be seen in the jail, whose {hiding} is its own.",
                    hint="Bind it, or install it elsewhere.",
                )


def is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def nsenter() -> str:
    found = shutil.which("nsenter")
    if found is None:
        raise ImageUnavailable("nsenter (util-linux) is not there.")
    return found


def jail_reasons() -> list[str]:
    """Why this node cannot make jails; empty when nothing speaks against it."""
    if sys.platform != "linux":
        return [f"process images need Linux, this is {sys.platform}"]
    reasons = []
    if os.geteuid() != 0:
        reasons.append("process images need root, and this is another user")
    if shutil.which("nsenter") is None:
        reasons.append("nsenter (util-linux) is not there")
    reasons += [f"Linux has no {kind} namespaces" for kind in ("pid", "mnt", "ipc") if not _has_namespace(kind)]
    return reasons


def _has_namespace(kind: str) -> bool:
    return os.path.exists(f"/proc/self/ns/{kind}")


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        pass
    return sorted(found)


def _status(pid: int | str) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def _hear(process: asyncio.subprocess.Process) -> int:
    """Wait for what ``init.py`` says; gives the pid of the jail's process 1, or raises OSError."""
    assert process.stdout is not None
    init_pid = 0
    while line := await process.stdout.readline():
        answer = msgspec.json.decode(line)
        if "error" in answer:
            raise OSError(answer["error"])
        if "init" not in answer:
            return init_pid
        init_pid = answer["init"]
    raise OSError("it ended at once")
