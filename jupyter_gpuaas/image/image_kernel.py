"""A kernel that can be put into an image: what a host has instead of a plain kernel process.

How a host uses it (docs/process-images.md)::

    kernel = await ImageKernel.start(spec, environ, handler, criu=find_criu(), log=descriptor)
    ...
    dump = kernel.begin_image(sink, key, ImageName(id=...))
    await dump.round()                                   # any number of times, where the node can; the kernel runs
    manifest = await kernel.finish_image(dump)           # stopped afterwards; on failure it runs on
    # the target: await ImageKernel.restore(...), there stopped too; verify; cutover
    await kernel.end()                                            # or, when it came to nothing: await kernel.thaw()
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from ..errors import DeviceRefused, ImageError, ImageUnavailable, NotDumpable, TransportError
from ..model import Channel
from ..wire.jupyter import DELIMITER, make_parts, read_header, split_frames
from ..wire.record import Buffer, Kind, Record
from .carrier import Carrier
from .criu import Criu
from .cuda_helper import CudaHelper
from .dump import Dump, ImageName
from .jail import HOME, Jail, JailSpec
from .manifest import ImageManifest
from .pack import Origin, Sink
from .relay import CHANNELS, KINDS, PORTS, Event, Order, RelaySpec
from .restore import read_manifest, restore_tree
from .resumable import LinkState, Resumable
from .tree_devices import TreeDevices, pairs_for, placed

#: Outputs that may wait in the relay while no host is there.
WAITING_BYTES = 16 * 1024**2
MESSAGE_BYTES = 1 << 30
DIAL_TIMEOUT_S = 10.0
#: The relay has a process of its own; only an overloaded machine makes it slower.
HANG_UP_TIMEOUT_S = 30.0
#: Our own requests, which no client sees.
OWN = "gpuaas"
RELAY_SOCKET = "relay"
#: IPython's history is a database in the user's home, which is another one on each node, and SQLite refuses to write to
#: a file whose inode has changed. In memory it goes along.
KERNEL_OPTIONS = ("--HistoryManager.hist_file=:memory:",)


class ImageKernelHandler(Protocol):
    """Who is told what a kernel says. Nothing is said twice, and nothing is lost by a dump."""

    def kernel_said(self, channel: Channel, batch: list[tuple[Buffer, list[Buffer]]]) -> None:
        """(topic of an iopub message, else empty; header, parent, metadata, content, buffers) in order."""

    def kernel_logged(self, text: str) -> None:
        """What the process itself wrote to stdout and stderr."""

    def kernel_exited(self, status: int) -> None:
        """The kernel has ended; the jail is there until ``end``. Also told once after ``end``."""


class ImageKernel:
    """One kernel in a jail. Made by ``start`` or ``restore``."""

    def __init__(
        self,
        jail: Jail,
        criu: Criu,
        handler: ImageKernelHandler,
        *,
        cuda: CudaHelper | None = None,
        state: LinkState | None = None,
        kernel_pid: int = 0,
    ) -> None:
        self.jail = jail
        self.criu = criu
        self._handler = handler
        self._devices = TreeDevices(cuda)
        stream = Resumable(most_bytes=WAITING_BYTES, message_bytes=MESSAGE_BYTES, state=state)
        self._link = Carrier(stream, self._took, lambda: None)
        self._kernel_pid = kernel_pid
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._iopub_heard = asyncio.Event()
        self._exited: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._watch = asyncio.create_task(self._jail_ended())
        #: Whether its tree is stopped.
        self.frozen = False
        #: Whether ``thaw`` has something to do yet: where it failed, the tree runs, and lacks device memory, say.
        self.halted = False

    # -- life --------------------------------------------------------------------------------------------------

    @classmethod
    async def start(
        cls,
        spec: JailSpec,
        environ: Mapping[str, str],
        handler: ImageKernelHandler,
        *,
        criu: Criu,
        cuda: CudaHelper | None = None,
        log: int | None = None,
        timeout_s: float = 60.0,
        argv: Sequence[str] = (),
    ) -> ImageKernel:
        """Start a kernel; returns when it answers.

        Parameters
        ----------
        argv
            Command of the kernel; ``{connection_file}`` in it is replaced.

        Raises
        ------
        ImageUnavailable, RuntimeError
            There can be no jail; the kernel does not start.
        """
        folder = Path(spec.folder)
        ports: dict[str, Any] = {f"{channel}_port": number for channel, number in PORTS.items()} | {"hb_port": 5}
        # No key: only this user's processes reach sockets in a 0700 folder, and signing costs every message.
        connection = ports | {"transport": "ipc", "ip": f"{HOME}/k", "key": "", "signature_scheme": "hmac-sha256"}
        connection_file = folder / "kernel.json"
        connection_file.write_bytes(msgspec.json.encode(connection))
        connection_file.chmod(0o600)
        command = argv or (sys.executable, "-m", "jupyter_gpuaas.kernel", "-f", "{connection_file}", *KERNEL_OPTIONS)
        relay = RelaySpec(
            socket=f"{HOME}/{RELAY_SOCKET}",
            prefix=f"{HOME}/k",
            argv=tuple(word.replace("{connection_file}", f"{HOME}/kernel.json") for word in command),
            waiting_bytes=WAITING_BYTES,
            message_bytes=MESSAGE_BYTES,
        )
        tree = [sys.executable, "-m", "jupyter_gpuaas.image.relay", msgspec.json.encode(relay).decode()]
        environ = {**environ, "GPUAAS_DATA_SOCKET": f"{HOME}/data"}
        jail = await Jail.start(spec, tree, environ, log=log)
        kernel = cls(jail, criu, handler, cuda=cuda)
        try:
            await asyncio.wait_for(kernel._first_answer(), timeout_s)
        except BaseException as error:
            await kernel.end()
            if isinstance(error, asyncio.TimeoutError):
                raise RuntimeError(f"the kernel did not answer within {timeout_s:g} s") from None
            raise
        return kernel

    @classmethod
    async def restore(
        cls,
        spec: JailSpec,
        handler: ImageKernelHandler,
        *,
        criu: Criu,
        origin: Origin,
        image_id: str,
        key: bytes,
        cuda: CudaHelper | None = None,
        devices: Mapping[bytes, bytes] | None = None,
        onto: Sequence[bytes] | None = None,
    ) -> ImageKernel:
        """The kernel of an image, frozen: ``thaw`` lets it go on where it was stopped.

        Parameters
        ----------
        devices
            Which device of this node takes the place of which of the source, by UUID; the others are paired up.
        onto
            Instead of these, the devices that the session has here.

        Raises what ``read_manifest`` and ``restore_tree`` raise; nothing is left then.
        """
        manifest = await read_manifest(origin, image_id, key)
        if manifest.devices and cuda is None:
            raise ImageUnavailable("the image has device memory, and this node calls no CUDA driver.")
        wanted = devices or {} if onto is None else placed(manifest.devices, onto)
        pairs = await pairs_for(manifest, cuda, wanted) if cuda is not None else []
        jail = await restore_tree(manifest, spec, criu, origin)
        kernel = cls(jail, criu, handler, cuda=cuda, state=manifest.link, kernel_pid=manifest.kernel_pid)
        kernel._devices.expect(manifest.devices, pairs)
        kernel.frozen = kernel.halted = True
        return kernel

    def use_cuda(self, cuda: CudaHelper) -> None:
        """Call the driver by this one, as of the next dump."""
        self._devices.use(cuda)

    @property
    def pid(self) -> int:
        """The kernel's pid on this node; 0 when it is not there."""
        for process in self.jail.processes():
            if process.inner_pid == self._kernel_pid and process.state not in "ZX":
                return process.pid
        return 0

    @property
    def alive(self) -> bool:
        return not self._exited.done()

    @property
    def connected(self) -> bool:
        """Whether orders reach the relay at once."""
        return self._link.connected

    @property
    def data_socket(self) -> Path:
        """Where the kernel takes bundles, as the node sees it."""
        return Path(self.jail.spec.folder) / "data"

    async def ended(self) -> int:
        """Wait for the kernel's end; gives its status."""
        status: int = await asyncio.shield(self._exited)
        return status

    async def end(self) -> None:
        """Kill the kernel and all that it started. Also for a frozen one, after the cutover."""
        self._link.drop()
        await self.jail.end()
        await self._watch

    # -- talking -----------------------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Dial the relay; what was said since the last connection comes now."""
        if self._link.connected:
            return
        # By the folder's descriptor: the path of a socket may not be longer than 107 bytes.
        folder = os.open(self.jail.spec.folder, os.O_PATH | os.O_CLOEXEC)
        try:
            await asyncio.wait_for(self._dial(f"/proc/self/fd/{folder}/{RELAY_SOCKET}"), DIAL_TIMEOUT_S)
        except asyncio.TimeoutError:
            raise TransportError("the kernel's relay does not answer.") from None
        finally:
            os.close(folder)

    def send(self, channel: Channel, parts: Sequence[Buffer]) -> None:
        """Send header, parent, metadata, content and buffers; while there is no connection they wait for it."""
        self._link.put([(KINDS[channel], [DELIMITER, b"", *parts])])

    async def ask(
        self, channel: Channel, msg_type: str, content: dict[str, Any], *, subshell: str = ""
    ) -> dict[str, Any]:
        """Send a request of our own and return the content of its reply, also when it is answered on another node.

        Raises RuntimeError when the kernel has ended, or does.
        """
        parts = make_parts(b"", msg_type, b"{}", content, subshell=subshell)
        msg_id = read_header(parts[1]).msg_id
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[msg_id] = reply
        self.send(channel, parts[1:])
        try:
            await asyncio.wait([reply, self._exited], return_when=asyncio.FIRST_COMPLETED)
            if not reply.done():
                raise RuntimeError(f"the kernel process ended with status {self._exited.result()}")
            content_of: dict[str, Any] = reply.result()
            return content_of
        finally:
            self._waiting.pop(msg_id, None)

    def hold_outputs(self) -> None:
        """Take no more outputs for now; replies still come."""
        self._order(Order("hold"))

    def take_outputs(self) -> None:
        self._order(Order("take"))

    def interrupt(self) -> None:
        """SIGINT to the kernel and the processes of its group; a frozen one gets it when it goes on."""
        self._order(Order("signal", signal.SIGINT))

    def remind(self) -> None:
        """SIGURG to the same: a call that slept over an interrupt ends."""
        self._order(Order("signal", signal.SIGURG))

    def kill(self) -> None:
        """SIGKILL to the kernel's process group."""
        self._order(Order("signal", signal.SIGKILL))

    # -- images ------------------------------------------------------------------------------------------------

    async def freeze(self) -> None:
        """Hang up, take device memory into host memory, and stop every process of the tree.

        Raises ``ImageError``: then they run on, and the connection is there, unless they are ``halted``.
        """
        if self.frozen:
            return
        self.halted = True
        try:
            await self._hang_up()
            # While it runs: the driver's own thread in each process does the work.
            await self._devices.suspend(self.jail)
            await self.jail.stop_tree()
        except BaseException:
            await self._go_on_at_once()
            raise
        self.frozen = True

    async def thaw(self) -> None:
        """Let the tree go on, give it its device memory, and dial it again.

        Raises ``DeviceRefused`` when a device has no room: the tree runs, its next call of CUDA waits, and ``thaw``
        can be called again.
        """
        self.jail.continue_tree()
        self.frozen = False
        await self.connect()
        await self._devices.resume(self.jail)
        self.halted = False

    async def _go_on_at_once(self) -> None:
        """After a failure, whose reason is what is told; ``halted`` tells whether it works."""
        with contextlib.suppress(DeviceRefused, TransportError):
            await self.thaw()

    def begin_image(self, sink: Sink, key: bytes, name: ImageName) -> Dump:
        """An image in the making; whoever begins it closes it.

        Raises
        ------
        NotDumpable
            There is no place for it.
        """
        try:
            return Dump(self.jail, self.criu, sink, key, name)
        except OSError as error:
            raise NotDumpable(f"there is no place for an image: {error}.") from error

    async def finish_image(self, dump: Dump) -> ImageManifest:
        """Stop the kernel, and put what is lacking into its image; it is frozen afterwards, until ``thaw`` or ``end``.

        Raises
        ------
        ImageError, StoreError, TransportError
            There is no image, and the kernel runs on; as of ``freeze``.
        """
        await self.freeze()
        try:
            return await dump.finish(
                kernel_pid=self._kernel_pid,
                link=self._link.stream.state(),
                devices=self._devices.needs(self.jail),
                device_ids=self._devices.ids,
            )
        except BaseException:
            await self._go_on_at_once()
            raise

    async def dump(self, sink: Sink, key: bytes, name: ImageName) -> ImageManifest:
        """``begin_image``, ``finish_image``, and close it: for a sink that keeps what it gets."""
        dump = self.begin_image(sink, key, name)
        try:
            return await self.finish_image(dump)
        finally:
            await dump.close()

    # -- inside ------------------------------------------------------------------------------------------------

    async def _first_answer(self) -> None:
        """Return when shell and iopub have said something."""
        await self.connect()
        await self.ask(Channel.SHELL, "kernel_info_request", {})
        heard: asyncio.Future[Any] = asyncio.ensure_future(self._iopub_heard.wait())
        await asyncio.wait([heard, self._exited], return_when=asyncio.FIRST_COMPLETED)
        if not heard.done():
            heard.cancel()
            raise RuntimeError(f"the kernel process ended while starting, with status {self._exited.result()}")

    async def _dial(self, path: str) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.setblocking(False)
            try:
                await loop.sock_connect(connection, path)
            except (FileNotFoundError, ConnectionRefusedError):  # the relay is about to listen
                connection.close()
                if self._exited.done():
                    raise RuntimeError("the jail ended before its relay listened") from None
                await asyncio.sleep(0.01)
                continue
            except BaseException:
                connection.close()
                raise
            await loop.create_unix_connection(self._link.protocol, sock=connection)
            return

    async def _hang_up(self) -> None:
        self._link.finish()
        try:
            await asyncio.wait_for(self._link.closed.wait(), HANG_UP_TIMEOUT_S)
        except asyncio.TimeoutError:
            self._link.drop()
            raise ImageError("the kernel's relay does not close its connection.") from None

    def _order(self, order: Order) -> None:
        self._link.put([(Kind.NOTICE, [msgspec.json.encode(order)])])

    def _took(self, records: list[Record]) -> None:
        at = 0
        while at < len(records):
            channel = CHANNELS.get(records[at].kind)
            if channel is None:
                self._happened(msgspec.json.decode(records[at].parts[0], type=Event))
                at += 1
                continue
            said: list[tuple[Buffer, list[Buffer]]] = []
            while at < len(records) and CHANNELS.get(records[at].kind) is channel:
                self._sort(channel, list(records[at].parts), said)
                at += 1
            if said:
                self._handler.kernel_said(channel, said)

    def _sort(self, channel: Channel, frames: list[Buffer], said: list[tuple[Buffer, list[Buffer]]]) -> None:
        if channel is Channel.IOPUB:
            self._iopub_heard.set()
        try:
            idents, _, parts = split_frames(frames)
        except ValueError:
            return  # iopub's welcome message, which is for us
        parent = read_header(parts[1])
        if parent.session == OWN and parent.msg_id.startswith(OWN):
            reply = self._waiting.get(parent.msg_id)
            if reply is not None and channel is not Channel.IOPUB and not reply.done():
                reply.set_result(msgspec.json.decode(parts[3]))
            return
        said.append((idents[0] if idents else b"", parts))

    def _happened(self, event: Event) -> None:
        if event.kernel is not None:
            self._kernel_pid = event.kernel
        if event.log is not None:
            self._handler.kernel_logged(event.log)
        if event.exited is not None:
            self._end_with(event.exited)

    async def _jail_ended(self) -> None:
        status = await self.jail.ended
        self._end_with(128 - status if status > 128 else status)

    def _end_with(self, status: int) -> None:
        if not self._exited.done():
            self._exited.set_result(status)
            self._handler.kernel_exited(status)
