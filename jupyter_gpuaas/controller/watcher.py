"""Follows what the agents report, and brings it together with what the catalogue says."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from jupyter_gpuaas.controller.means import Means
from jupyter_gpuaas.controller.sessions import LiveSession
from jupyter_gpuaas.controller.standbys import Standbys
from jupyter_gpuaas.engine.agent_client import AgentClient
from jupyter_gpuaas.engine.base import GoneHost
from jupyter_gpuaas.errors import GpuaasError
from jupyter_gpuaas.lifecycle.session import SessionEvent
from jupyter_gpuaas.model import HostReport

log = logging.getLogger(__name__)


class Watcher:
    """One task for each node, and one for the news of nodes."""

    def __init__(self, means: Means) -> None:
        self._sessions = means.sessions
        self._endings = means.endings
        self._engine = means.engine
        self._agents = means.agents
        self._settings = means.settings
        #: Hears of standbys; set by the controller.
        self.standbys: Standbys | None = None
        #: Called when something has changed about a node; set by the controller.
        self.on_nodes: Callable[[], None] = lambda: None
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def open(self) -> None:
        """Begin to follow all nodes."""
        self._tasks[""] = asyncio.create_task(self._follow_nodes(), name="watch nodes")
        self._follow_new()

    async def close(self) -> None:
        """Stop following."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks = {}

    def _follow_new(self) -> None:
        for node in self._engine.nodes():
            if node.id not in self._tasks:
                self._tasks[node.id] = asyncio.create_task(self._follow(node.id), name=f"watch {node.id}")

    async def _follow_nodes(self) -> None:
        async for event in self._engine.events():
            cause = f"node {event.node_id} is {event.state}: {event.cause}"
            self._sessions.announce("node", cause, node=event.node_id, state=event.state.value)
            self._follow_new()
            for gone in event.gone:
                self._is_gone(event.node_id, gone)
            self._agents.changed.ring()
            self.on_nodes()
            if self.standbys is not None:
                self.standbys.changed()

    def _is_gone(self, node_id: str, gone: GoneHost) -> None:
        """A host died while nobody on its node could say so."""
        live = self._sessions.get(gone.session_id)
        if live is None:
            return
        aside, lease = live.record.aside, live.lease
        cause = f"its host on {node_id} is gone, as is the agent of the node"
        if aside is not None and (aside.lease.node_id, aside.lease.epoch) == (node_id, gone.epoch):
            if self.standbys is not None:
                self.standbys.drop(live, cause)
        elif lease is not None and (lease.node_id, lease.epoch) == (node_id, gone.epoch):
            if live.hosted and live.has_host:
                self._sessions.advance(live, SessionEvent.HOST_DIED, cause)

    async def _follow(self, node_id: str) -> None:
        pause_s = self._settings.retry_first_s
        while any(node.id == node_id for node in self._engine.nodes()):
            try:
                if await self._watch(node_id):
                    pause_s = self._settings.retry_first_s
            except GpuaasError as error:
                log.info("node %s is not followed now: %s", node_id, error)
            except Exception:
                # A node that nobody follows would never be heard of again; the next snapshot repairs.
                log.exception("following node %s failed", node_id)
            await self._agents.pause(pause_s)
            pause_s = min(2 * pause_s, self._settings.retry_most_s)
        # The engine has forgotten it. Should it come back, that is told, and it is followed anew.
        del self._tasks[node_id]
        self._agents.forget(node_id)

    async def _watch(self, node_id: str) -> bool:
        """Follow one connection until it ends; whether it had begun."""
        client = self._agents.of(node_id)
        seen: dict[str, HostReport] = {}
        complete = False
        async with contextlib.aclosing(client.watch()) as lines:
            async for line in lines:
                if line.report is not None and complete:
                    self.heard(line.report)
                elif line.report is not None:
                    seen[line.report.session_id] = line.report
                elif line.snapshot:
                    complete = True
                    self._endings.met(node_id)
                    await self._reconcile(node_id, client, seen)
        return complete

    async def _reconcile(self, node_id: str, client: AgentClient, seen: dict[str, HostReport]) -> None:
        for report in seen.values():
            self.heard(report)
        missing = [live for live in self._expected(node_id) if live.session.id not in seen]
        beside = [live for live in self._sessions.all() if _stands_by(live, node_id) and live.session.id not in seen]
        if not missing and not beside:
            return
        # 1. The agent lists its hosts.  2. It is told to start one, and answers.  3. We read the list.
        # So a host that is missing from the list is asked for again before its session is given up.
        present = {report.session_id for report in await client.hosts()}
        expected = self._expected(node_id)
        for live in missing:
            if live in expected and live.session.id not in present:
                self._sessions.advance(live, SessionEvent.HOST_DIED, f"its host on {node_id} is gone")
        for live in beside:
            if self.standbys is not None and _stands_by(live, node_id) and live.session.id not in present:
                self.standbys.gone(live, f"its host on {node_id} is gone")

    def _expected(self, node_id: str) -> list[LiveSession]:
        return [
            live
            for live in self._sessions.all()
            if live.hosted and live.has_host and live.lease is not None and live.lease.node_id == node_id
        ]

    def heard(self, report: HostReport) -> None:
        """Follow what a node says of one of its hosts."""
        live = self._sessions.get(report.session_id)
        former = live.record.incoming.lease if live is not None and live.record.incoming is not None else None
        if former is not None and former.epoch == report.lease.epoch:
            return  # What it has is needed until its successor is live.
        aside = live.record.aside if live is not None else None
        if live is not None and aside is not None and aside.lease.epoch == report.lease.epoch:
            if self.standbys is not None:
                self.standbys.heard(live, report)
            return
        if live is not None and live.lease is not None and live.lease.epoch <= report.lease.epoch:
            self._sessions.reported(live, report)
        else:
            # No session knows this host: a release or a new epoch was stored, and then the service ended.
            self._endings.give_back(report.lease)


def _stands_by(live: LiveSession, node_id: str) -> bool:
    aside = live.record.aside
    return aside is not None and aside.lease.node_id == node_id
