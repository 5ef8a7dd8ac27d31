"""Channels and bundles through the controller, for clients that cannot reach the node."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import msgspec
import psutil
import pytest
from websockets.asyncio.client import connect

from jupyter_gpuaas.client.bundles import get_bundle, put_bundle
from jupyter_gpuaas.client.embedded import find_running, read_service_file
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.client.session import RemoteSession
from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.errors import GpuaasError
from jupyter_gpuaas.model import SessionView
from jupyter_gpuaas.state.bundle import FileHead, assemble, read_head
from tests.conftest import GpuaasHome
from tests.roaming import Outputs
from tests.service import Service, running_service

MIB = 1024**2


@pytest.fixture
async def service(gpuaas_home: GpuaasHome) -> AsyncIterator[Service]:
    async with running_service(gpuaas_home.path) as running:
        yield running


@pytest.fixture
async def view(service: Service) -> SessionView:
    return await service.admin.create_session("relayed", wait_s=30)


def relayed(service: Service, view: SessionView) -> RemoteSession:
    settings = msgspec.structs.replace(service.controller.settings, relay="always")
    return RemoteSession(service.admin, view.session.id, settings)


async def run(session: RemoteSession, code: str) -> str:
    seen = Outputs()
    reply = await session.request("execute_request", {"code": code, "silent": False}, listener=seen)
    assert reply["status"] == "ok", reply
    return seen.text


async def test_relayed_cell_gives_every_line_in_order(service: Service, view: SessionView) -> None:
    session = relayed(service, view)
    await session.open(view.channel)
    text = await run(session, "for n in range(3000): print(n, flush=True)")
    assert text.split() == [str(n) for n in range(3000)]
    await session.close()


async def test_relayed_messages_of_many_frames_arrive_whole_both_ways(service: Service, view: SessionView) -> None:
    size = 3 * service.controller.settings.frame_bytes
    session = relayed(service, view)
    await session.open(view.channel)
    assert await run(session, f"value = '{'y' * size}'; print(len(value))") == f"{size}\n"
    assert await run(session, "print(value)") == "y" * size + "\n"
    await session.close()


async def test_relayed_client_that_goes_away_is_seen_by_the_node(service: Service, view: SessionView) -> None:
    session = relayed(service, view)
    await session.open(view.channel)
    live = service.controller.sessions.get(view.session.id)
    assert live is not None
    loop = asyncio.get_running_loop()
    end = loop.time() + 20
    while live.session.clients != 1 and loop.time() < end:
        await asyncio.sleep(0.02)
    assert live.session.clients == 1
    await session.close()
    while live.session.clients != 0 and loop.time() < end:
        await asyncio.sleep(0.02)
    assert live.session.clients == 0
    assert live.session.unattended_since_s > 0


async def test_relayed_bundle_arrives_unchanged_both_ways(service: Service, view: SessionView) -> None:
    assert view.channel is not None
    contents = [os.urandom(20 * MIB), b"", os.urandom(7)]
    sent = assemble((), [(FileHead(str(number), len(one), 0, ""), one) for number, one in enumerate(contents)])
    await put_bundle(view.channel, "b1", sent, token=service.token, relay="always")
    got = await get_bundle(view.channel, "b1", token=service.token, relay="always")
    assert [bytes(each) for each in got] == [bytes(each) for each in sent]
    assert [bytes(got[file.buffer]) for file in read_head(got).files] == contents


async def test_relayed_bundle_that_is_not_there_is_refused_with_a_reason(service: Service, view: SessionView) -> None:
    assert view.channel is not None
    with pytest.raises(GpuaasError) as refused:
        await get_bundle(view.channel, "nothing", token=service.token, relay="always")
    assert refused.value.message


@pytest.mark.long
async def test_client_that_reads_nothing_costs_the_controller_no_memory(gpuaas_home: GpuaasHome) -> None:
    gpuaas_home.cli("up", "--detach", "--devices", "cpu:1")
    endpoint, written = await find_running(gpuaas_home.path), read_service_file(gpuaas_home.path)
    assert endpoint is not None and written is not None
    controller = psutil.Process(written.pid)
    async with ServiceClient(endpoint.url, endpoint.token) as client:
        view = await client.create_session("stalled", wait_s=30)
        assert view.channel is not None
        session = RemoteSession(client, view.session.id, Settings(relay="never"))
        await session.open(view.channel)
        before = controller.memory_info().rss
        async with connect(
            f"{view.channel.relay_url}?client=sleeper&after=0",
            additional_headers={"Authorization": f"Bearer {endpoint.token}"},
            proxy=None,
            max_queue=1,
            max_size=None,
            ping_interval=None,
        ):
            for _ in range(10):
                assert len(await run(session, f"print('z' * {20 * MIB})")) == 20 * MIB + 1
            grown = controller.memory_info().rss - before
        await session.close()
    assert grown < 64 * MIB
