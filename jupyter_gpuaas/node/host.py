"""The host process: supervises one kernel, first as a spare, then for the session that its agent gives it.

It listens on two unix sockets in its run folder (0700): ``control`` takes JSON lines from the agent and sends reports,
``clients`` takes connections of clients, passed by descriptor. A restarted agent simply connects again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec

from ..config import Settings, load
from ..errors import (
    GpuaasError,
    ImageUnavailable,
    MigrationError,
    NoSuchSession,
    RemoteProtocolError,
    to_wire,
)
from ..image.criu import Criu
from ..image.cuda_helper import CudaHelper
from ..image.cuda_meter import device_id
from ..image.image_kernel import ImageKernel
from ..image.jail import HOME, JailSpec
from ..image.pack import Origin
from ..lifecycle.node_loss import ON_NODE_LOSS
from ..lifecycle.turns import room_to_keep
from ..model import CPU, CUDA, Channel, Device, HostReport, HostSpec, Peer, RestoreReport, short_id
from ..model.words import restored_lines
from ..state.listing import owners_address
from ..wire.memory import MALLOC_HUGE_PAGES, MALLOC_VARIABLE
from ..wire.tls import of_node
from .dial import Dialler
from .door import Door
from .environment import kernel_environment
from .files import fetch_files
from .image_standby import ImageStandby
from .imaging import Imaging, image_key
from .jailed_kernel import JailedKernel, jail_spec, path_inside
from .kernel_launch import Launch, check_reachable, give_tree, is_plain, known_ahead, launch_of, let_through, top_of
from .kernel_process import Kernel, KernelProcess
from .leash import now_s, send
from .processes import RUN_MARK, end_marked, memory_bytes, tree
from .session_host import SessionHost
from .standby import Standby
from .suspension import Suspension

MEASURE_S = 2.0


class Host:
    """One host process.

    Parameters
    ----------
    sessions
        The node's folder of its sessions' folders.
    criu
        With it, kernels are started in jails, so that they can be put into images.
    """

    def __init__(
        self, run_id: str, run_folder: Path, node: str, settings: Settings, sessions: Path, criu: Criu | None = None
    ) -> None:
        self.run_id = run_id
        self.run_folder = run_folder
        self.node = node
        self.settings = settings
        self.session: SessionHost | None = None
        self.standby: Standby | None = None
        self._kernel_given = asyncio.Event()
        #: When the node's contact with the service was last found again; see ``leash.now_s``.
        self._went_on_s = 0.0
        self._door = Door(self)
        self._dialler = Dialler(of_node(settings, node))
        self._sessions = sessions
        self._criu = criu
        self._spare: asyncio.Task[Kernel] | None = None
        self._devices: list[Device] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._done = asyncio.Event()
        self._log = sys.stderr.fileno()
        self.work = run_folder
        self._imaging = Imaging()
        self.shelf = self._imaging.shelf
        #: Calls CUDA's driver for images, where the session has such a device.
        self._cuda: asyncio.Task[CudaHelper] | None = None
        #: Ends the kernel that was started ahead, where one comes as an image.
        self._emptied: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self) -> None:
        """Serve until told to stop."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: self.task(self.stop("its host was told to end")))
        if known_ahead(self.settings):
            self._spare = loop.create_task(self._new_kernel())
        if self.settings.kernel_user:
            self.run_folder.chmod(0o711)
        control = await asyncio.start_unix_server(self._serve_agent, str(self.run_folder / "control"), limit=1 << 26)
        clients = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        clients.setblocking(False)
        clients.bind(str(self.run_folder / "clients"))
        clients.listen(128)
        self.task(self._door.accept(clients))
        self.task(self._measure())
        await self._done.wait()
        control.close()
        clients.close()
        self._dialler.close()
        for task in list(self._tasks):
            task.cancel()
        if self._cuda is not None:
            self._cuda.cancel()
            with contextlib.suppress(ImageUnavailable, asyncio.CancelledError):
                await (await self._cuda).close()

    async def stop(self, reason: str, *, keep: bool = False, moved: bool = False) -> None:
        """End the session and everything that it started, leave nothing but remains to ``keep``, and end."""
        self._door.close()
        self.shelf.close()
        if isinstance(self.standby, ImageStandby):
            await asyncio.to_thread(self.standby.close)
        if self.session is not None:
            await self.session.close(reason, keep=keep, moved=moved)
            if not keep:
                shutil.rmtree(self.session.folder, ignore_errors=True)
        elif self._spare is not None:
            self._spare.cancel()
        await asyncio.to_thread(end_marked, self.run_id, spare=os.getpid())
        shutil.rmtree(self.run_folder, ignore_errors=True)
        self._done.set()

    # -- the kernel --------------------------------------------------------------------------------------------

    async def _new_kernel(self) -> Kernel:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("GPUAAS_", "JPY_"))}
        environ |= {RUN_MARK: self.run_id, "GPUAAS_HOME": self.settings.home}
        if environ.get(MALLOC_VARIABLE) == MALLOC_HUGE_PAGES:
            del environ[MALLOC_VARIABLE]  # a host's own; how a cell allocates is the user's matter
        folder = self._kernel_folder()
        if self._criu is not None:
            # Without the mark: a process that goes on at another node would be taken for one of this host, whose end
            # its jail does not survive anyway.
            unmarked = {name: value for name, value in environ.items() if name != RUN_MARK}
            try:
                return await self._new_jailed_kernel(self._jail(folder), unmarked, self._criu)
            except ImageUnavailable as error:
                self._say(f"this kernel cannot be put into an image: {error}")
                self._criu = None
        launch = self._launch(folder)
        kernel = KernelProcess(
            folder, launch.environment(environ, self.settings, folder), self._log, _Relay(self), launch
        )
        try:
            await kernel.start(self.settings.start_timeout_s)
        except BaseException:
            kernel.kill()
            raise
        return kernel

    def _kernel_folder(self) -> Path:
        folder = self.run_folder / f"{time.monotonic_ns() % 10**9:x}"
        folder.mkdir(mode=0o700)
        return folder

    def _launch(self, folder: Path) -> Launch:
        """How a kernel in this folder is started; raises SettingError where that cannot be."""
        if is_plain(self.settings):
            return Launch()
        known = {
            "folder": str(folder),
            "home": str(self.settings.folder),
            "node": self.node,
            "sessions": str(self._sessions),
            "store": self.settings.checkpoint_store or str(self.settings.folder / "checkpoints"),
        }
        if self.session is not None:
            spec = self.session.spec
            known |= {"owner": spec.owner, "session": spec.session_id, "work": str(self.work)}
        return launch_of(self.settings, **known)

    def _make_way(self, session: SessionHost, own: Path) -> None:
        """Let the kernel's user, where that is another one, have what is the session's."""
        if not self.settings.kernel_user:
            return
        user = self._launch(self.run_folder).user
        assert user is not None
        top, plan = top_of(self._sessions.parent, self.settings), session.spec.checkpoints
        check_reachable(user, [top, sys.executable, __file__])
        let_through(session.folder, top)
        give_tree(own, user)
        if plan is not None and "://" not in plan.store:
            part = Path(owners_address(plan.store, plan.owner)).expanduser()
            part.mkdir(mode=0o700, parents=True, exist_ok=True)
            let_through(part.parent, self.settings.folder)
            if part.stat().st_uid != user.uid:
                give_tree(part, user)

    def _jail(self, folder: Path) -> JailSpec:
        store = self.settings.checkpoint_store
        needed = [str(self.settings.folder), sys.prefix, *([store] if store and "://" not in store else [])]
        return jail_spec(folder, self._sessions, needed)

    async def _new_jailed_kernel(self, spec: JailSpec, environ: dict[str, str], criu: Criu) -> Kernel:
        timeout_s = self.settings.start_timeout_s
        starting = ImageKernel.start(spec, environ, _Relay(self), criu=criu, log=self._log, timeout_s=timeout_s)
        return JailedKernel(await starting)

    def log(self, text: str) -> None:
        """Text for the log of this host."""
        with contextlib.suppress(OSError):
            os.write(self._log, text.encode(errors="replace"))

    def _say(self, text: str) -> None:
        self.log(f"{text}\n")

    def _inside(self, kernel: Kernel) -> Path | None:
        """The working folder as the kernel sees it; None if it does not."""
        if not isinstance(kernel, JailedKernel):
            return self.work
        inside = path_inside(self.work, kernel.image.jail.spec)
        return Path(inside) if inside is not None else None

    def _kernel_facts(self, session: SessionHost, inside: Path) -> dict[str, str]:
        labels = [msgspec.to_builtins(device) for device in self._devices]
        return kernel_environment(session.spec, self.node, labels, inside)

    async def _give_kernel(self, coming: Any) -> None:
        """Make a started (or starting) kernel that of the session."""
        session = self.session
        assert session is not None
        try:
            kernel: Kernel | None
            try:
                kernel = await coming
            except (RuntimeError, OSError):
                kernel = None
            if kernel is None or not kernel.alive:  # a spare need not have lived until now
                kernel = await self._new_kernel()
            inside = self._inside(kernel)
            if inside is None:
                self._say(f"this kernel cannot be put into an image: its jail would not show {self.work}.")
                self._criu = None
                await _end(kernel)
                kernel, inside = await self._new_kernel(), self.work
            content: dict[str, Any] = {"env": self._kernel_facts(session, inside), "cwd": str(inside)}
            if is_plain(self.settings):
                kernel.cap_memory(self._memory_cap)
            else:
                # Another user's process, or one below a command of its own, has to do it itself.
                content["memory_bytes"] = self._memory_cap
            plan = session.spec.checkpoints
            content["standby"] = session.stands_by
            if plan is not None:
                content["checkpoints"] = msgspec.to_builtins(plan)
                content |= {"session": session.spec.session_id, "epoch": session.spec.lease.epoch}
            asking = kernel.ask(Channel.CONTROL, "gpuaas_adopt_request", content)
            reply = await asyncio.wait_for(asking, self.settings.start_timeout_s)
            if reply["status"] != "ok":
                raise RuntimeError(reply["evalue"])
            if plan is not None and plan.restore and session.is_new and not session.stands_by:
                await self._restore(session, kernel, plan.restore)
        except Exception as error:
            session.failed(str(error) or type(error).__name__)
            return
        else:
            session.kernel_ready(kernel)
        finally:
            self._kernel_given.set()

    @staticmethod
    async def _restore(session: SessionHost, kernel: Kernel, checkpoint: str) -> None:
        """Give a new session the variables of a checkpoint, before its first request reaches the kernel."""
        asked = {"op": "restore", "checkpoint": checkpoint}
        reply = await kernel.ask(Channel.SHELL, "gpuaas_checkpoint_request", asked)
        if reply["status"] != "ok":
            raise RuntimeError(
                f"checkpoint {short_id(checkpoint)} cannot be restored: {reply['message']} {reply['hint']}".strip()
            )
        report = msgspec.convert(reply["result"], RestoreReport)
        spec, view = session.spec, report.checkpoint
        # One that begins with a checkpoint of another has lost nothing, however often its start is tried: what is
        # restored after a loss is a session's own.
        if view.session == spec.session_id:
            session.restored_cell = view.cell
        session.notice("".join(f"[remote GPU] {line}\n" for line in restored_lines(report)))

    async def adopt(self, spec: HostSpec, devices: list[Device], folder: Path, machine: str) -> HostReport:
        """Become the host of a session; returns as soon as its kernel is ready or known to be starting."""
        if self.session is not None:
            raise RemoteProtocolError(f"this host has session {self.session.spec.session_id} already.")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        own = folder / "work"
        shared = self.settings.workdir == "auto" and spec.machine == machine and os.path.isdir(spec.cwd)
        shared = shared and not self.settings.kernel_user  # whom that folder need not be open to
        self.work = Path(spec.cwd) if shared and spec.cwd else own
        self.work.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._devices = devices
        on_gpu = any(device.kind == CUDA for device in devices)
        if on_gpu and (self._criu is not None or self.settings.turn_s):
            # At once, as it takes seconds, for which nobody is to wait.
            self._cuda = asyncio.get_running_loop().create_task(CudaHelper.start())
            # That there is none is told when an image is wanted.
            self._cuda.add_done_callback(lambda task: task.cancelled() or task.exception())
        self.session = SessionHost(
            spec,
            folder,
            self.settings,
            start_kernel=lambda: self._give_kernel(self._new_kernel()),
            changed=self._report,
        )
        try:
            self._make_way(self.session, own)
        except (GpuaasError, OSError) as error:
            self.session.failed(str(error))
            return self.session.report()
        if on_gpu and self._cuda is None:
            self.session.no_suspend = "suspending sessions is switched off (setting turn_s)"
        elif self._cuda is not None:
            self.task(self._ask_driver(self.session))
        if spec.peer is not None:
            most = self.settings.message_bytes
            bring = partial(
                fetch_files, work=own, most_bytes=self.settings.sync_bytes, most_files=self.settings.sync_files
            )
            # Into a folder of the session's own only: what is not at the source is removed.
            files: Callable[[Peer], int] = self._given(bring, own) if self.work == own else lambda peer: 0
            ready = self._kernel_given.wait
            peer = await self._dialler.way(spec.peer, self.run_folder)
            if spec.image:
                self.standby = ImageStandby(
                    self.session,
                    peer,
                    most,
                    ready=ready,
                    fetch_files=files,
                    folder=self.run_folder / "image",
                    restore=self._kernel_of_image,
                    moved=self._moved,
                )
            else:
                self.standby = Standby(
                    self.session, peer, most, ready=ready, fetch_files=files, way_of=self._way_of_kernel
                )
        spare, self._spare = self._spare, None
        spare = spare or asyncio.get_running_loop().create_task(self._new_kernel())
        if spec.image:
            self._emptied = self.task(self._not_needed(spare))
            self.session.awaits_kernel()
            return self.session.report()
        given = self.task(self._give_kernel(spare))
        if spare.done():
            await given
        return self.session.report()

    def _given(self, bring: Callable[[Peer], int], own: Path) -> Callable[[Peer], int]:
        """Files that come become those of the kernel's user."""
        user = self._launch(self.run_folder).user
        if user is None:
            return bring

        def brought(peer: Peer) -> int:
            count = bring(peer)
            give_tree(own, user)
            return count

        return brought

    async def operate(self, op: str, content: dict[str, Any]) -> dict[str, Any]:
        """One step of a move; see ``standstill`` and ``standby``.

        Raises
        ------
        MigrationError
            Not with this session, or not now.
        """
        session, standby = self.session, self.standby
        assert session is not None
        if op == "notice":
            session.notice(str(content["text"]))
            return {}
        if op == "look":
            return _plain(session.look())
        if standby is not None:
            if op == "preload":
                loading = standby.preload(
                    content["checkpoint"],
                    peer=await self._peer(content),
                    from_store=bool(content.get("from_store")),
                    alone=bool(content.get("alone")),
                    most_bytes=int(content.get("most_bytes") or 0),
                )
                return _plain(await loading)
            if op == "load":
                alone = bool(content.get("alone"))
                peer = await self._peer(content)
                return _plain(await standby.load(content["checkpoint"], peer=peer, alone=alone))
            if op == "succeed":
                return {"bytes": await standby.succeed()}
            if op == "live":
                policy = content.get("on_node_loss") or self.settings.on_node_loss
                if policy not in ON_NODE_LOSS:
                    raise RemoteProtocolError(f"on_node_loss: is none of {', '.join(ON_NODE_LOSS)}.")
                await standby.live(policy)
                return _plain(session.report())
        if not session.stands_by:
            if op == "suspend":
                await self._suspend(session, content)
                return {}
            if op == "go_on":
                await session.go_on(tuple(content.get("devices") or ()))
                return {}
            if op == "quiesce":
                return _plain(await session.standstill.quiesce(content.get("wait_s")))
            if op == "take_image":
                return _plain(await self._imaging.take(session, str(content["image"]), self._driver))
            if op == "image_round":
                return _plain(await self._imaging.round(session, str(content["image"])))
            if op == "hand_over":
                return await session.standstill.hand_over()
            if op == "resume":
                await session.standstill.resume()
                self.task(self._imaging.drop())
                return {}
        raise MigrationError(f"op: {op!r} is not possible with this host.")

    async def _peer(self, content: dict[str, Any]) -> Peer | None:
        """The way to a source that a request names."""
        peer = msgspec.convert(content.get("peer"), Peer | None)
        return await self._dialler.way(peer, self.run_folder) if peer is not None else None

    async def _way_of_kernel(self, kernel: Kernel, peer: Peer) -> Peer:
        """The same for the kernel, which has no certificate."""
        folder = kernel.data_socket.parent
        user = self._launch(folder).user
        return await self._dialler.way(
            peer,
            folder,
            seen_as=Path(HOME) if isinstance(kernel, JailedKernel) else None,
            owner=user.owner if user is not None else None,
        )

    # -- standing still without devices ------------------------------------------------------------------------

    async def _suspend(self, session: SessionHost, content: dict[str, Any]) -> None:
        """See ``SessionHost.suspend``."""
        room_bytes, most_bytes = int(content.get("room_bytes", -1)), int(content.get("most_bytes", 0))
        if session.no_suspend:
            raise MigrationError(f"{session.no_suspend}.")
        if session.kernel is None:
            raise MigrationError("the session has no kernel at the moment.")
        cuda = await asyncio.shield(self._cuda) if self._cuda is not None else None
        suspension = Suspension(session.kernel, self.run_id, cuda)

        def refused(wants_bytes: int) -> str:
            return room_to_keep(most_bytes - room_bytes, wants_bytes, most_bytes)

        await session.suspend(suspension, room_bytes, refused, asleep=bool(content.get("asleep")))

    async def _ask_driver(self, session: SessionHost) -> None:
        """Find out whether the session's processes can be without their devices."""
        assert self._cuda is not None
        session.no_suspend = "CUDA's driver has not answered yet"
        try:
            await asyncio.shield(self._cuda)
            session.no_suspend = ""
        except (GpuaasError, OSError) as error:
            session.no_suspend = f"the memory of its devices cannot be taken from them: {error}"
        self._report(session.report())

    # -- images of the kernel's process ------------------------------------------------------------------------

    async def _kernel_of_image(self, image: str, origin: Origin) -> Kernel:
        """The kernel of an image, stopped.

        Raises
        ------
        ImageError, StoreError, CheckpointError, TransportError
            It cannot be made here; nothing is left of it.
        """
        session = self.session
        assert session is not None
        if self._criu is None:
            raise ImageUnavailable("this node makes no process images.")
        if self._emptied is not None:
            await asyncio.wait({self._emptied})
        restored = await ImageKernel.restore(
            self._jail(self._kernel_folder()),
            _Relay(self),
            criu=self._criu,
            origin=origin,
            image_id=image,
            key=image_key(session),
            cuda=await self._driver(),
            onto=[device_id(device.uuid) for device in self._devices if device.kind == CUDA],
        )
        kernel = JailedKernel(restored)
        kernel.cap_memory(self._memory_cap)
        return kernel

    async def _driver(self) -> CudaHelper | None:
        return await asyncio.shield(self._cuda) if self._cuda is not None else None

    def _moved(self) -> dict[str, Any]:
        """What a kernel is told that has come here as an image."""
        session = self.session
        assert session is not None and session.kernel is not None
        inside = self._inside(session.kernel) or self.work
        return {"epoch": session.spec.lease.epoch, "env": self._kernel_facts(session, inside)}

    async def _not_needed(self, spare: asyncio.Task[Kernel]) -> None:
        """End a kernel that was started ahead, or is about to be."""
        if not spare.done():
            spare.cancel()
        with contextlib.suppress(RuntimeError, OSError, GpuaasError, asyncio.CancelledError):
            await _end(await spare)

    @property
    def _memory_cap(self) -> int:
        share = self.session.spec.lease.share if self.session is not None else 1.0
        return int(share * sum(device.memory_bytes for device in self._devices if device.kind == CPU))

    async def _measure(self) -> None:
        """Watch the memory of the session's processes; what passes the cap is ended, and said."""
        while True:
            await asyncio.sleep(MEASURE_S)
            session = self.session
            if session is None or session.kernel is None:
                continue
            kernel = session.kernel.pid
            if not kernel:
                continue
            used = {pid: memory_bytes(pid) for pid in await asyncio.to_thread(tree, kernel)}
            session.used_bytes = sum(used.values())
            cap = self._memory_cap
            if cap and session.used_bytes > cap:
                biggest = max(used, key=lambda pid: used[pid])
                why = (
                    f"memory: its processes used {session.used_bytes / 2**30:.2f} GiB, "
                    f"more than the {cap / 2**30:.2f} GiB of its device"
                )
                with contextlib.suppress(ProcessLookupError):
                    os.kill(biggest, signal.SIGKILL)
                if biggest == kernel:
                    session.cause = why
                else:
                    session.notice(f"\n[remote GPU] Process {biggest} of this session was ended: {why}.\n")

    # -- the agent ---------------------------------------------------------------------------------------------

    def _report(self, report: HostReport) -> None:
        for writer in self._writers:
            writer.write(msgspec.json.encode({"report": report}) + b"\n")

    async def _serve_agent(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        writer.write(msgspec.json.encode({"report": self.session and self.session.report()}) + b"\n")
        try:
            while line := await reader.readline():
                self.task(self._command(msgspec.json.decode(line), writer))
        except (ConnectionError, msgspec.DecodeError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _command(self, command: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        answer: dict[str, Any] = {"id": command.get("id")}
        op = command.get("op")
        try:
            if op == "adopt":
                answer["report"] = await self.adopt(
                    msgspec.convert(command["spec"], HostSpec),
                    msgspec.convert(command["devices"], list[Device]),
                    Path(command["folder"]),
                    command["machine"],
                )
            elif op == "stop":
                keep, moved = bool(command.get("keep")), bool(command.get("moved"))
                await self.stop(command.get("reason", "released"), keep=keep, moved=moved)
            elif op == "ping":
                answer["reply"] = {}
            elif self.session is None:
                raise NoSuchSession("this host has no session.")
            elif op == "stopped":
                self._told_stopped(self.session, command["at_s"])
            elif op == "go_on":
                done = self._go_on(self.session, command)
                answer["reply"] = {"done": done}
            elif op == "interrupt":
                self.session.interrupt()
            elif op == "restart":
                self.session.restart()
            elif op == "checkpoints":
                answer["reply"] = await self.session.checkpoints(command["content"])
            elif op == "move":
                answer["reply"] = await self.operate(command["move"], command["content"])
            else:
                raise RemoteProtocolError(f"op: {op!r} is unknown.")
        except GpuaasError as error:
            answer["error"] = str(error)
            answer["failure"] = to_wire(error)
        except Exception as error:
            # A bug of ours, perhaps; whoever has asked must not wait for ever.
            self.log(f"op {op!r}:\n{traceback.format_exc()}")
            answer["error"] = f"{type(error).__name__}: {error}"
        with contextlib.suppress(ConnectionError):
            writer.write(msgspec.json.encode(answer) + b"\n")
            await writer.drain()

    def _told_stopped(self, session: SessionHost, at_s: float) -> None:
        """The lease of the node is over, and the leash has stopped the session's processes."""
        if at_s <= self._went_on_s:
            return  # This host stood still as well, and hears of it when it is past.
        session.cut_off = True
        session.notice(
            "\n[remote GPU] This session stands still: its node has lost contact with the service. "
            "It goes on when contact is back.\n"
        )
        # The session may have another host by now. Whether it has, the service knows, and until the service is back
        # here nobody is let in.
        session.let_clients_go({"op": "moved"}, "the node has lost contact with the service")

    def _go_on(self, session: SessionHost, command: dict[str, Any]) -> bool:
        """Contact is back, and the session is still ours: what the leash has stopped goes on."""
        until_s, now = command["until_s"], now_s()
        if until_s is not None and now >= until_s:
            return False  # This has come late, and the session may be another's.
        kernel = session.kernel
        still = kernel is not None and kernel.stopped
        for pid, started in command["processes"]:
            with contextlib.suppress(ProcessLookupError):
                # A session that moves stands still for its own reason: ``resume`` continues these.
                if kernel is None or not still or not kernel.has(pid):
                    send(pid, started, signal.SIGCONT)
        self._went_on_s, session.cut_off = now, False
        stood_s = max(0.0, now - command["since_s"])
        why = "its node had lost contact with the service"
        session.notice(f"\n[remote GPU] This session stood still for {stood_s:.1f} s: {why}.\n")
        return True

    def task(self, coroutine: Any) -> asyncio.Task[Any]:
        """Run beside everything else, until the host ends."""
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class _Relay:
    """Passes what a kernel says to the session that the host has by then; before, it is nobody's."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def kernel_said(self, channel: Any, batch: Any) -> None:
        if self._host.session is not None and self._host.session.kernel is not None:
            self._host.session.kernel_said(channel, batch)

    def kernel_exited(self, status: int) -> None:
        if self._host.session is not None and self._host.session.kernel is not None:
            self._host.session.kernel_exited(status)

    def kernel_logged(self, text: str) -> None:
        self._host.log(text)


async def _end(kernel: Kernel) -> None:
    """End a kernel that no session has."""
    kernel.kill()
    await kernel.ended()
    kernel.close()


def _plain(value: msgspec.Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(value)
    return plain


@click.command()
@click.option("--run-id", required=True)
@click.option("--run-folder", required=True, type=click.Path(path_type=Path))
@click.option("--node", required=True)
@click.option("--sessions", required=True, type=click.Path(path_type=Path))
@click.option("--criu", default="")
def main(run_id: str, run_folder: Path, node: str, sessions: Path, criu: str) -> None:
    """Host process; started by the agent."""
    settings = load()
    if settings.kernel_user:
        os.umask(0o077)  # its folders are open for others to pass through
    found = msgspec.json.decode(criu, type=Criu) if criu else None

    async def serve() -> None:
        await Host(run_id, run_folder, node, settings, sessions, found).run()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
