"""Parts of a device through the whole service: two sessions on one, their seconds, and who waits for the whole."""

from __future__ import annotations

import time

import pytest

from jupyter_gpuaas.errors import AllocationError, InvalidRequest
from jupyter_gpuaas.model import NodeView, ResourceRequest
from jupyter_gpuaas.model.words import held
from tests.conftest import GpuaasHome
from tests.roaming import roaming
from tests.service import Service, eventually, running_service

HALF = ResourceRequest(share=0.5)
CAP = "import resource; print(resource.getrlimit(resource.RLIMIT_DATA)[0])"


async def used(service: Service) -> dict[str, dict[str, float]]:
    return {node.id: node.used for node in await service.admin.nodes()}


async def test_two_sessions_share_a_device_and_its_seconds_and_the_whole_waits_for_both(
    gpuaas_home: GpuaasHome,
) -> None:
    begun_s, memory = time.time(), 2 * 1024**3
    settings = {"nodes": 2, "device_memory_bytes": memory, "workdir": "session"}
    async with (
        running_service(gpuaas_home.path, **settings) as service,
        roaming(service, "a", request=HALF) as a,
        roaming(service, "b", request=HALF) as b,
    ):
        # Both on one device, each with half of its memory; the other device stays free.
        first, second = [each.session.lease for each in [await service.admin.session(x.id) for x in (a, b)]]
        assert first is not None and second is not None
        assert (first.node_id, first.device_ids) == (second.node_id, second.device_ids)
        assert held(first) == "0.5 of cpu:0"
        assert [await each.said(CAP) for each in (a, b)] == [str(memory // 2)] * 2
        other = "local-1" if first.node_id == "local-0" else "local-0"
        assert await used(service) == {first.node_id: {"cpu:0": 1.0}, other: {}}
        # One who wants the whole waits for both halves, and nobody passes it for what is left when one has moved away.
        whole = ResourceRequest(node=first.node_id)
        waits = (await service.admin.create_session("waits", request=whole)).session
        assert (await a.migrate(other)).phase == "done"

        async def one_each() -> bool:
            return await used(service) == {first.node_id: {"cpu:0": 0.5}, other: {"cpu:0": 0.5}}

        await eventually(one_each)
        half = ResourceRequest(share=0.5, node=first.node_id)
        late = (await service.admin.create_session("late", request=half)).session

        async def places() -> list[int]:
            return [(await service.admin.session(each.id)).session.queue_place for each in (waits, late)]

        async def in_order() -> bool:
            return await places() == [1, 2]

        await eventually(in_order)
        # What was used: by both halves together not more than there was of the device.
        usage = await service.admin.usage()
        devices = {each.name: each.devices for each in usage.sessions}
        assert devices == {"a": 0.5, "b": 0.5}
        assert 0 < sum(each.device_seconds for each in usage.sessions) <= 2 * (time.time() - begun_s)
        await service.admin.release(b.id)

        async def served() -> bool:
            found = (await service.admin.session(waits.id)).session
            return found.lease is not None and found.lease.share == 1

        await eventually(served)


async def test_part_is_of_one_device_and_counts_as_a_part_of_the_quota(gpuaas_home: GpuaasHome) -> None:
    async with running_service(gpuaas_home.path, devices="cpu:3", devices_per_user=1) as service:
        ann = service.client("ann")
        for request in (ResourceRequest(devices=2, share=0.5), ResourceRequest(share=0.0), ResourceRequest(share=1.5)):
            with pytest.raises((InvalidRequest, AllocationError)):
                await ann.create_session("x", request=request)
        for number in range(2):
            await ann.create_session(f"s{number}", request=HALF)
        third = (await ann.create_session("third", request=ResourceRequest(share=0.25))).session

        async def told() -> bool:
            return "ann holds 1 of 1, and 0.25 more are wanted" in (await ann.session(third.id)).session.cause

        await eventually(told)
        (node,) = await ann.nodes()
        assert isinstance(node, NodeView) and (node.used, node.leased) == ({"cpu:0": 1.0}, ("cpu:0",))
        await ann.close()
