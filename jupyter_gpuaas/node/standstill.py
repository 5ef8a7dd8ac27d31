"""Bringing a session to a standstill and letting it go on: the source's part of a move.

GOING ──quiesce──▶ STOPPING ──▶ QUIET ──hand_over──▶ FROZEN. With ``take_image`` in the place of ``quiesce`` nothing
comes to its end: the kernel is stopped where it is, put into an image, and what it was sent goes with it. From each of
them ``resume`` leads back to GOING, and so does whatever goes wrong: the requests that were held then go to the kernel,
in their order. ``kernel.returning`` is the kernel's part.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from ..errors import DeviceRefused, GpuaasError, MigrationError, QuiesceTimeout, from_wire
from ..model import Channel, CheckpointView, Handover, Imaged, Quiet
from ..model._compat import StrEnum
from ..wire.record import Buffer
from ..wire.unreadable import UNREADABLE
from .kernel_process import Kernel
from .marks import Marks

#: Topic on iopub of what the kernel tells of its standstill.
TOPIC = b"gpuaas_stand"
#: Type of the messages on shell that carry a request which the kernel has not begun.
RETURNED = "gpuaas_returned"
#: How long the kernel may take to prepare for an image.
PREPARE_S = 10.0
#: How long a failed attempt waits for the kernel to go on, before it says why it failed.
PATIENCE_S = 5.0


class Stage(StrEnum):
    GOING = "going"
    STOPPING = "stopping"
    QUIET = "quiet"
    FROZEN = "frozen"


class _Note(msgspec.Struct):
    kind: str
    mark: str = ""
    subshell: str | None = None


class StillSession(Protocol):
    """The session's host, as its standstill needs it."""

    kernel: Kernel | None

    @property
    def takes_requests(self) -> bool:
        """Whether there is a kernel, and it is not about to end."""

    @property
    def executing(self) -> bool:
        """Whether the kernel has a cell."""

    @property
    def suspended(self) -> bool:
        """Whether its processes stand still as it has no devices."""

    def abort_held(self, subshell: str | None) -> None:
        """Cells that wait behind one that failed are not run."""

    def cancel_held(self) -> None:
        """The user interrupts cells that wait."""

    def release_held(self) -> None:
        """Give the kernel what waits."""

    async def settled(self) -> None:
        """Return when the journal has been written."""

    def let_clients_go(self, op: dict[str, Any], reason: str) -> None: ...

    def handover(self, subshells: tuple[str, ...]) -> Handover: ...

    def withdraw_handover(self) -> None: ...

    def kernel_exited(self, status: int) -> None: ...

    def halted(self, kernel: Kernel, why: str = "") -> None:
        """The kernel was to go on, and lacks something of what it had; it counts as suspended until it has it."""

    def stands_or_goes(self) -> None:
        """Shell requests wait from now on, or do not any more."""


class Standstill:
    """The standstill of one session."""

    def __init__(self, session: StillSession, marks: Marks) -> None:
        self._session = session
        self._marks = marks
        self._stage = Stage.GOING
        self._decided = asyncio.Event()
        self._decided.set()
        #: What the successor gets; None before ``hand_over``.
        self.handover: Handover | None = None
        self._quiet: Quiet | None = None
        #: Nothing at all goes to the kernel: it is being put into an image, or is in one.
        self.sealed = False
        self._imaged: Imaged | None = None
        self._subshells: tuple[str, ...] = ()
        self._attempt: asyncio.Task[Quiet] | None = None
        self._going_on: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._exited: int | None = None

    @property
    def stage(self) -> Stage:
        return self._stage

    @stage.setter
    def stage(self, stage: Stage) -> None:
        held, self._stage = self.holds, stage
        if stage in (Stage.GOING, Stage.FROZEN):
            self._decided.set()
        else:
            self._decided.clear()
        if self.holds is not held:
            self._session.stands_or_goes()

    async def decided(self, timeout_s: float) -> None:
        """Wait until the session goes on here, or is handed over; not longer than so long."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._decided.wait(), timeout_s)

    @property
    def holds(self) -> bool:
        """Whether shell requests wait at the host."""
        return self.stage is not Stage.GOING

    @property
    def goes_on(self) -> bool:
        """Whether nothing is being done about its standing still."""
        return self.stage is Stage.GOING and self._attempt is None and self._going_on is None

    @property
    def imaged(self) -> bool:
        """Whether the kernel goes along as an image, with what it was sent."""
        return self._imaged is not None

    @property
    def frozen(self) -> bool:
        """Whether the session has been handed over: nothing of it may change any more."""
        return self.stage is Stage.FROZEN

    # -- operations --------------------------------------------------------------------------------------------

    async def quiesce(self, wait_s: float | None) -> Quiet:
        """Let what runs come to its end, hold what comes, and take a checkpoint of the state then.

        Raises
        ------
        QuiesceTimeout
            What runs did not end within ``wait_s``; the session goes on.
        MigrationError, CheckpointError
            It cannot stand still; it goes on.
        """
        if self.stage is Stage.FROZEN:
            raise MigrationError("the session has been handed over already.")
        if self.sealed:
            raise MigrationError("the session is being put into an image.")
        if self._quiet is not None:
            return self._quiet
        self._refuse_suspended()
        if self._attempt is not None or self._going_on is not None:
            raise MigrationError("the session is being brought to a standstill already, or is about to go on.")
        async with self._turn:
            kernel = self._session.kernel
            if kernel is None or not self._session.takes_requests:
                raise MigrationError("the session has no kernel at the moment.")
            self.stage = Stage.STOPPING
            self._attempt = asyncio.get_running_loop().create_task(self._stop(kernel, wait_s))
            try:
                await asyncio.wait({self._attempt})
                quiet = self._attempt.result()
                if self.stage is not Stage.STOPPING:
                    raise MigrationError("the session's kernel ended.")
                self._quiet, self.stage = quiet, Stage.QUIET
                return quiet
            except asyncio.CancelledError:
                error: Exception = MigrationError("the standstill was given up.")
            except (GpuaasError, RuntimeError) as failure:
                error = failure if isinstance(failure, GpuaasError) else MigrationError(f"{failure}.")
            finally:
                self._attempt = None
            self._going_on = asyncio.get_running_loop().create_task(self._go_on(kernel))
            await asyncio.wait({self._going_on}, timeout=PATIENCE_S)
            raise error

    async def take_image(self, take: Callable[[Kernel], Awaitable[Imaged]]) -> Imaged:
        """Stop the kernel where it is, and put it into an image.

        Parameters
        ----------
        take
            Makes the image; afterwards the kernel is stopped. When it fails, the kernel runs.

        Raises
        ------
        MigrationError, ImageError, StoreError
            There is no image, and the session goes on, or is to: see ``StillSession.halted``.
        """
        async with self._turn:
            if self._imaged is not None:
                return self._imaged
            self._refuse_suspended()
            kernel = self._session.kernel
            if self.stage is not Stage.GOING or self._going_on is not None:
                raise MigrationError("the session stands still already, or is about to.")
            if kernel is None or not self._session.takes_requests:
                raise MigrationError("the session has no kernel at the moment.")
            self.stage, self.sealed = Stage.STOPPING, True
            try:
                await self._prepare(kernel)
                imaged = await take(kernel)
                await self._session.settled()
                if self.stage is not Stage.STOPPING:
                    raise MigrationError("the session's kernel ended.")
            except BaseException as error:
                if kernel.halted:
                    self._session.halted(kernel)
                self._unseal(kernel)
                if isinstance(error, RuntimeError):
                    raise MigrationError(f"{error}.") from error
                raise
            self._imaged, self.stage = imaged, Stage.QUIET
            return imaged

    async def hand_over(self) -> dict[str, int]:
        """Freeze the quiet session and close its links; from now on the source does nothing by itself."""
        async with self._turn:
            if self.stage is not Stage.FROZEN:
                await self._freeze()
            assert self.handover is not None
            return {"last": self.handover.last, "held": len(self.handover.held)}

    async def resume(self) -> None:
        """Undo all of it."""
        if self._attempt is not None:
            self._attempt.cancel()
        async with self._turn:
            kernel, refused = self._session.kernel, ""
            if kernel is not None and kernel.alive and kernel.halted and not self._session.suspended:
                try:
                    await kernel.resume()
                except DeviceRefused as error:
                    refused = str(error)
            if self.stage is Stage.FROZEN:
                self.handover = None
                self._session.withdraw_handover()
                self.stage = Stage.QUIET
                status, self._exited = self._exited, None
                if status is not None:
                    self._session.kernel_exited(status)
            if refused and kernel is not None:
                self._session.halted(kernel, refused)
            if self._imaged is not None and self.stage is Stage.QUIET and kernel is not None:
                self._unseal(kernel)
            if self._going_on is not None:
                await asyncio.wait({self._going_on})
            if self.stage is not Stage.GOING and kernel is not None:
                await self._go_on(kernel)

    def close(self) -> None:
        """The session ends."""
        for task in (self._attempt, self._going_on):
            if task is not None:
                task.cancel()

    # -- what happens meanwhile --------------------------------------------------------------------------------

    def heard(self, content: Buffer) -> None:
        """A note of the kernel's has come; one that is none (a cell can publish what it likes) is passed over."""
        try:
            note = msgspec.json.decode(content, type=_Note)
        except UNREADABLE:
            return
        if note.kind == "aborting" and self.stage is Stage.STOPPING:
            self._session.abort_held(note.subshell)
        elif note.kind == "mark":
            self._marks.heard(note.mark)

    def interrupted(self) -> bool:
        """The user interrupts. True: no cell runs that the kernel should hear of it, so those that wait are cancelled.

        A capture that is being taken is none of the user's cells.
        """
        if self.stage is Stage.GOING or (self.stage is Stage.STOPPING and self._session.executing):
            return False
        self._session.cancel_held()
        return True

    def kernel_exited(self, status: int) -> bool:
        """The kernel's process has ended. True: that is kept for ``resume``, as nothing may change now."""
        self._marks.kernel_ended()
        if self.stage is Stage.FROZEN:
            self._exited = status
            return True
        if self.stage is not Stage.GOING:
            self.stage, self._quiet = Stage.GOING, None
            self.sealed, self._imaged = False, None
        return False

    # -- inside ------------------------------------------------------------------------------------------------

    def _refuse_suspended(self) -> None:
        if self._session.suspended:
            raise MigrationError("the session is suspended until its turn comes.", hint="Ask again then.")

    @staticmethod
    async def _prepare(kernel: Kernel) -> None:
        """Let the kernel bring to an end what ties its process to this node."""
        try:
            asking = kernel.ask(Channel.CONTROL, "gpuaas_stand_request", {"op": "image"})
            reply = await asyncio.wait_for(asking, PREPARE_S)
        except asyncio.TimeoutError:
            return  # code that keeps the interpreter's lock; nothing else of Python's runs then
        if reply["busy"]:
            raise MigrationError(f"{reply['busy']}.", hint="Try again in a moment.")

    def _unseal(self, kernel: Kernel) -> None:
        """There is no image, or nobody wants it: the kernel gets what was held."""
        self.sealed, self._imaged = False, None
        if self._session.kernel is kernel and self.stage in (Stage.STOPPING, Stage.QUIET):
            self.stage = Stage.GOING
            self._session.release_held()
            self._going_on = asyncio.get_running_loop().create_task(self._tell_to_go_on(kernel))

    async def _tell_to_go_on(self, kernel: Kernel) -> None:
        with contextlib.suppress(RuntimeError, asyncio.TimeoutError):
            asking = kernel.ask(Channel.CONTROL, "gpuaas_stand_request", {"op": "go_on"})
            await asyncio.wait_for(asking, PREPARE_S)
        self._going_on = None

    async def _stop(self, kernel: Kernel, wait_s: float | None) -> Quiet:
        began = time.monotonic()
        try:
            await asyncio.wait_for(self._reach_border(kernel), wait_s)
        except asyncio.TimeoutError:
            raise QuiesceTimeout(f"the cell that runs did not end within {wait_s:g} s.") from None
        waited = time.monotonic()
        reply = await kernel.ask(Channel.SHELL, "gpuaas_checkpoint_request", {"op": "take", "stands": True})
        if reply["status"] != "ok":
            raise from_wire(reply, status=500)
        checkpoint = msgspec.convert(reply["result"], CheckpointView)
        took = time.monotonic()
        await self._marks.reach(kernel)
        await self._session.settled()
        if not self._session.takes_requests:
            raise MigrationError("the session's kernel was told to end.")
        return Quiet(checkpoint=checkpoint, waited_s=waited - began, took_s=took - waited)

    async def _reach_border(self, kernel: Kernel) -> None:
        """Return when everything that the kernel was sent is answered or returned, in every shell."""
        reply = await kernel.ask(Channel.CONTROL, "gpuaas_stand_request", {"op": "return"})
        self._subshells = tuple(reply["subshells"])
        shells = ("", *self._subshells)
        barrier = {"op": "barrier"}
        await asyncio.gather(
            *(kernel.ask(Channel.SHELL, "gpuaas_stand_request", barrier, subshell=shell) for shell in shells)
        )

    async def _freeze(self) -> None:
        kernel = self._session.kernel
        if self.stage is not Stage.QUIET or kernel is None:
            raise MigrationError("the session does not stand still.")
        self.stage = Stage.FROZEN
        if self._imaged is None:
            asking = kernel.ask(Channel.CONTROL, "gpuaas_stand_request", {"op": "freeze"})
            try:
                await asyncio.wait_for(asking, PATIENCE_S)
            except (asyncio.TimeoutError, RuntimeError):
                pass  # a thread of the user's keeps it busy, or it ended; the next line stops whatever there is
            await kernel.pause()
        await self._session.settled()
        self.handover = self._session.handover(self._subshells)
        self._session.let_clients_go({"op": "moved"}, "the session is moving to another node")

    async def _go_on(self, kernel: Kernel) -> None:
        """Let the kernel handle requests again, and give it those that were held."""
        try:
            reply = await kernel.ask(Channel.CONTROL, "gpuaas_stand_request", {"op": "go_on"})
            if not reply["done"]:
                await kernel.ask(Channel.SHELL, "gpuaas_stand_request", {"op": "go_on"})
        except RuntimeError:
            pass  # it ended; the next one gets what is held
        self._quiet = self._going_on = None
        if self._session.kernel is kernel and self.stage in (Stage.STOPPING, Stage.QUIET):
            self.stage = Stage.GOING
            self._session.release_held()
