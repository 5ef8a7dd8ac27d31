"""Kernels of this Jupyter server, and the remote sessions behind them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from jupyter_gpuaas.client.kernel_notes import ask_to_detach, read_note
from jupyter_gpuaas.client.rest import is_loopback
from jupyter_gpuaas.config import Settings, load
from jupyter_gpuaas.errors import GpuaasError, InvalidRequest
from jupyter_gpuaas.model import GpuSession
from jupyter_gpuaas.server.link import LinkState, ServiceLink

PROXY = "jupyter_gpuaas.proxy"


class KernelSession(msgspec.Struct, frozen=True, kw_only=True):
    """Which session it is."""

    id: str
    name: str
    #: 0 while the service does not tell.
    epoch: int = 0


class KernelView(msgspec.Struct, frozen=True, kw_only=True):
    """One kernel, as it is answered with."""

    kernel_id: str
    remote: bool
    session: KernelSession | None = None
    problem: str = ""


class Kernels:
    """Looks kernels up in the Jupyter server's own kernel manager."""

    def __init__(self, manager: Any, settings: Settings, link: ServiceLink) -> None:
        self._manager = manager
        self._settings = settings
        self._link = link

    async def views(self) -> list[KernelView]:
        """All kernels of this Jupyter server."""
        epochs, found = await self._epochs(), []
        for kernel_id in list(self._manager.list_kernel_ids()):
            try:
                found.append(self._view(kernel_id, epochs))
            except LookupError:
                continue  # ended meanwhile
        return found

    async def view(self, kernel_id: str) -> KernelView:
        """A kernel's session; LookupError where there is no such kernel."""
        home, kernel = self._place(kernel_id)
        note = None if home is None else read_note(home, kernel)
        # Of this one session only: there may be thousands.
        epochs = {} if note is None or not note.session_id else await self._epochs(note.session_name)
        return self._view(kernel_id, epochs)

    def _view(self, kernel_id: str, epochs: Mapping[str, int]) -> KernelView:
        home, kernel = self._place(kernel_id)
        if home is None:
            return KernelView(kernel_id=kernel_id, remote=False)
        note = read_note(home, kernel)
        if note is None or not note.session_id:
            return KernelView(kernel_id=kernel_id, remote=True, problem=note.problem if note is not None else "")
        session = KernelSession(id=note.session_id, name=note.session_name)
        if self._link.view.state is not LinkState.READY:
            return KernelView(kernel_id=kernel_id, remote=True, session=session)
        if note.url != self._link.view.url and self._is_elsewhere(home, note.url):
            problem = f"this kernel's session belongs to another service ({note.url or 'not known'})."
            return KernelView(kernel_id=kernel_id, remote=True, session=session, problem=problem)
        epoch = epochs.get(note.session_id, 0)
        return KernelView(kernel_id=kernel_id, remote=True, session=msgspec.structs.replace(session, epoch=epoch))

    def detach(self, kernel_id: str) -> None:
        """The end of this kernel is not to end its session.

        Raises
        ------
        LookupError
            There is no such kernel.
        InvalidRequest
            It is a local one, or cannot be told.
        """
        home, kernel = self._place(kernel_id)
        if home is None:
            raise InvalidRequest("this kernel is a local one: it has no remote session to detach from.")
        try:
            ask_to_detach(home, kernel)
        except OSError as error:
            raise InvalidRequest(f"the kernel cannot be told: {error}.") from error

    def detach_all(self) -> None:
        """The same for all remote ones, as far as possible."""
        for kernel_id in list(self._manager.list_kernel_ids()):
            try:
                self.detach(kernel_id)
            except (InvalidRequest, LookupError):
                continue

    def _place(self, kernel_id: str) -> tuple[Path | None, str]:
        """Where its proxy leaves notes, and under which name; no folder for a local kernel."""
        kernel = self._manager.get_kernel(kernel_id) if kernel_id in self._manager else None
        if kernel is None:
            raise LookupError(kernel_id)
        spec = getattr(kernel, "kernel_spec", None)
        name = Path(getattr(kernel, "connection_file", "") or f"kernel-{kernel_id}").stem
        if spec is None or not any(PROXY in str(each) for each in spec.argv):
            return None, name
        given = {key: value for key, value in spec.env.items() if key.startswith("GPUAAS_")}
        try:
            home = load({**os.environ, **given}).folder if given else self._settings.folder
        except GpuaasError:
            home = self._settings.folder
        return home, name

    def _is_elsewhere(self, home: Path, url: str) -> bool:
        """Whether a note of this service could not say this; the embedded one has another port each time."""
        return bool(self._settings.url) or home != self._settings.folder or not is_loopback(url)

    async def _epochs(self, name: str = "") -> dict[str, int]:
        """Of all live sessions, or those of a name; none while the service is not there: it is not started for this."""
        if self._link.view.state is not LinkState.READY:
            return {}
        try:
            answer = await self._link.ask("GET", "/sessions", query={"name": name} if name else {})
            if answer.status != 200:
                return {}
            sessions = msgspec.json.decode(answer.content, type=list[GpuSession])
        except (GpuaasError, msgspec.MsgspecError):
            return {}
        return {session.id: session.epoch for session in sessions}
