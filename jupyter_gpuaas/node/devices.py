"""The devices of a node, and what they do at this moment."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import psutil

from ..errors import SettingError
from ..model import CPU, CUDA, Device, DeviceSample

GIB = 1024**3
SHARE_OF_MEMORY = 0.8
#: Of a node. Each has a session, which takes tens of megabytes at least.
MOST_CPU_DEVICES = 512


def find_devices(choice: str, cpu_memory_bytes: int, nodes: int = 1, number: int = 0) -> tuple[Device, ...]:
    """The devices that a node offers.

    Parameters
    ----------
    choice
        ``auto``: the machine's CUDA GPUs, or one cpu device where there are none for this node;
        ``cuda:A,B``: these GPUs, by number, UUID or UUID of a MIG slice; ``cpu:N``: N cpu devices.
    cpu_memory_bytes
        Cap of each cpu device; 0 for an equal share of the machine's memory.
    nodes, number
        Nodes that share the machine, and which of them this is: each GPU belongs to one of them.
    """
    if choice == "auto":
        return _cuda_devices()[number % nodes :: nodes] or _cpu_devices(1, cpu_memory_bytes, nodes)
    kind, _, count = choice.partition(":")
    if kind == CUDA and count:
        return _these_cuda_devices(list(dict.fromkeys(each.strip() for each in count.split(","))))
    if kind != CPU or not (count or "1").isdecimal():
        raise SettingError(f"setting devices: {choice!r} is neither 'auto' nor like 'cuda:0,1' or 'cpu:2'.")
    if not 1 <= int(count or "1") <= MOST_CPU_DEVICES:
        raise SettingError(f"setting devices: {choice!r}: a node has 1 to {MOST_CPU_DEVICES} cpu devices.")
    return _cpu_devices(int(count or "1"), cpu_memory_bytes, nodes)


def sample(devices: tuple[Device, ...], used_bytes: Mapping[str, int]) -> list[DeviceSample]:
    """Measure each device; ``used_bytes`` tells what the sessions on cpu devices use."""
    samples = []
    for device in devices:
        if device.kind == CUDA:
            samples.append(_sample_cuda(device))
        else:
            samples.append(DeviceSample(device.id, used_bytes.get(device.id, 0), psutil.cpu_percent() / 100))
    return samples


def _cpu_devices(count: int, memory_bytes: int, nodes: int) -> tuple[Device, ...]:
    each = memory_bytes or int(psutil.virtual_memory().total * SHARE_OF_MEMORY / (count * nodes))
    return tuple(Device(f"cpu:{index}", CPU, f"CPU ({each / GIB:.1f} GiB)", each) for index in range(count))


def _cuda_devices() -> tuple[Device, ...]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return tuple(_cuda_device(f"cuda:{index}", handle) for index, handle in enumerate(handles))
    finally:
        pynvml.nvmlShutdown()


def _these_cuda_devices(names: list[str]) -> tuple[Device, ...]:
    import pynvml

    found = []
    try:
        pynvml.nvmlInit()
        try:
            for name in names:
                if name.isdecimal():
                    found.append(_cuda_device(f"cuda:{name}", pynvml.nvmlDeviceGetHandleByIndex(int(name))))
                    continue
                handle = pynvml.nvmlDeviceGetHandleByUUID(name)
                # A slice has no number of its own.
                number = name if name.startswith("MIG-") else str(pynvml.nvmlDeviceGetIndex(handle))
                found.append(_cuda_device(f"cuda:{number}", handle))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise SettingError(f"setting devices: {', '.join(names)} are not all GPUs of this machine: {error}.") from error
    return tuple(found)


def _cuda_device(name: str, handle: Any) -> Device:
    import pynvml

    return Device(
        name,
        CUDA,
        _text(pynvml.nvmlDeviceGetName(handle)),
        int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        _text(pynvml.nvmlDeviceGetUUID(handle)),
    )


def _sample_cuda(device: Device) -> DeviceSample:
    import pynvml

    with contextlib.suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        try:
            handle = pynvml.nvmlDeviceGetHandleByUUID(device.uuid)
            used = int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
            return DeviceSample(device.id, used, pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
        finally:
            pynvml.nvmlShutdown()
    return DeviceSample(device.id, 0, -1.0)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
