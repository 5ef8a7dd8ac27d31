"""Wrong callers on every route of a node's agent, as its own source lists them."""

from __future__ import annotations

import ast
import asyncio
import inspect
import textwrap
import time
from collections.abc import AsyncIterator, Iterator
from itertools import product
from typing import NamedTuple

import httpx
import pytest

from jupyter_gpuaas.node.agent import Agent
from jupyter_gpuaas.wire import ticket
from tests.conftest import GpuaasHome
from tests.service import Service, running_service


class Route(NamedTuple):
    method: str
    path: str


def routes_in(function: object) -> set[Route]:
    """The routes of a method that tells them apart by ``match (request.method, *segments)``."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))  # type: ignore[arg-type]
    found: set[Route] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.match_case) and isinstance(node.pattern, ast.MatchSequence):
            choices = [list(_words(each)) for each in node.pattern.patterns]
            found |= {Route(method, "/".join(rest)) for method, *rest in product(*choices)}
    return found


def _words(pattern: ast.pattern) -> Iterator[str]:
    if isinstance(pattern, ast.MatchValue):
        assert isinstance(pattern.value, ast.Constant)
        yield str(pattern.value.value)
    elif isinstance(pattern, ast.MatchOr):
        for each in pattern.patterns:
            yield from _words(each)
    elif isinstance(pattern, ast.MatchAs) and pattern.pattern is not None:
        yield from _words(pattern.pattern)
    elif isinstance(pattern, ast.MatchAs):
        yield {"session_id": "{session}"}.get(pattern.name or "", "x")
    else:
        assert isinstance(pattern, ast.MatchStar), ast.dump(pattern)
        yield "manifest/x"


#: For the service alone, with the token of the node.
OF_THE_SERVICE = routes_in(Agent._answer)
#: For clients of one session, and for its next host, with a ticket.
OF_A_SESSION = routes_in(Agent._pass)


def test_routes_are_found_in_the_source() -> None:
    assert {Route("GET", "node"), Route("POST", "stop"), Route("POST", "hosts/{session}/restart")} <= OF_THE_SERVICE
    assert {Route("GET", "channel"), Route("PUT", "bundles/x"), Route("GET", "transfer/manifest/x")} <= OF_A_SESSION


class Node(NamedTuple):
    service: Service
    url: str
    token: str
    session: str
    secret: str
    epoch: int

    async def knock(self, route: Route, authorization: str | None, *, of_session: bool = False) -> int:
        base = f"{self.url}/v1/sessions/{self.session}" if of_session else f"{self.url}/v1"
        headers = {} if authorization is None else {"Authorization": authorization}
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=30) as http:
            answer = await http.request(
                route.method, f"{base}/{route.path.replace('{session}', self.session)}?client=c", headers=headers
            )
        assert answer.json()["error"]
        return answer.status_code

    def ticket(self, **changes: object) -> str:
        given = {"session_id": self.session, "epoch": self.epoch, "user": "ann", "expires_s": time.time() + 99}
        return ticket.issue(self.secret, **(given | changes))  # type: ignore[arg-type]


@pytest.fixture
async def node(gpuaas_home: GpuaasHome) -> AsyncIterator[Node]:
    async with running_service(gpuaas_home.path, devices="cpu:2") as service, service.client("ann") as ann:
        session = (await ann.create_session("hers", wait_s=60)).session
        live = service.controller.sessions.get(session.id)
        assert live is not None and live.lease is not None
        endpoint = service.controller.engine.agent(live.lease.node_id)
        yield Node(service, endpoint.url, endpoint.token, session.id, live.record.secret, live.lease.epoch)
        assert (await ann.session(session.id)).session.state in ("idle", "busy")


async def test_every_route_of_the_service_wants_the_nodes_token(node: Node) -> None:
    async with node.service.client("ann") as ann:
        good = (await ann.ticket(node.session)).ticket
        user = ann.token
    wrong = (
        None,
        "",
        "Bearer",
        "Bearer wrong",
        f"Basic {node.token}",
        f"Bearer {node.token}x",
        f"Bearer {node.token[:-1]}",
        f"Bearer {node.service.token}",
        f"Bearer {user}",
        f"Bearer {good}",
        f"Bearer {node.secret}",
    )
    for authorization in wrong:
        answers = {route: await node.knock(route, authorization) for route in OF_THE_SERVICE}
        assert answers == dict.fromkeys(OF_THE_SERVICE, 401), authorization


async def test_every_route_of_a_session_wants_a_ticket_of_it(node: Node) -> None:
    refused = {
        "none": None,
        "of the node": f"Bearer {node.token}",
        "of the service": f"Bearer {node.service.token}",
        "the secret itself": f"Bearer {node.secret}",
        "another session's": f"Bearer {node.ticket(session_id='f' * 32)}",
        "expired": f"Bearer {node.ticket(expires_s=time.time() - 10)}",
        "with another secret": "Bearer "
        + ticket.issue("x", session_id=node.session, epoch=node.epoch, user="ann", expires_s=time.time() + 99),
    }
    for what, authorization in refused.items():
        answers = {route: await node.knock(route, authorization, of_session=True) for route in OF_A_SESSION}
        assert answers == dict.fromkeys(OF_A_SESSION, 401), what
    # One of a former or a later host: whoever shows it is told that it is not of this one.
    for epoch in (node.epoch - 1, node.epoch + 1):
        authorization = f"Bearer {node.ticket(epoch=epoch)}"
        answers = {route: await node.knock(route, authorization, of_session=True) for route in OF_A_SESSION}
        assert answers == dict.fromkeys(OF_A_SESSION, 409), epoch
    # A client's ticket is not one for the next host, nor the other way round.
    transfers = {route for route in OF_A_SESSION if route.path.startswith("transfer")}
    for user, routes in (("ann", transfers), (ticket.TRANSFER_USER, OF_A_SESSION - transfers)):
        authorization = f"Bearer {node.ticket(user=user)}"
        answers = {route: await node.knock(route, authorization, of_session=True) for route in routes}
        assert answers == dict.fromkeys(routes, 401), user


async def test_orders_of_another_epoch_are_refused(node: Node) -> None:
    """Of a controller that has been superseded, or of somebody who guesses."""
    headers = {"Authorization": f"Bearer {node.token}"}
    async with httpx.AsyncClient(base_url=f"{node.url}/v1", headers=headers, trust_env=False, timeout=30) as http:
        for epoch in (str(node.epoch - 1), str(node.epoch + 1), "", "-1", "x", "9" * 5000, "\u0661"):
            for method, path in (("POST", "ops/quiesce"), ("POST", "ops/hand_over"), ("DELETE", "")):
                url = f"/hosts/{node.session}/{path}".rstrip("/")
                answer = await http.request(method, url, params={"epoch": epoch}, json={})
                assert (answer.status_code, answer.json()["error"]) == (409, "StaleEpoch"), (method, path, epoch[:5])
        for odd in ("..", "%2e%2e", "a%2fb", "a%00b", "x" * 4000):
            for path in ("remains", "cells", "log"):
                answer = await http.get(f"/hosts/{odd}/{path}", params={"epoch": "1"})
                assert answer.status_code in (400, 404), (odd[:10], path)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET //[ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/node HTTP/1.1\nHost: x\n\n",
        b"POST /v1/lease HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"GET /v1/node HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
    ],
)
async def test_odd_requests_are_answered_as_such(node: Node, sent: bytes) -> None:

    host, port = node.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 401 ")), answer[:100]
