"""A session that stands still without devices: what its clients are told of it, and its way back to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from ..errors import DeviceRefused, GpuaasError, MigrationError
from ..model import HostSpec
from .held import HeldRequests
from .kernel_process import Kernel
from .standstill import Standstill
from .suspension import Suspended, Suspension


class SuspendedSession(Protocol):
    """The session's host, as this needs it."""

    spec: HostSpec
    kernel: Kernel | None
    standstill: Standstill
    held: HeldRequests

    @property
    def takes_requests(self) -> bool:
        """Whether there is a kernel, and it is not about to end."""

    @property
    def executing(self) -> bool:
        """Whether a cell runs."""

    def notice(self, text: str) -> None:
        """Say something to the user in the stream of outputs."""

    def let_clients_sleep(self) -> bool:
        """Let all clients go until they want the session; whether there were any."""

    def awake(self) -> None:
        """Whoever has woken the session is about to come."""

    async def settled(self) -> None:
        """Return when everything that was said is in the journal."""

    def release_held(self) -> None:
        """Give the kernel what waits, if it may have it."""

    def cancel_held(self) -> None:
        """Answer the cells that wait as after an interrupt."""

    def stands_or_goes(self) -> None:
        """Tell the service how the session stands."""


class WithoutDevices:
    """From ``suspend`` to ``go_on``, and whatever goes wrong on the way."""

    def __init__(self, session: SuspendedSession) -> None:
        self._session = session
        self._suspended = Suspended()
        #: It was suspended between two cells, and clients are to ask for it when they want it.
        self.asleep = False
        #: It had clients then. They were told to let it go, so that it is not left by them.
        self.let_go = False
        #: Why its processes cannot stand still without devices; empty if they can.
        self.barred = ""
        #: Why it has not got its devices back, although it was to go on; empty if that is not so.
        self.lacks = ""

    @property
    def holds(self) -> bool:
        """Whether nothing new is to go to its kernel, as it has no devices, or is about to have none."""
        return self._suspended.holds

    async def suspend(
        self, suspension: Suspension, room_bytes: int, refused: Callable[[int], str], *, asleep: bool
    ) -> None:
        """Let the session stand still without devices, in the middle of its cell, too.

        Parameters
        ----------
        room_bytes, refused
            See ``Suspended.begin``.
        asleep
            Between two cells only, and until it is wanted: its clients are let go.

        Raises
        ------
        MigrationError, ImageError
            It cannot, and goes on.
        """
        session = self._session
        if self._suspended.stands:
            return
        if not session.standstill.goes_on or not session.takes_requests:
            raise MigrationError("the session stands still already, or is about to, or has no kernel at the moment.")
        if asleep and session.executing:
            raise MigrationError("a cell runs.")
        try:
            await self._suspended.begin(suspension, room_bytes=room_bytes, refused=refused)
            if asleep:
                self.asleep = True
                self.let_go = session.let_clients_sleep()
                await session.settled()
                if session.executing or list(session.held):
                    await self.go_on(())
                    raise MigrationError("a cell came meanwhile.")
        except GpuaasError:
            if self.holds and not self._suspended.stands:
                self._tell_lack("")
            raise
        finally:
            session.release_held()
            session.stands_or_goes()

    async def go_on(self, devices: tuple[str, ...]) -> None:
        """The session has devices again.

        Raises
        ------
        DeviceRefused
            One has no room yet.
        """
        session = self._session
        if devices:
            lease = msgspec.structs.replace(session.spec.lease, device_ids=devices)
            session.spec = msgspec.structs.replace(session.spec, lease=lease)
        try:
            done = await self._suspended.end(session.kernel)
        except DeviceRefused as error:
            if self.lacks:
                self._tell_lack(str(error))
                session.stands_or_goes()
            raise
        if done:
            if self.asleep:
                self.asleep = self.let_go = False
                session.awake()
            if self.lacks:
                self.lacks = ""
                session.notice("\n[remote GPU] This session has the memory of its devices back.\n")
            session.release_held()
            session.stands_or_goes()

    def halted(self, kernel: Kernel, why: str = "") -> None:
        """A kernel in a jail was to go on, and lacks something of what it had: ``go_on`` gives it back."""
        self._suspended.halted(Suspension(kernel, "", None))
        self._tell_lack(why)
        self._session.stands_or_goes()

    def interrupted(self) -> None:
        """The user interrupts while it ``holds``."""
        session = self._session
        if session.executing and session.kernel is not None:
            # Its signal waits for it until it goes on.
            self._suspended.interrupted = True
            session.kernel.interrupt()
        else:
            session.cancel_held()

    def _tell_lack(self, why: str) -> None:
        if not self.lacks:
            self._session.notice(
                "\n[remote GPU] The memory of this session's devices could not be given back to it. "
                "That is tried again; its cells wait for it.\n"
            )
        self.lacks = f"the memory of its devices has not been given back to it yet: {why}".rstrip(": .")
