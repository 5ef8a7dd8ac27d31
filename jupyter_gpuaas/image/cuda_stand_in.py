"""A stand-in for the driver's library: the same calls through the same argument blocks, and the same refusals.

For tests, of this package and of who uses it, on machines without a device. It keeps the state machine, the memory of
its devices, and work that does not end.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import msgspec

from ..errors import InvalidTransition
from .cuda import ARGS_BYTES, ILLEGAL_STATE, NOT_READY, GpuPair, LockArgs, RestoreArgs
from .cuda_states import Action, ProcessState, step

OUT_OF_MEMORY, INVALID_VALUE, NOT_INITIALIZED = 2, 1, 3
_CALL = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p)


class StandInProcess(msgspec.Struct):
    """One process as the driver sees it."""

    #: UUID of a device -> bytes that it holds there, or needs there when it is checkpointed.
    memory: dict[bytes, int]
    state: ProcessState = ProcessState.RUNNING
    #: Device work that never ends: it cannot be locked.
    busy: bool = False
    #: ``checkpoint`` is refused, as with managed memory.
    unsupported: bool = False


class StandInLibrary:
    """What ``ctypes.CDLL`` would give. ``devices``: UUID -> total bytes."""

    def __init__(self, devices: dict[bytes, int], processes: dict[int, StandInProcess]) -> None:
        self.devices = devices
        self.processes = processes
        self.initialized = False
        self._lock = threading.Lock()
        self.cuInit = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint)(self._init)
        self.cuCheckpointProcessGetRestoreThreadId = _CALL(self._restore_thread)
        self.cuCheckpointProcessGetState = _CALL(self._get_state)
        self.cuCheckpointProcessLock = _CALL(self._on(Action.LOCK))
        self.cuCheckpointProcessCheckpoint = _CALL(self._on(Action.CHECKPOINT))
        self.cuCheckpointProcessRestore = _CALL(self._on(Action.RESTORE))
        self.cuCheckpointProcessUnlock = _CALL(self._on(Action.UNLOCK))

    # -- DeviceMeter -------------------------------------------------------------------------------------------

    def used_bytes(self, pid: int) -> dict[bytes, int]:
        process = self.processes.get(pid)
        return dict(process.memory) if process is not None and process.state is not ProcessState.CHECKPOINTED else {}

    def free_bytes(self) -> dict[bytes, int]:
        free = dict(self.devices)
        for pid in self.processes:
            for device, held_bytes in self.used_bytes(pid).items():
                free[device] -= held_bytes
        return free

    # -- the calls ---------------------------------------------------------------------------------------------

    def _init(self, flags: int) -> int:
        self.initialized = True
        return 0

    def _restore_thread(self, pid: int, out: Any) -> int:
        if pid not in self.processes:
            return INVALID_VALUE
        ctypes.cast(out, ctypes.POINTER(ctypes.c_int))[0] = pid
        return 0

    def _get_state(self, pid: int, out: Any) -> int:
        if not self.initialized:
            return NOT_INITIALIZED
        if pid not in self.processes:
            return INVALID_VALUE
        ctypes.cast(out, ctypes.POINTER(ctypes.c_int))[0] = int(self.processes[pid].state)
        return 0

    def _on(self, action: Action) -> Any:
        def call(pid: int, arguments: Any) -> int:
            with self._lock:
                return self._act(action, pid, arguments)

        return call

    def _act(self, action: Action, pid: int, arguments: Any) -> int:
        if not self.initialized:
            return NOT_INITIALIZED
        process = self.processes.get(pid)
        if process is None:
            return INVALID_VALUE
        try:
            after = step(process.state, action)
        except InvalidTransition:
            return ILLEGAL_STATE
        if arguments and any(self._reserved(action, arguments)):
            return INVALID_VALUE
        if action is Action.LOCK and process.busy:
            waits = ctypes.cast(arguments, ctypes.POINTER(LockArgs))[0].timeout_ms if arguments else 0
            # Without a bound the real driver would wait for ever; this one says so.
            return NOT_READY if waits else INVALID_VALUE
        if action is Action.CHECKPOINT and process.unsupported:
            return 801
        if action is Action.RESTORE:
            return self._restore(process, arguments)
        process.state = after
        return 0

    def _restore(self, process: StandInProcess, arguments: Any) -> int:
        mapping: dict[bytes, bytes] = {}
        if arguments:
            told = ctypes.cast(arguments, ctypes.POINTER(RestoreArgs))[0]
            pairs = ctypes.cast(told.pairs, ctypes.POINTER(GpuPair * told.count))[0] if told.count else ()
            mapping = {bytes(pair.old): bytes(pair.new) for pair in pairs}
        # Every device, or none.
        if mapping and (not set(process.memory) <= set(mapping) or len(mapping) != len(self.devices)):
            return INVALID_VALUE
        needs = {mapping.get(device, device): size for device, size in process.memory.items()}
        if not set(needs) <= set(self.devices):
            return INVALID_VALUE
        free = self.free_bytes()
        if any(free[device] < size for device, size in needs.items()):
            process.state = ProcessState.FAILED
            return OUT_OF_MEMORY
        process.memory = needs
        process.state = ProcessState.LOCKED
        return 0

    @staticmethod
    def _reserved(action: Action, arguments: Any) -> bytes:
        used = {Action.LOCK: 4, Action.RESTORE: 12}.get(action, 0)
        return ctypes.string_at(arguments, ARGS_BYTES)[used:]
