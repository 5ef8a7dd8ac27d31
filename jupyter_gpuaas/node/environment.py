"""What a kernel is told of its session and its devices, as environment variables."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec

from ..model import HostSpec


def kernel_environment(spec: HostSpec, node: str, device_labels: list[dict[str, Any]], folder: Path) -> dict[str, str]:
    """What a kernel is told of its session and its devices."""
    devices = spec.lease.device_ids
    cuda = [device["uuid"] or device["id"].partition(":")[2] for device in device_labels if device["kind"] == "cuda"]
    return {
        **spec.env,
        "GPUAAS_SESSION_ID": spec.session_id,
        "GPUAAS_SESSION_NAME": spec.name,
        "GPUAAS_NODE": node,
        "GPUAAS_DEVICES": msgspec.json.encode(device_labels).decode(),
        "CUDA_VISIBLE_DEVICES": ",".join(cuda) if devices else "",
        "GPUAAS_WORK": str(folder),
        "PWD": os.fspath(folder),
    }
