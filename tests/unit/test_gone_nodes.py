"""What a controller keeps of nodes that have gone, and of agents that were started again: nothing, in the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.agents import Agents
from jupyter_gpuaas.controller.means import Means
from jupyter_gpuaas.controller.others import Others
from jupyter_gpuaas.controller.watcher import Watcher
from jupyter_gpuaas.engine.base import AgentEndpoint, NodeEvent
from jupyter_gpuaas.engine.news import News
from jupyter_gpuaas.errors import TransportError
from jupyter_gpuaas.model import Node, NodeState
from tests.service import eventually

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n"


class Engine:
    """Knows where agents are."""

    def __init__(self) -> None:
        self.urls: dict[str, str] = {}
        self.news = News()

    def nodes(self) -> list[Node]:
        return [Node(name, NodeState.UP, ()) for name in self.urls]

    def events(self) -> AsyncIterator[NodeEvent]:
        return self.news.follow()

    def agent(self, node_id: str) -> AgentEndpoint:
        if node_id not in self.urls:
            raise TransportError(f"node {node_id} does not answer now.")
        return AgentEndpoint(self.urls[node_id], "token")

    def change(self, **urls: str) -> None:
        self.urls = urls
        self.news.tell(NodeEvent("a", NodeState.UP if urls else NodeState.LOST))


class Slow:
    """An agent that answers when it is let; it counts who is connected."""

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.asked = asyncio.Event()
        self.connected = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected += 1
        try:
            while await reader.readline():
                while (await reader.readline()).strip():
                    pass
                self.asked.set()
                await self.let.wait()
                writer.write(HEAD + b"[]")
        finally:
            self.connected -= 1
            writer.close()


@asynccontextmanager
async def serving(agent: Slow) -> AsyncIterator[str]:
    server = await asyncio.start_server(agent.serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_client_of_an_agent_that_was_started_again_is_closed_when_its_calls_have_ended() -> None:
    engine: Any = Engine()
    agents, agent = Agents(engine), Slow()
    async with serving(agent) as url:
        engine.change(a=url)
        former = agents.of("a")
        asking = asyncio.create_task(former.hosts())
        await agent.asked.wait()
        engine.change(a="http://127.0.0.1:9")
        assert agents.of("a") is not former
        with pytest.raises(TransportError, match="gone"):
            await former.hosts()
        # What a host still answers, to whom its agent had handed the connection, arrives.
        assert agent.connected == 1 and not asking.done()
        agent.let.set()
        assert await asking == []
        await eventually(lambda: not agent.connected)
        await agents.close()


async def test_agents_that_are_closed_wait_for_nobody() -> None:
    engine: Any = Engine()
    agents, agent = Agents(engine), Slow()
    async with serving(agent) as url:
        engine.change(a=url)
        asking = asyncio.create_task(agents.of("a").hosts())
        await agent.asked.wait()
        agents.forget("a")
        await agents.close()
        with pytest.raises(TransportError):
            await asking
        agent.let.set()
        await eventually(lambda: not agent.connected)


class Sessions:
    def __init__(self) -> None:
        self.told: list[str] = []

    def announce(self, kind: str, cause: str, **detail: str) -> None:
        self.told.append(cause)

    def all(self) -> list[Any]:
        return []


def followed(node_id: str) -> bool:
    return any(task.get_name() == f"watch {node_id}" for task in asyncio.all_tasks())


async def test_node_that_has_gone_is_not_followed_until_it_comes_back(tmp_path: Path) -> None:
    engine: Any = Engine()
    sessions: Any = Sessions()
    nobody: Any = None
    agents, agent = Agents(engine), Slow()
    settings = Settings(home=str(tmp_path), retry_first_s=0.05)
    watcher = Watcher(Means(sessions, nobody, nobody, engine, Others(engine), agents, settings))
    watcher.open()
    async with serving(agent) as url:
        engine.change(a=url)
        await agent.asked.wait()
        agent.let.set()
        engine.change()
        await eventually(lambda: not followed("a"))
        await eventually(lambda: not agent.connected)
        agent.asked.clear()
        engine.change(a=url)
        await asyncio.wait_for(agent.asked.wait(), 30)
        assert followed("a")
        await watcher.close()
        await agents.close()
        await eventually(lambda: not agent.connected)
