"""A notebook on a session that moves, for tests through the whole service."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from jupyter_gpuaas.client.migrations import follow_migration
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.client.session import Message, RemoteSession
from jupyter_gpuaas.model import GpuSession, MigrationView, SessionState
from tests.service import Service, eventually, quick_settings


class Outputs:
    """What came for one cell."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.heard = asyncio.Event()

    def output(self, message: Message) -> None:
        self.messages.append(message)
        if message.msg_type == "stream":
            self.heard.set()

    def asked(self, message: Message) -> None:
        raise AssertionError("a cell asks for input")

    @property
    def text(self) -> str:
        return "".join(each.content["text"] for each in self.messages if each.msg_type == "stream")


class Roamer:
    """One session and one client of it."""

    def __init__(self, client: ServiceClient, session: str, remote: RemoteSession) -> None:
        self.client = client
        self.id = session
        self.remote = remote

    async def run(self, code: str, outputs: Outputs | None = None) -> dict[str, Any]:
        """Run a cell; the reply, whatever its status."""
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}}
        content |= {"allow_stdin": False, "stop_on_error": True}
        return await self.remote.request("execute_request", content, listener=outputs or Outputs())

    async def said(self, code: str) -> str:
        """What a cell prints that must not fail."""
        outputs = Outputs()
        reply = await self.run(code, outputs)
        assert reply["status"] == "ok", reply
        return outputs.text.strip()

    async def look(self) -> GpuSession:
        return (await self.client.session(self.id)).session

    async def until(self, *states: SessionState) -> GpuSession:
        async def there() -> GpuSession | None:
            session = await self.look()
            return session if session.state in states else None

        found: GpuSession = await eventually(there, 60.0)
        return found

    async def migrate(self, target: str | None = None, **more: Any) -> MigrationView:
        """Move it, and wait for the end of that."""
        view = await self.client.migrate(self.id, target, **more)
        return await asyncio.wait_for(follow_migration(self.client, view, lambda text: None), 120.0)

    async def node(self) -> str:
        session = await self.look()
        return session.lease.node_id if session.lease else ""


@contextlib.asynccontextmanager
async def roaming(
    service: Service, name: str = "roamer", client: ServiceClient | None = None, **settings: Any
) -> AsyncIterator[Roamer]:
    """A session of this name that is ready, with a client attached."""
    client = client or service.admin
    view = await client.create_session(name, wait_s=60)
    remote = RemoteSession(client, view.session.id, quick_settings(service.controller.settings.folder, **settings))
    await remote.open(view.channel)
    try:
        yield Roamer(client, view.session.id, remote)
    finally:
        await remote.close()
