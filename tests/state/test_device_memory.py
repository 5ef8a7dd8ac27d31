"""Device memory behind one contract, and its way through a pickle."""

from __future__ import annotations

from typing import Any

import pytest

from jupyter_gpuaas.state.device.copies import HostMemory, TorchMemory
from jupyter_gpuaas.state.device.memory import CONTENTS, HostContent, Place, contents_of, make, memories, out_of_band
from jupyter_gpuaas.state.pickler import dump, load, under
from jupyter_gpuaas.state.rules.registry import Context, NotRestorable, Restoring, rule

from .device_contract import OutOfMemory, SlowDevice, SlowMemory, check_device_memory


def test_host_memory() -> None:
    check_device_memory(lambda size: HostMemory(bytearray(size)))


def test_torch_memory_on_the_host() -> None:
    torch = pytest.importorskip("torch")
    check_device_memory(lambda size: TorchMemory(torch.UntypedStorage(size)))


def test_slow_device() -> None:
    device = SlowDevice(1 << 20)
    check_device_memory(device.allocate)
    assert device.most_under_way >= len(device.slots)
    assert device.under_way == 0
    with pytest.raises(OutOfMemory):
        device.allocate(1 << 20)


@pytest.mark.parametrize("to_host", [True, False])
def test_broken_link_leaves_nothing_under_way(to_host: bool) -> None:
    device = SlowDevice(1 << 20)
    memory = device.allocate(1 << 14)
    device.fail_after = 1 << 12
    with pytest.raises(OSError, match="link"):
        if to_host:
            memory.read([(0, 1 << 14)], [memoryview(bytearray(1 << 14))])
        else:
            memory.write([(0, 1 << 14)], [bytes(1 << 14)])
    assert device.under_way == 0
    device.fail_after = None
    memory.write([(0, 3)], [b"abc"])
    assert memory.data[:3] == b"abc"


def test_span_and_target_of_other_lengths_are_refused() -> None:
    memory = SlowDevice(1 << 20).allocate(16)
    with pytest.raises(ValueError, match="bytes"):
        memory.read([(0, 8)], [memoryview(bytearray(7))])


# -- through a pickle --------------------------------------------------------------------------------------


class SlowArray:
    """A view of memory of a slow device, as a library would have it."""

    def __init__(self, memory: SlowMemory, offset: int, length: int) -> None:
        self.memory, self.offset, self.length = memory, offset, length

    def __getitem__(self, index: int) -> int:
        return self.memory.data[self.offset + index]

    def __setitem__(self, index: int, value: int) -> None:
        self.memory.data[self.offset + index] = value


DEVICES = {"slow:0": SlowDevice(1 << 20), "slow:1": SlowDevice(1 << 20), "slow:2": SlowDevice(10)}


@rule(f"{SlowArray.__module__}.SlowArray")
def reduce_slow(array: SlowArray, context: Context) -> Any:
    return rebuild_slow, (out_of_band(array.memory, context), array.memory.device, array.offset, array.length)


def rebuild_slow(place: Place, device: str, offset: int, length: int) -> SlowArray:
    _, memory = make(place, device, lambda where, size: DEVICES[where].allocate(size), lambda owner: owner)
    return SlowArray(memory, place.offset + offset, length)


def _through(values: tuple[Any, ...], device_map: dict[str, str] | None = None) -> tuple[Any, Restoring]:
    context = Context({})
    pickled = dump(values, context)
    now = Restoring({}, device_map)
    now.memo[CONTENTS] = contents_of(context)
    assert len(memories(context)) == len(now.memo[CONTENTS])
    with under(now):
        return load(bytes(pickled.stream), pickled.buffers), now


def test_views_share_device_memory_again() -> None:
    memory = DEVICES["slow:0"].allocate(100)
    memory.data[:] = bytes(range(100))
    whole, part, other = SlowArray(memory, 0, 100), SlowArray(memory, 40, 5), SlowArray(memory, 50, 5)
    (whole, part, other), _ = _through((whole, part, other), {"slow": "slow:1"})
    assert part[0] == 40 and other[0] == 50
    part[0] = 7
    assert whole[40] == 7 and memory.data[40] == 40
    assert part.memory is whole.memory is other.memory and part.memory.owner is DEVICES["slow:1"]


def test_too_small_a_device_says_so() -> None:
    with pytest.raises(OutOfMemory):
        _through((SlowArray(DEVICES["slow:0"].allocate(100), 0, 1),), {"slow:0": "slow:2"})


def test_places() -> None:
    class Stretch(HostMemory):
        device = "slow:0"

    context = Context({})
    assert out_of_band(Stretch(bytearray(100), 1000), context) == Place(0)
    assert out_of_band(Stretch(bytearray(100), 1000), context) == Place(0)
    assert out_of_band(Stretch(bytearray(10), 1090), context) == Place(0, 90)
    assert out_of_band(Stretch(bytearray(10), 1100), context) == Place(1)
    with pytest.raises(NotRestorable, match="a part of it"):
        out_of_band(Stretch(bytearray(10), 1095), context)
    with pytest.raises(NotRestorable, match="a part of it"):
        out_of_band(Stretch(bytearray(300), 900), context)


def test_content_of_the_wrong_size_is_refused() -> None:
    now = Restoring({})
    now.memo[CONTENTS] = [HostContent(b"12345")]
    with under(now), pytest.raises(ValueError, match="bytes"):
        make(Place(0), "slow:0", lambda where, size: DEVICES[where].allocate(4), lambda owner: owner)


def test_what_lay_on_a_gpu_comes_back_to_the_cpu() -> None:
    torch, numpy = pytest.importorskip("torch"), pytest.importorskip("numpy")
    from jupyter_gpuaas.state.device.arrays import cupy_view
    from jupyter_gpuaas.state.device.storages import device_storage
    from jupyter_gpuaas.state.device.tensors import as_tensor

    now = Restoring({}, {"cuda": "cpu"})
    data = numpy.arange(8, dtype="f4")
    now.memo[CONTENTS] = [HostContent(data), HostContent(data)]
    with under(now):
        whole = as_tensor(device_storage(Place(0), 32, "cuda:0"), torch.float32, 0, (8,), (1,))
        part = as_tensor(device_storage(Place(0, 8), 16, "cuda:0"), torch.float32, 1, (3,), (1,))
        array = cupy_view(Place(0, 4), "cuda:0", numpy.dtype("f4"), (2,), (8,), 4, None)
        first = cupy_view(Place(1), "cuda:1", numpy.dtype("f4"), (8,), (4,), 0, None)
        later = as_tensor(device_storage(Place(1, 4), 8, "cuda:1"), torch.float32, 0, (2,), (1,))
    assert part.tolist() == [3, 4, 5] and array.tolist() == [2, 4] and later.tolist() == [1, 2]
    part[0] = 9
    array[1] = 7
    later[0] = 5
    assert whole.tolist() == [0, 1, 2, 9, 7, 5, 6, 7] and first[1] == 5
    assert any("numpy" in remark for remark in now.remarks)
