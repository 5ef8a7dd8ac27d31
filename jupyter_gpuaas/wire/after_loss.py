"""What becomes of requests that were under way when the session's host was lost. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec

from ..lifecycle.node_loss import sort_out
from ..model import Channel
from .jupyter import read_subshell
from .record import Kind
from .resume import Sent
from .waiting import Held

Key = tuple[Channel, str]
KINDS = {Channel.SHELL: Kind.SHELL, Channel.CONTROL: Kind.CONTROL, Channel.STDIN: Kind.STDIN}


class Fate(msgspec.Struct):
    """Requests by what becomes of them."""

    #: Cells that had begun, or may have.
    broken: list[Key] = msgspec.field(default_factory=list)
    #: Others of which nothing more will be heard.
    unheard: list[Key] = msgspec.field(default_factory=list)
    #: Sent again, in front of what waits to be sent.
    before: list[Sent] = msgspec.field(default_factory=list)
    #: Serials of what is not to be sent any more.
    drop: frozenset[int] = frozenset()


def fate(unanswered: Mapping[Key, Held], kept: frozenset[int], *, anew: bool, policy: str) -> Fate:
    """Decide.

    Parameters
    ----------
    unanswered
        In the order in which they were sent.
    kept, anew
        See ``ChannelHandler.host_lost``.
    policy
        The session's ``on_node_loss``.
    """
    found = Fate()
    cells = {key: held for key, held in unanswered.items() if held.msg_type == "execute_request"}
    found.unheard = [key for key, held in unanswered.items() if key not in cells and held.serial not in kept]
    if not anew:  # the new host has read of the cells
        return found
    begun = {key for key, held in cells.items() if held.begun}
    broken, _ = sort_out(((key, read_subshell(held.parts[0])) for key, held in cells.items()), begun)
    drop = set()
    for key, held in cells.items():
        whole = len(held.parts) > 1
        if (key in broken and policy != "rerun") or not (whole or held.serial in kept):
            found.broken.append(key)
            drop.add(held.serial)
        elif held.serial not in kept:
            parts = [held.address, *held.parts]
            found.before.append(Sent(held.serial, KINDS[held.channel], time.time_ns() // 1000, parts))
    found.drop = frozenset(drop)
    return found
