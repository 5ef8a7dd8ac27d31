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
)
from ..image.criu import Criu
from ..image.cuda_helper import CudaHelper
from ..image.cuda_meter import device_id
from ..image.pack import Origin
from ..lifecycle.turns import room_to_keep
from ..logs import formatter, log_to_stderr
from ..model import CPU, CUDA, Channel, Device, HostReport, HostSpec, Part, Peer, RestoreReport, short_id
from ..model.words import restored_lines
from ..wire.tls import of_node
from .agent_line import LINE_BYTES, AgentLine
from .contact import Contact
from .dial import Dialler
from .door import Door
from .environment import kernel_environment
from .files import fetch_files
from .image_standby import ImageStandby
from .imaging import Imaging, image_key
from .kernel_launch import is_plain, known_ahead
from .kernel_maker import KernelMaker
from .kernel_process import Kernel
from .memory_watch import watch_memory
from .processes import end_marked
from .session_host import SessionHost
from .standby import Standby, claim
from .suspension import Suspension


class Host:
    """One host process.

    Parameters
    ----------
    sessions
        The node's folder of its sessions' folders.
    criu
        With it, kernels are started in jails, so that they can be put into images.
    images
        Where these lie while they are made; in the run folder when None.
    """

    makes_kernels: type[KernelMaker] = KernelMaker

    def __init__(
        self,
        run_id: str,
        run_folder: Path,
        node: str,
        settings: Settings,
        sessions: Path,
        criu: Criu | None = None,
        images: Path | None = None,
    ) -> None:
        self.run_id = run_id
        self.run_folder = run_folder
        self.node = node
        self.settings = settings
        self.session: SessionHost | None = None
        self.standby: Standby | None = None
        self._kernel_given = asyncio.Event()
        self._contact = Contact()
        self.line = AgentLine(self._carry_out, report=self._how_it_stands, run=self.task, log=self.log)
        self._door = Door(self)
        self._dialler = Dialler(of_node(settings, node))
        self._spare: asyncio.Task[Kernel] | None = None
        self._devices: list[Device] = []
        self._done = asyncio.Event()
        self._log = sys.stderr.fileno()
        self.kernels = self.makes_kernels(
            settings,
            run_id=run_id,
            run_folder=run_folder,
            node=node,
            sessions=sessions,
            images=images or run_folder,
            criu=criu,
            handler=_Relay(self),
            log=self._log,
        )
        self._imaging = Imaging()
        self.shelf = self._imaging.shelf
        #: Calls CUDA's driver for images, where the session has such a device.
        self._cuda: asyncio.Task[CudaHelper] | None = None
        #: Ends the kernel that was started ahead, where one comes as an image.
        self._emptied: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def work(self) -> Path:
        """The session's working folder."""
        return self.kernels.work

    async def run(self) -> None:
        """Serve until told to stop."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: self.task(self.stop("its host was told to end")))
        if known_ahead(self.settings):
            self._spare = loop.create_task(self.kernels.new())
        if self.settings.kernel_user:
            self.run_folder.chmod(0o711)
        control = await asyncio.start_unix_server(self.line.serve, str(self.run_folder / "control"), limit=LINE_BYTES)
        clients = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        clients.setblocking(False)
        clients.bind(str(self.run_folder / "clients"))
        clients.listen(128)
        self.task(self._door.accept(clients))
        self.task(watch_memory(self))
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
        self.kernels.forget_images()
        self._done.set()

    # -- the kernel --------------------------------------------------------------------------------------------

    def log(self, text: str) -> None:
        """Text for the log of this host."""
        with contextlib.suppress(OSError):
            os.write(self._log, text.encode(errors="replace"))

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
                kernel = await self.kernels.new()
            inside = self.kernels.inside(kernel)
            if inside is None:
                self.log(f"this kernel cannot be put into an image: its jail would not show {self.work}.\n")
                self.kernels.criu = None
                await _end(kernel)
                kernel, inside = await self.kernels.new(), self.work
            content: dict[str, Any] = {"env": self._kernel_facts(session, inside), "cwd": str(inside)}
            if is_plain(self.settings):
                kernel.cap_memory(self.memory_cap)
            else:
                # Another user's process, or one below a command of its own, has to do it itself.
                content["memory_bytes"] = self.memory_cap
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
        # One that begins with a checkpoint of another has lost nothing: what is restored after a loss is a session's
        # own. It is that from here on, in case that the host is lost before there is another.
        if view.session == spec.session_id:
            session.restored_cell = view.cell
        await claim(kernel)
        session.notice("".join(f"[remote GPU] {line}\n" for line in restored_lines(report)))

    async def adopt(self, spec: HostSpec, devices: list[Device], folder: Path, machine: str) -> HostReport:
        """Become the host of a session; returns as soon as its kernel is ready or known to be starting."""
        if self.session is not None:
            raise RemoteProtocolError(f"this host has session {self.session.spec.session_id} already.")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        own = folder / "work"
        shared = self.settings.workdir == "auto" and spec.machine == machine and os.path.isdir(spec.cwd)
        shared = shared and not self.settings.kernel_user  # whom that folder need not be open to
        work = Path(spec.cwd) if shared and spec.cwd else own
        work.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.kernels.belong_to(spec, work)
        self._devices = devices
        on_gpu = any(device.kind == CUDA for device in devices)
        if on_gpu and (self.kernels.criu is not None or self.settings.turn_s):
            # At once, as it takes seconds, for which nobody is to wait.
            self._cuda = asyncio.get_running_loop().create_task(CudaHelper.start())
            # That there is none is told when an image is wanted.
            self._cuda.add_done_callback(lambda task: task.cancelled() or task.exception())
        formatter.about |= {"session": spec.session_id, "epoch": spec.lease.epoch}
        self.session = SessionHost(
            spec,
            folder,
            self.settings,
            start_kernel=lambda: self._give_kernel(self.kernels.new()),
            changed=self.line.report,
        )
        try:
            self.kernels.make_way(folder, own, spec.checkpoints)
        except (GpuaasError, OSError) as error:
            self.session.failed(str(error))
            return self.session.report()
        if on_gpu and self._cuda is None:
            self.session.without_devices.barred = "suspending sessions is switched off (setting turn_s)"
        elif self._cuda is not None:
            self.task(self._ask_driver(self.session))
        if spec.peer is not None:
            most = self.settings.message_bytes
            bring = partial(
                fetch_files, work=own, most_bytes=self.settings.sync_bytes, most_files=self.settings.sync_files
            )
            # Into a folder of the session's own only: what is not at the source is removed.
            files: Callable[[Peer], int] = self.kernels.given(bring, own) if work == own else lambda peer: 0
            ready = self._kernel_given.wait
            peer = await self._dialler.way(spec.peer, self.run_folder)
            if spec.image:
                self.standby = ImageStandby(
                    self.session,
                    peer,
                    most,
                    ready=ready,
                    fetch_files=files,
                    folder=self.kernels.images / "coming",
                    restore=self._kernel_of_image,
                    moved=self._moved,
                )
            else:
                self.standby = Standby(
                    self.session,
                    peer,
                    most,
                    ready=ready,
                    fetch_files=files,
                    way_of=partial(self.kernels.way_of, dialler=self._dialler),
                )
        spare, self._spare = self._spare, None
        spare = spare or asyncio.get_running_loop().create_task(self.kernels.new())
        if spec.image:
            self._emptied = self.task(self._not_needed(spare))
            self.session.awaits_kernel()
            return self.session.report()
        given = self.task(self._give_kernel(spare))
        if spare.done():
            await given
        return self.session.report()

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
                    without=msgspec.convert(content.get("without") or [], tuple[Part, ...]),
                )
                return _plain(await loading)
            if op == "load":
                alone = bool(content.get("alone"))
                peer = await self._peer(content)
                return _plain(await standby.load(content["checkpoint"], peer=peer, alone=alone))
            if op == "succeed":
                return {"bytes": await standby.succeed()}
            if op == "live":
                await standby.live()
                return _plain(session.report())
        if not session.stands_by:
            if op == "suspend":
                await self._suspend(session, content)
                return {}
            if op == "go_on":
                await session.without_devices.go_on(tuple(content.get("devices") or ()))
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

    # -- standing still without devices ------------------------------------------------------------------------

    async def _suspend(self, session: SessionHost, content: dict[str, Any]) -> None:
        """See ``WithoutDevices.suspend``."""
        room_bytes, most_bytes = int(content.get("room_bytes", -1)), int(content.get("most_bytes", 0))
        if session.without_devices.barred:
            raise MigrationError(f"{session.without_devices.barred}.")
        if session.kernel is None:
            raise MigrationError("the session has no kernel at the moment.")
        cuda = await asyncio.shield(self._cuda) if self._cuda is not None else None
        suspension = Suspension(session.kernel, self.run_id, cuda)

        def refused(wants_bytes: int) -> str:
            return room_to_keep(most_bytes - room_bytes, wants_bytes, most_bytes)

        await session.without_devices.suspend(suspension, room_bytes, refused, asleep=bool(content.get("asleep")))

    async def _ask_driver(self, session: SessionHost) -> None:
        """Find out whether the session's processes can be without their devices."""
        assert self._cuda is not None
        session.without_devices.barred = "CUDA's driver has not answered yet"
        try:
            await asyncio.shield(self._cuda)
            session.without_devices.barred = ""
        except (GpuaasError, OSError) as error:
            session.without_devices.barred = f"the memory of its devices cannot be taken from them: {error}"
        self.line.report(session.report())

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
        if self._emptied is not None:
            await asyncio.wait({self._emptied})
        onto = [device_id(device.uuid) for device in self._devices if device.kind == CUDA]
        cuda = await self._driver()
        kernel = await self.kernels.of_image(image, origin, image_key(session), cuda=cuda, onto=onto)
        kernel.cap_memory(self.memory_cap)
        return kernel

    async def _driver(self) -> CudaHelper | None:
        return await asyncio.shield(self._cuda) if self._cuda is not None else None

    def _moved(self) -> dict[str, Any]:
        """What a kernel is told that has come here as an image."""
        session = self.session
        assert session is not None and session.kernel is not None
        inside = self.kernels.inside(session.kernel) or self.work
        return {"epoch": session.spec.lease.epoch, "env": self._kernel_facts(session, inside)}

    async def _not_needed(self, spare: asyncio.Task[Kernel]) -> None:
        """End a kernel that was started ahead, or is about to be."""
        if not spare.done():
            spare.cancel()
        with contextlib.suppress(RuntimeError, OSError, GpuaasError, asyncio.CancelledError):
            await _end(await spare)

    @property
    def memory_cap(self) -> int:
        """What the session's processes may have together; 0 for no bound."""
        share = self.session.spec.lease.share if self.session is not None else 1.0
        return int(share * sum(device.memory_bytes for device in self._devices if device.kind == CPU))

    # -- the agent ---------------------------------------------------------------------------------------------

    def _how_it_stands(self) -> HostReport | None:
        return self.session.report() if self.session is not None else None

    async def _carry_out(self, command: dict[str, Any]) -> dict[str, Any]:
        """What a command of the agent's says; returns what is answered."""
        op = command.get("op")
        if op == "adopt":
            report = await self.adopt(
                msgspec.convert(command["spec"], HostSpec),
                msgspec.convert(command["devices"], list[Device]),
                Path(command["folder"]),
                command["machine"],
            )
            return {"report": report}
        if op == "stop":
            keep, moved = bool(command.get("keep")), bool(command.get("moved"))
            await self.stop(command.get("reason", "released"), keep=keep, moved=moved)
            return {}
        if op == "ping":
            return {"reply": {}}
        if self.session is None:
            raise NoSuchSession("this host has no session.")
        if op == "stopped":
            self._contact.lost(self.session, command["at_s"])
            return {}
        if op == "go_on":
            return {"reply": {"done": self._contact.found(self.session, command)}}
        if op == "interrupt":
            self.session.interrupt()
            return {}
        if op == "restart":
            self.session.restart()
            return {}
        if op == "checkpoints":
            return {"reply": await self.session.checkpoints(command["content"])}
        if op == "move":
            return {"reply": await self.operate(command["move"], command["content"])}
        raise RemoteProtocolError(f"op: {op!r} is unknown.")

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
@click.option("--images", required=True, type=click.Path(path_type=Path))
@click.option("--criu", default="")
def main(run_id: str, run_folder: Path, node: str, sessions: Path, images: Path, criu: str) -> None:
    """Host process; started by the agent."""
    settings = load()
    if settings.kernel_user:
        os.umask(0o077)  # its folders are open for others to pass through
    log_to_stderr(settings.log_format)
    formatter.about = {"node": node}
    found = msgspec.json.decode(criu, type=Criu) if criu else None

    async def serve() -> None:
        await Host(run_id, run_folder, node, settings, sessions, found, images).run()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
