"""A controller that stands by passes connections on to the one that acts, and lets them go when that changes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.acting import Acting, Face
from jupyter_gpuaas.wire.tls import client_context, of_service
from tests.certificates import own_ca
from tests.controllers import FarActing, served
from tests.service import eventually

MUCH = 20_000_000


async def echo(request: Request) -> Response:
    body = await request.body()
    return PlainTextResponse(body, headers={"X-Host": request.headers["host"], "X-Path": str(request.url.path)})


async def much(request: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(MUCH // 100_000):
            yield bytes(100_000)

    return StreamingResponse(pieces())


async def endless(request: Request) -> Response:
    gone = request.app.state.gone

    async def pieces() -> AsyncIterator[bytes]:
        try:
            yield b"line\n"
            await asyncio.Event().wait()
        finally:
            gone.set()

    return StreamingResponse(pieces())


async def chat(websocket: WebSocket) -> None:
    await websocket.accept(subprotocol=(websocket.scope["subprotocols"] or [None])[0])
    with contextlib.suppress(Exception):
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            data = message.get("bytes")
            await (websocket.send_text(message["text"]) if data is None else websocket.send_bytes(data))


@dataclass
class Both:
    """The address of one that acts, and of one that stands by."""

    acts: str
    stands_by: str
    acting: FarActing
    face: Face
    app: Starlette
    settings: Settings

    @property
    def port(self) -> int:
        """Of the one that stands by."""
        return int(self.stands_by.rpartition(":")[2])

    @property
    def context(self) -> ssl.SSLContext | None:
        """For a client of it."""
        return client_context(of_service(self.settings)) if self.settings.tls == "on" else None

    def http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.stands_by, trust_env=False, timeout=30, verify=self.context or False)

    def chatting(self, **more: Any) -> Any:
        url = self.stands_by.replace("http", "ws", 1) + "/chat"
        return connect(url, proxy=None, ssl=self.context, **more)


BOTH_WAYS = pytest.mark.parametrize("both", ["plain", "tls"], indirect=True)


@pytest.fixture
async def both(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Both]:
    routes = [
        Route("/echo", echo, methods=["GET", "POST"]),
        Route("/much", much),
        Route("/endless", endless),
        Route("/healthz", lambda request: PlainTextResponse("of the one that acts")),
        WebSocketRoute("/chat", chat),
    ]
    app = Starlette(routes=routes)
    app.state.gone = asyncio.Event()
    tls = getattr(request, "param", "plain") == "tls"
    if tls:
        own_ca(tmp_path)
    settings = Settings(home=str(tmp_path), tls="on" if tls else "off")
    face = Face()
    async with served(settings, app) as (acts, _), served(settings, face) as (stands_by, _):
        acting = FarActing(acts)
        face.stand_by(cast(Acting, acting), stands_by, settings)
        yield Both(acts, stands_by, acting, face, app, settings)


@pytest.fixture
async def http(both: Both) -> AsyncIterator[httpx.AsyncClient]:
    async with both.http() as client:
        yield client


@BOTH_WAYS
async def test_requests_reach_the_one_that_acts_as_they_were_sent(both: Both, http: httpx.AsyncClient) -> None:
    for body in (b"", b"a", bytes(3_000_000)):
        answer = await http.post("/echo", content=body)
        assert answer.content == body
    # What it makes addresses from is the one that the client used.
    assert answer.headers["X-Host"] == both.stands_by.partition("://")[2]
    assert len((await http.get("/much")).content) == MUCH
    assert (await http.get("/none")).status_code == 404


async def test_standby_answers_for_its_own_health_on_any_connection(both: Both, http: httpx.AsyncClient) -> None:
    assert (await http.get("/healthz")).json()["status"] == "standby"
    assert (await http.get("/echo")).status_code == 200  # on the same connection
    async with both.http() as another:
        ready = await another.get("/readyz?a=b")
        assert ready.status_code == 503 and both.acts in ready.json()["hint"]


async def test_first_line_that_comes_in_pieces_is_waited_for(both: Both) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", both.port, ssl=both.context)
    for piece in (b"GE", b"T /ech", b"o HTTP/1.1\r\nHos", b"t: there\r\nConnection: close\r\n\r\n"):
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()


@BOTH_WAYS
async def test_websockets_go_through_with_their_pings(both: Both) -> None:
    async with both.chatting(subprotocols=["one"], max_size=None) as chatting:
        assert chatting.subprotocol == "one"
        for said in ("text", b"bytes", bytes(2_000_000)):
            await chatting.send(said)
            assert await chatting.recv() == said
        await (await chatting.ping())


async def test_client_that_goes_is_missed_at_the_other_end(both: Both, http: httpx.AsyncClient) -> None:
    async with http.stream("GET", "/endless") as answer:
        async for _ in answer.aiter_bytes():
            break
    await http.aclose()
    await asyncio.wait_for(both.app.state.gone.wait(), 30)


async def test_connections_end_when_another_one_acts_and_new_ones_go_there(both: Both) -> None:
    async with both.chatting() as chatting:
        await chatting.send("a")
        await chatting.recv()
        another = Starlette(routes=[Route("/echo", lambda request: PlainTextResponse("another"))])
        async with served(both.settings, another) as (url, _):
            both.acting.is_at(url)
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(chatting.recv(), 30)
            async with both.http() as http:
                assert (await http.get("/echo")).text == "another"


async def test_standby_that_acts_serves_itself_on_connections_that_were_there(both: Both) -> None:
    async with both.http() as http:
        assert (await http.get("/healthz")).status_code == 200
        both.acting.is_at("")
        both.face.show(Starlette(routes=[Route("/echo", lambda request: PlainTextResponse("here"))]))
        assert (await http.get("/echo")).text == "here"


@pytest.mark.parametrize("where", ["", "itself", "nobody", "nowhere"])
async def test_without_one_that_acts_requests_are_refused_for_now(
    both: Both, http: httpx.AsyncClient, where: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        nobody = f"http://127.0.0.1:{listener.getsockname()[1]}"
    both.acting.is_at({"itself": both.stands_by, "nobody": nobody, "nowhere": "http://h:none"}.get(where, ""))
    for _ in range(2):
        refused = await http.post("/echo", content=b"body")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert refused.json()["error"] == "ServiceUnreachable"
    both.acting.is_at(both.acts)
    assert (await http.get("/echo")).status_code == 200


@BOTH_WAYS
async def test_slow_client_holds_the_other_end_back(both: Both) -> None:
    """What a client does not read must not pile up in between."""
    reader, writer = await asyncio.open_connection("127.0.0.1", both.port, ssl=both.context, limit=1 << 16)
    writer.write(b"GET /much HTTP/1.1\r\nHost: there\r\nConnection: close\r\n\r\n")
    connections = both.face._passed
    await eventually(lambda: len(connections) == 1)
    (front,) = connections

    def is_held_back() -> bool:
        far = front._far
        return far is not None and far._transport is not None and not far._transport.is_reading()

    await eventually(is_held_back)
    assert front.transport.get_write_buffer_size() < 1_000_000
    whole = await reader.read(-1)
    assert len(whole) > MUCH
    writer.close()
