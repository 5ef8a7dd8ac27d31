"""What the controller needs of an engine, and nothing more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from typing import Protocol

import msgspec

from jupyter_gpuaas.model import Lease, Node, NodeState, ResourceRequest
from jupyter_gpuaas.wire.tls import Credentials


class AgentEndpoint(msgspec.Struct, frozen=True):
    """Where a node's agent listens, and the token that it wants."""

    url: str
    token: str
    #: What it is verified by, and what it is shown, where it speaks TLS.
    tls: Credentials = Credentials()


class LeaseMeta(msgspec.Struct, frozen=True):
    """For whom a lease is. The engine stores it and does not judge it."""

    session_id: str
    epoch: int
    #: What its host, which is there still, had until it was released: its node may be cordoned since, and of devices
    #: that have memory of their own only these will do there.
    kept: Lease | None = None


class GoneHost(msgspec.Struct, frozen=True):
    """A host that has died, as is certain."""

    session_id: str
    epoch: int


class NodeEvent(msgspec.Struct, frozen=True):
    """A node came, changed or went."""

    node_id: str
    state: NodeState
    cause: str = ""
    #: Hosts that have died while the node's agent could not say so; for engines that see processes.
    gone: tuple[GoneHost, ...] = ()


class Engine(Protocol):
    """Owner of nodes and devices. All methods are called in one event loop."""

    @property
    def grows(self) -> bool:
        """Whether nodes may come by themselves, so that a pool of one node is not sure to stay alone."""

    async def open(self, cordoned: Collection[str] = ()) -> None:
        """Bring the nodes up and take over what an earlier controller left; returns when they answer.

        Parameters
        ----------
        cordoned
            Ids of nodes that take no new sessions, also of such as come later.
        """

    async def close(self, *, stop_nodes: bool) -> None:
        """Let go of the nodes, which go on, or end them with all that runs there."""

    def nodes(self) -> list[Node]:
        """The pool as it is known now, nodes that do not answer included."""

    def events(self) -> AsyncIterator[NodeEvent]:
        """News of nodes from the call on; one that reads slowly misses none."""

    async def acquire(self, request: ResourceRequest, meta: LeaseMeta, timeout: float | None = None) -> Lease:
        """Devices that nobody else has, or a part of one; callers are served in the order of their calls.

        The lease is durable when this returns. A cancelled call leaves no lease.

        Raises
        ------
        NoCapacity
            The pool can never satisfy the request.
        AllocationError
            Nothing became free in ``timeout`` seconds (None: wait for ever). ``NotAsked`` where others were before it
            all the time.
        LeaseNotWritten
            There are devices, and nobody has them: whose they are could not be written down.
        """

    async def release(self, lease_id: str) -> None:
        """Give the devices back; a lease that is not held is no error."""

    async def renew(self, lease_id: str) -> Lease:
        """Say that the lease is still needed.

        Raises
        ------
        LeaseError
            It is not held any more.
        """

    def leases(self) -> list[Lease]:
        """The leases that are held, those from before a restart included."""

    def agent(self, node_id: str) -> AgentEndpoint:
        """Where the node's agent is.

        Raises
        ------
        TransportError
            The node is not known or does not answer now.
        """

    def cordon(self, node_id: str, *, cordoned: bool) -> None:
        """Take no new sessions on the node, or take them again; those that it has stay. Nothing is written down."""

    def silent(self, node_id: str, cause: str) -> None:
        """Say that a node does not answer, so that nothing is placed there; with an empty cause, that it does again."""

    def why_never(self, request: ResourceRequest) -> str:
        """Reason why waiting for devices would be pointless; empty where it is not."""

    def want(self, requests: Sequence[ResourceRequest]) -> None:
        """Hint what is waiting, be it for nodes that are there, to engines that can add nodes."""
