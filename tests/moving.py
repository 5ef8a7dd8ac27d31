"""Two real nodes, a session on one of them, and a client of it: for tests of moves without a service."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.engine.agent_client import AgentClient
from jupyter_gpuaas.engine.local import LocalEngine
from jupyter_gpuaas.model import ChannelInfo, CheckpointPlan, HostReport, HostSpec, HostState, Lease, Peer
from jupyter_gpuaas.wire import ticket
from jupyter_gpuaas.wire.channel import Channel, Resend
from jupyter_gpuaas.wire.record import Kind, Record
from tests.service import eventually, quick_settings

DEADLINE_S = 60.0
SECRET = "of the session"
SESSION = "s1"
NODES = ("local-0", "local-1")

Message = dict[str, Any]


@dataclass
class Place:
    """Where the session's host is, and at which epoch."""

    node: str
    epoch: int
    agent: AgentClient

    @property
    def transfer(self) -> Peer:
        return Peer(url=f"{self.url}/transfer", ticket=self.ticket(ticket.TRANSFER_USER))

    @property
    def url(self) -> str:
        return f"{self.agent.endpoint.url}/v1/sessions/{SESSION}"

    def ticket(self, user: str) -> str:
        expires_s = time.time() + 600
        return ticket.issue(SECRET, session_id=SESSION, epoch=self.epoch, user=user, expires_s=expires_s)

    async def op(self, op: str, **content: Any) -> dict[str, Any]:
        return await self.agent.op(SESSION, self.epoch, op, content)

    async def report(self) -> HostReport | None:
        found = [report for report in await self.agent.hosts() if report.session_id == SESSION]
        return found[0] if found else None

    async def state(self) -> HostState | None:
        report = await self.report()
        return report.state if report is not None else None

    async def end(self) -> None:
        await self.agent.stop_host(SESSION, epoch=self.epoch, reason="moved")


@dataclass
class Request:
    """One request of the client, and what came for it."""

    msg_id: str
    serial: int = 0
    replies: list[Message] = field(default_factory=list)
    heard: list[Message] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def reply(self, deadline_s: float = DEADLINE_S) -> Message:
        """Content of the reply, when idle has come as well."""
        await asyncio.wait_for(self.done.wait(), deadline_s)
        content: Message = self.replies[0]["content"]
        return content

    @property
    def text(self) -> str:
        return "".join(m["content"]["text"] for m in self.heard if m["header"]["msg_type"] == "stream")

    def of_type(self, msg_type: str) -> list[Message]:
        return [m for m in self.heard if m["header"]["msg_type"] == msg_type]


class Notebook:
    """A client on a channel, that notes all it is told."""

    def __init__(self, nodes: Nodes, settings: Settings, name: str = "client") -> None:
        self._nodes = nodes
        self.channel = Channel(self._ticket, self, settings, token=lambda: "", client=name)
        self.requests: dict[str, Request] = {}
        self.numbers: list[int] = []
        self.unlinked: list[tuple[str, float]] = []
        self.welcomes: list[Message] = []
        self.losses: list[bool] = []
        #: What was said beside all requests.
        self.notices: list[str] = []
        self.prompts: asyncio.Queue[Message] = asyncio.Queue()
        self.ended: asyncio.Future[str] | None = None
        self._name = name
        self._count = 0

    def start(self) -> None:
        self.ended = asyncio.ensure_future(self.channel.run())

    async def close(self) -> None:
        self.channel.close()
        if self.ended is not None:
            await self.ended

    def ask(self, msg_type: str, content: Message, *, kind: Kind = Kind.SHELL, **header: Any) -> Request:
        self._count += 1
        request = Request(f"{self._name}-{self._count}")
        self.requests[request.msg_id] = request
        head = {"msg_id": request.msg_id, "msg_type": msg_type, "username": "", "session": self._name, "date": ""}
        encode = msgspec.json.encode
        metadata = encode({"cellId": f"cell of {request.msg_id}"})  # as front ends do it
        parts = [self._name.encode(), encode({**head, "version": "5.4", **header}), b"{}", metadata, encode(content)]
        request.serial = self.channel.send(kind, parts)
        return request

    def execute(self, code: str, *, stdin: bool = False, **header: Any) -> Request:
        return self.ask("execute_request", {"code": code, "silent": False, "allow_stdin": stdin}, **header)

    async def run(self, code: str) -> Message:
        reply = await self.execute(code).reply()
        assert reply["status"] == "ok", reply
        return reply

    async def value(self, expression: str) -> str:
        """repr of an expression in the kernel, in one line."""
        content = {"code": "", "silent": True, "user_expressions": {"value": expression}}
        reply = await self.ask("execute_request", content).reply()
        told: str = reply["user_expressions"]["value"]["data"]["text/plain"]
        return " ".join(told.split())

    async def _ticket(self) -> ChannelInfo:
        return await self._nodes.ticket()

    # -- ChannelHandler ----------------------------------------------------------------------------------------

    def record_received(self, record: Record) -> None:
        self.numbers.append(record.number)
        if record.kind not in (Kind.SHELL, Kind.CONTROL, Kind.IOPUB, Kind.STDIN):
            return
        header, parent, _, content = (msgspec.json.decode(part) for part in record.parts[1:5])
        message = {"header": header, "parent": parent, "content": content, "kind": record.kind}
        if record.kind is Kind.STDIN:
            self.prompts.put_nowait(message)
        request = self.requests.get(parent.get("msg_id", ""))
        if request is None:
            if header["msg_type"] == "stream":
                self.notices.append(content["text"])
            return
        if record.kind is Kind.IOPUB:
            request.heard.append(message)
        elif record.kind is not Kind.STDIN:
            request.replies.append(message)
            self.channel.answered(request.serial)
        idle = any(m["content"]["execution_state"] == "idle" for m in request.of_type("status"))
        if request.replies and idle:
            request.done.set()

    def channel_linked(self, welcome: Message) -> None:
        self.welcomes.append(welcome)

    def channel_unlinked(self, reason: str, retry_s: float) -> None:
        self.unlinked.append((reason, retry_s))

    def host_lost(self, welcome: Message, kept: frozenset[int], *, anew: bool) -> Resend:
        self.losses.append(anew)
        return Resend()

    def host_changed(self, op: Message) -> None: ...


class Nodes:
    """The nodes, and the session as a service would know it."""

    def __init__(self, settings: Settings, engine: LocalEngine, agents: dict[str, AgentClient]) -> None:
        self.settings = settings
        self.engine = engine
        self.agents = agents
        self._place: Place | None = None
        self._changed = asyncio.Event()
        self._epochs = itertools.count(2)
        self._store = settings.folder / "checkpoints"

    @property
    def place(self) -> Place:
        assert self._place is not None
        return self._place

    @place.setter
    def place(self, place: Place | None) -> None:
        self._place = place
        self._changed.set()

    async def ticket(self) -> ChannelInfo:
        """As the service answers: not before the session is somewhere."""
        while self._place is None:
            self._changed.clear()
            await self._changed.wait()
        url = self._place.url
        return ChannelInfo(
            direct_url=f"{url.replace('http:', 'ws:')}/channel",
            relay_url="",
            bundle_url=f"{url}/bundles",
            relay_bundle_url="",
            ticket=self._place.ticket("ann"),
            epoch=self._place.epoch,
            expires_s=time.time() + 600,
        )

    def spec(self, node: str, epoch: int, peer: Peer | None = None, restore: str = "", **more: Any) -> HostSpec:
        lease = Lease(f"l{epoch}", SESSION, node, ("cpu:0",), epoch)
        plan = CheckpointPlan(store=str(self._store), key="ab" * 32, owner="ann", every=1, share=1e6, restore=restore)
        return HostSpec(
            session_id=SESSION, name="n", owner="ann", lease=lease, secret=SECRET, checkpoints=plan, peer=peer, **more
        )

    async def begin(self) -> Place:
        """Begin the session on the first node."""
        place = Place(NODES[0], 1, self.agents[NODES[0]])
        await place.agent.start_host(self.spec(place.node, 1))
        await eventually(lambda: self._is(place, HostState.IDLE), DEADLINE_S)
        self.place = place
        return place

    async def stand_by(self) -> Place:
        """A host on the other node that waits to take the session over."""
        source = self.place
        node = NODES[1 - NODES.index(source.node)]
        target = Place(node, next(self._epochs), self.agents[node])
        await target.agent.start_host(self.spec(node, target.epoch, source.transfer))
        return target

    def again(self, node: str) -> AgentClient:
        """A client of a node's agent that may have been started again."""
        self.agents[node] = AgentClient(self.engine.agent(node))
        return self.agents[node]

    async def host_pid(self, place: Place) -> int:
        """The process of the session's host."""
        for path in (self.settings.folder / "nodes" / place.node / "hosts").glob("*.json"):
            record = msgspec.json.decode(path.read_bytes())
            if record["session_id"] == SESSION:
                return int(record["pid"])
        raise LookupError(place)

    async def newest(self, place: Place, cell: int) -> str:
        """Id of the checkpoint after a cell, as soon as it is there."""

        async def look() -> str:
            report = await place.report()
            last = report.checkpoints.last if report is not None and report.checkpoints is not None else None
            return last.id if last is not None and last.cell >= cell else ""

        found: str = await eventually(look)
        return found

    async def recover(self, checkpoint: str, *, node: str = NODES[1], **spec: Any) -> Place:
        """Bring the session back from what its host has left."""
        lost, epoch = self.place, next(self._epochs)
        self.place = None
        place = Place(node, epoch, self.agents[node])
        await place.agent.start_host(self.spec(node, epoch, lost.transfer, **spec))
        await place.op("load", checkpoint=checkpoint)
        await place.op("succeed")
        await place.op("live")
        await lost.agent.drop_remains(SESSION, epoch=lost.epoch)
        self.place = place
        return place

    async def move(self, *, wait_s: float = DEADLINE_S) -> Place:
        """All of a move, as a controller does it."""
        source, target = self.place, await self.stand_by()
        quiet = await source.op("quiesce", wait_s=wait_s)
        checkpoint = quiet["checkpoint"]["id"]
        await target.op("preload", checkpoint=checkpoint)
        await target.op("load", checkpoint=checkpoint)
        self.place = None
        await source.op("hand_over")
        await target.op("succeed")
        await target.op("live")
        self.place = target
        await source.end()
        return target

    @staticmethod
    async def _is(place: Place, state: HostState) -> bool:
        return await place.state() is state


@contextlib.asynccontextmanager
async def two_nodes(home: Path, **changes: Any) -> AsyncIterator[Nodes]:
    """Two nodes with one device each; at the end all of it ends."""
    settings = quick_settings(home, nodes=2, relay="never", **changes)
    engine = LocalEngine(settings)
    await engine.open()
    agents = {node: AgentClient(engine.agent(node)) for node in NODES}
    try:
        yield Nodes(settings, engine, agents)
    finally:
        for agent in agents.values():
            await agent.close()
        await engine.close(stop_nodes=True)
