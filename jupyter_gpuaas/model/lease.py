"""What controller and agent say to each other about the lease of a node."""

from __future__ import annotations

import msgspec


class LeaseRenewal(msgspec.Struct, frozen=True, kw_only=True):
    """The controller lets a node go on.

    The lease runs from a moment of the node's own clock, not from the arrival of this message: one that a stalled
    network or a stopped agent delivers late is worth no more than it was when it was written.
    """

    #: How long the lease runs from ``beat_s``; 0: it never runs out.
    ttl_s: float
    #: Whose clock ``beat_s`` is of; empty before the first grant.
    agent: str = ""
    #: ``LeaseGrant.beat_s`` of the newest grant that the controller has.
    beat_s: float = 0.0
    #: Session -> epoch of each host on the node that still acts for its session.
    stands: dict[str, int] = msgspec.field(default_factory=dict)


class LeaseGrant(msgspec.Struct, frozen=True, kw_only=True):
    """The node has heard it."""

    #: Of this process of the agent.
    agent: str
    #: The node's clock at this answer.
    beat_s: float
    #: Whether the lease runs now; else the next renewal, with this beat, is needed at once.
    runs: bool
