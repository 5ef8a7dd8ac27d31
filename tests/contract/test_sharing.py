"""A controller that stands by carries channels and bundles itself, and leaves to the one that acts what is decided."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import pytest
from starlette import types
from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from jupyter_gpuaas.client.bundles import get_bundle, put_bundle
from jupyter_gpuaas.client.embedded import find_running, read_service_file
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.client.session import RemoteSession
from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller import relay, sharing
from jupyter_gpuaas.controller.acting import Acting, Face
from jupyter_gpuaas.controller.app import make_app
from jupyter_gpuaas.controller.carrying import carry_channel
from jupyter_gpuaas.controller.catalogue.records import Role
from jupyter_gpuaas.controller.gate import POLICY_VIOLATION
from jupyter_gpuaas.controller.sharing import KEY_HEADER, carries, url_at
from jupyter_gpuaas.model import ChannelInfo, NewToken, Scope
from jupyter_gpuaas.state.bundle import FileHead, assemble, prefix
from jupyter_gpuaas.wire.tls import client_context, of_service
from tests.certificates import own_ca
from tests.conftest import GpuaasHome
from tests.controllers import Controllers, FarActing, acts, running_controllers, served, stands_by, url_of
from tests.postgres import Server
from tests.roaming import Outputs
from tests.service import Service, eventually, quick_settings, running_service

MIB = 1024**2
KEY = "of the one that acts"
PREFIX = "/services/gpuaas"
OPENED = "open /sessions/{session}/channel"
AUDITED = ("channel", "{bundle_id}")
ADVERTISED = "http://outside.invalid:1"


@dataclass
class Shared:
    """A service in this process, and one that stands by for it."""

    service: Service
    acting: FarActing
    face: Face
    url: str

    @property
    def settings(self) -> Settings:
        return self.service.controller.settings

    def token(self, user: str = "ann", **more: Any) -> NewToken:
        return self.service.controller.tokens.create(user, Role.USER, **more)

    def client(self, token: str) -> ServiceClient:
        """Of the one that stands by."""
        return ServiceClient(self.url, token, ca=self.service.admin.ca)

    def open(self, path: str, headers: dict[str, str], *, at: str = "") -> connect:
        """A WebSocket at the one that stands by, or at another address."""
        url = (at or self.url).replace("http", "ws", 1) + path
        context = client_context(of_service(self.settings)) if url.startswith("wss") else None
        # It answers pings even when nobody takes what has come.
        return connect(url, additional_headers=headers, proxy=None, ssl=context, max_queue=None)


@contextlib.asynccontextmanager
async def standing_by(home: Path, *, key: str = KEY, **changes: Any) -> AsyncIterator[Shared]:
    async with running_service(home, key=key, **changes) as service:
        face, acting = Face(), FarActing(service.url, key)
        async with served(service.controller.settings, face) as (url, _):
            face.stand_by(cast(Acting, acting), url, service.controller.settings)
            yield Shared(service, acting, face, url)


@pytest.fixture
async def shared(gpuaas_home: GpuaasHome) -> AsyncIterator[Shared]:
    async with standing_by(gpuaas_home.path) as made:
        yield made


def shown(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@contextlib.asynccontextmanager
async def relayed(
    client: ServiceClient, session: str, settings: Settings
) -> AsyncIterator[tuple[RemoteSession, list[str]]]:
    """A session by the relay of the address that the client uses, and what was said of its link."""
    told: list[str] = []
    remote = RemoteSession(client, session, msgspec.structs.replace(settings, relay="always"), notice=told.append)
    await remote.open()
    try:
        yield remote, told
    finally:
        await remote.close()


async def run(remote: RemoteSession, code: str, seen: Outputs | None = None) -> str:
    seen = seen or Outputs()
    reply = await remote.request("execute_request", {"code": code, "silent": False}, listener=seen)
    assert reply["status"] == "ok", reply
    return seen.text


async def ends_with(channel: ClientConnection) -> int | None:
    """The code with which the other end closes a channel, whatever it says before."""
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            await asyncio.wait_for(channel.recv(), 30)
    return closed.value.rcvd.code if closed.value.rcvd is not None else None


def bundle_of(*contents: bytes) -> list[Any]:
    return assemble((), [(FileHead(str(number), len(one), 0, ""), one) for number, one in enumerate(contents)])


# -- in this process ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_line", "own"),
    [
        ("GET /sessions/a/channel", True),
        ("GET /services/gpuaas/sessions/a%2Fb/channel", True),
        ("GET /sessions/a/bundles/b", True),
        ("PUT /sessions/a/bundles/b%2F..", True),
        ("DELETE /sessions/a/bundles/b", False),
        ("GET /sessions/a", False),
        ("GET /sessions/a/channel/", False),
        ("GET /sessions/../channel", False),
        ("GET /sessions/a/bundles/..", False),
        ("GET /sessions/a/bundles/...", True),
        ("GET /sessions//channel", False),
        ("GET //sessions/a/channel", False),
        ("GET /../sessions/a/channel", False),
        ("GET /b#/sessions/a/channel", False),
        ("GET @h/sessions/a/channel", False),
        ("PUT @h/sessions/a/bundles/b", False),
        ("GET 9/sessions/a/channel", False),
        ("GET http://h/sessions/a/channel", False),
        ("GET /api/kernels/a/channels", False),
    ],
)
def test_standby_takes_channels_and_bundles_alone(request_line: str, own: bool) -> None:
    method, path = request_line.encode().split(b" ")
    assert carries(method, path) is own


@pytest.mark.parametrize(
    ("service", "url"),
    [
        ("http://h:8700", "http://h:8700/a@b/c"),
        ("http://h:8700/", "http://h:8700/a@b/c"),
        ("https://h", "https://h/a@b/c"),
        ("http://[::1]:8700", "http://[::1]:8700/a@b/c"),
    ],
)
def test_path_is_one_at_the_one_that_acts_however_its_address_is_written(service: str, url: str) -> None:
    assert url_at(service, "/a@b/c") == url


@pytest.mark.parametrize(
    ("service", "path"), [("http://h:1", "@evil/a"), ("http://h:1", ""), ("h:1", "/a"), ("http://h:x", "/a")]
)
def test_what_is_no_path_or_no_address_is_nowhere(service: str, path: str) -> None:
    with pytest.raises(ValueError, match=r"no path|Port"):
        url_at(service, path)


@pytest.mark.parametrize("start", ["@", "http://"])
@pytest.mark.parametrize(
    ("request_line", "more"),
    [
        ("GET {start}{host}/sessions/a/bundles/b", "Connection: close"),
        ("PUT {start}{host}/sessions/a/bundles/b", "Connection: close\r\nContent-Length: 0"),
        (
            "GET {start}{host}/sessions/a/channel",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ),
    ],
    ids=["get", "put", "websocket"],
)
async def test_stranger_cannot_send_a_standby_elsewhere(
    shared: Shared, start: str, request_line: str, more: str
) -> None:
    """What a client may send as its target need not be a path: with an `@`, the address before it would be a user."""
    came = 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal came
        came += 1
        writer.close()

    async with await asyncio.start_server(count, "127.0.0.1", 0) as elsewhere:
        host = f"127.0.0.1:{elsewhere.sockets[0].getsockname()[1]}"
        reader, writer = await asyncio.open_connection("127.0.0.1", int(shared.url.rpartition(":")[2]))
        writer.write(f"{request_line.format(start=start, host=host)} HTTP/1.1\r\nHost: h\r\n{more}\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
        writer.close()
        await writer.wait_closed()
    assert came == 0
    # In the words of the one that acts, to which it was passed on.
    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_standby_carries_at_whatever_is_written_as_the_address_of_the_one_that_acts(shared: Shared) -> None:
    token = shared.token().token
    async with shared.client(token) as client:
        session = (await client.create_session("book", wait_s=30)).session.id
    paths = (f"/sessions/{session}/channel?client=c", f"/sessions/{session}/bundles/none")
    async with httpx.AsyncClient(trust_env=False, timeout=30, headers=shown(token)) as http:
        for url in (f"{shared.service.url}/", shared.service.url):
            shared.acting.is_at(url)
            async with shared.open(paths[0], shown(token)) as channel:
                assert await asyncio.wait_for(channel.recv(), 30)
            assert "bundle" in (await http.get(shared.url + paths[1])).json()["message"]
        # One that leads nowhere is as if nobody acted.
        shared.acting.is_at("http://127.0.0.1:none")
        with pytest.raises(InvalidStatus) as refusal:
            async with shared.open(paths[0], shown(token)):
                pass
        statuses = [refusal.value.response.status_code, (await http.get(shared.url + paths[1])).status_code]
        assert statuses == [503, 503]


@pytest.mark.parametrize("tls", ["off", "on"])
async def test_standby_carries_what_the_one_that_acts_never_sees(
    gpuaas_home: GpuaasHome, monkeypatch: pytest.MonkeyPatch, tls: str
) -> None:
    async def never(*arguments: Any) -> None:
        raise AssertionError("the one that acts carries nothing here")

    monkeypatch.setattr(relay, "carry_channel", never)
    monkeypatch.setattr(relay, "carry_bundle", never)
    if tls == "on":
        own_ca(gpuaas_home.path)
    async with standing_by(gpuaas_home.path, tls=tls) as shared:
        token = shared.token().token
        async with shared.client(token) as client:
            session = (await client.create_session("book", wait_s=30)).session.id
            async with relayed(client, session, shared.settings) as (remote, told):
                text = await run(remote, "for n in range(3000): print(n, flush=True)")
                assert text.split() == [str(n) for n in range(3000)]
                size = 3 * shared.settings.frame_bytes
                assert await run(remote, f"value = '{'y' * size}'; print(value)") == "y" * size + "\n"
                assert told == []
            sent = bundle_of(os.urandom(20 * MIB), b"", os.urandom(7))
            info = await client.ticket(session)
            assert shared.url in info.relay_bundle_url
            await put_bundle(info, "b1", sent, token=token, relay="always", ca=client.ca)
            got = await get_bundle(info, "b1", token=token, relay="always", ca=client.ca)
            assert [bytes(each) for each in got] == [bytes(each) for each in sent]
        entries = await shared.service.admin.audit(user="ann")
        told_of = [(each.action, each.target, each.status) for each in entries if each.action.split("/")[-1] in AUDITED]
        assert told_of == [
            (OPENED, f"/sessions/{session}/channel", 101),
            ("PUT /sessions/{session}/bundles/{bundle_id}", f"/sessions/{session}/bundles/b1", 200),
        ]


async def test_standby_refuses_in_the_words_of_the_one_that_acts(shared: Shared) -> None:
    mine, others = shared.token(), shared.token("bob")
    narrow = shared.token(scopes=[Scope.READ])
    over = shared.token()
    shared.service.controller.tokens.revoke(over.id)
    async with shared.client(mine.token) as client:
        session = (await client.create_session("a/book", wait_s=30)).session.id
    tokens = [
        None,
        "nonsense",
        mine.token[:5] + "é" + mine.token[5:],
        over.token,
        narrow.token,
        others.token,
        mine.token,
    ]
    statuses = set()
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        for token in tokens:
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            raw = {name: value.encode("latin-1") for name, value in headers.items()}
            for named in (session, "a%2Fbook", "none", "no%00ne"):
                for method, path in (
                    ("GET", "channel"),
                    ("GET", "bundles/none"),
                    ("PUT", "bundles/b%2Fc"),
                    ("GET", "bundles/..."),
                ):
                    said = []
                    for base in (shared.service.url, shared.url):
                        body = b"\0" if method == "PUT" else None
                        answer = await http.request(
                            method, f"{base}/sessions/{named}/{path}", headers=raw, content=body
                        )
                        said.append((answer.status_code, answer.headers.get("content-type"), answer.content))
                    assert said[0] == said[1], (token, named, method, path)
                    statuses.add(said[0][0])
                # What the agent says, too: an id that no client may have.
                refused = []
                for base in (shared.service.url, shared.url):
                    with pytest.raises(InvalidStatus) as error:
                        async with shared.open(f"/sessions/{named}/channel?client=%2F", headers, at=base):
                            pass
                    told = error.value.response
                    refused.append((told.status_code, told.headers.get("content-type"), told.body))
                assert refused[0] == refused[1], (token, named)
                statuses.add(refused[0][0])
    assert {401, 403, 404} <= statuses, "or it was not about refusals"


async def test_all_is_passed_on_to_one_that_acts_and_has_no_key(gpuaas_home: GpuaasHome) -> None:
    """It is of an older version, which would take a question for what the client wants."""
    async with standing_by(gpuaas_home.path, key="") as shared:
        token = shared.token().token
        async with shared.client(token) as client:
            session = (await client.create_session("book", wait_s=30)).session.id
            async with relayed(client, session, shared.settings) as (remote, told):
                assert await run(remote, "print(1)") == "1\n"
                assert told == []
            info = await client.ticket(session)
            assert shared.url in info.relay_bundle_url
            sent = bundle_of(b"all of it")
            await put_bundle(info, "b1", sent, token=token, relay="always", ca=client.ca)
            got = await get_bundle(info, "b1", token=token, relay="always", ca=client.ca)
            assert [bytes(each) for each in got] == [bytes(each) for each in sent]


async def test_answer_that_is_none_to_the_question_is_as_if_nobody_acted(shared: Shared) -> None:
    async def other(scope: types.Scope, receive: types.Receive, send: types.Send) -> None:
        if scope["type"] == "websocket":
            socket = WebSocket(scope, receive, send)
            await socket.accept()
            await socket.send_bytes(b"a record")
        else:
            await PlainTextResponse("a bundle")(scope, receive, send)

    async with served(shared.settings, other) as (url, _):
        shared.acting.is_at(url)
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            assert (await http.get(f"{shared.url}/sessions/s/bundles/b")).status_code == 503
        with pytest.raises(InvalidStatus) as refusal:
            async with shared.open("/sessions/s/channel", {}):
                pass
        assert refusal.value.response.status_code == 503


async def test_channel_below_a_path_and_by_a_name_with_slashes(gpuaas_home: GpuaasHome) -> None:
    async with standing_by(gpuaas_home.path, public_url=f"https://hub.invalid{PREFIX}") as shared:
        token = shared.token().token
        async with shared.client(token) as client:
            await client.create_session("a/book", wait_s=30)
        for path in ("/sessions/a%2Fbook", f"{PREFIX}/sessions/a%2fbook"):
            async with shared.open(f"{path}/channel?client=c", shown(token)) as channel:
                assert await asyncio.wait_for(channel.recv(), 30)


@pytest.mark.parametrize("how", ["revoked", "expires", "blocked"])
async def test_channel_ends_with_the_token_at_the_standby(shared: Shared, how: str) -> None:
    async with shared.client(shared.token().token) as client:
        session = (await client.create_session("book", wait_s=30)).session.id
    token = shared.token(ttl_s=4.0 if how == "expires" else 0.0)
    async with shared.open(f"/sessions/{session}/channel?client=c", shown(token.token)) as channel:
        if how == "revoked":
            shared.service.controller.tokens.revoke(token.id)
        elif how == "blocked":
            shared.service.controller.tokens.put_user("ann", blocked=True)
        assert await ends_with(channel) == POLICY_VIOLATION


async def test_channel_goes_on_while_nobody_acts_and_ends_when_who_acts_says_so(
    shared: Shared, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, sharing.__name__)
    token, kept = shared.token(), shared.token()
    async with shared.client(kept.token) as client:
        session = (await client.create_session("book", wait_s=30)).session.id
        async with (
            shared.open(f"/sessions/{session}/channel?client=c", shown(token.token)) as channel,
            relayed(client, session, shared.settings) as (remote, told),
        ):
            shared.acting.is_at("")
            shared.service.controller.tokens.revoke(token.id)
            await eventually(lambda: caplog.text.count("nobody can be asked") >= 2)
            assert await run(remote, "print(41)") == "41\n"
            assert channel.close_code is None
            shared.acting.is_at(shared.service.url)
            assert await ends_with(channel) == POLICY_VIOLATION

            async def asked_again() -> bool:
                entries = await shared.service.admin.audit(user="ann")
                return sum(each.action == OPENED and each.token == kept.id for each in entries) == 2

            await eventually(asked_again)
            assert await run(remote, "print(42)") == "42\n"
            assert told == []


async def test_standby_that_begins_to_act_asks_itself(shared: Shared) -> None:
    token = shared.token()
    async with shared.client(token.token) as client:
        session = (await client.create_session("book", wait_s=30)).session.id
        async with relayed(client, session, shared.settings) as (remote, told):
            async with shared.open(f"/sessions/{session}/channel?client=c", shown(token.token)) as channel:
                # The application of the service, as if it were this one's own.
                app = make_app(shared.service.controller, KEY)
                shared.acting.is_at("")
                shared.face.show(app)
                assert await run(remote, "print(41)") == "41\n"
                assert told == []
                shared.service.controller.tokens.revoke(token.id)
                assert await ends_with(channel) == POLICY_VIOLATION


async def test_address_inside_is_for_controllers_with_the_token_of_who_may_use_it(gpuaas_home: GpuaasHome) -> None:
    async with standing_by(gpuaas_home.path, advertise=ADVERTISED) as shared:
        token, other = shared.token().token, shared.token("bob").token
        async with shared.client(token) as client:
            view = await client.create_session("book", wait_s=30)
            assert view.channel is not None and view.channel.bundle_url.startswith(ADVERTISED)
            inside = shared.service.engine.agent(view.session.lease.node_id if view.session.lease else "").url
            bundle = f"{shared.service.url}/sessions/{view.session.id}/bundles/none"
            async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
                lent = await http.get(bundle, headers={**shown(token), KEY_HEADER: KEY})
                assert lent.status_code == 200 and lent.json()["bundle_url"].startswith(inside)
                for headers, status in (
                    ({**shown(token), KEY_HEADER: "another"}, 503),
                    ({**shown(token), KEY_HEADER: ""}, 503),
                    ({**shown(other), KEY_HEADER: KEY}, 403),
                    ({KEY_HEADER: KEY}, 401),
                    (shown(token), 404),
                ):
                    refused = await http.get(bundle, headers=headers)
                    assert refused.status_code == status and inside not in refused.text
                # One that asks the wrong controller is not carried for.
                astray = await http.get(
                    f"{shared.url}/sessions/{view.session.id}/bundles/none", headers={**shown(token), KEY_HEADER: KEY}
                )
                assert astray.status_code == 503
            # Who does not know yet that another one acts lets its clients come again.
            shared.acting.key = "of an earlier one"
            with pytest.raises(InvalidStatus) as refusal:
                async with shared.open(f"/sessions/{view.session.id}/channel?client=c", shown(token)):
                    pass
            assert refusal.value.response.status_code == 503
            shared.acting.key = KEY
            async with relayed(client, view.session.id, shared.settings) as (remote, _):
                assert await run(remote, "print(1)") == "1\n"


async def test_audit_log_has_the_address_that_a_trusted_standby_tells(gpuaas_home: GpuaasHome) -> None:
    async with standing_by(gpuaas_home.path, trusted_proxies="127.0.0.1") as shared:
        token = shared.token().token
        async with shared.client(token) as client:
            session = (await client.create_session("book", wait_s=30)).session.id
        path = f"/sessions/{session}/channel?client=c"
        async with shared.open(path, {**shown(token), "X-Forwarded-For": "192.0.2.7"}):
            entries = await shared.service.admin.audit(user="ann")
        assert [each.address for each in entries if each.action == OPENED] == ["192.0.2.7"]


async def test_without_a_key_nothing_is_lent(gpuaas_home: GpuaasHome) -> None:
    async with running_service(gpuaas_home.path) as service:
        session = (await service.admin.create_session("book", wait_s=30)).session.id
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            asked = {**shown(service.token), KEY_HEADER: ""}
            answer = await http.get(f"{service.url}/sessions/{session}/bundles/none", headers=asked)
            assert answer.status_code == 503


async def test_channel_is_given_up_when_its_node_goes_silent_but_not_for_a_client_that_takes_nothing(
    gpuaas_home: GpuaasHome,
) -> None:
    settings = quick_settings(gpuaas_home.path, ping_s=0.05, silence_s=0.5)
    hangs, over, sent = asyncio.Event(), asyncio.Event(), 0

    async def agent(node: ServerConnection) -> None:
        nonlocal sent
        async with asyncio.TaskGroup() as both:
            stopping = both.create_task(hangs.wait())
            while not stopping.done():
                sending = both.create_task(node.send(os.urandom(MIB)))
                await asyncio.wait((sending, stopping), return_when=asyncio.FIRST_COMPLETED)
                sent += sending.done()
            node.transport.pause_reading()
            sending.cancel()
        await over.wait()
        node.transport.abort()

    async with serve(agent, "127.0.0.1", 0, compression=None, ping_interval=None) as node:
        address = f"ws://127.0.0.1:{next(iter(node.sockets)).getsockname()[1]}"
        info = ChannelInfo(
            direct_url=address, ticket="t", epoch=1, expires_s=1e12, relay_url="", bundle_url="", relay_bundle_url=""
        )

        async def app(scope: types.Scope, receive: types.Receive, send: types.Send) -> None:
            await carry_channel(WebSocket(scope, receive, send), info, settings)

        # A client that answers pings and takes nothing: what is there to say it has not got for longer than is silence.
        async with served(msgspec.structs.replace(settings, ping_s=5.0, silence_s=60.0), app) as (url, _):
            async with connect(url.replace("http", "ws"), proxy=None, compression=None, max_queue=1) as client:

                async def stuck() -> bool:
                    before = sent
                    await asyncio.sleep(2 * settings.silence_s)
                    return sent == before

                await eventually(stuck)
                assert node.connections, "it was given up because its client is slow"
                hangs.set()
                assert await ends_with(client) == 1001
        over.set()


# -- processes on one database -----------------------------------------------------------------------------------------


@pytest.fixture
def controllers(gpuaas_home: GpuaasHome, postgres: Server) -> Iterator[Controllers]:
    with running_controllers(gpuaas_home, postgres, devices="cpu:2") as made:
        yield made


@pytest.fixture
def patient_controllers(gpuaas_home: GpuaasHome, postgres: Server) -> Iterator[Controllers]:
    """Of which none takes over within a test from one that does not answer."""
    with running_controllers(gpuaas_home, postgres, acting_s=120.0) as made:
        yield made


async def test_one_that_acts_need_not_even_run_for_what_a_standby_carries(patient_controllers: Controllers) -> None:
    """It is frozen as soon as it has said where to: not a byte goes through it."""
    home = patient_controllers.home
    first, first_log = patient_controllers.start()
    await acts(home, first, first_log)
    second, second_log = patient_controllers.start()
    await stands_by(second_log)
    token = (home.path / "token").read_text().strip()
    async with ServiceClient(url_of(second), token) as client:
        session = (await client.create_session("book", wait_s=30)).session.id
        info = await client.ticket(session)
        async with (
            relayed(client, session, Settings(home=str(home.path))) as (remote, told),
            httpx.AsyncClient(trust_env=False, timeout=60, headers=shown(token)) as http,
        ):
            try:
                first.send_signal(signal.SIGSTOP)
                assert len(await run(remote, f"print('z' * {20 * MIB})")) == 20 * MIB + 1
                assert told == []
                first.send_signal(signal.SIGCONT)
                sent = bundle_of(os.urandom(64 * MIB))
                whole = b"".join(bytes(each) for each in (prefix(sent), *sent))

                async def pieces() -> AsyncIterator[bytes]:
                    yield whole[: len(whole) // 2]
                    # More than any buffer holds has gone: so it flows.
                    first.send_signal(signal.SIGSTOP)
                    yield whole[len(whole) // 2 :]

                url = f"{info.relay_bundle_url}/b1"
                put = await http.put(url, content=pieces(), headers={"Content-Length": str(len(whole))})
                assert put.status_code == 201
                first.send_signal(signal.SIGCONT)
                async with http.stream("GET", url) as answer:
                    assert answer.status_code == 200
                    first.send_signal(signal.SIGSTOP)
                    assert b"".join([piece async for piece in answer.aiter_bytes()]) == whole
            finally:
                first.send_signal(signal.SIGCONT)


@pytest.mark.long
@pytest.mark.fault
async def test_channels_at_standbys_go_on_when_the_one_that_acts_is_killed(controllers: Controllers) -> None:
    """One of the two standbys begins to act, and the other one asks it from then on: neither lets its channel go."""
    home = controllers.home
    settings = Settings(home=str(home.path))
    first, first_log = controllers.start()
    await acts(home, first, first_log)
    others = [controllers.start() for _ in range(2)]
    for _, log in others:
        await stands_by(log)
    admin = (home.path / "token").read_text().strip()
    async with contextlib.AsyncExitStack() as stack:
        enough = home.path / "enough"
        code = "\n".join(
            (
                "import itertools, pathlib, time",
                "for n in itertools.count():",
                "    print(n, flush=True)",
                f"    if pathlib.Path({str(enough)!r}).exists(): break",
                "    time.sleep(0.05)",
            )
        )
        tokens, channels, asked, outputs, notices = [], [], [], [], []
        for number, (process, _) in enumerate(others):
            url = url_of(process)
            async with ServiceClient(url, admin) as client:
                tokens.append(await client.create_token("ann"))
                kept = await client.create_token("ann")
            client = await stack.enter_async_context(ServiceClient(url, kept.token))
            session = (await client.create_session(f"book {number}", wait_s=60)).session.id
            remote, told = await stack.enter_async_context(relayed(client, session, settings))
            channels.append(
                await stack.enter_async_context(
                    connect(
                        f"{url.replace('http', 'ws', 1)}/sessions/{session}/channel?client=c",
                        additional_headers=shown(tokens[-1].token),
                        proxy=None,
                        max_queue=None,
                    )
                )
            )
            seen = Outputs()
            asked.append(asyncio.create_task(run(remote, code, seen)))
            outputs.append(seen)
            notices.append(told)
        await eventually(lambda: all("5\n" in seen.text for seen in outputs))
        first.kill()

        async def one_acts() -> bool:
            written = read_service_file(home.path)
            acting = written is not None and written.pid in {process.pid for process, _ in others}
            return acting and await find_running(home.path) is not None

        await eventually(one_acts)
        lengths = [len(seen.text) for seen in outputs]
        await eventually(lambda: all(len(seen.text) > was for seen, was in zip(outputs, lengths, strict=True)))
        enough.touch()
        for task in asked:
            numbers = (await asyncio.wait_for(task, 60)).split()
            assert numbers == [str(n) for n in range(len(numbers))]
        assert notices == [[], []], "no channel was opened again"
        endpoint = await find_running(home.path)
        assert endpoint is not None
        async with ServiceClient(endpoint.url, endpoint.token) as client:
            for token, channel in zip(tokens, channels, strict=True):
                assert channel.close_code is None
                await client.revoke_token(token.id)
                assert await ends_with(channel) == POLICY_VIOLATION
        for process, log in others:
            assert process.poll() is None, log.read_text()
