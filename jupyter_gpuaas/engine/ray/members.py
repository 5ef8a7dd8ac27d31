"""The nodes of a Ray cluster as ours: their agents started, found again and followed.

What Ray says of its nodes is asked for every ``ray_poll_s``. Whether an agent answers is seen on a connection to each,
on which it says something every few seconds: a process that ends is seen at once, a node that goes silent before Ray
gives it up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from jupyter_gpuaas import __version__
from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.engine.agent_client import AgentClient
from jupyter_gpuaas.engine.base import AgentEndpoint, NodeEvent
from jupyter_gpuaas.engine.environment import for_nodes
from jupyter_gpuaas.engine.news import News
from jupyter_gpuaas.engine.ray import plan
from jupyter_gpuaas.engine.ray.cluster import Cluster
from jupyter_gpuaas.errors import GpuaasError, TransportError
from jupyter_gpuaas.model import Node, NodeState
from jupyter_gpuaas.wire.machine import machine_id
from jupyter_gpuaas.wire.tls import of_service

log = logging.getLogger(__name__)

T = TypeVar("T")

#: An agent says something every 3 s; one that has been quiet for this long does not answer.
QUIET_S = 10.0
#: A node that has left Ray, and whose agent was last heard of, this long ago is none of the pool any more.
FORGET_S = 600.0


class _Known(msgspec.Struct, frozen=True, kw_only=True):
    """What is written down of a node."""

    node: Node
    ray_id: str
    url: str
    token: str


class Member:
    """One node."""

    def __init__(self, node_id: str) -> None:
        self.id = node_id
        #: As Ray has it; None while Ray does not have it.
        self.ray: plan.RayNode | None = None
        self.last_ray_id = ""
        self.node: Node | None = None
        self.endpoint: AgentEndpoint | None = None
        self.answers = False
        #: When it left Ray, or its agent went silent, whichever was later; 0: it has not left Ray since it was found.
        self.gone_s = 0.0
        self.changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class Members:
    """All nodes of the pool.

    Parameters
    ----------
    start
        Whether agents are started where there are none.
    """

    def __init__(self, settings: Settings, cluster: Cluster, *, start: bool) -> None:
        self._settings = settings
        self._cluster = cluster
        self._start = start
        self._file = settings.folder / "ray-nodes.json"
        self._members: dict[str, Member] = {}
        self._silent: set[str] = set()
        #: Also such as are not there now.
        self._cordoned: set[str] = set()
        #: Ray's ids of raylets in whose place others are.
        self._replaced: set[str] = set()
        self._polling: asyncio.Task[None] | None = None
        #: Why Ray does not tell of its nodes, while it does not.
        self._failing = ""
        self.news = News()
        #: Something is new that matters to who waits.
        self.on_change: Callable[[], None] = lambda: None
        #: A node has left Ray.
        self.on_left: Callable[[str], None] = lambda node_id: None

    # -- begin and end -----------------------------------------------------------------------------------------

    async def open(self, cordoned: Collection[str] = ()) -> None:
        """Bring up the nodes; those that cannot be are tried again and again."""
        self._cordoned = set(cordoned)
        self._load()
        self._found(await self._cluster.nodes())
        trying = [member for member in self._members.values()]
        outcomes = await asyncio.gather(*(self._bring_up(member) for member in trying), return_exceptions=True)
        for member, outcome in zip(trying, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                log.error("node %s: %s", member.id, outcome)
            self._settle(member, "it was found")

    def follow(self) -> None:
        """Follow the cluster and its nodes from now on."""
        for member in self._members.values():
            self._keep(member)
        self._polling = asyncio.create_task(self._poll(), name="nodes of Ray")

    def _keep(self, member: Member) -> None:
        member.task = asyncio.create_task(self._guard(member), name=f"guard {member.id}")

    async def close(self, *, stop_nodes: bool) -> None:
        """Let go of the nodes, or end their agents with all that they host."""
        tasks = [member.task for member in self._members.values() if member.task is not None]
        tasks += [self._polling] if self._polling is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._polling = None
        if not stop_nodes:
            return
        members = list(self._members.values())
        outcomes = await asyncio.gather(*(self._stop(member) for member in members), return_exceptions=True)
        for member, outcome in zip(members, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                log.error("node %s did not stop: %s", member.id, outcome)
        self._members = {}
        self._file.unlink(missing_ok=True)

    async def _stop(self, member: Member) -> None:
        limit_s = self._settings.stop_timeout_s + 30.0
        if member.ray is not None and not self._failing:
            try:
                await self._cluster.stop_agent(member.id, member.ray.ray_id, self._arguments(member.ray), limit_s)
                return
            except GpuaasError as error:
                log.warning("node %s: Ray does not end its agent: %s", member.id, error)
        # Its keeper could see to it that it is gone; without Ray, it is told and trusted.
        if member.endpoint is not None and member.answers:
            client = AgentClient(member.endpoint)
            try:
                await client.stop()
            finally:
                await client.close()

    # -- what the engine asks ----------------------------------------------------------------------------------

    def nodes(self) -> list[Node]:
        """All of them whose agent has ever answered."""
        found = [member.node for member in self._members.values() if member.node is not None]
        return sorted(found, key=lambda node: (len(node.id), node.id))

    def ray_id(self, node_id: str) -> str | None:
        """Ray's id of a node that is there now."""
        member = self._members.get(node_id)
        return member.ray.ray_id if member is not None and member.ray is not None else None

    def node_of(self, ray_id: str) -> Node | None:
        """The node that Ray calls so, or called so last."""
        return next((each.node for each in self._members.values() if each.last_ray_id == ray_id), None)

    def endpoint(self, node_id: str) -> AgentEndpoint:
        """See ``Engine.agent``."""
        member = self._members.get(node_id)
        if member is None or member.endpoint is None or not member.answers:
            raise TransportError(f"node {node_id} does not answer now.")
        return member.endpoint

    def cordon(self, node_id: str, *, cordoned: bool) -> None:
        """See ``Engine.cordon``."""
        member = self._members.get(node_id)
        if member is None:
            raise TransportError(f"there is no node {node_id}.")
        (self._cordoned.add if cordoned else self._cordoned.discard)(node_id)
        self._settle(member, "by request")

    def silent(self, node_id: str, cause: str) -> None:
        """See ``Engine.silent``."""
        member = self._members.get(node_id)
        if member is None or bool(cause) == (node_id in self._silent):
            return
        (self._silent.add if cause else self._silent.discard)(node_id)
        self._settle(member, cause or "it answers again")

    # -- what Ray says -----------------------------------------------------------------------------------------

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._settings.ray_poll_s)
            try:
                listed = await self._cluster.nodes()
            except GpuaasError as error:
                # The head is away. What runs goes on; only nothing new comes.
                if str(error) != self._failing:
                    log.warning("Ray does not tell of its nodes now: %s", error)
                self._failing = str(error)
                continue
            self._failing = ""
            try:
                self._found(listed)
                self._forget()
            except Exception:
                log.exception("nodes of Ray")

    def _found(self, listed: Sequence[plan.RayNode]) -> None:
        known = {member.id: member.last_ray_id for member in self._members.values()}
        now = plan.assign(known, listed, frozenset(self._replaced))
        for node_id, node in now.items():
            member = self._members.get(node_id)
            if member is None:
                member = self._members[node_id] = Member(node_id)
                if self._polling is not None:
                    self._keep(member)
            if member.ray is None or member.ray.ray_id != node.ray_id:
                if member.last_ray_id not in ("", node.ray_id):
                    self._replaced.add(member.last_ray_id)
                    self.on_left(node_id)
                member.ray, member.last_ray_id, member.gone_s = node, node.ray_id, 0.0
                self._settle(member, "Ray has it")
                member.changed.set()
                self._save()
        for member in self._members.values():
            if member.id not in now and (member.ray is not None or not member.gone_s):
                member.ray, member.gone_s = None, time.monotonic()
                self.on_left(member.id)
                self._settle(member, "it has left Ray")
                member.changed.set()

    def _forget(self) -> None:
        now_s = time.monotonic()
        for member in list(self._members.values()):
            if member.ray is None and not member.answers and now_s - member.gone_s > FORGET_S:
                del self._members[member.id]
                if member.task is not None:
                    member.task.cancel()
                self._silent.discard(member.id)
                self._save()
                self.news.tell(NodeEvent(member.id, NodeState.LOST, "it has left the pool"))

    # -- what agents say ---------------------------------------------------------------------------------------

    async def _guard(self, member: Member) -> None:
        pause_s = self._settings.retry_first_s
        while True:
            if member.answers:
                cause = await self._until_silent(member)
                member.answers = False
                if member.ray is None:
                    member.gone_s = time.monotonic()
                self._settle(member, f"its agent does not answer: {cause}")
            member.changed.clear()
            try:
                if not await self._unless_changed(member, self._bring_up(member)):
                    continue
                pause_s = self._settings.retry_first_s
                self._settle(member, "its agent answers")
                continue
            except GpuaasError as error:
                log.info("node %s: %s", member.id, error)
            except Exception:
                log.exception("node %s", member.id)
            with contextlib.suppress(TransportError):
                await _within(member.changed.wait(), pause_s)
            pause_s = min(2 * pause_s, self._settings.retry_most_s)

    async def _unless_changed(self, member: Member, work: Coroutine[Any, Any, None]) -> bool:
        """Do it, unless Ray says something new of the node: one that has gone may never answer."""
        task = asyncio.ensure_future(work)
        changed: asyncio.Future[Any] = asyncio.ensure_future(member.changed.wait())
        try:
            await asyncio.wait([task, changed], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
            return task.done()
        finally:
            task.cancel()
            changed.cancel()

    async def _until_silent(self, member: Member) -> str:
        """Follow the agent as long as it says something; why it does not any more."""
        assert member.endpoint is not None
        client = AgentClient(member.endpoint)
        try:
            async with contextlib.aclosing(client.watch()) as lines:
                while await _within(anext(lines, None), QUIET_S) is not None:
                    pass
                return "it has ended"
        except GpuaasError as error:
            return error.message
        finally:
            await client.close()

    async def _bring_up(self, member: Member) -> None:
        """Find or start the agent of a node.

        Raises
        ------
        TransportError
            It does not answer.
        """
        ray = member.ray
        if ray is not None and self._start:
            timeout_s = self._settings.start_timeout_s
            told = await self._cluster.agent(member.id, ray.ray_id, self._arguments(ray), timeout_s)
            if told.get("error"):
                raise TransportError(f"node {member.id}: {told['error']}")
            member.endpoint = AgentEndpoint(str(told["url"]), str(told["token"]), of_service(self._settings))
        if member.endpoint is None:
            raise TransportError(f"node {member.id}: its agent is not known.")
        if self._settings.tls == "on" and plan.in_the_clear(member.endpoint.url):
            raise TransportError(f"node {member.id}: its agent at {member.endpoint.url} does not speak TLS.")
        client = AgentClient(member.endpoint)
        try:
            node = await client.node()
        finally:
            await client.close()
        if node.id != member.id:
            raise TransportError(f"node {member.id}: {node.id} answers in its place.")
        if node.version != __version__:
            # It goes on with what it hosts. The next one that is started there is of the version that is there now.
            log.error(
                "the agent of node %s has version %s, this service %s", member.id, node.version or "?", __version__
            )
        gpus, labels = (ray.gpus, ray.labels) if ray is not None else (0.0, {})
        if ray is None and member.node is not None:
            gpus, labels = float(len(member.node.devices)), member.node.labels
        devices = plan.usable(node.devices, gpus)
        state = member.node.state if member.node is not None else NodeState.LOST
        member.node = msgspec.structs.replace(
            node, url=member.endpoint.url, devices=devices, labels=dict(labels), state=state
        )
        member.answers = True
        self._save()

    def _arguments(self, ray: plan.RayNode) -> list[Any]:
        """What the keeper of a node's agent is made with."""
        environ = for_nodes(self._settings)
        environ["GPUAAS_HOST"] = self._settings.ray_agent_host or ray.address
        environ.pop("GPUAAS_NODES", None)
        where = [self._settings.ray_node_folder, self._cluster.namespace]
        return [*where, environ, str(self._settings.folder), machine_id()]

    # -- both --------------------------------------------------------------------------------------------------

    def _settle(self, member: Member, cause: str) -> None:
        """Tell of a new state, if it is one."""
        if member.node is None:
            return
        state = plan.state_of(
            in_ray=member.ray is not None,
            answers=member.answers,
            silent=member.id in self._silent,
            cordoned=member.id in self._cordoned,
        )
        if state is not member.node.state:
            member.node = msgspec.structs.replace(member.node, state=state)
            self.news.tell(NodeEvent(member.id, state, cause))
        self.on_change()

    def _load(self) -> None:
        try:
            known = msgspec.json.decode(self._file.read_bytes(), type=list[_Known])
        except FileNotFoundError:
            return
        except msgspec.MsgspecError as error:
            log.error("%s: %s", self._file, error)
            return
        for each in known:
            member = self._members[each.node.id] = Member(each.node.id)
            member.node = msgspec.structs.replace(each.node, state=NodeState.LOST)
            member.last_ray_id = each.ray_id
            member.endpoint = AgentEndpoint(each.url, each.token, of_service(self._settings))

    def _save(self) -> None:
        known = [
            _Known(node=each.node, ray_id=each.last_ray_id, url=each.endpoint.url, token=each.endpoint.token)
            for each in self._members.values()
            if each.node is not None and each.endpoint is not None
        ]
        draft = Path(f"{self._file}.new")
        try:
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(msgspec.json.encode(known))
            draft.replace(self._file)
        except OSError as error:
            log.error("%s: %s", self._file, error)


async def _within(work: Awaitable[T], timeout_s: float) -> T:
    """What it answers; `wait_for` may answer when it is cancelled, and this does not.

    Raises
    ------
    TransportError
        Nothing in time.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=timeout_s)
        if task.done():
            return task.result()
        raise TransportError(f"not a word for {timeout_s:g} s.")
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
