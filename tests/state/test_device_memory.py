"""Device memory behind one contract, and its way through a pickle."""

from __future__ import annotations

import random
from typing import Any

import pytest

from jupyter_gpuaas.state import Checkpointer
from jupyter_gpuaas.state.device.copies import HostMemory, TorchMemory
from jupyter_gpuaas.state.device.digests import by_operations, folded, split, torch_digests, torch_digests_together
from jupyter_gpuaas.state.device.memory import CONTENTS, HostContent, Place, contents_of, make, memories, out_of_band
from jupyter_gpuaas.state.looking import look_at_devices
from jupyter_gpuaas.state.memory import CopyPool, Staged
from jupyter_gpuaas.state.pickler import dump, load, under
from jupyter_gpuaas.state.rules.registry import Context, NotRestorable, Restoring, rule
from jupyter_gpuaas.store import MemoryStore
from jupyter_gpuaas.store.base import CHUNK_BYTES

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


# -- in a capture ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [64 << 20, 5 << 20])
def test_what_is_new_is_copied_before_it_can_change_and_the_rest_is_left(capacity: int) -> None:
    device = SlowDevice(capacity, slot_bytes=1 << 21)
    memories = [device.allocate(3 * CHUNK_BYTES + 77), device.allocate(CHUNK_BYTES)]
    rng = random.Random(0)
    for memory in memories:
        memory.data[:] = rng.randbytes(memory.nbytes)
    was = [bytes(memory.data) for memory in memories]
    first = look_at_devices(memories, [None, None])
    # Copied on the device where that has room, else to the host.
    assert all(isinstance(ref.owner, Staged) is (capacity > 5 << 20) for each in first for ref in each.refs)
    for memory in memories:
        memory.data[:] = bytes(memory.nbytes)
    pool = CopyPool(1 << 26)
    for each, expected in zip(first, was, strict=True):
        assert sum(ref.nbytes for ref in each.refs) == len(expected)
        pool.fetch(each.refs)
        assert b"".join(bytes(ref.memory) for ref in each.refs if ref.memory is not None) == expected
    for memory, content in zip(memories, was, strict=True):
        memory.data[:] = content
    memories[0].data[2 * CHUNK_BYTES] ^= 1
    again = look_at_devices(memories, list(first))
    assert again[1] is first[1]
    assert [new is old for new, old in zip(again[0].refs, first[0].refs, strict=True)] == [True, True, False, True]


@pytest.mark.parametrize("left", [0, 64 << 20])
def test_a_capture_holds_what_was_there_when_it_began(monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    size = 3 * CHUNK_BYTES + 5
    device = SlowDevice(size + left, slot_bytes=1 << 20)
    memory = device.allocate(size)
    memory.data[:] = was = random.Random(2).randbytes(size)
    space: dict[str, Any] = {"a": SlowArray(memory, 5, 10), "number": 1}
    checkpointer = Checkpointer(MemoryStore(), key=b"k" * 32, hidden=False)
    pending = checkpointer.begin(space)
    # Memory of the host is taken only where the device has no room.
    assert (pending.nbytes >= size) is (left == 0)
    memory.data[:] = bytes(size)
    checkpoint = pending.write()
    assert checkpoint.costs.device_bytes == size <= checkpoint.costs.copied_bytes
    memory.data[:] = was
    memory.data[0] ^= 1
    again = checkpointer.begin(space).write()
    assert CHUNK_BYTES <= again.costs.copied_bytes < 2 * CHUNK_BYTES
    monkeypatch.setitem(DEVICES, "slow:0", SlowDevice(1 << 26))
    for taken, expected in ((checkpoint, was), (again, bytes(memory.data))):
        new = checkpointer.restore(taken).namespace["a"]
        assert bytes(new.memory.data) == expected and new[0] == expected[5]


def test_spans_that_lie_apart_travel_together() -> None:
    device = SlowDevice(1 << 20, slot_bytes=1 << 10)
    memory = device.allocate(1 << 14)
    memory.data[:] = random.Random(1).randbytes(memory.nbytes)
    spans = [(7, 100), (107, 3), (5000, 1), (9000, 3000), (0, 0), (12000, 500)]
    targets = [bytearray(length) for _, length in spans]
    memory.read(spans, [memoryview(target) for target in targets])
    assert [bytes(target) for target in targets] == [memory.data[at : at + n] for at, n in spans]
    other = device.allocate(1 << 14)
    other.write(spans, [bytes(target) for target in targets])
    for at, n in spans:
        assert other.data[at : at + n] == memory.data[at : at + n]
    assert other.data[4999] == other.data[5001] == other.data[8999] == other.data[12500] == 0


def test_digests_are_the_same_by_each_library() -> None:
    torch, numpy = pytest.importorskip("torch"), pytest.importorskip("numpy")
    data = numpy.random.default_rng(0).integers(0, 256, 3 * CHUNK_BYTES + 5, dtype=numpy.uint8)
    tensor = torch.from_numpy(data)
    for chunk_bytes in (CHUNK_BYTES, 1 << 12):
        by_numpy = split(folded(by_operations(numpy, data, chunk_bytes, {})).tobytes())
        assert torch_digests(tensor, chunk_bytes) == by_numpy
        parts = [tensor[:CHUNK_BYTES], tensor[CHUNK_BYTES:]]
        assert [d for each in torch_digests_together(parts, chunk_bytes) for d in each] == by_numpy


def test_memories_of_torch_on_one_device_answer_together_and_are_copied_in_one_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = pytest.importorskip("torch")
    from jupyter_gpuaas.state.device import copies, digests

    def on_cuda(size: int) -> TorchMemory:
        memory = TorchMemory(torch.randint(0, 256, (size,), dtype=torch.uint8).untyped_storage())
        memory.device = "cuda:0"
        return memory

    def kernel_for(whole: Any, chunk_bytes: int) -> Any:
        """A kernel that adds to its sums, for memory that is large enough."""
        if whole.numel() < CHUNK_BYTES:
            return None
        return lambda whole, chunk_bytes, sums: sums.add_(by_operations(torch, whole, chunk_bytes, {}))

    storage = torch.UntypedStorage
    taken: list[int] = []
    monkeypatch.setattr(digests, "_kernel_for", kernel_for)
    for name, answer in (("synchronize", None), ("memory_reserved", 0), ("memory_allocated", 0)):
        monkeypatch.setattr(torch.cuda, name, lambda device, answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 27, 1 << 28))
    monkeypatch.setattr(torch, "UntypedStorage", lambda size, device: taken.append(size) or storage(size))
    memories = [on_cuda(3 * CHUNK_BYTES + 5), on_cuda(100), HostMemory(b"12345678"), on_cuda(2 * CHUNK_BYTES)]
    was = [bytes(HostMemory(memory.torch_bytes().numpy()).view) for memory in memories if memory.device != "cpu"]
    expected = [TorchMemory.chunk_digests(m, CHUNK_BYTES) for m in memories if isinstance(m, TorchMemory)]
    found = copies.digests_of(memories, CHUNK_BYTES)
    assert [found[number] for number in (0, 1, 3)] == expected
    assert found[2] == memories[2].chunk_digests(CHUNK_BYTES)
    befores = look_at_devices(memories, [None] * len(memories))
    assert taken == [5 * CHUNK_BYTES + 105]
    for memory in memories:
        if isinstance(memory, TorchMemory):
            memory.torch_bytes().zero_()
    pool = CopyPool(1 << 26)
    for chunked, content in zip([befores[number] for number in (0, 1, 3)], was, strict=True):
        for ref in chunked.refs:
            assert isinstance(ref.owner, Staged)
            ref.owner.memory.device = "cpu"  # type: ignore[misc]  # it lies there, and torch is to copy it so
        pool.fetch(chunked.refs)
        assert b"".join(bytes(ref.memory) for ref in chunked.refs if ref.memory is not None) == content
    again = look_at_devices(memories, befores)
    assert again[2] is befores[2] and again[0] is not befores[0]
