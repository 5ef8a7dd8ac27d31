"""The table of a session's life: every cell, and every absent one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_gpuaas.errors import InvalidTransition
from jupyter_gpuaas.lifecycle.session import COMMANDS, TABLE, Command, SessionEvent, diagram, step
from jupyter_gpuaas.model import LIVE_STATES, SessionState

S, E = SessionState, SessionEvent

# Written out once more, on purpose: a change of the table must be made twice to pass.
EXPECTED = {
    (S.QUEUED, E.PLACED): (S.STARTING, [Command.START_HOST]),
    (S.QUEUED, E.RELEASE): (S.CLOSED, []),
    (S.QUEUED, E.START_FAILED): (S.FAILED, [Command.STOP_HOST, Command.DROP_REMAINS, Command.RELEASE_LEASE]),
    (S.STARTING, E.READY): (S.IDLE, []),
    (S.STARTING, E.START_FAILED): (S.FAILED, [Command.STOP_HOST, Command.DROP_REMAINS, Command.RELEASE_LEASE]),
    (S.STARTING, E.KERNEL_DIED): (S.STARTING, []),
    (S.STARTING, E.HOST_DIED): (S.LOST, [Command.STAND_IN, Command.STOP_HOST, Command.RECOVER]),
    (S.STARTING, E.RELEASE): (S.CLOSING, [Command.STOP_HOST, Command.DROP_REMAINS, Command.RELEASE_LEASE]),
    (S.IDLE, E.CELL_STARTED): (S.BUSY, []),
    (S.IDLE, E.KERNEL_DIED): (S.STARTING, []),
    (S.IDLE, E.RESTARTED): (S.STARTING, []),
    (S.IDLE, E.HOST_DIED): (S.LOST, [Command.STAND_IN, Command.STOP_HOST, Command.RECOVER]),
    (S.IDLE, E.RELEASE): (S.CLOSING, [Command.STOP_HOST, Command.DROP_REMAINS, Command.RELEASE_LEASE]),
    (S.BUSY, E.CELL_ENDED): (S.IDLE, []),
    (S.BUSY, E.KERNEL_DIED): (S.STARTING, []),
    (S.BUSY, E.RESTARTED): (S.STARTING, []),
    (S.BUSY, E.HOST_DIED): (S.LOST, [Command.STAND_IN, Command.STOP_HOST, Command.RECOVER]),
    (S.BUSY, E.RELEASE): (S.CLOSING, [Command.STOP_HOST, Command.DROP_REMAINS, Command.RELEASE_LEASE]),
    (S.IDLE, E.MOVING): (S.MIGRATING, []),
    (S.BUSY, E.MOVING): (S.MIGRATING, []),
    (S.IDLE, E.KEPT): (S.PARKED, [Command.FREE_DEVICES]),
    (S.BUSY, E.KEPT): (S.PARKED, [Command.FREE_DEVICES]),
    (S.PARKED, E.HOST_DIED): (S.LOST, [Command.STAND_IN, Command.STOP_HOST, Command.RECOVER]),
    (S.RESTORING, E.ITS_TURN): (S.IDLE, [Command.GO_ON]),
    (S.RESTORING, E.HOST_DIED): (S.LOST, [Command.STAND_IN, Command.STOP_HOST, Command.RECOVER]),
    (S.IDLE, E.SUSPENDED): (S.SUSPENDED, [Command.FREE_DEVICES, Command.PLACE]),
    (S.BUSY, E.SUSPENDED): (S.SUSPENDED, [Command.FREE_DEVICES, Command.PLACE]),
    (S.SUSPENDED, E.ITS_TURN): (S.BUSY, [Command.GO_ON]),
    (S.SUSPENDED, E.START_FAILED): (S.FAILED, [Command.STOP_HOST, Command.DROP_REMAINS, Command.RELEASE_LEASE]),
    (S.SUSPENDED, E.HOST_DIED): (S.LOST, [Command.STAND_IN, Command.STOP_HOST, Command.RECOVER]),
    (S.SUSPENDED, E.RELEASE): (S.CLOSING, [Command.STOP_HOST, Command.DROP_REMAINS, Command.RELEASE_LEASE]),
    (S.MIGRATING, E.STAYED): (S.IDLE, []),
    (S.MIGRATING, E.MOVED): (S.STARTING, [Command.START_HOST]),
    (S.MIGRATING, E.PARKED): (S.PARKED, [Command.STOP_HOST, Command.RELEASE_LEASE]),
    (S.MIGRATING, E.HOST_DIED): (S.LOST, [Command.STAND_IN, Command.STOP_HOST, Command.RECOVER]),
    (S.MIGRATING, E.RELEASE): (S.CLOSING, [Command.STOP_HOST, Command.DROP_REMAINS, Command.RELEASE_LEASE]),
    (S.PARKED, E.WAKE): (S.RESTORING, [Command.PLACE]),
    (S.PARKED, E.RELEASE): (S.CLOSING, [Command.STOP_HOST, Command.DROP_REMAINS, Command.RELEASE_LEASE]),
    (S.LOST, E.STOOD_IN): (S.STARTING, [Command.START_HOST]),
    (S.LOST, E.RESTORABLE): (S.RESTORING, [Command.RELEASE_LEASE, Command.PLACE]),
    (S.LOST, E.GIVEN_UP): (S.FAILED, [Command.DROP_REMAINS, Command.RELEASE_LEASE]),
    (S.LOST, E.RELEASE): (S.CLOSING, [Command.STOP_HOST, Command.DROP_REMAINS, Command.RELEASE_LEASE]),
    (S.RESTORING, E.PLACED): (S.STARTING, [Command.START_HOST]),
    (S.RESTORING, E.START_FAILED): (S.FAILED, [Command.STOP_HOST, Command.DROP_REMAINS, Command.RELEASE_LEASE]),
    (S.RESTORING, E.RELEASE): (S.CLOSING, [Command.STOP_HOST, Command.DROP_REMAINS, Command.RELEASE_LEASE]),
    (S.CLOSING, E.RELEASED): (S.CLOSED, []),
    (S.CLOSING, E.HOST_DIED): (S.CLOSING, []),
}

#: States in which a session has devices.
HOLDING = {S.STARTING, S.IDLE, S.BUSY, S.MIGRATING}


@pytest.mark.parametrize(
    ("state", "event"), [pytest.param(*cell, id=f"{cell[0]}-{cell[1]}") for cell in itertools.product(S, E)]
)
def test_step_every_cell_leads_where_the_table_says_or_is_refused(state: S, event: E) -> None:
    if (state, event) in EXPECTED:
        target, commands = step(state, event)
        assert (target, list(commands)) == EXPECTED[state, event]
    else:
        with pytest.raises(InvalidTransition, match=event.value) as caught:
            step(state, event)
        assert (caught.value.state, caught.value.event) == (state, event)


def test_table_every_state_has_a_row_and_ends_are_ends() -> None:
    assert set(TABLE) == set(S)
    assert [state for state in S if not TABLE[state]] == [S.CLOSED, S.FAILED]


def test_commands_only_for_arrivals_that_happen() -> None:
    arrivals = {(target, event) for row in TABLE.values() for event, target in row.items()}
    assert set(COMMANDS) <= arrivals


@given(st.lists(st.sampled_from(list(E)), max_size=30))
def test_step_any_history_ends_only_after_its_devices_are_ordered_back(history: list[E]) -> None:
    """Whatever happens, a session that had devices does not end before RELEASE_LEASE was ordered."""
    state, placed, ordered_back = S.QUEUED, False, True
    for event in history:
        try:
            target, commands = step(state, event)
        except InvalidTransition:
            continue
        state = target
        if event in (E.PLACED, E.ITS_TURN):
            placed, ordered_back = True, False
        ordered_back = ordered_back or Command.RELEASE_LEASE in commands
        if placed and ordered_back:  # who has no devices does nothing that needs some
            assert state not in HOLDING
    if placed and state in (S.CLOSED, S.FAILED):
        assert ordered_back


@pytest.mark.parametrize("state", [state for state in S if state in LIVE_STATES])
def test_release_is_possible_in_every_live_state(state: S) -> None:
    assert step(state, E.RELEASE)[0] in (S.CLOSING, S.CLOSED)


def test_diagram_shows_every_transition() -> None:
    drawn = diagram()
    for source, row in TABLE.items():
        for event, target in row.items():
            line = next(line for line in drawn.splitlines() if f"{source} --> {target}:" in line)
            assert event.value in line
