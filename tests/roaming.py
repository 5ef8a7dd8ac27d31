"""A notebook on a session that moves, for tests through the whole service."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from jupyter_gpuaas.client.migrations import follow_migration
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.client.session import Message, RemoteSession
from jupyter_gpuaas.errors import CellError
from jupyter_gpuaas.lifecycle.node_loss import ENAME
from jupyter_gpuaas.model import GpuSession, MigrationView, ResourceRequest, SessionState, StandbyView
from jupyter_gpuaas.state.checkpointer import Checkpointer
from jupyter_gpuaas.state.listing import owners_address
from jupyter_gpuaas.store import open_store
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

    async def told(self, code: str) -> str:
        """What a cell prints; one that a loss cut off is run again, as its user would."""
        while True:
            outputs = Outputs()
            try:
                reply = await asyncio.wait_for(self.run(code, outputs), 60.0)
            except CellError:
                continue
            if reply["status"] == "ok":
                return outputs.text.strip()
            assert reply["ename"] == ENAME, reply

    async def look(self) -> GpuSession:
        return (await self.client.session(self.id)).session

    async def until(self, *states: SessionState) -> GpuSession:
        async def there() -> GpuSession | None:
            session = await self.look()
            return session if session.state in states else None

        found: GpuSession = await eventually(there, 60.0)
        return found

    async def followed(self, *, after: int = 0) -> StandbyView:
        """Its standby, when that has a checkpoint of this cell or a later one."""

        async def follows() -> StandbyView | None:
            view = (await self.client.session(self.id)).standby
            return view if view is not None and view.state == "follows" and view.cell >= after else None

        found: StandbyView = await eventually(follows, 60.0)
        return found

    async def migrate(self, target: str | None = None, **more: Any) -> MigrationView:
        """Move it, and wait for the end of that."""
        view = await self.client.migrate(self.id, target, **more)
        return await asyncio.wait_for(follow_migration(self.client, view, lambda text: None), 120.0)

    async def node(self) -> str:
        session = await self.look()
        return session.lease.node_id if session.lease else ""


def commit_as(service: Service, session: str, epoch: int) -> None:
    """Commit a checkpoint as a host of this epoch would that has heard of nothing.

    Raises
    ------
    StaleEpoch
        The store refuses it.
    """
    live = service.controller.sessions.get(session)
    assert live is not None
    plan = service.controller.checkpoints.plan(live.record)
    with contextlib.closing(open_store(owners_address(plan.store, plan.owner))) as store:
        own = Checkpointer(store, key=bytes.fromhex(plan.key), owner=plan.owner, session=session, hidden=False)
        own.capture({"late": True}, epoch=epoch, cell=100)


@contextlib.asynccontextmanager
async def roaming(
    service: Service,
    name: str = "roamer",
    client: ServiceClient | None = None,
    request: ResourceRequest | None = None,
    **settings: Any,
) -> AsyncIterator[Roamer]:
    """A session of this name that is ready, with a client attached."""
    client = client or service.admin
    view = await client.create_session(name, request=request, wait_s=60)
    remote = RemoteSession(client, view.session.id, quick_settings(service.controller.settings.folder, **settings))
    await remote.open(view.channel)
    try:
        yield Roamer(client, view.session.id, remote)
    finally:
        await remote.close()
