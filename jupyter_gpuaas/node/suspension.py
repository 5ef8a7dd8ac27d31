"""A session without devices: its processes stand still where they are, and what they had on devices is in their memory.

Plain kernels are stopped with all that their cells have started, after CUDA's driver has taken device memory away from
those that have some. A kernel in a jail does both by itself (``image.image_kernel``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable

from ..errors import GpuaasError, MigrationError
from ..image.cuda_helper import CudaHelper
from ..image.jail import Process
from ..image.tree_devices import TreeDevices
from .jailed_kernel import JailedKernel
from .kernel_process import Kernel
from .leash import running, send
from .processes import memory_bytes, tree

#: Looks for processes that were started while others were being stopped.
LOOKS = 50
LOOK_S = 0.002


class _Tree:
    """What ``TreeDevices`` needs of a plain kernel's processes."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def processes(self) -> list[Process]:
        return [Process(pid, pid, "") for pid in tree(self._kernel.pid)]


class Suspension:
    """Of one kernel, from ``begin`` to ``end``.

    Parameters
    ----------
    run_id
        Mark of the host, by which processes are found that have left the kernel's group.
    """

    def __init__(self, kernel: Kernel, run_id: str, cuda: CudaHelper | None) -> None:
        self.kernel = kernel
        self._run_id = run_id
        self._devices = TreeDevices(cuda)
        self._cuda = cuda
        self._tree = _Tree(kernel)
        #: Pid and start time of what was stopped beside the kernel's group.
        self._beside: dict[int, int] = {}

    @property
    def halted(self) -> bool:
        """Whether ``end`` has something to do."""
        return self.kernel.halted or self._devices.taken

    def bytes(self) -> int:
        """Memory that it would keep, beside that of devices."""
        return sum(memory_bytes(pid) for pid in tree(self.kernel.pid))

    async def begin(self) -> None:
        """Stop it.

        Raises
        ------
        ImageError
            It could not be; it goes on, unless it is ``halted``.
        """
        if isinstance(self.kernel, JailedKernel):
            if self._cuda is not None:
                self.kernel.image.use_cuda(self._cuda)
            await self.kernel.pause()
            return
        try:
            # While it runs: the driver's own thread in each process does the work.
            await self._devices.suspend(self._tree)
            await self.kernel.pause()
            await asyncio.to_thread(self._stop_beside)
            # What it has said so far is for its clients.
            self.kernel.take_outputs()
        except BaseException:
            with contextlib.suppress(GpuaasError):
                await self.end()
            raise

    async def end(self) -> None:
        """Let it go on.

        Raises
        ------
        DeviceRefused
            A device has no room for it yet; to be called again. What has no device memory goes on.
        """
        if isinstance(self.kernel, JailedKernel):
            await self.kernel.resume()
            return
        if self.kernel.stopped:
            for pid, started in self._beside.items():
                send(pid, started, signal.SIGCONT)
            self._beside = {}
            await self.kernel.resume()
        await self._devices.resume(self._tree)

    def _stop_beside(self) -> None:
        """Stop what runs of this host, but for the host itself and its helper; blocks."""
        for _ in range(LOOKS):
            found = running({self._run_id: os.getpid()}).get(self._run_id, {})
            if self._cuda is not None:
                found.pop(self._cuda.pid, None)
            if not found:
                return
            for pid, started in found.items():
                with contextlib.suppress(ProcessLookupError):
                    if not self.kernel.has(pid):
                        self._beside[pid] = started
                    send(pid, started, signal.SIGSTOP)
            time.sleep(LOOK_S)


class Suspended:
    """Whether the session of a host has devices: what is passed on to its kernel depends on it."""

    def __init__(self) -> None:
        self._suspension: Suspension | None = None
        #: Nothing of it runs; else a part of it has gone on, and has not all of its devices back.
        self._whole = False
        self._turn = asyncio.Lock()
        #: From the moment that it is asked for until the end: nothing new goes to the kernel.
        self.holds = False
        #: The user has interrupted it since.
        self.interrupted = False

    @property
    def stands(self) -> bool:
        """Whether nothing of the session runs, as far as its own kernel goes."""
        return self.holds and self._suspension is not None and self._whole

    async def begin(self, suspension: Suspension, *, room_bytes: int, refused: Callable[[int], str]) -> None:
        """Suspend the session; once it stands still, this does nothing.

        Parameters
        ----------
        room_bytes
            Memory that it may keep; negative for any.
        refused
            Why a session of so many bytes may not.

        Raises
        ------
        MigrationError, ImageError
            It goes on as before, or does so at ``end``: then it ``holds`` on.
        """
        async with self._turn:
            if self.stands:
                return
            if self._suspension is not None and self._suspension.kernel is suspension.kernel:
                suspension = self._suspension  # it knows what it has taken already
            wants_bytes = await asyncio.to_thread(suspension.bytes)
            if 0 <= room_bytes < wants_bytes:
                raise MigrationError(f"{refused(wants_bytes)}.")
            self.holds = True
            try:
                await suspension.begin()
            except BaseException:
                self.halted(suspension)
                raise
            self._suspension, self._whole = suspension, True

    def halted(self, suspension: Suspension) -> None:
        """Its kernel was to go on; as long as it lacks something, the session counts as suspended."""
        self.holds = suspension.halted
        self._suspension, self._whole = suspension if self.holds else None, False

    async def end(self, kernel: Kernel | None) -> bool:
        """Let the session go on, with this kernel; whether there was anything to do.

        Raises
        ------
        DeviceRefused
            Not yet; to be called again.
        """
        async with self._turn:
            suspension = self._suspension
            if suspension is not None and suspension.kernel is kernel:
                self._whole = False
                await suspension.end()
                if self.interrupted:
                    # What stood still has slept over the signal, perhaps.
                    suspension.kernel.remind()
            done, self._suspension = self.holds, None
            self.holds = self.interrupted = False
            return done
