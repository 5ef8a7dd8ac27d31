"""Which devices a node offers."""

from __future__ import annotations

import pytest

from jupyter_gpuaas.model import CUDA, Device
from jupyter_gpuaas.node import devices


def test_nodes_of_one_machine_share_its_gpus_out(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = tuple(Device(f"cuda:{index}", CUDA, "GPU", 1 << 30, f"GPU-{index}") for index in range(3))
    monkeypatch.setattr(devices, "_cuda_devices", lambda: gpus)
    found = [devices.find_devices("auto", 1 << 20, 4, number) for number in range(4)]
    assert [[device.id for device in each] for each in found] == [["cuda:0"], ["cuda:1"], ["cuda:2"], ["cpu:0"]]
    assert devices.find_devices("auto", 0) == gpus
    assert [device.id for device in devices.find_devices("auto", 0, 2, 0)] == ["cuda:0", "cuda:2"]
