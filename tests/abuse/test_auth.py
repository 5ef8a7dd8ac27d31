"""Wrong callers on every route and WebSocket of the service, as the application lists them itself."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from typing import Any, NamedTuple

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from jupyter_gpuaas.client.rest import websocket_url
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.controller.app import make_app
from jupyter_gpuaas.controller.catalogue.records import Role
from jupyter_gpuaas.controller.gate import OPEN_PATHS
from jupyter_gpuaas.controller.gateway.kernels import kernel_id
from jupyter_gpuaas.controller.hub.page import VISITS
from jupyter_gpuaas.errors import Forbidden, InvalidRequest
from jupyter_gpuaas.model import DrainView, Scope
from tests.conftest import GpuaasHome
from tests.service import Service, eventually, running_service

WEBSOCKET = "WEBSOCKET"


class Route(NamedTuple):
    method: str
    path: str


#: Whom each route serves. A route that is added must be added here, or the first test below fails.
OF_A_SESSION = {
    Route("GET", "/sessions/{session}"),
    Route("DELETE", "/sessions/{session}"),
    Route("POST", "/sessions/{session}/interrupt"),
    Route("POST", "/sessions/{session}/restart"),
    Route("POST", "/sessions/{session}/ticket"),
    Route("GET", "/sessions/{session}/log"),
    Route("PUT", "/sessions/{session}/bundles/{bundle_id}"),
    Route("GET", "/sessions/{session}/bundles/{bundle_id}"),
    Route(WEBSOCKET, "/sessions/{session}/channel"),
    Route("GET", "/sessions/{session}/checkpoints"),
    Route("POST", "/sessions/{session}/checkpoints"),
    Route("PATCH", "/sessions/{session}/checkpoints"),
    Route("PATCH", "/sessions/{session}/checkpoints/{checkpoint}"),
    Route("DELETE", "/sessions/{session}/checkpoints/{checkpoint}"),
    Route("GET", "/sessions/{session}/checkpoints/{one}/diff/{other}"),
    Route("POST", "/sessions/{session}/restores"),
    Route("DELETE", "/sessions/{session}/requests/{request}"),
    Route("POST", "/sessions/{session}/migrations"),
    Route("GET", "/sessions/{session}/migrations/{migration}"),
    Route("DELETE", "/sessions/{session}/migrations/{migration}"),
    Route("POST", "/sessions/{session}/park"),
    Route("POST", "/sessions/{session}/wake"),
    Route("PUT", "/sessions/{session}/standby"),
    Route("PUT", "/sessions/{session}/priority"),
    Route("GET", "/sessions/{session}/cells"),
    Route("GET", "/api/kernels/{session}"),
    Route("DELETE", "/api/kernels/{session}"),
    Route("POST", "/api/kernels/{session}/interrupt"),
    Route("POST", "/api/kernels/{session}/restart"),
    Route(WEBSOCKET, "/api/kernels/{session}/channels"),
}
OF_ADMINS = {
    Route("GET", "/users"),
    Route("PUT", "/users/{name}"),
    Route("DELETE", "/users/{name}"),
    Route("GET", "/tokens"),
    Route("POST", "/tokens"),
    Route("DELETE", "/tokens/{token}"),
    Route("GET", "/audit"),
    Route("POST", "/reservations"),
    Route("DELETE", "/reservations/{reservation}"),
    Route("POST", "/stop"),
    Route("POST", "/nodes/{node}/cordon"),
    Route("DELETE", "/nodes/{node}/cordon"),
    Route("POST", "/nodes/{node}/drain"),
    Route("GET", "/nodes/{node}/drain"),
    Route("DELETE", "/nodes/{node}/drain"),
    Route("GET", "/rebalance"),
}
OF_ANY_USER = {
    Route("POST", "/sessions"),
    Route("GET", "/sessions"),
    Route("GET", "/nodes"),
    Route("GET", "/allocations"),
    Route("GET", "/events"),
    Route("GET", "/events/last"),
    Route("GET", "/me"),
    Route("GET", "/metrics"),
    Route("GET", "/usage"),
    Route("GET", "/api"),
    Route("GET", "/api/kernelspecs"),
    Route("GET", "/api/kernelspecs/{name}"),
    Route("GET", "/api/kernels"),
    Route("POST", "/api/kernels"),
    Route("GET", "/reservations"),
    Route(WEBSOCKET, "/events/stream"),
}


def routes_of(routers: Iterable[Any]) -> set[Route]:
    found: set[Route] = set()
    for route in routers:
        nested = getattr(route, "original_router", None)
        if nested is not None:
            found |= routes_of(nested.routes)
        else:
            methods = getattr(route, "methods", None) or {WEBSOCKET}
            found |= {Route(method, route.path) for method in methods if method != "HEAD"}
    return found


@pytest.fixture
async def service(gpuaas_home: GpuaasHome) -> AsyncIterator[Service]:
    async with running_service(gpuaas_home.path) as running:
        yield running


@pytest.fixture
def closed_routes(service: Service) -> set[Route]:
    return {route for route in routes_of(make_app(service.controller).routes) if route.path not in OPEN_PATHS}


async def knock(service: Service, route: Route, authorization: bytes | None, session: str = "x") -> int:
    """The HTTP status that the route answers with."""
    path = route.path.replace("{session}", session).replace("{bundle_id}", "b1")
    headers = {} if authorization is None else {"Authorization": authorization.decode("latin-1")}
    if route.method == WEBSOCKET:
        url = f"{websocket_url(service.url)}{path}?client=c"
        try:
            async with connect(url, additional_headers=headers, proxy=None):
                return 101
        except InvalidStatus as refused:
            assert refused.response.body and b'"error"' in refused.response.body
            return refused.response.status_code
    raw = {key: value.encode("latin-1") for key, value in headers.items()}
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=30) as http:
        answer = await http.request(route.method, service.url + path, headers=raw, json={})  # type: ignore[arg-type]
    if answer.is_error:
        assert answer.json()["error"]
    return answer.status_code


async def test_every_route_is_known_to_this_file(closed_routes: set[Route]) -> None:
    assert closed_routes == OF_A_SESSION | OF_ADMINS | OF_ANY_USER


BAD = (
    None,
    b"",
    b"Bearer",
    b"Bearer wrong",
    b"Bearer \xe9\xff",
    b"Bearer " + b"x" * 8000,
    b"Basic dXNlcjpwYXNz",
)


async def test_every_route_refuses_a_bad_token(service: Service, closed_routes: set[Route]) -> None:
    session = (await service.admin.create_session("mine")).session
    for authorization in BAD:
        answers = {route: await knock(service, route, authorization, session.id) for route in closed_routes}
        assert answers == dict.fromkeys(closed_routes, 401), authorization
    assert (await service.admin.session(session.id)).session.id == session.id


async def test_every_route_refuses_an_expired_token(service: Service, closed_routes: set[Route]) -> None:
    short = service.controller.tokens.create("ann", Role.ADMIN, ttl_s=0.5).token.encode()

    async def expired() -> bool:
        return await knock(service, Route("GET", "/nodes"), b"Bearer " + short) == 401

    assert not await expired()
    await eventually(expired)
    answers = {route: await knock(service, route, b"Bearer " + short) for route in closed_routes}
    assert answers == dict.fromkeys(closed_routes, 401)


async def test_every_route_refuses_a_revoked_token(service: Service, closed_routes: set[Route]) -> None:
    made = await service.admin.create_token("ann", role="admin")
    token = b"Bearer " + made.token.encode()
    assert await knock(service, Route("GET", "/nodes"), token) == 200
    assert (await service.admin.revoke_token(made.id)).user == "ann"
    answers = {route: await knock(service, route, token) for route in closed_routes}
    assert answers == dict.fromkeys(closed_routes, 401)


async def test_every_route_refuses_a_blocked_user(service: Service, closed_routes: set[Route]) -> None:
    made = await service.admin.create_token("ann", role="admin")
    token = b"Bearer " + made.token.encode()
    await service.admin.put_user("ann", blocked=True)
    answers = {route: await knock(service, route, token) for route in closed_routes}
    assert answers == dict.fromkeys(closed_routes, 403)
    await service.admin.put_user("ann", blocked=False)
    assert await knock(service, Route("GET", "/nodes"), token) == 200


#: What a route needs of the token of an admin. A route that is added needs an entry, or the tests below fail.
NEEDS = {
    Scope.READ: {
        *(route for route in OF_ANY_USER | OF_A_SESSION if route.method == "GET" and "bundle" not in route.path),
        Route(WEBSOCKET, "/events/stream"),
    }
    - {Route("GET", "/me")},
    Scope.METRICS: {Route("GET", "/metrics")},
    Scope.SESSIONS: {
        *(route for route in OF_ANY_USER | OF_A_SESSION if route.method not in ("GET", WEBSOCKET)),
        Route(WEBSOCKET, "/sessions/{session}/channel"),
        Route(WEBSOCKET, "/api/kernels/{session}/channels"),
        Route("GET", "/sessions/{session}/bundles/{bundle_id}"),
    },
    Scope.ADMIN: OF_ADMINS,
}


@pytest.mark.parametrize("scope", list(Scope))
async def test_every_route_refuses_a_token_with_another_scope(
    service: Service, closed_routes: set[Route], scope: Scope
) -> None:
    session = (await service.admin.create_session("mine", wait_s=30)).session
    token = b"Bearer " + service.controller.tokens.create(session.owner, Role.ADMIN, scopes=[scope]).token.encode()
    others = closed_routes - NEEDS[scope] - {Route("GET", "/me")}
    answers = {route: await knock(service, route, token, session.id) for route in others}
    assert answers == dict.fromkeys(others, 403)
    assert (await service.admin.session(session.id)).session.state == "idle"


@pytest.mark.parametrize("prefix", ["/gpu", "/gpu/gpu"])
async def test_scopes_hold_below_a_path_however_often_it_is_written(gpuaas_home: GpuaasHome, prefix: str) -> None:
    async with running_service(gpuaas_home.path, public_url=f"https://example.org{prefix}") as service:
        closed = routes_of(make_app(service.controller).routes) - {Route("GET", path) for path in OPEN_PATHS}
        session = (await service.admin.create_session("mine", wait_s=30)).session
        for scope in (Scope.READ, Scope.METRICS):
            made = service.controller.tokens.create(session.owner, Role.ADMIN, scopes=[scope])
            token = b"Bearer " + made.token.encode()
            others = closed - NEEDS[scope] - {Route("GET", "/me")}
            for written, expected in ((prefix, {403}), (prefix * 2, {403, 404, 405})):
                below = {Route(route.method, written + route.path) for route in others}
                answers = {route: await knock(service, route, token, session.id) for route in below}
                assert set(answers.values()) <= expected, answers
        assert (
            await knock(
                service, Route("GET", f"{prefix}/sessions/{{session}}"), b"Bearer " + service.token.encode(), session.id
            )
            == 200
        )
        assert await knock(service, Route("GET", f"{prefix}/api"), b"Bearer " + service.token.encode()) == 200


def test_every_route_has_a_scope() -> None:
    assert set().union(*NEEDS.values()) | {Route("GET", "/me")} == OF_A_SESSION | OF_ADMINS | OF_ANY_USER


async def test_token_for_reading_looks_and_gets_no_way_into_the_session(service: Service) -> None:
    session = (await service.admin.create_session("mine", wait_s=30)).session
    assert (await service.admin.session(session.id)).channel is not None
    made = service.controller.tokens.create(session.owner, Role.USER, scopes=[Scope.READ])
    async with ServiceClient(service.url, made.token) as reader:
        assert (await reader.session(session.id)).channel is None
        assert (await reader.me()).scopes == ("read",)
        assert [each.id for each in await reader.sessions()] == [session.id]
        assert 'gpuaas_sessions{state="idle"} 1' in await reader.metrics()
        with pytest.raises(Forbidden):
            await reader.release(session.id)


async def test_token_for_metrics_tells_of_everybody_and_opens_nothing_else(service: Service) -> None:
    await service.admin.create_session("mine", wait_s=30)
    made = await service.admin.create_token("scraper", role="admin", scopes=["metrics"])
    async with ServiceClient(service.url, made.token) as scraper:
        assert 'gpuaas_sessions{state="idle"} 1' in await scraper.metrics()
        with pytest.raises(Forbidden):
            await scraper.sessions()
    with pytest.raises(InvalidRequest, match="scopes: metrics"):
        await service.admin.create_token("ann", scopes=["metrics"])


async def test_admins_narrow_token_is_like_any_users(service: Service) -> None:
    async with service.client("ann") as ann:
        hers = (await ann.create_session("hers", wait_s=30)).session
        admin = service.controller.tokens.create("root", Role.ADMIN, scopes=[Scope.READ, Scope.SESSIONS])
        async with ServiceClient(service.url, admin.token) as narrow:
            assert await narrow.sessions() == []
            with pytest.raises(Forbidden):
                await narrow.session(hers.id)


async def test_revoked_token_ends_streams_and_channels(service: Service) -> None:
    made = await service.admin.create_token("ann")
    headers = {"Authorization": f"Bearer {made.token}"}
    async with ServiceClient(service.url, made.token) as ann:
        session = (await ann.create_session("hers", wait_s=30)).session
    base = websocket_url(service.url)
    async with (
        connect(f"{base}/events/stream", additional_headers=headers, proxy=None) as stream,
        connect(f"{base}/sessions/{session.id}/channel?client=c", additional_headers=headers, proxy=None) as channel,
        httpx.AsyncClient(trust_env=False, verify=False, timeout=30) as http,
        http.stream("GET", f"{service.url}/sessions/{session.id}/log?follow=1", headers=headers) as log,
    ):
        assert log.status_code == 200
        await service.admin.revoke_token(made.id)
        for socket in (stream, channel):
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    await socket.recv()
            assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008
        with pytest.raises(httpx.RemoteProtocolError):
            async for _ in log.aiter_bytes():
                pass


async def test_expiring_token_gives_tickets_that_end_with_it(service: Service) -> None:
    async with service.client("ann", ttl_s=600) as ann:
        session = (await ann.create_session("hers", wait_s=30)).session
        ends_s = (await ann.ticket(session.id)).expires_s
        assert ends_s <= time.time() + 600


async def test_every_route_of_a_session_refuses_another_user(service: Service) -> None:
    session = (await service.admin.create_session("mine", wait_s=30)).session
    other = b"Bearer " + service.controller.tokens.create("eve", Role.USER).token.encode()
    answers = {route: await knock(service, route, other, session.id) for route in OF_A_SESSION}
    assert answers == dict.fromkeys(OF_A_SESSION, 403)
    assert (await service.admin.session(session.id)).session.state == "idle"
    await service.admin.release(session.id)
    answers = {route: await knock(service, route, other, session.id) for route in OF_A_SESSION}
    assert answers == dict.fromkeys(OF_A_SESSION, 403)


async def test_every_route_of_admins_refuses_a_user(service: Service) -> None:
    user = service.controller.tokens.create("eve", Role.USER).token
    async with httpx.AsyncClient(
        base_url=service.url, headers={"Authorization": f"Bearer {user}"}, trust_env=False
    ) as http:
        bodies: dict[str, Any] = {
            "/tokens": {"user": "eve", "role": "admin"},
            "/reservations": {"user": "eve", "devices": 1, "until_s": 1e12},
        }
        for route in OF_ADMINS:
            answer = await http.request(route.method, route.path, json=bodies.get(route.path, {}))
            assert answer.status_code == 403, route
    assert (await service.admin.health())["status"] == "ok"


class Ask(NamedTuple):
    """What somebody asks a route who looks for what is another user's."""

    #: Of the path: `{her}` stands for the id of her session.
    parts: str = ""
    body: Any = None
    #: Whether the user herself finds what is hers: else the test could not fail.
    shows: bool = True


HER_NAME = "ledger.ipynb"
ASKS = {
    Route("POST", "/sessions"): Ask(body={"name": HER_NAME}),
    Route("GET", "/sessions"): Ask("?all=true"),
    Route("GET", "/nodes"): Ask(shows=False),  # to admins only
    Route("GET", "/allocations"): Ask(),
    Route("GET", "/events"): Ask("?session={her}&limit=10000"),
    Route("GET", "/events/last"): Ask(shows=False),
    Route("GET", "/me"): Ask(),
    Route("GET", "/metrics"): Ask(),
    Route("GET", "/usage"): Ask(),
    Route("GET", "/api"): Ask(shows=False),
    Route("GET", "/api/kernelspecs"): Ask(shows=False),
    Route("GET", "/api/kernelspecs/{name}"): Ask(shows=False),
    Route("GET", "/api/kernels"): Ask(),
    Route("POST", "/api/kernels"): Ask(body={"env": {"JPY_SESSION_NAME": HER_NAME}}),
    Route("GET", "/reservations"): Ask(),
    Route(WEBSOCKET, "/events/stream"): Ask("?after=0"),
}


async def answer_of(service: Service, route: Route, token: str, her: str) -> str:
    """All that the route says to this ask."""
    ask, headers = ASKS[route], {"Authorization": f"Bearer {token}"}
    path = route.path.replace("{name}", "remote_gpu") + ask.parts.format(her=her)
    if route.method != WEBSOCKET:
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            answer = await http.request(route.method, service.url + path, headers=headers, json=ask.body)
        assert answer.is_success, (route, answer.text)
        return answer.text
    end = f"end {time.monotonic()}"
    service.controller.sessions.announce("service", end)
    said = ""
    async with connect(f"{websocket_url(service.url)}{path}", additional_headers=headers, proxy=None) as stream:
        while end not in said:
            said += str(await stream.recv())
    return said


def test_every_route_of_any_user_is_asked_for_what_is_anothers() -> None:
    assert ASKS.keys() == OF_ANY_USER


async def test_no_route_shows_what_is_another_users(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "annabel-of-accounts"
    ann = await service.admin.create_token(name)
    async with ServiceClient(service.url, ann.token) as client:
        hers = (await client.create_session(HER_NAME, wait_s=30)).session
        await client.take_checkpoint(hers.id)
    live = service.controller.sessions.get(hers.id)
    assert live is not None
    await eventually(lambda: live.checkpoints is not None and live.checkpoints.last is not None)
    reserved = await service.admin.reserve(name, 1, until_s=time.time() + 3600, label="audit of the books")
    drain = DrainView(node="local-0", deadline_s=1.0, left=(hers.id,), refused={hers.id: f"{name} says no"})
    monkeypatch.setattr(service.controller.drains, "known", lambda node_id: drain)
    await service.admin.cordon("local-0", cordoned=True)
    eve = await service.admin.create_token("eve")
    secrets = (hers.id, kernel_id(hers.id), name, reserved.id, reserved.label)
    found: dict[str, set[Route]] = {}
    for user, token in (("ann", ann.token), ("eve", eve.token), ("admin", service.token)):
        answers = {route: await answer_of(service, route, token, hers.id) for route in ASKS}
        found[user] = {route for route, text in answers.items() if any(secret in text for secret in secrets)}
    assert found["eve"] == set()
    assert found["ann"] == {route for route, ask in ASKS.items() if ask.shows}
    assert Route("GET", "/nodes") in found["admin"]


async def test_ticket_of_one_session_opens_no_other(service: Service) -> None:
    session = (await service.admin.create_session("mine", wait_s=30)).session
    ticket = await service.admin.ticket(session.id)
    url = ticket.direct_url.replace(session.id, "another") + "?client=c"
    with pytest.raises(InvalidStatus) as refused:
        await connect(url, additional_headers={"Authorization": f"Bearer {ticket.ticket}"}, proxy=None)
    assert refused.value.response.status_code == 401
    # A ticket is for the agent; to the controller it is no token.
    assert await knock(service, Route("GET", "/nodes"), f"Bearer {ticket.ticket}".encode()) == 401


async def test_pages_for_visitors_are_there_only_with_a_hub(service: Service) -> None:
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as http:
        for path in VISITS:
            assert (await http.get(path, params={"code": "c", "state": "s"})).status_code == 422, path
            assert (await http.post(path)).status_code == 405, path
