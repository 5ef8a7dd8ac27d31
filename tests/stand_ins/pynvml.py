"""NVML of the made-up GPUs of ``gpu_files``: as much of it as the project asks for."""

from __future__ import annotations

from types import SimpleNamespace

import gpu_files


class NVMLError(Exception): ...


def nvmlInit() -> None: ...


def nvmlShutdown() -> None: ...


def nvmlDeviceGetCount() -> int:
    return len(gpu_files.DEVICES)


def nvmlDeviceGetHandleByIndex(index: int) -> bytes:
    return gpu_files.DEVICES[index]


def nvmlDeviceGetHandleByUUID(name: str) -> bytes:
    return next(device for device in gpu_files.DEVICES if gpu_files.name(device) == name)


def nvmlDeviceGetIndex(handle: bytes) -> int:
    return gpu_files.DEVICES.index(handle)


def nvmlDeviceGetName(handle: bytes) -> str:
    return "Stand-in GPU"


def nvmlDeviceGetUUID(handle: bytes) -> str:
    return gpu_files.name(handle)


def nvmlDeviceGetMemoryInfo(handle: bytes) -> SimpleNamespace:
    used = sum(memory.get(handle, 0) for memory in gpu_files.held().values())
    return SimpleNamespace(total=gpu_files.TOTAL_BYTES, used=used, free=gpu_files.TOTAL_BYTES - used)


def nvmlDeviceGetUtilizationRates(handle: bytes) -> SimpleNamespace:
    return SimpleNamespace(gpu=0)


def nvmlDeviceGetComputeRunningProcesses(handle: bytes) -> list[SimpleNamespace]:
    return [
        SimpleNamespace(pid=pid, usedGpuMemory=memory[handle])
        for pid, memory in gpu_files.held().items()
        if handle in memory
    ]


def nvmlDeviceGetGraphicsRunningProcesses(handle: bytes) -> list[SimpleNamespace]:
    return []
