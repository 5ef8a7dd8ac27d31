"""Parts of devices: what has room beside what is held, and who has to go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_gpuaas.lifecycle.room import ATOM, Used, amount, free, hold, opens, room, used_of, who_goes
from jupyter_gpuaas.model import CPU, CUDA, Device, Lease, ResourceRequest
from jupyter_gpuaas.model.session import parts
from jupyter_gpuaas.model.words import held, in_use

GPUS = tuple(Device(f"cuda:{number}", CUDA, "gpu", 1) for number in range(3))
ONE, TWO = ResourceRequest(), ResourceRequest(devices=2)
HALF = ResourceRequest(share=0.5)


def lease(name: str, share: float, *devices: int) -> Lease:
    return Lease(name, name, "n", tuple(f"cuda:{number}" for number in devices), 1, share)


def test_room_a_part_fills_a_device_before_it_opens_another() -> None:
    assert room(HALF, GPUS, {"cuda:1": 0.5}) == ("cuda:1",)
    assert room(HALF, GPUS, {"cuda:1": 0.25, "cuda:2": 0.5}) == ("cuda:2",)
    assert room(HALF, GPUS, {"cuda:1": 0.75}) == ("cuda:0",)
    assert not opens(HALF, ["cuda:1"], {"cuda:1": 0.5}) and opens(HALF, ["cuda:0"], {"cuda:1": 0.5})
    assert not opens(ONE, ["cuda:0"], {})


def test_room_a_whole_device_is_one_of_which_nobody_has_a_part() -> None:
    assert room(ONE, GPUS, {"cuda:0": 0.1}) == ("cuda:1",)
    assert room(TWO, GPUS, {"cuda:0": 0.1, "cuda:1": 0.1}) is None


def test_room_an_accelerator_is_taken_before_a_cpu_that_is_shared_already() -> None:
    assert room(HALF, (*GPUS, Device("cpu:0", CPU, "cpu", 1)), {"cpu:0": 0.5}) == ("cuda:0",)


def test_room_thirds_are_a_whole() -> None:
    used: dict[str, float] = {}
    for _ in range(3):
        third = lease("x", 1 / 3, 0)
        assert room(ResourceRequest(share=1 / 3), GPUS[:1], used) == ("cuda:0",)
        hold(used, third)
    assert room(ResourceRequest(share=0.01), GPUS[:1], used) is None
    for _ in range(3):
        free(used, third)
    assert used == {}


def test_who_goes_not_more_than_needed_though_parts_lie_apart() -> None:
    there = [lease("a", 0.5, 0), lease("b", 0.5, 1), lease("c", 0.5, 1), lease("d", 0.5, 0)]
    used = used_of(there)["n"]
    going = who_goes(ONE, GPUS[:2], used, there, lambda each: each)
    assert going is not None and [each.id for each in going] == ["b", "c"]
    assert [each.id for each in who_goes(HALF, GPUS[:2], used, there, lambda each: each) or ()] == ["a"]
    assert who_goes(TWO, GPUS[:2], used, there[:3], lambda each: each) is None
    assert who_goes(ONE, GPUS, used, there, lambda each: each) == []


leases = st.lists(
    st.builds(lambda share, device: lease("x", share, device), st.sampled_from([0.25, 0.5, 1.0]), st.integers(0, 2)),
    max_size=6,
)
requests = st.sampled_from([0.25, 0.5, 0.75, 1, 2, 3]).map(
    lambda count: ResourceRequest(devices=parts(count)[0], share=parts(count)[1])
)


@given(leases, requests)
def test_who_goes_gives_room_and_needs_each(tried: list[Lease], request: ResourceRequest) -> None:
    there: list[Lease] = []
    for each in tried:
        if used_of([*there, each])["n"][each.device_ids[0]] <= 1 + ATOM:
            there.append(each)
    going = who_goes(request, GPUS, used_of(there).get("n", {}), there, lambda each: each)
    assert going is not None  # all of them always do

    def room_without(gone: list[Lease]) -> bool:
        used: Used = used_of(each for each in there if not any(each is other for other in gone))
        return room(request, GPUS, used.get("n", {})) is not None

    assert room_without(going)
    for number in range(len(going)):
        assert not room_without(going[:number] + going[number + 1 :])


@pytest.mark.parametrize(("said", "meant"), [(1, (1, 1.0)), (3, (3, 1.0)), (0.5, (1, 0.5)), (2.0, (2, 1.0))])
def test_parts_of_a_number(said: float, meant: tuple[int, float]) -> None:
    assert parts(said) == meant
    assert amount(ResourceRequest(devices=meant[0], share=meant[1])) == said


@pytest.mark.parametrize("said", [0.0, -1.0, 1.5, float("inf"), float("nan")])
def test_parts_refuses_what_is_no_number_of_devices(said: float) -> None:
    with pytest.raises(ValueError, match="part of one"):
        parts(said)


def test_words_for_parts() -> None:
    assert held(lease("a", 0.5, 1)) == "0.5 of cuda:1"
    assert held(lease("a", 1.0, 0, 1)) == "cuda:0, cuda:1"
    assert held(lease("a", 0.5)) == "no device"
    assert [in_use(part) for part in (0.0, 0.25, 1.0)] == ["free", "0.25 in use", "in use"]
