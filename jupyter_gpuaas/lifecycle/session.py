"""The life of a session. Rule 1: every transition is in ``TABLE``. Rule 2: an absent cell is an error.

``step`` answers a state and an event with the next state and the commands that the controller must carry out. Each
command ends in exactly one of the events below, so a run can be replayed from its events alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import InvalidTransition
from ..model import SessionState
from ..model._compat import StrEnum

S = SessionState


class SessionEvent(StrEnum):
    """What can happen to a session."""

    #: The scheduler leased devices to it.
    PLACED = "placed"
    #: Its kernel answers.
    READY = "ready"
    #: Its host or kernel did not come up.
    START_FAILED = "start_failed"
    CELL_STARTED = "cell_started"
    CELL_ENDED = "cell_ended"
    #: The kernel process died; its host starts a fresh one.
    KERNEL_DIED = "kernel_died"
    #: The user restarts the kernel.
    RESTARTED = "restarted"
    #: Host process, or the whole node, is gone.
    HOST_DIED = "host_died"
    #: It stands still on its node, and is about to become another's.
    MOVING = "moving"
    #: It did not become another's, and goes on where it was.
    STAYED = "stayed"
    #: It is another node's: the cutover.
    MOVED = "moved"
    #: It is in the store; its host is no longer needed.
    PARKED = "parked"
    #: It stands still on its node, and needs no devices until it is wanted.
    KEPT = "kept"
    #: It stands still in the middle of its cell, and needs no devices meanwhile.
    SUSPENDED = "suspended"
    #: It has devices again.
    ITS_TURN = "its_turn"
    #: A parked one is wanted again.
    WAKE = "wake"
    #: Its standby takes it over.
    STOOD_IN = "stood_in"
    #: There is something to restore it from.
    RESTORABLE = "restorable"
    #: Nothing is left to restore it from.
    GIVEN_UP = "given_up"
    #: Its user, or a rule, ends it.
    RELEASE = "release"
    #: Processes are gone and devices are back.
    RELEASED = "released"


class Command(StrEnum):
    """What the controller must do."""

    START_HOST = "start_host"
    STOP_HOST = "stop_host"
    RELEASE_LEASE = "release_lease"
    #: Give its devices to others; its host stays.
    FREE_DEVICES = "free_devices"
    #: Let its processes go on, which stand still without devices.
    GO_ON = "go_on"
    #: Let its standby take it over, if there is one. What is ordered behind this is for where there is none.
    STAND_IN = "stand_in"
    #: Ask what can be restored, and give up where nothing can.
    RECOVER = "recover"
    #: Ask the scheduler for devices.
    PLACE = "place"
    #: Remove what its former host has left on disk.
    DROP_REMAINS = "drop_remains"


E = SessionEvent
_RELEASE = {E.RELEASE: S.CLOSING}
_LOSS = {E.HOST_DIED: S.LOST}

TABLE: Mapping[SessionState, Mapping[SessionEvent, SessionState]] = {
    S.QUEUED: {E.PLACED: S.STARTING, E.RELEASE: S.CLOSED, E.START_FAILED: S.FAILED},
    S.STARTING: {
        E.READY: S.IDLE,
        E.START_FAILED: S.FAILED,
        E.KERNEL_DIED: S.STARTING,
        **_LOSS,
        **_RELEASE,
    },
    S.IDLE: {
        E.CELL_STARTED: S.BUSY,
        E.KERNEL_DIED: S.STARTING,
        E.RESTARTED: S.STARTING,
        E.MOVING: S.MIGRATING,
        E.SUSPENDED: S.SUSPENDED,
        E.KEPT: S.PARKED,
        **_LOSS,
        **_RELEASE,
    },
    S.BUSY: {
        E.CELL_ENDED: S.IDLE,
        E.KERNEL_DIED: S.STARTING,
        E.RESTARTED: S.STARTING,
        E.MOVING: S.MIGRATING,
        E.SUSPENDED: S.SUSPENDED,
        E.KEPT: S.PARKED,
        **_LOSS,
        **_RELEASE,
    },
    S.SUSPENDED: {E.ITS_TURN: S.BUSY, E.START_FAILED: S.FAILED, **_LOSS, **_RELEASE},
    S.MIGRATING: {E.STAYED: S.IDLE, E.MOVED: S.STARTING, E.PARKED: S.PARKED, **_LOSS, **_RELEASE},
    S.PARKED: {E.WAKE: S.RESTORING, **_LOSS, **_RELEASE},
    S.LOST: {E.STOOD_IN: S.STARTING, E.RESTORABLE: S.RESTORING, E.GIVEN_UP: S.FAILED, **_RELEASE},
    S.RESTORING: {E.PLACED: S.STARTING, E.ITS_TURN: S.IDLE, E.START_FAILED: S.FAILED, **_LOSS, **_RELEASE},
    S.CLOSING: {E.RELEASED: S.CLOSED, E.HOST_DIED: S.CLOSING},
    S.CLOSED: {},
    S.FAILED: {},
}

#: What follows from arriving in a state by an event; absent means nothing.
COMMANDS: Mapping[tuple[SessionState, SessionEvent], tuple[Command, ...]] = {
    (S.STARTING, E.PLACED): (Command.START_HOST,),
    (S.STARTING, E.MOVED): (Command.START_HOST,),
    (S.STARTING, E.STOOD_IN): (Command.START_HOST,),
    (S.FAILED, E.START_FAILED): (Command.STOP_HOST, Command.DROP_REMAINS, Command.RELEASE_LEASE),
    (S.SUSPENDED, E.SUSPENDED): (Command.FREE_DEVICES, Command.PLACE),
    (S.BUSY, E.ITS_TURN): (Command.GO_ON,),
    (S.IDLE, E.ITS_TURN): (Command.GO_ON,),
    (S.PARKED, E.KEPT): (Command.FREE_DEVICES,),
    (S.PARKED, E.PARKED): (Command.STOP_HOST, Command.RELEASE_LEASE),
    (S.RESTORING, E.WAKE): (Command.PLACE,),
    (S.LOST, E.HOST_DIED): (Command.STAND_IN, Command.STOP_HOST, Command.RECOVER),
    (S.RESTORING, E.RESTORABLE): (Command.RELEASE_LEASE, Command.PLACE),
    (S.FAILED, E.GIVEN_UP): (Command.DROP_REMAINS, Command.RELEASE_LEASE),
    (S.CLOSING, E.RELEASE): (Command.STOP_HOST, Command.DROP_REMAINS, Command.RELEASE_LEASE),
}


def step(state: SessionState, event: SessionEvent) -> tuple[SessionState, tuple[Command, ...]]:
    """Next state and commands; pure.

    Raises
    ------
    InvalidTransition
        The table has no such cell. Nothing has changed.
    """
    try:
        target = TABLE[state][event]
    except KeyError:
        raise InvalidTransition(state, event) from None
    return target, COMMANDS.get((target, event), ())


def diagram() -> str:
    """The table as a Mermaid state diagram, for ``docs/architecture.md``."""
    lines = ["stateDiagram-v2", "    [*] --> queued"]
    for source, row in TABLE.items():
        targets: dict[SessionState, list[str]] = {}
        for event, target in row.items():
            targets.setdefault(target, []).append(event.value)
        lines += [f"    {source} --> {target}: {', '.join(events)}" for target, events in targets.items()]
        if not row:
            lines.append(f"    {source} --> [*]")
    return "\n".join(lines) + "\n"
