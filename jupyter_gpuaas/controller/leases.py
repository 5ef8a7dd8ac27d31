"""Keeps the leases of nodes, and finds out which nodes are lost.

One task a node asks its agent again and again. What follows from an answer, or from none, is in ``lifecycle.lease``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.agents import Agents
from jupyter_gpuaas.controller.bell import Bell
from jupyter_gpuaas.controller.catalogue.records import SessionRecord
from jupyter_gpuaas.controller.reports import HOSTED_STATES
from jupyter_gpuaas.controller.sessions import LiveSession, Sessions
from jupyter_gpuaas.engine.base import Engine
from jupyter_gpuaas.errors import GpuaasError
from jupyter_gpuaas.lifecycle.lease import TRY_S, Contact, failed, given, heard, next_try
from jupyter_gpuaas.lifecycle.session import SessionEvent
from jupyter_gpuaas.model import HostReport, Lease, LeaseRenewal, NodeState, SessionState
from jupyter_gpuaas.wire.unreadable import UNREADABLE

log = logging.getLogger(__name__)

#: On which terms this service gives leases, for the next one.
LEASE_FILE = "lease_s"
#: A session in one of these acts, or may act, through the host that its lease names.
ACTING_STATES = HOSTED_STATES | {SessionState.MIGRATING}


class _Terms(msgspec.Struct):
    """On which terms nodes have their leases."""

    #: How long the longest is.
    lease_s: float
    #: Nodes that were let go on for ever, and have taken no lease since: they do not stop by themselves, however long
    #: they are silent, so nothing of theirs may begin elsewhere.
    without_end: set[str] = set()


class NodeLeases:
    """The controller's side of all leases of nodes."""

    def __init__(self, sessions: Sessions, engine: Engine, agents: Agents, settings: Settings) -> None:
        self._sessions = sessions
        self._engine = engine
        self._agents = agents
        self._settings = settings
        self._lost: set[str] = set()
        self._closing = False
        #: Nodes that were silent when this service began: an earlier one may have let them go on until just now. Those
        #: are among them that the engine did not know then, and on which sessions have something.
        self._silent_before: set[str] = set()
        self._longest_s = settings.lease_s
        self._terms = _Terms(settings.lease_s)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        #: Rung when a node is lost.
        self.losses = Bell()
        #: Gives a session's migration up; set by the controller.
        self.give_up: Callable[[LiveSession, str], None] = lambda live, cause: None
        #: Hears what hosts a node has that is back; set by the controller.
        self.heard: Callable[[HostReport], None] = lambda report: None

    def open(self) -> None:
        """Begin to renew."""
        found = self._engine.nodes()
        named = {node_id for live in self._sessions.all() for node_id in _nodes_of(live.record) if node_id}
        self._silent_before = {node.id for node in found if node.state is NodeState.LOST}
        self._silent_before |= named - {node.id for node in found}
        former = self._former()
        self._longest_s = max(self._settings.lease_s, former.lease_s)
        # Of a node that has been silent since, the lease may be one of the service before the last.
        self._terms.lease_s = self._longest_s if self._silent_before else self._settings.lease_s
        self._terms.without_end = former.without_end & (named | {node.id for node in found})
        self._write()
        self._tasks[""] = asyncio.create_task(self._follow_nodes(), name="leases of nodes")
        self._follow_new()

    def _former(self) -> _Terms:
        """Those of an earlier service."""
        try:
            written = (self._settings.folder / LEASE_FILE).read_bytes()
            found: float | _Terms = msgspec.json.decode(written, type=float | _Terms)
        except (OSError, *UNREADABLE):
            return _Terms(0.0)
        # An older version wrote how long they were, as if all had an end.
        return found if isinstance(found, _Terms) else _Terms(found)

    def _write(self) -> bool:
        """Whether that could be done."""
        file = self._settings.folder / LEASE_FILE
        draft = file.with_suffix(".new")
        try:
            draft.write_bytes(msgspec.json.encode(self._terms))
            draft.replace(file)
        except OSError as error:
            log.info("terms of the leases of nodes are not written down: %s", error)
            return False
        return True

    def _is_alone(self, node_id: str) -> bool:
        """Whether there is nobody to fence the node against."""
        # One that has gone for good, and that a parked session names for ever, has nothing that may act.
        others = self._silent_before - self._lost - {node_id}
        return self._known() == {node_id} and not others and not self._engine.grows

    def _goes_on(self, node_id: str, contact: Contact) -> bool:
        """Whether the node may hear that it need not stop any more: only when that is written down.

        One that is silent is not told before it answers: it may be about to be lost, as it stops by itself so far.
        """
        without_end = self._terms.without_end
        if node_id not in without_end and not contact.lost and contact.silent_s is None:
            without_end.add(node_id)
            if not self._write():
                without_end.discard(node_id)
        return node_id in without_end

    def _has_end(self, node_id: str) -> None:
        """The node stops by itself, or nobody needs to know whether it does."""
        if node_id in self._terms.without_end:
            self._terms.without_end.discard(node_id)
            self._write()  # else the next service waits for it longer than it needs to

    async def close(self) -> None:
        """Renew no more: nodes whose lease runs out stop their kernels until another controller renews."""
        self._closing = True
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks = {}

    def lost(self, node_id: str) -> bool:
        """Whether the node's lease has run out: what it had may run elsewhere, and nobody waits for it."""
        return node_id in self._lost

    def unheard(self, node_id: str) -> bool:
        """Whether the engine does not know the node yet, and its lease of an earlier service may still run."""
        return node_id in self._silent_before - self._lost - self._known()

    def _known(self) -> set[str]:
        return {node.id for node in self._engine.nodes()}

    def _follow_new(self) -> None:
        for node_id in self._known() | self._silent_before:
            if node_id not in self._tasks:
                self._tasks[node_id] = asyncio.create_task(self._keep(node_id), name=f"lease of {node_id}")

    async def _follow_nodes(self) -> None:
        async for _ in self._engine.events():
            self._follow_new()

    async def _keep(self, node_id: str) -> None:
        contact, last_s = Contact(), None
        known = self._known()
        if node_id in self._silent_before and (node_id not in known or len(known | self._silent_before) > 1):
            contact = Contact(beat_s=time.monotonic(), ttl_s=self._longest_s, silent_s=time.monotonic())
        agent, beat_s = "", 0.0
        # `wait_for` may answer instead of being cancelled.
        while not self._closing:
            now_s = time.monotonic()
            await asyncio.sleep(max(0.0, next_try(contact, last_s) - now_s))
            if self._is_over(node_id):
                # Should it come back, it is as one that has never been there.
                self._lost.discard(node_id)
                self._silent_before.discard(node_id)
                self._has_end(node_id)
                del self._tasks[node_id]
                return
            last_s = began_s = time.monotonic()
            given_s = given(contact, began_s)
            ttl_s = 0.0 if self._is_alone(node_id) and self._goes_on(node_id, contact) else self._settings.lease_s
            renewal = LeaseRenewal(ttl_s=ttl_s, agent=agent, beat_s=beat_s, stands=self._stands(node_id))
            try:
                grant = await asyncio.wait_for(self._agents.of(node_id).renew_lease(renewal), given_s)
            except (GpuaasError, asyncio.TimeoutError, TimeoutError) as error:
                contact = failed(contact, began_s, time.monotonic(), given_s)
                log.debug("node %s: lease not renewed: %s", node_id, error)
            else:
                # One that runs by the renewal of a controller before this one may be about to end.
                runs = grant.runs and agent == grant.agent
                agent, beat_s = grant.agent, grant.beat_s
                contact = heard(contact, time.monotonic(), ttl_s=ttl_s, runs=runs)
                if ttl_s and runs:
                    self._has_end(node_id)
            try:
                if contact.lost and node_id not in self._terms.without_end:
                    self._is_lost(node_id, contact)
                elif node_id in self._lost or (node_id in self._silent_before and contact.silent_s is None):
                    await self._is_back(node_id)
            except Exception:
                # Tried again at the next beat: a database that is full must not leave a node half lost.
                log.exception("loss of node %s", node_id)

    def _is_over(self, node_id: str) -> bool:
        """Whether the engine has forgotten the node, and no session needs to know that it is lost."""
        if node_id in self._known():
            return False
        return not any(node_id in _nodes_of(live.record) for live in self._sessions.all())

    def _stands(self, node_id: str) -> dict[str, int]:
        """Hosts of the node that may go on."""
        found: dict[str, int] = {}
        if node_id in self._lost:
            return found  # whoever is not told of its loss yet must not go on before
        for live in self._sessions.all():
            kept = [live.lease] if live.lease is not None and live.has_host else []
            for lease in [*acting(live.record), *kept]:
                if lease.node_id == node_id:
                    found[live.session.id] = max(lease.epoch, found.get(live.session.id, 0))
        return found

    def _is_lost(self, node_id: str, contact: Contact) -> None:
        """The sessions of the node are elsewhere from now on; done again as long as it is lost."""
        silent_s = time.monotonic() - (contact.silent_s or contact.tried_s)
        cause = f"node {node_id} has been silent for {silent_s:.1f} s; its lease has run out"
        if node_id not in self._lost:
            log.warning("%s", cause)
            self._lost.add(node_id)
            self.losses.ring()
        self._engine.silent(node_id, cause)  # again: it may have forgotten the node meanwhile
        for live in self._sessions.all():
            move, lease = live.record.move, live.lease
            if move is not None and node_id in (move.view.source, move.view.target):
                self.give_up(live, cause)
            acts = live.session.state in ACTING_STATES or live.has_host
            if lease is not None and lease.node_id == node_id and acts:
                self._sessions.advance(live, SessionEvent.HOST_DIED, cause)

    async def _is_back(self, node_id: str) -> None:
        # What it reported while nobody listened is not reported again.
        for report in await asyncio.wait_for(self._agents.of(node_id).hosts(), TRY_S):
            self.heard(report)
        self._lost.discard(node_id)
        self._silent_before.discard(node_id)
        self._engine.silent(node_id, "")


def _nodes_of(record: SessionRecord) -> set[str]:
    """Nodes on which the session has something, or may have."""
    leases = [*acting(record), *([record.session.lease] if record.session.lease is not None else [])]
    return {lease.node_id for lease in leases} | ({record.incoming.node} if record.incoming is not None else set())


def acting(record: SessionRecord) -> list[Lease]:
    """Leases whose hosts act for the session, or are needed to move it."""
    own = record.session.lease if record.session.state in ACTING_STATES else None
    former = record.incoming.lease if record.incoming is not None else None
    coming = record.move.lease if record.move is not None else None
    aside = record.aside.lease if record.aside is not None else None
    return [lease for lease in (own, former, coming, aside) if lease is not None]
