"""The device memory of a tree: taken into host memory before it is stopped, given back when it goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from ..errors import DeviceRefused
from .cuda import Suspended, pair_up
from .cuda_helper import CudaHelper
from .jail import Process
from .manifest import DeviceNeed, ImageManifest

#: Work that was submitted to a device is waited for as long; then the session goes on, and is not dumped.
LOCK_TIMEOUT_MS = 30_000


class Tree(Protocol):
    """Processes that belong together: a jail's, or those of a plain kernel."""

    def processes(self) -> list[Process]: ...


class TreeDevices:
    """Of one tree. ``cuda`` is None on a node without a driver: then there is nothing to do."""

    def __init__(self, cuda: CudaHelper | None) -> None:
        self._cuda = cuda
        self._suspended: list[Suspended] = []
        self._expected: tuple[DeviceNeed, ...] = ()
        self._pairs: Sequence[tuple[bytes, bytes]] = ()
        #: UUIDs of all devices, in hex, as of the last ``suspend``.
        self.ids: tuple[str, ...] = ()

    def use(self, cuda: CudaHelper) -> None:
        """Call the driver by this one from now on."""
        self._cuda = cuda

    @property
    def taken(self) -> bool:
        """Whether something was taken, here or at the source, and has not been given back."""
        return bool(self._suspended or self._expected)

    async def suspend(self, jail: Tree) -> None:
        """Take the device memory of each process that has some.

        Raises ``DeviceRefused``; ``resume`` gives back what was taken until then.
        """
        if self._cuda is None:
            return
        self.ids = tuple(device.hex() for device in sorted(await self._cuda.free_bytes()))
        self._forget_ended(jail)
        # Of some it may have been taken before, and no device had room for it since.
        taken = {one.pid for one in self._suspended}
        for process in jail.processes():
            if process.pid not in taken and await self._cuda.uses_device(process.pid):
                self._suspended.append(await self._cuda.suspend(process.pid, LOCK_TIMEOUT_MS))

    def needs(self, jail: Tree) -> tuple[DeviceNeed, ...]:
        """What was taken, by the numbers of the processes inside."""
        inner = {process.pid: process.inner_pid for process in jail.processes()}
        return tuple(
            DeviceNeed(inner[one.pid], {device.hex(): size for device, size in one.needs.items()})
            for one in self._suspended
        )

    def expect(self, needs: tuple[DeviceNeed, ...], pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """The tree was restored from an image in which these had device memory."""
        self._expected = needs
        self._pairs = pairs

    async def resume(self, jail: Tree) -> None:
        """Give back what was taken, here or at the source. Raises ``DeviceRefused``; it can be called again."""
        if self._cuda is None:
            return
        if self._expected:
            outer = {process.inner_pid: process.pid for process in jail.processes()}
            self._suspended = [
                Suspended(outer[need.inner_pid], {bytes.fromhex(device): size for device, size in need.needs.items()})
                for need in self._expected
                if need.inner_pid in outer
            ]
            self._expected = ()
        self._forget_ended(jail)
        while self._suspended:
            await self._cuda.resume(self._suspended[0], self._pairs)
            self._suspended.pop(0)
        self._pairs = ()

    def _forget_ended(self, jail: Tree) -> None:
        """One that has ended meanwhile needs nothing, and nobody is to wait for it."""
        there = {process.pid for process in jail.processes()}
        self._suspended = [one for one in self._suspended if one.pid in there]


def placed(devices: Iterable[DeviceNeed], onto: Sequence[bytes]) -> dict[bytes, bytes]:
    """Which device takes the place of which, where processes come to a node on which they have these.

    Raises ``DeviceRefused`` when they had more.
    """
    used = sorted({bytes.fromhex(name) for process in devices for name in process.needs})
    if len(used) > len(onto):
        raise DeviceRefused(f"the processes used {len(used)} devices, and the session has {len(onto)} here.")
    # Those that are here already keep their place.
    left = [device for device in onto if device not in used]
    return {old: old if old in onto else left.pop(0) for old in used}


async def pairs_for(
    manifest: ImageManifest, cuda: CudaHelper, wanted: Mapping[bytes, bytes]
) -> list[tuple[bytes, bytes]]:
    """Which device takes the place of which: none where they are the same. Raises ``DeviceRefused``."""
    if not manifest.devices:
        return []
    old = [bytes.fromhex(device) for device in manifest.device_ids]
    here = await cuda.free_bytes()
    pairs = pair_up(old, sorted(here), wanted)
    # Refused here, before anything is built up, rather than when the session is to go on.
    needed: dict[bytes, int] = {}
    for process in manifest.devices:
        for name, size in process.needs.items():
            new = dict(pairs)[bytes.fromhex(name)]
            needed[new] = needed.get(new, 0) + size
    for device, size in needed.items():
        if here[device] < size:
            raise DeviceRefused(f"device {device.hex()} has {here[device]} bytes free, the image needs {size}.")
    return [] if all(before == after for before, after in pairs) else pairs
