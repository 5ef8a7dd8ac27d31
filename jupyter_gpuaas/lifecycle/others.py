"""What others than this service use of a node's devices, as far as refusals tell. Pure: times are arguments.

Nodes may be shared with others, of whom an engine tells nothing but that it does not have what none of our sessions
holds. Then so many of the node's devices count as used by others that the request has no room there: the rules choose
another node, or let it wait. After a pause the engine is asked there again; the pause grows as long as it refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ..model import Node
from .placement import Waiting, can_go_to, suitable
from .room import ATOM, Used

#: The first pause, and the longest one. While it lasts, nobody stands in line for what others give back.
FIRST_S = 5.0
MOST_S = 30.0
#: Nodes of which it is told one by one that others use them.
NODES_TOLD = 3


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A node did not have what none of our sessions holds."""

    node_id: str
    #: What is left of these counts as used by others,
    device_ids: frozenset[str]
    #: for so long, and until then.
    pause_s: float
    until_s: float


class Foreign(msgspec.Struct, frozen=True):
    """Devices that others than our sessions hold, as far as is known."""

    node_id: str
    device_ids: tuple[str, ...]
    #: How much of each.
    share: float


def refused(known: Refusal | None, waiting: Waiting, node: Node, used: Mapping[str, float], now_s: float) -> Refusal:
    """What is known of a node that had no devices for a request.

    Parameters
    ----------
    known
        What was known of it before.
    used
        What our sessions hold of the node, and what counts as used by others already.
    """
    request = waiting.request
    fits = suitable(request, waiting.kept, node)
    if request.share < 1:
        taken = [each.id for each in fits if used.get(each.id, 0.0) + request.share <= 1 + ATOM]
    else:
        # One device less than were asked for may be there: a smaller request is to be tried.
        taken = [each.id for each in fits if each.id not in used][request.devices - 1 :]
    if known is None or is_past(known, now_s):
        pause_s = FIRST_S
    elif now_s < known.until_s:
        pause_s = known.pause_s
        taken += known.device_ids
    else:
        pause_s = min(2 * known.pause_s, MOST_S)
    return Refusal(node_id=node.id, device_ids=frozenset(taken), pause_s=pause_s, until_s=now_s + pause_s)


def is_past(refusal: Refusal, now_s: float) -> bool:
    """Whether it says nothing any more, as nobody was refused since."""
    return now_s >= refusal.until_s + MOST_S


def held_by_others(refusals: Iterable[Refusal], used: Used, now_s: float) -> list[Foreign]:
    """What counts as held by others now, beside what is used by ours."""
    found = []
    for each in refusals:
        if now_s < each.until_s:
            on_node = used.get(each.node_id, {})
            left = {device_id: 1.0 - on_node.get(device_id, 0.0) for device_id in sorted(each.device_ids)}
            found += [Foreign(each.node_id, (device_id,), part) for device_id, part in left.items() if part > ATOM]
    return found


def why_others(waiting: Waiting, nodes: Sequence[Node], refusals: Mapping[str, Refusal], now_s: float) -> str:
    """Where others have what one waits for, in words; empty where they do not.

    It is said while the engine is asked there again, too.
    """
    told = []
    for node in nodes:
        each = refusals.get(node.id)
        if each is None or is_past(each, now_s) or not can_go_to(waiting.request, waiting.kept, node):
            continue
        fits = suitable(waiting.request, waiting.kept, node)
        count = sum(device.id in each.device_ids for device in fits)
        if count:
            which = "its devices" if count == len(fits) else f"{count} of its devices"
            told.append(f"node {node.id}: {which} {'is' if count == 1 < len(fits) else 'are'} used by others")
    more = len(told) - NODES_TOLD
    return "; ".join(told[:NODES_TOLD]) + (f"; and {more} more nodes" if more > 0 else "")
