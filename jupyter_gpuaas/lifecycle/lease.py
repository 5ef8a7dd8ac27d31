"""When a node that does not answer is lost. Pure: times are arguments, of the controller's monotonic clock.

The node stops its kernels when ``ttl`` has passed since the newest beat of its own that came back to it in a renewal.
The controller had that beat before it sent it back, so counted from when it *received* its newest beat, the lease has
surely run out at the node after ``ttl``. Both clocks need the same rate, not the same time.

A controller that stood still itself (suspended, stopped, starved) finds every lease run out when it goes on. So the
end of a lease alone proves nothing: behind it, the node has to leave tries unanswered for ``GRACE_S``, in which the
controller was awake. That is also the time that the node has to stop its kernels.
"""

from __future__ import annotations

import msgspec

GRACE_S = 1.0
#: Renewals within one lease.
RENEWALS = 3
#: How long a node may take to answer, while it does.
TRY_S = 2.0
#: Pause between the beginnings of two tries while there is no answer, and how long the first of them may take.
PACE_S = 0.5
#: Pause between two looks at a node that needs no lease.
LOOK_S = 30.0
#: Whoever is so much later than it wanted to be stood still.
SLEPT_S = 0.5


class Contact(msgspec.Struct, frozen=True):
    """What a controller knows of its contact with one node."""

    #: When the newest beat came; None before the first, when nothing is known of a lease.
    beat_s: float | None = None
    #: How long the lease is that runs from it; 0: it does not run out.
    ttl_s: float = 0.0
    #: The node said that the lease runs, by a beat that this controller has sent back to it.
    runs: bool = False
    #: When the first of the tries began that were not answered; None while there is an answer.
    silent_s: float | None = None
    #: When the first of them began that counts, behind the end of the lease.
    doubt_s: float | None = None
    #: When the last of them ended.
    tried_s: float = 0.0
    #: What the node had may run elsewhere.
    lost: bool = False


def heard(contact: Contact, now_s: float, *, ttl_s: float, runs: bool) -> Contact:
    """The node has answered; its beat came with the answer."""
    over_s = ends(contact)
    # A longer one, from before the setting was changed, may still run.
    left_s = 0.0 if over_s is None else over_s - now_s
    return Contact(now_s, max(ttl_s, left_s) if ttl_s else 0.0, runs, lost=contact.lost and not runs)


def failed(contact: Contact, began_s: float, now_s: float, given_s: float) -> Contact:
    """A try that was given ``given_s`` had no answer."""
    slept = now_s - began_s > given_s + SLEPT_S
    since_s = None if slept or began_s > contact.tried_s + PACE_S + SLEPT_S else contact.doubt_s
    over_s = ends(contact)
    if not slept and over_s is not None and began_s >= over_s and since_s is None:
        since_s = began_s
    return msgspec.structs.replace(
        contact,
        silent_s=began_s if contact.silent_s is None else contact.silent_s,
        doubt_s=since_s,
        tried_s=now_s,
        lost=contact.lost or (since_s is not None and now_s - since_s >= GRACE_S),
    )


def ends(contact: Contact) -> float | None:
    """When the node's lease has surely run out; None when it has none."""
    if contact.beat_s is None or not contact.ttl_s:
        return None
    return contact.beat_s + contact.ttl_s


def next_try(contact: Contact, last_s: float | None) -> float:
    """When to try again, the last try having begun at ``last_s``."""
    if last_s is None:
        return 0.0
    if contact.beat_s is None or contact.silent_s is not None:
        over_s = ends(contact)
        # One begins right behind the end, where it counts.
        return last_s + PACE_S if over_s is None or last_s >= over_s else min(last_s + PACE_S, over_s)
    if not contact.ttl_s:
        return last_s + LOOK_S
    # The beat that has just come makes it run.
    return last_s + contact.ttl_s / RENEWALS if contact.runs else last_s


def given(contact: Contact, began_s: float) -> float:
    """How long a try that begins now may take; one that begins before the end of the lease does not reach over it."""
    over_s = ends(contact)
    if over_s is None:
        return TRY_S
    if began_s >= over_s:
        return GRACE_S
    most_s = TRY_S if contact.silent_s is None else PACE_S
    return min(most_s, contact.ttl_s / RENEWALS, max(0.05, over_s - began_s))
