"""Use of devices, as a real service measures it."""

from __future__ import annotations

import time

from jupyter_gpuaas.model import SessionState
from tests.conftest import GpuaasHome
from tests.service import eventually, running_service


async def test_usage_is_counted_by_session_and_user_and_survives_a_restart(gpuaas_home: GpuaasHome) -> None:
    begun_s = time.time()
    async with running_service(gpuaas_home.path, end_sessions=False, devices="cpu:2") as service:
        mine = (await service.admin.create_session("mine", wait_s=30)).session
        async with service.client("ann") as ann:
            hers = (await ann.create_session("hers", wait_s=30)).session

            async def counted() -> bool:
                return (await ann.session(hers.id)).device_seconds > 0.05

            await eventually(counted)
            usage = await ann.usage()
            assert [(each.session_id, each.name, each.owner, each.devices) for each in usage.sessions] == [
                (hers.id, "hers", "ann", 1)
            ]
            assert [each.user for each in usage.users] == ["ann"]
            await ann.park(hers.id)
            assert (await ann.session(hers.id)).session.state is SessionState.PARKED

            async def given_back() -> bool:
                lease = (await ann.session(hers.id)).session.lease
                return lease is None or not lease.device_ids  # its process may stay on the node, without its device

            await eventually(given_back)
            parked = (await ann.session(hers.id)).device_seconds
        before = (await service.admin.session(mine.id)).device_seconds
        assert before > 0
    async with running_service(gpuaas_home.path, devices="cpu:2") as service:
        after = await service.admin.session(mine.id)
        assert after.device_seconds > before
        assert (await service.admin.session(hers.id)).device_seconds == parked
        await service.admin.release(mine.id)
        ended = {each.session_id: each for each in (await service.admin.usage()).sessions}
        assert ended[mine.id].devices == 0
        assert ended[mine.id].device_seconds > before
        assert ended[hers.id].name == "hers"
        everything = sum(each.device_seconds for each in ended.values())
        assert everything <= 2 * (time.time() - begun_s)
        assert (await service.admin.usage(from_s=time.time() + 60)).sessions == ()
