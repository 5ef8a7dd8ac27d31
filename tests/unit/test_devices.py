"""Which devices a node offers."""

from __future__ import annotations

import pytest

from jupyter_gpuaas.errors import SettingError
from jupyter_gpuaas.model import CUDA, Device
from jupyter_gpuaas.node import devices


def test_nodes_of_one_machine_share_its_gpus_out(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = tuple(Device(f"cuda:{index}", CUDA, "GPU", 1 << 30, f"GPU-{index}") for index in range(3))
    monkeypatch.setattr(devices, "_cuda_devices", lambda: gpus)
    found = [devices.find_devices("auto", 1 << 20, 4, number) for number in range(4)]
    assert [[device.id for device in each] for each in found] == [["cuda:0"], ["cuda:1"], ["cuda:2"], ["cpu:0"]]
    assert devices.find_devices("auto", 0) == gpus
    assert [device.id for device in devices.find_devices("auto", 0, 2, 0)] == ["cuda:0", "cuda:2"]


@pytest.mark.parametrize(("choice", "why"), [("cpu:0", "1 to 512"), ("cpu:513", "1 to 512"), ("cpu:two", "'cpu:2'")])
def test_devices_that_cannot_be_are_refused_with_what_can(choice: str, why: str) -> None:
    with pytest.raises(SettingError, match=f"^setting devices: '{choice}'.*{why}"):
        devices.find_devices(choice, 1 << 20)


def test_a_node_has_as_many_cpu_devices_as_are_asked_for() -> None:
    assert [device.id for device in devices.find_devices("cpu:512", 1 << 20)] == [f"cpu:{n}" for n in range(512)]
