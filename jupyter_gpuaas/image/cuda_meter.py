"""Device memory as NVML tells it, and host memory as Linux does."""

from __future__ import annotations

import uuid
from typing import Any

import psutil
import pynvml

from ..errors import ImageUnavailable


class NvmlMeter:
    """``DeviceMeter`` of this machine. Raises ``ImageUnavailable`` where NVML is not there."""

    def __init__(self) -> None:
        try:
            pynvml.nvmlInit()
            count = pynvml.nvmlDeviceGetCount()
            handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
            self._devices = {device_id(pynvml.nvmlDeviceGetUUID(handle)): handle for handle in handles}
        except pynvml.NVMLError as error:
            raise ImageUnavailable(f"NVML does not answer: {error}.") from None

    def used_bytes(self, pid: int) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        for device, handle in self._devices.items():
            listed: list[Any] = [
                *pynvml.nvmlDeviceGetComputeRunningProcesses(handle),
                *pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle),
            ]
            for process in listed:
                if process.pid == pid:
                    found[device] = max(found.get(device, 0), int(process.usedGpuMemory or 0))
        return found

    def free_bytes(self) -> dict[bytes, int]:
        return {device: int(pynvml.nvmlDeviceGetMemoryInfo(handle).free) for device, handle in self._devices.items()}


def device_id(name: str | bytes) -> bytes:
    """The 16 bytes that the driver calls a device by, from NVML's ``GPU-...``."""
    text = name.decode() if isinstance(name, bytes) else name
    return uuid.UUID(text.partition("-")[2]).bytes


def host_free_bytes() -> int:
    """Memory that can be taken without pushing other things out."""
    return int(psutil.virtual_memory().available)
