"""CUDA's checkpoint calls: device memory of a process goes into its host memory and back, by the driver.

The process need not cooperate. While it is suspended it holds no device, so CRIU can dump it; restored on a like node
and told to go on, it takes its device memory back, there or on another device of the same kind.

The library is called through ctypes: it needs no package, and whoever has a driver has the library. What was tried on a
real device, and what was not: docs/gpus.md.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from ..errors import DeviceRefused, ImageUnavailable, InvalidTransition
from .cuda_states import Action, ProcessState, way

LIBRARY = "libcuda.so.1"
#: All six: some releases of CUDA's own Python packages lack ``Restore``, and would suspend what they cannot resume.
SYMBOLS = (
    "cuCheckpointProcessGetRestoreThreadId",
    "cuCheckpointProcessGetState",
    "cuCheckpointProcessLock",
    "cuCheckpointProcessCheckpoint",
    "cuCheckpointProcessRestore",
    "cuCheckpointProcessUnlock",
)
#: CUresult: the values that say something to a user.
RESULTS = {
    1: "INVALID_VALUE", 2: "OUT_OF_MEMORY", 3: "NOT_INITIALIZED", 100: "NO_DEVICE", 304: "OPERATING_SYSTEM",
    401: "ILLEGAL_STATE", 600: "NOT_READY", 801: "NOT_SUPPORTED", 999: "UNKNOWN",
}  # fmt: skip
NOT_READY = 600
ILLEGAL_STATE = 401
#: A process that cannot take its memory back stays unusable (NVIDIA/cuda-checkpoint#44), so some is to be spare.
SPARE = 1.05
UUID_BYTES = 16
ARGS_BYTES = 64


class LockArgs(ctypes.Structure):
    """CUcheckpointLockArgs. All argument blocks are 64 bytes; what is reserved must be zero."""

    _fields_ = [("timeout_ms", ctypes.c_uint), ("reserved", ctypes.c_ubyte * (ARGS_BYTES - 4))]


class GpuPair(ctypes.Structure):
    """CUcheckpointGpuPair."""

    _fields_ = [("old", ctypes.c_ubyte * UUID_BYTES), ("new", ctypes.c_ubyte * UUID_BYTES)]


class RestoreArgs(ctypes.Structure):
    """CUcheckpointRestoreArgs."""

    _fields_ = [
        ("pairs", ctypes.POINTER(GpuPair)),
        ("count", ctypes.c_uint),
        ("reserved", ctypes.c_ubyte * (ARGS_BYTES - ctypes.sizeof(ctypes.c_void_p) - 4)),
    ]


class EmptyArgs(ctypes.Structure):
    """CUcheckpointCheckpointArgs and CUcheckpointUnlockArgs."""

    _fields_ = [("reserved", ctypes.c_ubyte * ARGS_BYTES)]


Pairs = Sequence[tuple[bytes, bytes]]


class CudaDriver(Protocol):
    """What the checkpoint calls do. Methods block and raise ``DeviceRefused``, with the ``CUresult`` in ``code``."""

    def state(self, pid: int) -> ProcessState:
        """Refused for a process that does not use CUDA."""

    def lock(self, pid: int, timeout_ms: int) -> None:
        """Wait until the work that was submitted has ended. NOT_READY when the time is over: it runs on."""

    def checkpoint(self, pid: int) -> None: ...

    def restore(self, pid: int, pairs: Pairs = ()) -> None:
        """Parameters: pairs -- old and new UUID of *every* device of the machine, or none at all."""

    def unlock(self, pid: int) -> None: ...


class DeviceMeter(Protocol):
    """What is known of device memory, by UUID."""

    def used_bytes(self, pid: int) -> dict[bytes, int]: ...

    def free_bytes(self) -> dict[bytes, int]: ...


class Suspended(msgspec.Struct, frozen=True):
    """A process whose device memory is in its host memory; what each device must have free for it to go on."""

    pid: int
    needs: dict[bytes, int]


class CudaLibrary:
    """``CudaDriver`` of a loaded library."""

    def __init__(self, library: Any) -> None:
        lacking = [name for name in SYMBOLS if not hasattr(library, name)]
        if lacking:
            raise ImageUnavailable(
                f"the CUDA driver lacks {', '.join(lacking)}.", hint="Process images of GPU sessions need driver 570."
            )
        self._library = library
        self._call("cuInit", ctypes.c_uint(0))

    def state(self, pid: int) -> ProcessState:
        found = ctypes.c_int()
        self._call("cuCheckpointProcessGetState", ctypes.c_int(pid), ctypes.byref(found))
        # Later drivers have states in between, for a call that another program has begun.
        try:
            return ProcessState(found.value)
        except ValueError:
            raise DeviceRefused(f"process {pid} is in a state {found.value} that is unknown here.") from None

    def lock(self, pid: int, timeout_ms: int) -> None:
        self._call("cuCheckpointProcessLock", ctypes.c_int(pid), ctypes.byref(LockArgs(timeout_ms=timeout_ms)))

    def checkpoint(self, pid: int) -> None:
        self._call("cuCheckpointProcessCheckpoint", ctypes.c_int(pid), ctypes.byref(EmptyArgs()))

    def restore(self, pid: int, pairs: Pairs = ()) -> None:
        array = (GpuPair * len(pairs))()
        for at, (old, new) in enumerate(pairs):
            array[at].old[:] = old
            array[at].new[:] = new
        arguments = RestoreArgs(count=len(pairs))
        if pairs:
            arguments.pairs = ctypes.cast(array, ctypes.POINTER(GpuPair))
        self._call("cuCheckpointProcessRestore", ctypes.c_int(pid), ctypes.byref(arguments))

    def unlock(self, pid: int) -> None:
        self._call("cuCheckpointProcessUnlock", ctypes.c_int(pid), ctypes.byref(EmptyArgs()))

    def _call(self, name: str, *arguments: Any) -> None:
        result = getattr(self._library, name)(*arguments)
        if result != 0:
            word = RESULTS.get(result, "")
            raise DeviceRefused(f"{name}: the CUDA driver answers {result} {word}".rstrip() + ".", code=result)


def load_driver() -> CudaLibrary:
    """The driver of this machine. Raises ``ImageUnavailable`` with the reason."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise ImageUnavailable(f"there is no CUDA driver: {error}.") from None
    try:
        return CudaLibrary(library)
    except DeviceRefused as error:
        raise ImageUnavailable(error.message) from error


def suspend(driver: CudaDriver, meter: DeviceMeter, pid: int, *, timeout_ms: int, host_free_bytes: int) -> Suspended:
    """Take a process's device memory into its host memory.

    Raises
    ------
    DeviceRefused
        The process runs on, unless the driver says that it has failed.
    """
    needs = meter.used_bytes(pid)
    device_bytes = sum(needs.values())
    if device_bytes * SPARE > host_free_bytes:
        raise DeviceRefused(
            f"process {pid} has {device_bytes} bytes on devices, "
            f"and the machine only {host_free_bytes} bytes of memory left."
        )
    try:
        for action in _way(driver, pid, ProcessState.CHECKPOINTED):
            if action is Action.LOCK:
                driver.lock(pid, timeout_ms)
            else:
                driver.checkpoint(pid)
    except DeviceRefused as error:
        # Refused while it was locked: unlocked, it goes on as before.
        with contextlib.suppress(DeviceRefused):
            if driver.state(pid) is ProcessState.LOCKED:
                driver.unlock(pid)
        if error.code == NOT_READY:
            raise DeviceRefused(
                f"the device work of process {pid} did not end within {timeout_ms} ms.", code=error.code
            ) from error
        raise
    return Suspended(pid, needs)


def resume(driver: CudaDriver, meter: DeviceMeter, suspended: Suspended, pairs: Pairs = ()) -> None:
    """Give a process its device memory back, and let it go on.

    Raises
    ------
    DeviceRefused
        Before anything was tried when a device has too little room: then it can be tried again later.
    """
    actions = _way(driver, suspended.pid, ProcessState.RUNNING)
    if Action.RESTORE in actions:
        check_room(suspended.needs, meter.free_bytes(), dict(pairs))
    for action in actions:
        if action is Action.RESTORE:
            driver.restore(suspended.pid, pairs)
        else:
            driver.unlock(suspended.pid)


def check_room(needs: Mapping[bytes, int], free: Mapping[bytes, int], mapping: Mapping[bytes, bytes]) -> None:
    """Raise ``DeviceRefused`` where a device has less free than is needed, and some to spare."""
    for old, needed_bytes in needs.items():
        new = mapping.get(old, old)
        if free.get(new, 0) < needed_bytes * SPARE:
            raise DeviceRefused(
                f"device {new.hex()} has {free.get(new, 0)} bytes free; {needed_bytes} and some to spare are needed."
            )


def pair_up(old: Sequence[bytes], new: Sequence[bytes], wanted: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """A complete mapping, as the driver demands it: each of ``old`` to one of ``new``, ``wanted`` first.

    Raises ``DeviceRefused`` when there are not as many devices here as there.
    """
    if len(old) > len(new):
        raise DeviceRefused(f"the processes saw {len(old)} devices, and this node has {len(new)}.")
    chosen = dict(wanted)
    left = [device for device in new if device not in chosen.values()]
    for device in old:
        if device not in chosen:
            same = device in left
            chosen[device] = left.pop(left.index(device) if same else 0)
    return [(device, chosen[device]) for device in old]


def _way(driver: CudaDriver, pid: int, goal: ProcessState) -> list[Action]:
    state = driver.state(pid)
    try:
        return way(state, goal)
    except InvalidTransition:
        raise DeviceRefused(f"process {pid} is {state.name} for the CUDA driver.", code=ILLEGAL_STATE) from None
