"""A front end of the gateway that comes again."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import pytest
from starlette.websockets import WebSocket

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.auth import User
from jupyter_gpuaas.controller.bell import Bell
from jupyter_gpuaas.controller.controller import Controller
from jupyter_gpuaas.controller.gateway import front_end as module
from jupyter_gpuaas.controller.gateway.front_end import FrontEnd
from jupyter_gpuaas.controller.gateway.kernels import Kernels
from jupyter_gpuaas.controller.sessions import LiveSession
from jupyter_gpuaas.model import ChannelInfo, SessionState
from jupyter_gpuaas.wire import channel as channel_module
from jupyter_gpuaas.wire.channel import Channel
from jupyter_gpuaas.wire.jupyter import make_parts
from jupyter_gpuaas.wire.link import Link
from jupyter_gpuaas.wire.record import Kind, encode
from tests.service import eventually

WAYS = {"direct_url": "ws://node", "relay_url": "", "bundle_url": "", "relay_bundle_url": ""}
INFO = ChannelInfo(ticket="t", epoch=2, expires_s=1e12, **WAYS)


class Socket:
    """A connection to a front end, which takes everything and says so."""

    headers: dict[str, str] = {}
    base_url = "http://service/"
    arrived = 0

    def __init__(self) -> None:
        self.scope: dict[str, Any] = {"subprotocols": []}
        self.texts: list[str] = []
        self.cut = asyncio.Event()

    def ask(self, number: int) -> None:
        self.arrived = number

    async def accept(self, **more: Any) -> None: ...

    async def close(self, code: int, reason: str) -> None: ...

    async def send_text(self, text: str) -> None:
        self.texts.append(text)

    async def receive(self) -> dict[str, Any]:
        await self.cut.wait()
        return {"type": "websocket.disconnect"}


class Host:
    """Links to a host that has come after a loss, and says one thing behind all that there was."""

    closed = False

    def __init__(self, asked: list[dict[str, str]]) -> None:
        self._asked = asked

    async def connect(self, url: str, token: str, handler: Channel, **more: Any) -> Link:
        query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        self._asked.append(query)
        link, after = cast(Link, self), int(query.get("after", 10))
        welcome = {"op": "welcome", "received": None, "after": after, "sent": 10, "journal": "j", "epoch": 2}
        handler.op_received(link, {**welcome, "state": "idle", "kernel_starts": 1})
        said = make_parts(b"stream", "stream", b"{}", {"name": "stdout", "text": f"record {after + 1}"})
        handler.binary_received(link, b"".join(encode(Kind.IOPUB, after + 1, 0, said)))
        return link

    def send_op(self, op: dict[str, Any]) -> None: ...

    def close(self, reason: str, code: int = 1000) -> None: ...


async def test_front_end_that_comes_again_shows_whose_welcome_it_has_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a loss it would else be told again all that it has heard since."""
    asked: list[dict[str, str]] = []
    monkeypatch.setattr(channel_module, "connect", Host(asked).connect)
    monkeypatch.setattr(module, "connection_of", lambda socket: socket)
    monkeypatch.setattr(module, "CONFIRM_S", 0.001)
    settings = Settings()
    controller = cast(Controller, SimpleNamespace(settings=settings, channel=lambda *_, **__: INFO))
    session = SimpleNamespace(id="s", state=SessionState.IDLE)
    live = cast(LiveSession, SimpleNamespace(session=session, hosted=True, bell=Bell()))
    kernels = Kernels(lambda session_id: True)
    for time in range(2):
        socket = Socket()
        front_end = FrontEnd(controller, kernels, live, cast(User, None), cast(WebSocket, socket), "tab")
        running = asyncio.create_task(front_end.run())
        await eventually(lambda socket=socket: socket.texts)  # type: ignore[misc]
        assert f"record {11 + time}" in socket.texts[-1]
        await eventually(lambda front_end=front_end: front_end._confirmed == front_end._sent)  # type: ignore[misc]
        await eventually(lambda: kernels._had)
        socket.cut.set()
        await running
    assert "after" not in asked[0]
    assert [asked[1][name] for name in ("after", "journal", "epoch")] == ["11", "j", "2"]
