"""A migration, decision by decision. Rule 1: every transition is in ``TABLE``. Rule 2: an absent cell is an error.

Before the cutover each failure leads back: the target is dropped and the source goes on. The cutover is the change of
(host, epoch) in the catalogue; behind it the only way is forward, and the death of the target is the loss of a node
like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ..errors import InvalidTransition
from ..model import Phase, Via
from ..model._compat import StrEnum

P = Phase


class MigrationEvent(StrEnum):
    """What can happen to a migration."""

    #: The target's host stands by.
    RESERVED = "reserved"
    #: Another round would not make the stop shorter.
    SETTLED = "settled"
    #: The source stands still, and its state is durable.
    QUIET = "quiet"
    #: The cell that runs goes on for longer than the stop is worth.
    STILL_BUSY = "still_busy"
    #: A cell turned out to run after all, and the process can go along, as an image.
    FOUND_BUSY = "found_busy"
    COPIED = "copied"
    #: It cannot go as a process image, and loses nothing without.
    FELL_BACK = "fell_back"
    RESTORED = "restored"
    #: The target has everything, and the source lets nobody in.
    VERIFIED = "verified"
    #: The target runs cells.
    LIVE = "live"
    FAILED = "failed"
    CANCELLED = "cancelled"


E = MigrationEvent
_BACK = {E.FAILED: P.FAILED, E.CANCELLED: P.CANCELLED}
_ANEW = {E.FELL_BACK: P.RESERVE, **_BACK}

TABLE: Mapping[Phase, Mapping[MigrationEvent, Phase]] = {
    P.RESERVE: {E.RESERVED: P.PRE_COPY, **_ANEW},
    P.PRE_COPY: {E.SETTLED: P.QUIESCE, E.FOUND_BUSY: P.RESERVE, **_ANEW},
    P.QUIESCE: {E.QUIET: P.STOP_COPY, E.STILL_BUSY: P.PRE_COPY, E.FOUND_BUSY: P.RESERVE, **_ANEW},
    P.STOP_COPY: {E.COPIED: P.RESTORE, **_ANEW},
    P.RESTORE: {E.RESTORED: P.VERIFY, **_ANEW},
    P.VERIFY: {E.VERIFIED: P.CUTOVER, **_BACK},
    P.CUTOVER: {E.LIVE: P.DONE},
    P.DONE: {},
    P.FAILED: {},
    P.CANCELLED: {},
}

#: Phases in which nothing has been decided yet, so that a restarted controller leads the session back.
REVERSIBLE = frozenset(phase for phase, row in TABLE.items() if E.CANCELLED in row)
ENDED = frozenset(phase for phase, row in TABLE.items() if not row)


def step(phase: Phase, event: MigrationEvent) -> Phase:
    """The next phase; pure. Raises InvalidTransition where the table has no such cell."""
    try:
        return TABLE[phase][event]
    except KeyError:
        raise InvalidTransition(phase, event) from None


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the user wants of a move, and what is known of the session that bears on the way that it takes."""

    via: Via
    #: A cell that runs may be waited for.
    wait: bool
    accept_loss: bool
    #: Whether a cell runs, by what the session's host says: what it has reported may be older than the cell.
    busy: bool
    #: Names that would be lost with the variables alone.
    lost: tuple[str, ...]
    #: Why the process cannot go along; empty if it can.
    no_image: str
    #: The cell that runs is the one that asks: it is to come to its end first.
    between_cells: bool = False


def way(asked: Asked) -> tuple[Via, str]:
    """How a session moves: its variables, or the image of its process. And why not, where it cannot so."""
    in_cell = asked.busy and not asked.between_cells
    if asked.via == "image" or (asked.via == "auto" and not asked.no_image and (in_cell or asked.lost)):
        return "image", asked.no_image
    return "portable", without_image(asked)


def without_image(asked: Asked) -> str:
    """Why a session does not move with its variables alone; empty if it does."""
    if asked.busy and not asked.wait:
        return "a cell runs, and is not to be waited for"
    if asked.lost and not asked.accept_loss:
        return f"{', '.join(asked.lost)} would be lost"
    return ""


class Pass(msgspec.Struct, frozen=True):
    """One round of pre-copy: what it sent, and how long it took."""

    sent_bytes: int
    took_s: float


#: A stop that copies for less than this is short enough.
SHORT_STOP_S = 0.05
#: More rounds than this are never worth it: the state changes as fast as it is sent.
MOST_ROUNDS = 10
#: A round must shrink the next by this much to have been worth it.
SHRINKS = 0.8


def settled(passes: Sequence[Pass], dirty: bool) -> tuple[bool, str]:
    """Whether to stop the session now, and why, in words.

    Parameters
    ----------
    passes
        The rounds so far, oldest first.
    dirty
        Whether the session has a newer checkpoint than the last round copied.
    """
    if not passes:
        return False, ""
    last = passes[-1]
    if not dirty:
        return True, "the target has the newest checkpoint"
    if last.took_s <= SHORT_STOP_S:
        return True, f"the last round took {last.took_s * 1000:.0f} ms"
    if len(passes) >= MOST_ROUNDS:
        return True, f"{len(passes)} rounds were copied, and the session goes on changing"
    if len(passes) >= 3 and last.sent_bytes > SHRINKS * passes[-2].sent_bytes:
        return True, (
            f"the session changes {last.sent_bytes / 1e6:.0f} MB while as much is sent: another round would not help"
        )
    return False, ""


def expected_stop_s(passes: Sequence[Pass]) -> float:
    """How long copying will hold the session up, by the last round."""
    return passes[-1].took_s if passes else 0.0


#: A session that stands still waits for no step longer than this, beside the time that its size needs.
STILL_S = 30.0
#: A step may be so much slower than copying was.
SLOWER = 3.0
#: What is expected of any link that nothing is known of, and of one over which rounds went that tell nothing of it.
SLOWEST_BYTES_S = 5e6
LIKELY_BYTES_S = 25e6
#: Rounds that sent less tell nothing of the link: what takes long in them is something else.
TELLING_BYTES = 64e6


def patience_s(passes: Sequence[Pass], size: int) -> float:
    """How long one step may hold the session up until the move is given up: somebody waits for its next cell.

    Parameters
    ----------
    size
        Of its state, in bytes.
    """
    telling = [each for each in passes if each.sent_bytes >= TELLING_BYTES]
    took_s = sum(each.took_s for each in telling)
    rate = sum(each.sent_bytes for each in telling) / took_s if took_s else LIKELY_BYTES_S if passes else 0.0
    return STILL_S + SLOWER * size / max(rate, SLOWEST_BYTES_S)


def diagram() -> str:
    """The table as a Mermaid state diagram, for ``docs/migration.md``."""
    lines = ["stateDiagram-v2", "    [*] --> reserve"]
    for source, row in TABLE.items():
        targets: dict[Phase, list[str]] = {}
        for event, target in row.items():
            targets.setdefault(target, []).append(event.value)
        lines += [f"    {source} --> {target}: {', '.join(events)}" for target, events in targets.items()]
        if not row:
            lines.append(f"    {source} --> [*]")
    return "\n".join(lines) + "\n"
