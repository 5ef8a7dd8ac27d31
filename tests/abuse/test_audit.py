"""The audit log, and what hostile callers can write into it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from websockets.asyncio.client import connect

from jupyter_gpuaas.client.rest import websocket_url
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.controller.catalogue.records import Role
from jupyter_gpuaas.errors import Forbidden, InvalidRequest, Unauthorized
from tests.conftest import GpuaasHome
from tests.service import Service, running_service


@pytest.fixture
async def service(gpuaas_home: GpuaasHome) -> AsyncIterator[Service]:
    async with running_service(gpuaas_home.path) as running:
        yield running


async def test_audit_says_who_did_what_to_what_from_where(service: Service) -> None:
    made = await service.admin.create_token("ann", label="laptop")
    async with ServiceClient(service.url, made.token) as ann:
        session = (await ann.create_session("hers", wait_s=30)).session
        await ann.sessions()  # looking at one's own is nobody's business
        with pytest.raises(Forbidden):
            await ann.users()
        await service.admin.log(session.id)
        headers = {"Authorization": f"Bearer {ann.token}"}
        url = f"{websocket_url(service.url)}/sessions/{session.id}/channel?client=c"
        async with connect(url, additional_headers=headers, proxy=None):
            pass
        await ann.release(session.id)
    found = await service.admin.audit(user="ann")
    assert [(each.action, each.target, each.status) for each in found] == [
        ("POST /sessions", "/sessions", 201),
        ("GET (no route)", "/users", 403),
        ("open /sessions/{session}/channel", f"/sessions/{session.id}/channel", 101),
        ("DELETE /sessions/{session}", f"/sessions/{session.id}", 200),
    ]
    assert {each.address for each in found} == {"127.0.0.1"}
    assert {each.token for each in found} == {made.id}
    about = await service.admin.audit(target=session.id)
    looked = next(each for each in about if each.action == "GET /sessions/{session}/log")
    assert looked.user != "ann" and "hers" in looked.note and "ann" in looked.note
    first = (await service.admin.audit(limit=1))[0]
    assert first.action == "POST /tokens" and made.id in first.note and made.token not in str(first)
    assert (await service.admin.audit(limit=1, last=True))[0].seq > first.seq


async def test_audit_names_whose_session_or_tokens_an_admin_looked_at_and_no_lists(service: Service) -> None:
    async with service.client("ann") as ann:
        session = (await ann.create_session("hers")).session
        assert await ann.events(session=session.id)
    mine = (await service.admin.create_session("mine")).session
    before = (await service.admin.audit(last=True, limit=1))[0].seq
    admin = service.admin
    assert await admin.events(session=mine.id)
    for _ in range(2):
        await admin.sessions(all=True)
        await admin.events()
        await admin.metrics()
        await admin.usage()
        await admin.users()
        await admin.tokens()
        await admin.reservations()
        await admin.allocations()
        await admin.nodes()
    assert await admin.audit(after=before) == []
    assert await admin.events(session=session.id, after=2**62) == [], "a poll without news shows nothing"
    assert await admin.events(session=session.id)
    assert await admin.tokens(user="ann")
    assert [(each.action, each.status, each.note) for each in await admin.audit(after=before)] == [
        ("GET /events", 200, f"events of session {session.id} of ann"),
        ("GET /tokens", 200, "tokens of ann"),
    ]


async def test_audit_callers_without_a_token_cannot_flood_it(service: Service) -> None:
    async with ServiceClient(service.url, "wrong") as nobody:
        for _ in range(20):
            with pytest.raises(Unauthorized):
                await nobody.sessions()
    refused = [each for each in await service.admin.audit() if not each.user]
    assert [(each.status, each.target) for each in refused] == [(401, "/sessions")]


async def test_audit_is_bounded(gpuaas_home: GpuaasHome) -> None:
    async with running_service(gpuaas_home.path, audit_kept=10) as service:
        for number in range(30):
            await service.admin.put_user(f"user{number}")
        found = await service.admin.audit()
        assert len(found) <= 11
        assert found[-1].target == "/users/user29"


#: Paths of a hostile user -> what is answered.
PATHS = {
    "/sessions/..%2f..%2fusers": 404,
    "/sessions/%2e%2e/users": 404,
    "/users%0a": 403,
    "/users/": 403,
    "//users": 404,
    "/%75sers": 403,
    "/nodes/x%2fy/drain": 403,
    "/nodes/x/drain%0a": 403,
    "/sessions/x%00y": 404,
    "/sessions/x%2f%00/checkpoints": 404,
    "/api/kernels/x%00y": 404,
    "/users%00": 404,
    "/events?session=x%00y": 422,
    "/sessions?name=x%00y": 422,
    "/sessions/x%0d%0aSet-Cookie:%20a=b": 404,
    "/sessions/%ff%fe": 404,
    "/sessions/%1b%5b2Jx": 404,
    "/sessions/" + "x" * 5000: 404,
}


async def ask_raw(url: str, path: str, token: str) -> tuple[int, bytes]:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n".encode()
    )
    answer = await reader.read()
    writer.close()
    return int(answer.split()[1]), answer


async def test_injected_paths_reach_no_other_route_and_write_one_line(service: Service) -> None:
    token = service.controller.tokens.create("eve", Role.USER).token
    found = {}
    for path in PATHS:
        found[path], answer = await ask_raw(service.url, path, token)
        assert b"set-cookie" not in answer.partition(b"\r\n\r\n")[0].lower()
    assert found == PATHS
    entries = await service.admin.audit(user="eve")
    assert len(entries) == list(PATHS.values()).count(403)
    for each in entries:
        assert each.target.isprintable() and len(each.target) <= 512


async def test_nul_in_what_an_admin_looks_for_is_named_and_refused(service: Service) -> None:
    for path, field in (("/audit", "by"), ("/audit", "target"), ("/tokens", "of"), ("/events", "session")):
        status, answer = await ask_raw(service.url, f"{path}?{field}=x%00y", service.token)
        assert (status, f"{field}: must not contain NUL".encode() in answer) == (422, True), answer
    for path in ("/users/x%00y", "/tokens/x%00y", "/reservations/x%00y", "/nodes/x%00y/drain"):
        assert (await ask_raw(service.url, path, service.token))[0] == 404, path


async def test_forged_address_is_not_believed(service: Service) -> None:
    headers = {
        "Authorization": f"Bearer {service.token}",
        "X-Forwarded-For": "6.6.6.6",
        "X-Forwarded-User": "root",
        "X-Real-IP": "6.6.6.6",
    }
    async with httpx.AsyncClient(base_url=service.url, headers=headers, trust_env=False) as http:
        assert (await http.put("/users/bob", json={})).status_code == 200
    entry = (await service.admin.audit(last=True, limit=1))[0]
    assert (entry.target, entry.address) == ("/users/bob", "127.0.0.1")


async def test_user_names_that_could_write_lines_are_refused(service: Service) -> None:
    headers = {"Authorization": f"Bearer {service.token}", "Content-Type": "application/json"}
    async with httpx.AsyncClient(base_url=service.url, headers=headers, trust_env=False) as http:
        for name in ("", " ", "a\nb", "a\0b", "\x1b[31mred", " padded ", "x" * 257, "\ud800"):
            assert (await http.post("/tokens", content=json.dumps({"user": name}))).status_code == 422, name
        for quoted in ("%20", "a%0ab", "%1b%5b31m", "x" * 257):
            assert (await http.put(f"/users/{quoted}", json={})).status_code == 422, quoted
    assert len(await service.admin.users()) == 1


async def test_token_of_the_home_folder_is_not_lost_by_mistake(service: Service) -> None:
    (mine,) = await service.admin.tokens()
    with pytest.raises(InvalidRequest, match="own folder"):
        await service.admin.revoke_token(mine.id)
    with pytest.raises(InvalidRequest, match="block"):
        await service.admin.put_user(mine.user, blocked=True)
    with pytest.raises(InvalidRequest, match="runs as"):
        await service.admin.drop_user(mine.user)
    assert service.token not in str(await service.admin.tokens())
