"""What is done to a service under load, and when: decided by a seed alone."""

from __future__ import annotations

from collections.abc import Collection
from random import Random

import msgspec

#: Kinds of faults, and how often they come among all.
WEIGHTS = {"cut": 0.5, "agent": 0.3, "controller": 0.2}
#: Part of all clients whose links are cut at once.
SHARE_CUT = 0.1
#: At the begin and at the end nothing is done.
QUIET_FIRST_S, QUIET_LAST_S = 10.0, 15.0


class Fault(msgspec.Struct, frozen=True):
    """One fault."""

    at_s: float
    kind: str
    #: Numbers of the clients, or of the node.
    whom: tuple[int, ...] = ()


def plan(
    seed: int, *, lasts_s: float, every_s: float, clients: int, nodes: int, kinds: Collection[str] = tuple(WEIGHTS)
) -> list[Fault]:
    """All faults of a run that lasts so long, of these kinds only."""
    random = Random(seed)
    weights = {kind: weight for kind, weight in WEIGHTS.items() if kind in kinds}
    faults = []
    at_s = min(QUIET_FIRST_S, lasts_s / 4)
    while at_s < lasts_s - min(QUIET_LAST_S, lasts_s / 4):
        (kind,) = random.choices(list(weights), list(weights.values()))
        whom: tuple[int, ...] = ()
        if kind == "cut":
            whom = tuple(random.sample(range(clients), max(1, round(SHARE_CUT * clients))))
        elif kind == "agent":
            whom = (random.randrange(nodes),)
        faults.append(Fault(at_s, kind, whom))
        at_s += every_s * random.uniform(0.5, 1.5)
    return faults
