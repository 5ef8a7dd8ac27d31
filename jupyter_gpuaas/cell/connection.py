"""A local notebook's connection to one session: found or made, compared, used for cells, left or ended."""

from __future__ import annotations

import atexit
import importlib.metadata
import os
import platform
import queue
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, TypeVar

from jupyter_gpuaas.cell.move_commands import RemoteMover
from jupyter_gpuaas.cell.outputs import Collected, GaveUpWaiting, LocalOutputs, failure, read_input
from jupyter_gpuaas.cell.ship import Shipper
from jupyter_gpuaas.client.blocking import LOOK_UP_S, Blocking, outcome
from jupyter_gpuaas.client.checkpoints import RemoteDesk
from jupyter_gpuaas.client.embedded import find_service
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.client.session import RemoteSession
from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.errors import AllocationError, CellError, GpuaasError, NoSuchSession, SessionEnded
from jupyter_gpuaas.model import GpuSession, NodeView, ResourceRequest, SessionState, SessionView
from jupyter_gpuaas.wire.machine import machine_id

T = TypeVar("T")

#: Compared at connect even if the notebook has not imported them.
COMPARED = ("numpy", "pandas", "scipy", "scikit-learn", "torch", "cupy-cuda12x", "dill", "jupyter_gpuaas")
LONG_POLL_S = 20.0
READY = (SessionState.IDLE, SessionState.BUSY)


class Connection:
    """One notebook's connection to one session.

    Parameters
    ----------
    say
        Shows a line to the user.
    ours
        The session has no name that anybody else would look for; it ends with this process.
    """

    def __init__(self, settings: Settings, say: Callable[[str], None], *, ours: bool) -> None:
        self.settings = settings
        self.root = Path.cwd()
        self._say = say
        self._ours = ours
        self._runner = Blocking("gpuaas-cells")
        self._service: ServiceClient | None = None
        self._session: RemoteSession | None = None
        self._created = ""
        self.shipper: Shipper | None = None

    # -- coming and going ------------------------------------------------------------------------

    def connect(self, name: str, request: ResourceRequest) -> GpuSession:
        """Find or make the session and wait until it can run cells.

        Raises
        ------
        GpuaasError
            It cannot be had.
        """
        try:
            found = self._wait(self._connect(name, request))
        except BaseException as error:
            # Nobody would ever come for what is ours alone and still waits in the queue.
            self._runner.run(self._abandon())
            self._runner.close()
            if isinstance(error, KeyboardInterrupt):
                raise CellError(f"interrupted while session {name!r} was not ready yet.") from None
            raise
        assert self._session is not None and self._service is not None
        self.shipper = Shipper(
            self._session,
            self._runner,
            self.settings,
            session_name=found.name,
            token=self._service.token,
            ca=self._service.ca,
            root=self.root,
        )
        if self._ours:
            atexit.register(self._at_exit)
        return found

    async def _connect(self, name: str, request: ResourceRequest) -> GpuSession:
        endpoint = await find_service(self.settings)
        self._service = service = ServiceClient(endpoint.url, endpoint.token, ca=endpoint.ca)
        view = await service.create_session(name, request=request, cwd=str(self.root), machine=machine_id(), wait_s=1.0)
        self._created = view.session.id
        told = ""
        while view.session.state not in READY:
            session = view.session
            if session.state in (SessionState.FAILED, SessionState.CLOSED, SessionState.CLOSING):
                raise AllocationError(f"session {name!r} {session.state}: {session.cause or 'no reason is known'}.")
            place = f", place {session.queue_place} in the queue" if session.queue_place else ""
            if told != (told := f"session {name!r} is {session.state}{place}"):
                self._say(told)
            view = await service.session(session.id, after=session.last_event, wait_s=LONG_POLL_S)
        self._session = RemoteSession(service, view.session.id, self.settings, notice=self._say)
        await self._session.open(view.channel)
        return view.session

    async def _abandon(self) -> None:
        try:
            if self._ours and self._created and self._service is not None:
                await self._service.release(self._created)
        except GpuaasError:
            pass  # The error that led here is the one to show.
        finally:
            await self._leave()

    def detach(self) -> None:
        """Leave; the session goes on."""
        atexit.unregister(self._at_exit)
        self._wait(self._leave())
        self._runner.close()

    @property
    def is_ours(self) -> bool:
        """Whether nobody else could find the session again."""
        return self._ours

    def release(self) -> None:
        """End the session."""
        assert self._service is not None and self._session is not None
        try:
            self._wait(self._service.release(self._session.id))
        except (NoSuchSession, SessionEnded):
            pass  # Somebody else has ended it.
        finally:
            self.detach()

    async def _leave(self) -> None:
        if self._session is not None:
            await self._session.close()
        if self._service is not None:
            await self._service.close()

    def _at_exit(self) -> None:
        try:
            assert self._service is not None and self._session is not None
            self._runner.run(self._service.release(self._session.id), timeout=10.0)
        except (GpuaasError, TimeoutError):
            pass  # It ends by itself when it has been unattended for long enough.

    @property
    def ended(self) -> bool:
        """Whether the session is gone for good."""
        return self._session is not None and self._session.ended

    @property
    def name(self) -> str:
        """Name of the session, whether or not there still is one."""
        assert self.shipper is not None
        return self.shipper.session_name

    # -- looking ---------------------------------------------------------------------------------

    def view(self) -> SessionView:
        """The session with how its checkpoints stand."""
        assert self._service is not None and self._session is not None
        return self._wait(self._service.session(self._session.id))

    @property
    def checkpoints(self) -> RemoteDesk:
        """The session's checkpoints."""
        assert self._service is not None and self._session is not None
        return RemoteDesk(self._service, self._session.id, self._wait, self._say)

    @property
    def mover(self) -> RemoteMover:
        """Moves, parks and tells of the session."""
        assert self._service is not None and self._session is not None
        return RemoteMover(self._service, self._session.id, self._wait, self._say)

    def nodes(self) -> list[NodeView]:
        """The nodes of the pool."""
        assert self._service is not None
        return self._wait(self._service.nodes())

    def log(self, *, kind: str, tail: int) -> str:
        """What the session printed, or its system's log."""
        assert self._service is not None and self._session is not None
        return self._wait(self._service.log(self._session.id, kind=kind, tail=tail))

    def differences(self, space: Mapping[str, Any]) -> list[str]:
        """Python and packages whose versions differ there, in words."""
        assert self._session is not None
        packages = local_versions(space)
        there = self._wait(self._session.ask("hello", packages=list(packages)))
        lines = []
        here = platform.python_version()
        if there["python"] != here:
            lines.append(f"Python {here} here, {there['python']} there")
            if there["python"].split(".")[:2] != here.split(".")[:2]:
                lines[-1] += " (functions and classes defined here may not work there)"
        for package, version in packages.items():
            remote = there["packages"].get(package)
            if remote != version:
                lines.append(f"{package} {version} here, {remote or 'not installed'} there")
        return lines

    # -- cells -----------------------------------------------------------------------------------

    def run_cell(
        self,
        source: str,
        shell: Any,
        *,
        inputs: Sequence[str] = (),
        outputs: Sequence[str] = (),
    ) -> list[str]:
        """Ship a cell and wait for it; returns notices for the user.

        Raises
        ------
        RemoteCellError
            The cell failed.
        GpuaasError
            It could not be sent.
        """
        assert self.shipper is not None and self._session is not None
        space: dict[str, Any] = shell.user_ns
        shipped = self.shipper.prepare(
            source,
            space,
            transform=shell.transform_cell,
            inputs=inputs,
            outputs=outputs,
            hidden=shell.user_ns_hidden,
        )
        kernel = getattr(shell, "kernel", None)
        content = {
            "code": source,
            "silent": False,
            "store_history": False,
            "user_expressions": {},
            "allow_stdin": bool(getattr(kernel, "_allow_stdin", True)),
            "stop_on_error": False,
        }
        reply = self._follow(content, shipped.metadata, LocalOutputs(shell))
        notices = self.shipper.bind(shipped, reply, space)
        if reply.get("status") != "ok":
            for notice in notices:
                self._say(notice)
            raise failure(reply, self.root)
        return notices

    def _follow(self, content: Mapping[str, Any], metadata: Mapping[str, Any], outputs: LocalOutputs) -> dict[str, Any]:
        """Send a cell and show outputs until it is over.

        The first Ctrl-C interrupts the cell, the second the waiting. The first is noted in the signal's handler: raised
        as an exception it could land in code of a display hook that swallows it.
        """
        assert self._session is not None
        collected = Collected()
        presses = 0
        asking = False

        def pressed(number: int, frame: FrameType | None) -> None:
            nonlocal presses
            presses += 1
            if presses > 1 or asking:
                raise KeyboardInterrupt
            collected.items.put(("interrupt", None))

        # Before the cell is sent: from then on an interrupt is for the cell.
        former = signal.signal(signal.SIGINT, pressed) if _in_main_thread() else None
        try:
            future = self._runner.submit(
                self._session.request("execute_request", content, metadata=metadata, listener=collected)
            )
            future.add_done_callback(collected.finished)
            while True:
                if collected.items.empty():
                    outputs.flush()
                try:
                    what, message = collected.items.get(timeout=LOOK_UP_S)
                except queue.Empty:
                    continue
                if what == "finished":
                    outputs.flush()
                    return future.result()
                if what == "interrupt":
                    self._interrupt_cell()
                elif what == "output":
                    assert message is not None
                    outputs.show(message)
                else:
                    assert message is not None
                    outputs.flush()
                    try:
                        asking = True
                        self._soon(self._session.answer, read_input(message.content))
                        asking = False
                    except KeyboardInterrupt:
                        asking = False
                        if presses > 1:
                            raise
                        self._interrupt_cell()
        except KeyboardInterrupt:
            raise GaveUpWaiting(
                "no longer waiting",
                ["No longer waiting: the cell goes on in the session; `%remote_gpu logs` shows its output."],
            ) from None
        finally:
            if former is not None:
                signal.signal(signal.SIGINT, former)

    def _interrupt_cell(self) -> None:
        assert self._session is not None
        self._soon(self._session.interrupt)
        self._say("interrupting the remote cell; once more stops waiting for it")

    def _soon(self, act: Callable[..., None], *arguments: Any) -> None:
        async def do() -> None:
            act(*arguments)

        self._runner.run(do())

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for client work; Ctrl-C cancels it."""
        future = self._runner.submit(work)
        try:
            return outcome(future)
        except KeyboardInterrupt:
            future.cancel()
            raise


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def local_versions(space: Mapping[str, Any]) -> dict[str, str]:
    """Versions of the packages that matter here: those that the notebook has imported, and a few that always do."""
    imported = {value.__name__.partition(".")[0] for value in space.values() if isinstance(value, ModuleType)}
    imported -= set(sys.stdlib_module_names) | {"__main__"}
    names = set(COMPARED)
    if imported:
        distributions = importlib.metadata.packages_distributions()
        names |= {distributions[module][0] for module in imported if distributions.get(module)}
    versions = {}
    for name in sorted(names):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def service_nodes(settings: Settings) -> list[NodeView]:
    """The nodes of the pool, for who has no session."""

    async def ask() -> list[NodeView]:
        endpoint = await find_service(settings)
        async with ServiceClient(endpoint.url, endpoint.token, ca=endpoint.ca) as service:
            return await service.nodes()

    with Blocking("gpuaas-nodes") as runner:
        return runner.run(ask())


def default_name(settings: Settings, node: str) -> tuple[str, bool]:
    """Name of the notebook's session for cells, and whether nobody else would look for it."""
    at = f" on {node}" if node else ""
    if settings.session:
        return settings.session + at, False
    notebook = os.environ.get("JPY_SESSION_NAME", "")
    if notebook:
        return f"{notebook} (cells){at}", False
    return f"cells of process {os.getpid()} in {Path.cwd()}{at}", True
