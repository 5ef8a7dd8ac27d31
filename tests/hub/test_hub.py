"""A real JupyterHub as identity: its users' servers, their tokens, its admins, visitors, and what it revokes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from jupyter_gpuaas.client.embedded import read_service_file
from jupyter_gpuaas.client.rest import websocket_url
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.errors import Forbidden, Unauthorized
from tests.conftest import GpuaasHome
from tests.hub.running import WAIT_S, Hub, log_in, why_not
from tests.service import eventually

pytestmark = [pytest.mark.hub, pytest.mark.timeout(300)]
#: How soon the service is to notice what the Hub has revoked.
CACHE_S = 1.0
ACCESS = "access:services!service=gpuaas"


@pytest.fixture(scope="module")
def started(module_gpuaas_home: GpuaasHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    if why_not():
        pytest.skip(why_not())
    home, hub = module_gpuaas_home, Hub(tmp_path_factory.mktemp("hub"))
    given = hub.settings | {"devices": "cpu:3"}
    numbers = {"spare_kernels": 0, "stop_timeout_s": 2.0, "hub_cache_s": CACHE_S}
    file = home.path / "settings.toml"
    file.touch(0o600)
    file.write_text("".join(f"{name} = {value!r}\n" for name, value in (given | numbers).items()))
    home.cli("up", "--detach")
    written = read_service_file(home.path)
    assert written is not None
    hub.service = written.url
    with hub.running():
        yield hub


@pytest.fixture
async def hub(started: Hub) -> Hub:
    await started.answers()
    return started


@pytest.fixture
async def admin(hub: Hub, module_gpuaas_home: GpuaasHome) -> AsyncIterator[ServiceClient]:
    """With the service's own token."""
    async with ServiceClient(hub.service, (module_gpuaas_home.path / "token").read_text().strip()) as client:
        yield client


async def ask_server(hub: Hub, method: str, path: str, body: object = None) -> httpx.Response:
    """A request to a user's server."""
    async with hub.client(headers={"Authorization": f"token {hub.admin}"}) as http:
        return await http.request(method, path, json=body)


async def test_servers_kernel_is_a_session_of_its_user(hub: Hub, admin: ServiceClient) -> None:
    await hub.spawn("ann")

    async def ready() -> dict[str, str] | None:
        view: dict[str, str] = (await ask_server(hub, "GET", "/user/ann/jupyter-gpuaas/service")).json()
        return view if view["state"] == "ready" else None

    view = await eventually(ready, WAIT_S)
    assert (view["user"], view["role"]) == ("ann", "user")
    made = await ask_server(hub, "POST", "/user/ann/api/kernels", {"name": "remote_gpu"})
    assert made.status_code == 201, made.text
    async with hub.channels("ann", made.json()["id"]) as kernel:
        # The session holds no token of the Hub, wherever it looks in its environment.
        cell = await kernel.send(
            "import os; print(sorted(k for k, v in os.environ.items() if 'TOKEN' in k), 'JPY_API_TOKEN' in os.environ)"
        )
        said = await kernel.until(cell, "stream")
        assert said["content"]["text"].strip() == "[] False"
    (session,) = [each for each in await admin.sessions() if each.owner == "ann"]
    assert session.state in ("idle", "busy")
    assert "ann" in {each.user for each in await admin.users()}
    # Nobody has made a token for her.
    assert "ann" not in {each.user for each in await admin.tokens()}
    assert (await ask_server(hub, "DELETE", f"/user/ann/api/kernels/{made.json()['id']}")).status_code == 204


async def test_tokens_of_the_hub_open_what_their_scopes_say(hub: Hub) -> None:
    bob, eve, boss = [(await hub.token(name, ACCESS))["token"] for name in ("bob", "eve", "boss")]
    async with ServiceClient(hub.service, bob) as client:
        me = await client.me()
        assert (me.user, me.role, me.scopes) == ("bob", "user", ("read", "sessions"))
        session = (await client.create_session("work", wait_s=60)).session
        assert session.owner == "bob"
        with pytest.raises(Forbidden):
            await client.users()
    async with ServiceClient(hub.service, eve) as client:
        with pytest.raises(Forbidden):
            await client.session(session.id)
        assert await client.sessions() == []
    async with ServiceClient(hub.service, boss) as client:
        assert (await client.me()).role == "admin"
        assert session.id in {each.id for each in await client.sessions()}
    # A token for looking looks.
    reader = (await hub.token("bob", "custom:gpuaas:read"))["token"]
    async with ServiceClient(hub.service, reader) as client:
        assert (await client.me()).scopes == ("read",)
        assert [each.id for each in await client.sessions()] == [session.id]
        with pytest.raises(Forbidden):
            await client.release(session.id)
    # One that is for something else, of a service, or of nobody, does not open it at all.
    narrow = (await hub.token("bob", "read:users!user"))["token"]
    for token in (narrow, hub.admin, hub.service_token):
        async with ServiceClient(hub.service, token) as client:
            with pytest.raises(Forbidden):
                await client.sessions()
    async with ServiceClient(hub.service, "f" * 32) as client:
        with pytest.raises(Unauthorized):
            await client.sessions()
    async with ServiceClient(hub.service, bob) as client:
        await client.release(session.id)


async def test_session_is_used_through_the_proxy_of_the_hub(hub: Hub) -> None:
    token = (await hub.token("bob", ACCESS))["token"]
    base = f"{hub.url}/services/gpuaas"
    async with ServiceClient(base, token) as client:
        session = (await client.create_session("behind", wait_s=60)).session
        way = await client.ticket(session.id)
        assert way.relay_url.startswith(websocket_url(base)), way.relay_url
        headers = {"Authorization": f"Bearer {token}"}
        async with connect(f"{way.relay_url}?client=c", additional_headers=headers, proxy=None) as channel:
            assert '"welcome"' in str(await asyncio.wait_for(channel.recv(), WAIT_S))
        await client.release(session.id)


async def test_what_the_hub_revokes_is_refused_and_its_streams_end(hub: Hub, admin: ServiceClient) -> None:
    made = await hub.token("carl", ACCESS)
    headers = {"Authorization": f"Bearer {made['token']}"}
    url = f"{websocket_url(hub.service)}/events/stream"
    async with ServiceClient(hub.service, made["token"]) as carl:
        await carl.me()
        async with connect(url, additional_headers=headers, proxy=None) as stream:
            await hub.api("DELETE", f"/users/carl/tokens/{made['id']}")
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    await asyncio.wait_for(stream.recv(), WAIT_S)
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008
        with pytest.raises(Unauthorized):
            await carl.me()
    # A user that the Hub removes, and one that is blocked here.
    again, other = [(await hub.token(name, ACCESS))["token"] for name in ("carl", "dora")]
    async with ServiceClient(hub.service, again) as carl, ServiceClient(hub.service, other) as dora:
        await asyncio.gather(carl.me(), dora.me())
        await hub.api("DELETE", "/users/carl")

        async def refused() -> bool:
            try:
                await carl.me()
            except Unauthorized:
                return True
            return False

        await eventually(refused)
        await admin.put_user("dora", blocked=True)
        with pytest.raises(Forbidden, match="blocked"):
            await dora.me()


async def test_visitor_logs_in_through_the_hub_and_sees_a_page_of_his_own(hub: Hub) -> None:
    async with ServiceClient(hub.service, (await hub.token("eve", ACCESS))["token"]) as eve:
        session = (await eve.create_session("<b>mine</b>", wait_s=60)).session
    async with hub.client(follow_redirects=True) as browser:
        asked = await browser.get("/services/gpuaas/")
        assert urlsplit(str(asked.url)).path == "/hub/login"
        back = parse_qs(urlsplit(str(asked.url)).query)["next"][0]
        page = await log_in(browser, "eve", back)
        assert urlsplit(str(page.url)).path == "/services/gpuaas/", page.text
        assert "<strong>eve</strong>" in page.text and session.id in page.text
        assert "&lt;b&gt;mine" in page.text and "<b>" not in page.text
        assert "sandbox" in page.headers["Content-Security-Policy"]
        # The page alone: a cookie opens no route.
        for path in ("sessions", "me", f"sessions/{session.id}"):
            assert (await browser.get(f"/services/gpuaas/{path}")).status_code == 401, path
        assert (await browser.post(f"/services/gpuaas/sessions/{session.id}/park")).status_code == 401
        # A login that somebody else has begun.
        forged = await browser.get("/services/gpuaas/oauth_callback", params={"code": "x", "state": "y"})
        assert forged.status_code == 403 and "not begun in this browser" in forged.text
        denied = await browser.get("/services/gpuaas/oauth_callback", params={"error": "<script>"})
        assert denied.status_code == 403 and "<script>" not in denied.text
        left = await browser.get("/services/gpuaas/logout", follow_redirects=False)
        assert left.is_redirect
        out = await browser.get("/services/gpuaas/", follow_redirects=False)
        assert out.is_redirect and out.headers["location"].endswith("/services/gpuaas/login")


async def test_invented_code_is_no_login(hub: Hub) -> None:
    async with hub.client(follow_redirects=True) as browser:
        cookies = browser.cookies
        begun = await browser.get("/services/gpuaas/login", follow_redirects=False)
        state = parse_qs(urlsplit(begun.headers["location"]).query)["state"][0]
        assert cookies["gpuaas-login"] == state
        # With the right state, but a code that the Hub has not given.
        answer = await browser.get("/services/gpuaas/oauth_callback", params={"code": "invented", "state": state})
        assert answer.status_code == 403 and "did not accept this login" in answer.text
        assert "gpuaas-visit" not in cookies
