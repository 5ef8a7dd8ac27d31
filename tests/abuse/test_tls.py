"""Who does not belong here, and is told so: over TLS, at the controller and at a node's agent."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from jupyter_gpuaas.client.bundles import get_bundle
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.engine.agent_client import AgentClient
from jupyter_gpuaas.engine.base import AgentEndpoint
from jupyter_gpuaas.errors import Forbidden, GpuaasError, ServiceUnreachable, TransportError, Unauthorized
from jupyter_gpuaas.model import ChannelInfo, Peer
from jupyter_gpuaas.node.dial import Dialler
from jupyter_gpuaas.wire.link import connect
from jupyter_gpuaas.wire.tls import Credentials, client_context, key_beside
from jupyter_gpuaas.wire.transfer import PeerLink
from tests.certificates import issued, own_ca, serving, strict_server
from tests.conftest import GpuaasHome
from tests.service import Service, eventually, running_service


class Silent:
    """A handler of a link that never comes to be."""

    def binary_received(self, link: object, data: object) -> None: ...

    def op_received(self, link: object, op: object) -> None: ...

    def link_drained(self, link: object) -> None: ...

    def link_closed(self, link: object, reason: str) -> None: ...

    def room(self, link: object) -> None: ...

    def room_filled(self, link: object, count: int) -> None: ...


async def refused(url: str, ca: str = "") -> GpuaasError:
    """What a client of a service at this address is told."""
    with pytest.raises(ServiceUnreachable) as raised:
        async with ServiceClient(url, "token", ca=ca) as client:
            await client.health()
    return raised.value


async def told_of_link(url: str, ca: str) -> GpuaasError:
    """What the client of a channel is told."""
    with pytest.raises(TransportError) as raised:
        await connect(url, "t", Silent(), frame_bytes=1024, ping_s=5, silence_s=15, ca=ca)  # type: ignore[arg-type]
    return raised.value


def ask_source(peer: Peer) -> None:
    """As a host does it."""
    link = PeerLink(peer)
    try:
        link.ask("GET", "source")
    finally:
        link.close()


# -- clients and servers of a service ----------------------------------------------------------------------------------


async def test_client_of_a_service_that_it_cannot_trust_is_told_why_and_what_to_do(tmp_path: Path) -> None:
    good, other = issued(tmp_path / "ca", name="good"), issued(tmp_path / "other")
    async with serving(good) as port:
        async with ServiceClient(f"https://127.0.0.1:{port}", "token", ca=good.ca) as client:
            assert await client.health() == {"status": "ok"}
        for wrong in (other.ca, ""):
            error = await refused(f"https://127.0.0.1:{port}", wrong)
            assert "authority" in error.message and "GPUAAS_CA" in error.hint
            link = await told_of_link(f"wss://127.0.0.1:{port}/x", wrong)
            assert "authority" in link.message and "GPUAAS_CA" in link.hint
        error = await refused(f"https://localhost:{port}", good.ca)
        assert "other names" in error.message and "--host localhost" in error.hint
        assert "https://" in (await refused(f"http://127.0.0.1:{port}")).hint
    async with serving(issued(tmp_path / "ca", name="old", days_ago=9, days=3)) as port:
        error = await refused(f"https://127.0.0.1:{port}", good.ca)
        assert "expired" in error.message and "certs renew" in error.hint
        link = await told_of_link(f"wss://127.0.0.1:{port}/x", good.ca)
        assert "expired" in link.message and "certs renew" in link.hint
        info = ChannelInfo(
            direct_url="", relay_url="", bundle_url=f"https://127.0.0.1:{port}/b", relay_bundle_url="", ticket="t",
            epoch=1, expires_s=0.0,
        )  # fmt: skip
        with pytest.raises(TransportError, match="expired"):
            await get_bundle(info, "b", ca=good.ca)
    async with serving(None) as port:
        error = await refused(f"https://127.0.0.1:{port}", good.ca)
        assert "does not speak TLS" in error.message and "http://" in error.hint


async def test_file_of_authorities_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(GpuaasError, match=r"setting ca: /nowhere/ca\.pem"):
        ServiceClient("https://127.0.0.1:1", "token", ca="/nowhere/ca.pem")


async def test_host_that_fetches_from_a_node_that_it_cannot_trust_is_told_why(tmp_path: Path) -> None:
    own, other = issued(tmp_path / "own"), issued(tmp_path / "other")
    dialler = Dialler(own)
    try:
        async with serving(other) as port:
            peer = await dialler.way(Peer(url=f"https://127.0.0.1:{port}/v1/sessions/s/transfer", ticket="t"), tmp_path)
            with pytest.raises(TransportError, match="authority") as raised:
                await asyncio.to_thread(ask_source, peer)
            assert raised.value.hint
        # The other way round: what it shows is not trusted there. That is said after the handshake.
        with strict_server(Credentials(other.ca, own.cert, own.key)) as port:
            peer = await dialler.way(Peer(url=f"https://127.0.0.1:{port}/v1/sessions/s/transfer", ticket="t"), tmp_path)
            with pytest.raises(TransportError, match="does not know the authority of the certificate"):
                await asyncio.to_thread(ask_source, peer)
    finally:
        dialler.close()


async def test_way_to_a_node_is_for_its_user_only_and_is_found_again(tmp_path: Path) -> None:
    dialler = Dialler(issued(tmp_path / "own"))
    try:
        plain = Peer(url="http://127.0.0.1:1/v1/sessions/s/transfer", ticket="t")
        assert await dialler.way(plain, tmp_path) is plain
        far = Peer(url="https://127.0.0.1:1/v1/sessions/s/transfer", ticket="t")
        way = await dialler.way(far, tmp_path)
        assert await dialler.way(far, tmp_path) == way
        (sock,) = [path for path in tmp_path.iterdir() if path.is_socket()]
        assert sock.stat().st_mode & 0o777 == 0o600
        (tmp_path / "kernel").mkdir()
        inner = await dialler.way(way, tmp_path / "kernel", seen_as=Path("/run/x"))
        assert inner.url.startswith("http+unix://%2Frun%2Fx%2F") and inner.url.endswith("/v1/sessions/s/transfer")
        with pytest.raises(TransportError, match=r"the node at 127\.0\.0\.1:1"):
            await asyncio.to_thread(ask_source, way)
    finally:
        dialler.close()


# -- a node's agent ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def service(gpuaas_home: GpuaasHome) -> AsyncIterator[Service]:
    own_ca(gpuaas_home.path)
    async with running_service(gpuaas_home.path, tls="on") as running:
        yield running


@pytest.fixture
def endpoint(service: Service) -> AgentEndpoint:
    return service.engine.agent("local-0")


async def node_of(endpoint: AgentEndpoint, tls: Credentials) -> str:
    client = AgentClient(AgentEndpoint(endpoint.url, endpoint.token, tls))
    try:
        return (await client.node()).id
    finally:
        await client.close()


async def test_agent_serves_its_service_only_whatever_token_others_have(
    endpoint: AgentEndpoint, tmp_path: Path
) -> None:
    ca = endpoint.tls.ca
    assert await node_of(endpoint, endpoint.tls) == "local-0"
    with pytest.raises(Forbidden, match="certificate") as missing:
        await node_of(endpoint, Credentials(ca))
    assert "node_cert" in missing.value.hint
    other = issued(tmp_path / "other")
    with pytest.raises(TransportError, match="does not know the authority") as unknown:
        await node_of(endpoint, Credentials(ca, other.cert, other.key))
    assert "one CA" in unknown.value.hint
    with pytest.raises(TransportError, match=r"is not trusted: .*authority"):
        await node_of(endpoint, Credentials(other.ca, endpoint.tls.cert, endpoint.tls.key))


async def test_agent_asks_clients_of_sessions_for_a_ticket_and_its_peers_for_both(endpoint: AgentEndpoint) -> None:
    async def ask(path: str, tls: Credentials) -> tuple[int, str]:
        context = client_context(tls)
        async with httpx.AsyncClient(verify=context, trust_env=False, timeout=30) as http:
            answer = await http.get(f"{endpoint.url}/v1/sessions/s/{path}")
        return answer.status_code, answer.json()["error"]

    nobody = Credentials(endpoint.tls.ca)
    assert await ask("channel?client=c", nobody) == (401, Unauthorized.__name__)
    assert await ask("bundles/b", nobody) == (401, Unauthorized.__name__)
    assert await ask("transfer/source", nobody) == (403, Forbidden.__name__)
    assert await ask("transfer/source", endpoint.tls) == (401, Unauthorized.__name__)


async def test_agent_spoken_to_without_tls_says_that_it_has_it(endpoint: AgentEndpoint) -> None:
    plain = endpoint.url.replace("https:", "http:")
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        answer = await http.get(f"{plain}/v1/node")
    assert answer.status_code == 400 and "https://" in answer.json()["hint"]
    link = await told_of_link(f"{plain.replace('http:', 'ws:')}/v1/sessions/s/channel?client=c", "")
    assert "speaks TLS" in link.message


async def test_agent_goes_on_after_garbage_and_callers_that_say_nothing(endpoint: AgentEndpoint) -> None:
    port = urlsplit(endpoint.url).port
    assert port is not None
    loop, silent = asyncio.get_running_loop(), []
    try:
        for first in (b"\x16\x03\x01\xff\xff" + bytes(300), b"\x16", b"\0" * 64, b"\x80\x2e\x01\x03\x01", b""):
            sock = socket.socket()
            sock.setblocking(False)
            silent.append(sock)
            await loop.sock_connect(sock, ("127.0.0.1", port))
            await loop.sock_sendall(sock, first)
        for _ in range(40):
            sock = socket.socket()
            sock.setblocking(False)
            silent.append(sock)
            await loop.sock_connect(sock, ("127.0.0.1", port))
        assert await node_of(endpoint, endpoint.tls) == "local-0"
    finally:
        for sock in silent:
            sock.close()


async def test_front_that_dies_is_started_again_at_the_same_port(
    service: Service, endpoint: AgentEndpoint, gpuaas_home: GpuaasHome
) -> None:
    pid = json.loads((gpuaas_home.path / "nodes" / "local-0" / "agent.json").read_bytes())["pid"]
    (front,) = [each for each in psutil.Process(pid).children() if "jupyter_gpuaas.node.front" in each.cmdline()]
    front.kill()

    async def answers() -> bool:
        try:
            return await node_of(endpoint, endpoint.tls) == "local-0"
        except TransportError:
            return False

    await eventually(lambda: not front.is_running() or front.status() == psutil.STATUS_ZOMBIE)
    await eventually(answers, 60)


def test_old_versions_of_tls_are_not_spoken(tmp_path: Path) -> None:
    own = issued(tmp_path)
    for context in (client_context(own), client_context(Credentials(own.ca))):
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert key_beside(own.cert) == own.key
