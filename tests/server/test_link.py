"""The extension's link to a service that is cut off in the middle of an answer."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from jupyter_gpuaas.client.rest import Answer
from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.errors import ServiceUnreachable
from jupyter_gpuaas.server.link import ServiceLink


@asynccontextmanager
async def cut_off(home: Path, cuts: int, asked: list[str]) -> AsyncIterator[str]:
    """What answers as the service of this home, but for so many requests, which it ends without a word; its address."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        what = " ".join(head.split(" ")[:2])
        body = b'{"status": "ok"}'
        if what != "GET /health":
            asked.append(what)
        if what == "GET /health" or len(asked) > cuts:
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        (home / "token").write_text("a-token-of-its-own-that-nobody-guesses")
        (home / "service.json").write_text(json.dumps({"url": url, "pid": os.getpid(), "port": 0, "nodes": 1}))
        yield url


async def ask(settings: Settings, method: str) -> Answer:
    link = ServiceLink(settings, may_start=False, tell=lambda told: None)
    try:
        return await link.ask(method, "/v1/nodes", query={})
    finally:
        await link.close()


async def test_what_is_only_read_is_asked_again_where_the_service_is_there_again(tmp_path: Path) -> None:
    asked: list[str] = []
    async with cut_off(tmp_path, 1, asked):
        assert (await ask(Settings(home=str(tmp_path)), "GET")).status == 200
    assert asked == ["GET /v1/nodes"] * 2


async def test_it_is_asked_no_third_time(tmp_path: Path) -> None:
    asked: list[str] = []
    async with cut_off(tmp_path, 2, asked):
        with pytest.raises(ServiceUnreachable):
            await ask(Settings(home=str(tmp_path)), "GET")
    assert asked == ["GET /v1/nodes"] * 2


async def test_what_may_have_been_done_is_not_sent_twice(tmp_path: Path) -> None:
    asked: list[str] = []
    async with cut_off(tmp_path, 1, asked):
        with pytest.raises(ServiceUnreachable):
            await ask(Settings(home=str(tmp_path)), "POST")
    assert asked == ["POST /v1/nodes"]


async def test_of_a_service_that_is_configured_nothing_is_known(tmp_path: Path) -> None:
    asked: list[str] = []
    async with cut_off(tmp_path, 1, asked) as url:
        with pytest.raises(ServiceUnreachable):
            await ask(Settings(home=str(tmp_path), url=url, token="t" * 32), "GET")
    assert asked == ["GET /v1/nodes"]
