"""A service with as many nodes and sessions as wanted, for what is to be seen of them. Nothing computes there.

Run as ``python -m tests.ui.crowd FOLDER --nodes 200 --sessions 2000``: the controller with its real REST, over an
engine whose nodes are made up and whose agents all answer from this process. All sessions are made through the REST;
those that find no device wait in the queue. When they are there, one line of JSON with the service's ``url`` and
``token`` is printed. From then on, a line ``{"session": id, "state": "busy"}`` to its input makes the session's node
report that. It ends when its input does, and with the process that has started it, however that ends.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import math
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.app import make_app
from jupyter_gpuaas.controller.controller import Controller
from jupyter_gpuaas.controller.server import listen, make_server
from jupyter_gpuaas.engine.agent_client import WatchLine
from jupyter_gpuaas.engine.base import AgentEndpoint
from jupyter_gpuaas.engine.pool import NodePool
from jupyter_gpuaas.errors import ServiceUnreachable, TransportError
from jupyter_gpuaas.model import (
    Device,
    DeviceSample,
    HostReport,
    HostSpec,
    HostState,
    LeaseGrant,
    Node,
    NodeState,
    SessionState,
)

GIB = 1024**3
DEVICES = 8
#: Sessions that are asked for at a time.
AT_ONCE = 8
TRIES, PAUSE_S = 20, 0.2
ALIVE_S = 5.0
PR_SET_PDEATHSIG = 1


def made_up_node(number: int) -> Node:
    """A node with eight large devices."""
    devices = tuple(Device(f"cuda:{index}", "cuda", f"NVIDIA H200 {index}", 141 * GIB) for index in range(DEVICES))
    return Node(f"node-{number:03}", NodeState.UP, devices)


class MadeUpAgents:
    """Answers as the agents of all nodes: hosts begin at once, and do nothing."""

    def __init__(self) -> None:
        self._hosts: dict[str, dict[str, HostReport]] = {}
        self._watchers: dict[str, asyncio.Queue[HostReport]] = {}
        self.app = Starlette(
            routes=[
                Route("/{node}/v1/devices", self.devices),
                Route("/{node}/v1/hosts", self.hosts),
                Route("/{node}/v1/hosts", self.start, methods=["POST"]),
                Route("/{node}/v1/hosts/{session}", self.end, methods=["DELETE"]),
                Route("/{node}/v1/hosts/{session}/remains", self.nothing, methods=["DELETE"]),
                Route("/{node}/v1/lease", self.lease, methods=["POST"]),
                Route("/{node}/v1/watch", self.watch),
            ]
        )

    def say(self, session: str, state: HostState) -> None:
        """Report that a session's host is in this state now."""
        for node, hosts in self._hosts.items():
            if session in hosts:
                hosts[session] = msgspec.structs.replace(hosts[session], state=state)
                self._watchers[node].put_nowait(hosts[session])

    async def devices(self, request: Request) -> Response:
        number = int(request.path_params["node"].rpartition("-")[2])
        turn = time.monotonic() / 20
        levels = [0.5 + 0.45 * math.sin(turn + number + index) for index in range(DEVICES)]
        return _json([DeviceSample(f"cuda:{index}", int(141 * GIB * at), at) for index, at in enumerate(levels)])

    async def hosts(self, request: Request) -> Response:
        return _json(list(self._hosts.get(request.path_params["node"], {}).values()))

    async def start(self, request: Request) -> Response:
        spec = msgspec.json.decode(await request.body(), type=HostSpec)
        report = HostReport(
            session_id=spec.session_id, lease=spec.lease, state=HostState.IDLE, clients=1, kernel_starts=1
        )
        self._hosts.setdefault(request.path_params["node"], {})[spec.session_id] = report
        return _json(report)

    async def end(self, request: Request) -> Response:
        self._hosts.get(request.path_params["node"], {}).pop(request.path_params["session"], None)
        return _json({})

    async def nothing(self, request: Request) -> Response:
        return _json({})

    async def lease(self, request: Request) -> Response:
        return _json(LeaseGrant(agent="made up", beat_s=time.monotonic(), runs=True))

    async def watch(self, request: Request) -> Response:
        return StreamingResponse(self._lines(request.path_params["node"]))

    async def _lines(self, node: str) -> AsyncIterator[bytes]:
        news = self._watchers[node] = asyncio.Queue[HostReport]()
        for report in self._hosts.get(node, {}).values():
            yield _line(WatchLine(report=report))
        yield _line(WatchLine(snapshot=True))
        while True:
            try:
                yield _line(WatchLine(report=await asyncio.wait_for(news.get(), ALIVE_S)))
            except (asyncio.TimeoutError, TimeoutError):
                yield b"\n"


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")


def _line(line: WatchLine) -> bytes:
    return msgspec.json.encode(line) + b"\n"


class MadeUpEngine(NodePool):
    """Nodes that are only told of. Their leases are real."""

    def __init__(self, folder: Path, nodes: int, agents_url: str) -> None:
        super().__init__(folder)
        self._nodes = {node.id: node for node in map(made_up_node, range(nodes))}
        self._url = agents_url

    async def open(self, cordoned: Collection[str] = ()) -> None:
        self._load(cordoned)

    async def close(self, *, stop_nodes: bool) -> None:
        pass

    def agent(self, node_id: str) -> AgentEndpoint:
        if node_id not in self._nodes:
            raise TransportError(f"there is no node {node_id}.")
        return AgentEndpoint(f"{self._url}/{node_id}", "a token")


def name_of(number: int) -> str:
    """Of a session: a notebook somewhere in a user's folder."""
    return f"/home/user-{number % 50:02}/books/experiment-{number:04}.ipynb"


async def populate(client: ServiceClient, count: int) -> None:
    """Make the sessions, in their order as far as those at a time go; anew those that could not begin."""
    lacking = [name_of(number) for number in range(count)]
    while lacking:
        names = iter(lacking)

        async def some(names: Iterator[str] = names) -> None:
            for name in names:
                await make(client, name)

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))
        there = await client.sessions()
        while any(session.state is SessionState.STARTING for session in there):
            await asyncio.sleep(PAUSE_S)
            there = await client.sessions()
        names_there = {session.name for session in there}
        lacking = [name for name in lacking if name not in names_there]
        if lacking:
            print(f"could not begin: {len(lacking)}, such as {lacking[0]}", file=sys.stderr)


async def make(client: ServiceClient, name: str) -> None:
    """Make a session; on a machine that is very busy, both ends of a kept connection may lose patience."""
    for _ in range(TRIES):
        try:
            await client.create_session(name)
            return
        except ServiceUnreachable as error:
            print(f"{name}: {error}", file=sys.stderr)
            await asyncio.sleep(PAUSE_S)
    await client.create_session(name)


async def serve(folder: Path, nodes: int, sessions: int) -> None:
    settings = Settings(
        home=str(folder), sessions_per_user=max(1, sessions), lease_s=300.0, events_kept=100_000,
        park_for_waiting_s=0.0, park_idle_s=0.0,
    )  # fmt: skip
    agents = MadeUpAgents()
    socket_of_agents = socket.create_server(("127.0.0.1", 0), backlog=1024)
    # Connections are kept for as long as the controller keeps them, however busy the machine is.
    config = uvicorn.Config(
        agents.app, loop="asyncio", http="h11", lifespan="off", log_config=None, timeout_graceful_shutdown=0,
        timeout_keep_alive=3600,
    )  # fmt: skip
    agents_url = f"http://127.0.0.1:{socket_of_agents.getsockname()[1]}"
    controller = Controller(settings, MadeUpEngine(folder, nodes, agents_url))
    listener = listen(settings, 0)
    service = make_server(settings, make_app(controller))
    servers = [type(service)(config, None), service]  # which leaves signals to us
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    tasks = [
        asyncio.create_task(server.serve(sockets=[each]))
        for server, each in zip(servers, (socket_of_agents, listener), strict=True)
    ]
    await controller.open()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    token = (folder / "token").read_text().strip()

    def heard() -> None:
        line = sys.stdin.readline()
        if not line:  # whoever has started this is gone
            stop.set()
            loop.remove_reader(sys.stdin)
        elif line.strip():
            asked = json.loads(line)
            agents.say(asked["session"], HostState(asked["state"]))

    loop.add_reader(sys.stdin, heard)
    end = asyncio.create_task(stop.wait())
    async with ServiceClient(url, token) as client:
        making = asyncio.create_task(populate(client, sessions))
        await asyncio.wait({making, end}, return_when=asyncio.FIRST_COMPLETED)
        if making.done():
            await making
            print(json.dumps({"url": url, "token": token}), flush=True)
            await end
        making.cancel()
    controller.interrupt_waits()
    service.should_exit = True
    await controller.close(end_sessions=False)
    for server in servers:  # the agents last: the controller would look for them
        server.should_exit = True
    await asyncio.gather(*tasks)


def end_with_parent() -> None:
    """Not by way of the event loop, which may be at something else for long."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before prctl took effect
            os._exit(1)


def main() -> None:
    end_with_parent()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--sessions", type=int, default=2000)
    given = parser.parse_args()
    # Hundreds of agents, each with a connection that is watched and some for requests, whose both ends are here.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(serve(given.folder, given.nodes, given.sessions))


if __name__ == "__main__":
    main()
