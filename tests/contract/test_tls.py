"""The whole service with TLS on: cells, data and moves, between a client, a controller and two nodes."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from jupyter_gpuaas.cli.authority import Authority
from jupyter_gpuaas.client.bundles import get_bundle, put_bundle
from jupyter_gpuaas.client.embedded import find_running, read_service_file
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.model import SessionState
from jupyter_gpuaas.state.bundle import FileHead, assemble, read_head
from jupyter_gpuaas.wire.tls import Credentials, client_context
from tests.certificates import own_ca
from tests.conftest import GpuaasHome
from tests.fault.session import ProxyRun
from tests.roaming import Roamer, roaming
from tests.service import Service, eventually, running_service


@pytest.fixture
async def service(gpuaas_home: GpuaasHome) -> AsyncIterator[Service]:
    own_ca(gpuaas_home.path)
    async with running_service(gpuaas_home.path, nodes=2, tls="on", workdir="session") as running:
        yield running


@pytest.fixture
async def roamer(service: Service) -> AsyncIterator[Roamer]:
    async with roaming(service, relay="never") as found:
        yield found


async def test_session_runs_and_moves_between_nodes_that_prove_who_they_are(
    service: Service, roamer: Roamer, gpuaas_home: GpuaasHome
) -> None:
    assert service.url.startswith("https:")
    addresses = [service.engine.agent(f"local-{n}").url for n in range(2)]
    assert all(address.startswith("https:") for address in addresses)
    channel = (await service.admin.session(roamer.id)).channel
    assert channel is not None and channel.direct_url.startswith("wss:") and channel.relay_url.startswith("wss:")

    await roamer.run("import numpy; a = numpy.arange(3_000_000); open('note.txt', 'w').write('kept')")
    first = await roamer.node()
    done = await roamer.migrate()
    assert done.phase == "done", done
    assert await roamer.node() != first
    assert await roamer.said("print(int(a.sum()), open('note.txt').read())") == f"{sum(range(3_000_000))} kept"
    # And back, through the hosts' ways that are there by now.
    assert (await roamer.migrate()).phase == "done"
    assert await roamer.said("a[0] = 7; print(int(a[0]))") == "7"

    # Variables, by the node and by the controller.
    info = await roamer.remote.info()
    contents = [os.urandom(5_000_000), b"", os.urandom(7)]
    sent = assemble((), [(FileHead(str(number), len(one), 0, ""), one) for number, one in enumerate(contents)])
    for relay in ("never", "always"):
        await put_bundle(info, "b1", sent, token=service.token, relay=relay, ca=service.admin.ca)
        got = await get_bundle(info, "b1", token=service.token, relay=relay, ca=service.admin.ca)
        assert [bytes(got[file.buffer]) for file in read_head(got).files] == contents

    # A renewed certificate is shown without a restart, and links stay.
    ports = [urlsplit(url).port for url in (service.url, service.engine.agent(await roamer.node()).url)]
    before = [await serial(port, service.admin.ca) for port in ports]
    link = roamer.remote._channel._link
    await asyncio.to_thread(gpuaas_home.cli, "certs", "renew")
    after = [await serial(port, service.admin.ca) for port in ports]
    assert len({*before, *after}) == 2 and before != after
    assert await roamer.said("print(a[1])") == "1"
    assert roamer.remote._channel._link is link
    async with ServiceClient(service.url, service.token, ca=service.admin.ca) as anew:
        assert len(await anew.nodes()) == 2


async def test_relayed_channel_goes_by_tls_all_the_way(service: Service) -> None:
    async with roaming(service, relay="always") as relayed:
        assert await relayed.said("print('x' * 3_000_000)") == "x" * 3_000_000


async def test_link_and_cell_go_on_when_the_agent_dies(service: Service, roamer: Roamer) -> None:
    node = await roamer.node()
    written = service.controller.settings.folder / "nodes" / node / "agent.json"
    agent = psutil.Process(json.loads(written.read_bytes())["pid"])
    running = asyncio.ensure_future(
        roamer.said("import os, time\nwhile not os.path.exists('go'): time.sleep(0.02)\nprint('done')")
    )
    await roamer.until(SessionState.BUSY)
    link = roamer.remote._channel._link
    assert link is not None
    agent.kill()
    await asyncio.to_thread(agent.wait, 30)
    work = service.controller.settings.folder / "nodes" / node / "sessions" / roamer.id / "work"
    (work / "go").touch()
    assert await asyncio.wait_for(running, 60) == "done"
    assert roamer.remote._channel._link is link and not link.closed


async def serial(port: int | None, ca: str) -> str:
    """Of the certificate that is shown at a port of this machine."""
    context = client_context(Credentials(ca=ca))
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown: dict[str, str] = writer.get_extra_info("peercert")
    writer.close()
    return shown["serialNumber"]


def test_notebook_kernel_and_commands_find_the_service_of_their_machine(
    gpuaas_home: GpuaasHome, tmp_path: Path
) -> None:
    gpuaas_home.cli("certs", "init")
    (gpuaas_home.path / "settings.toml").write_text(
        'tls = "on"\nnodes = 2\ndevices = "cpu:1"\nspare_kernels = 0\nworkdir = "session"\n'
    )
    gpuaas_home.cli("up", "--detach")
    written = read_service_file(gpuaas_home.path)
    assert written is not None and written.url.startswith("https://127.0.0.1:")
    assert asyncio.run(find_running(gpuaas_home.path)) is not None
    run = ProxyRun(tmp_path, "notebook", {"GPUAAS_RELAY": "never"})
    try:
        run.ready()
        assert run.run("x = 41")["content"]["status"] == "ok"
        moved = json.loads(gpuaas_home.cli("migrate", "notebook", "--json", timeout_s=120).stdout)
        assert moved["phase"] == "done", moved
        assert run.value("x + 1") == "42"
    finally:
        run.close()
    told = json.loads(gpuaas_home.cli("doctor", "--json").stdout)
    levels = {each["level"] for each in told if each["what"] in ("certificates", "service")}
    assert levels == {"ok"}, told


async def test_service_without_tls_before_has_it_when_it_starts_again(gpuaas_home: GpuaasHome) -> None:
    async with running_service(gpuaas_home.path, end_sessions=False) as before:
        session = (await before.admin.create_session("stays", wait_s=60)).session
    own_ca(gpuaas_home.path)
    async with running_service(gpuaas_home.path, tls="on") as after:
        assert after.engine.agent("local-0").url.startswith("https:")

        async def idle() -> bool:
            return (await after.admin.session(session.id)).session.state == SessionState.IDLE

        await eventually(idle)


async def test_service_with_an_expired_certificate_does_not_start_and_says_why(gpuaas_home: GpuaasHome) -> None:
    old = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=400)
    authority = Authority(gpuaas_home.path / "certs", old)
    authority.init()
    authority.issue("service", ["127.0.0.1"], days=365)
    up = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "jupyter_gpuaas", "up", "--devices", "cpu:1"),
        env={**gpuaas_home.env, "GPUAAS_TLS": "on"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await up.communicate()
    assert up.returncode == 1
    assert b"has expired" in said and b"certs renew" in said, said
