"""The states of a process under CUDA's checkpoint calls, and which call leads where. Pure.

Rule: everything about what may follow what is in ``TRANSITIONS``; an absent cell is the error. Source: the CUDA driver
API, "CUDA Checkpointing" (``CUprocessState``).
"""

from __future__ import annotations

from enum import Enum, IntEnum

from ..errors import InvalidTransition


class ProcessState(IntEnum):
    """Values of ``CUprocessState``."""

    #: Computes.
    RUNNING = 0
    #: Its threads wait at their next call of CUDA; work that was submitted has ended.
    LOCKED = 1
    #: Its device memory is in its own host memory, and the device is free.
    CHECKPOINTED = 2
    #: Lost for good.
    FAILED = 3


class Action(str, Enum):
    LOCK = "lock"
    CHECKPOINT = "checkpoint"
    RESTORE = "restore"
    UNLOCK = "unlock"


TRANSITIONS: dict[ProcessState, dict[Action, ProcessState]] = {
    ProcessState.RUNNING: {Action.LOCK: ProcessState.LOCKED},
    ProcessState.LOCKED: {Action.CHECKPOINT: ProcessState.CHECKPOINTED, Action.UNLOCK: ProcessState.RUNNING},
    ProcessState.CHECKPOINTED: {Action.RESTORE: ProcessState.LOCKED},
    ProcessState.FAILED: {},
}


def step(state: ProcessState, action: Action) -> ProcessState:
    """The state after a call that succeeded. Raises ``InvalidTransition`` where the table has no cell."""
    try:
        return TRANSITIONS[state][action]
    except KeyError:
        raise InvalidTransition(state.name, action.value) from None


def way(state: ProcessState, goal: ProcessState) -> list[Action]:
    """The calls that lead from one state to another. Raises ``InvalidTransition`` when none do."""
    ways: dict[ProcessState, list[Action]] = {state: []}
    waiting = [state]
    while waiting:
        at = waiting.pop(0)
        if at == goal:
            return ways[at]
        for action, after in TRANSITIONS[at].items():
            if after not in ways:
                ways[after] = [*ways[at], action]
                waiting.append(after)
    raise InvalidTransition(state.name, f"way to {goal.name}")
