"""Checkpoints of sessions: what a kernel is told to do, and what is told of what it did."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

MAX_LABEL_CHARS = 64
#: What a person is shown of an id; it tells two checkpoints of a session apart.
SHORT_ID_CHARS = 8

#: Which cells a restore may run again for what could not be stored: none; those that are known to have no visible side
#: effects; by the user's word, others as well.
Replay = Literal["never", "safe", "all"]
REPLAYS: tuple[Replay, ...] = ("never", "safe", "all")


def short_id(checkpoint: str) -> str:
    """What a person is shown of an id, and may type; programs get the whole."""
    return checkpoint[-SHORT_ID_CHARS:]


class CheckpointPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How a session's kernel takes checkpoints. Goes from the controller to the host and on to the kernel."""

    #: Address of the store; see ``store.open_store``.
    store: str
    #: Secret of the owner as hexadecimal digits. Never in logs, events, arguments or environments.
    key: str
    owner: str
    #: After so many cells; 0 for never.
    every: int = 1
    #: Of the cells' time, how much their captures may take.
    share: float = 0.1
    #: Cells in a row that follow each other within so many seconds share checkpoints; 0 for one after each.
    together_s: float = 0.05
    #: So many of the newest automatic ones stay; 0 for all.
    keep: int = 0
    #: For so many seconds they stay; 0 for ever.
    keep_s: float = 0.0
    quota_bytes: int = 0
    #: Copies that may wait in memory to be written; the next cell waits for the rest.
    waiting_bytes: int = 0
    #: Id of the checkpoint that a new session begins with.
    restore: str = ""

    def __repr__(self) -> str:
        return f"CheckpointPlan(store={self.store!r}, owner={self.owner!r}, every={self.every})"


class CheckpointView(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint, as it is listed."""

    id: str
    session: str
    #: Execution count of the cell after which it was taken.
    cell: int
    #: The user's name for it; empty for automatic ones.
    label: str = ""
    created_s: float
    parent: str = ""
    epoch: int = 0
    #: How many variables of the user's it gives back.
    names: int = 0
    #: Size of what it holds.
    host_bytes: int = 0
    device_bytes: int = 0
    #: What had to be looked at, copied and written for it.
    looked_bytes: int = 0
    copied_bytes: int = 0
    written_bytes: int = 0
    #: How long the next cell had to wait, and how long it took until it was durable.
    stall_s: float = 0.0
    capture_s: float = 0.0
    #: Names that cannot be restored -> why.
    lost: dict[str, str] = msgspec.field(default_factory=dict)
    #: Names that are made anew at restore -> how.
    rebuilt: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def short(self) -> str:
        """What a person types to mean it."""
        return short_id(self.id)


class CheckpointStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How the checkpoints of a session stand. The sums begin with its kernel."""

    every: int = 0
    taken: int = 0
    failed: int = 0
    #: Cells after which none was taken because it would have cost too much.
    passed_over: int = 0
    waiting: int = 0
    stall_s: float = 0.0
    capture_s: float = 0.0
    looked_bytes: int = 0
    copied_bytes: int = 0
    written_bytes: int = 0
    last: CheckpointView | None = None
    #: Why the newest one could not be taken; empty when it could.
    problem: str = ""
    #: The reason of the last failure; stays when a later capture succeeds.
    last_problem: str = ""
    #: What the user should know of how they are taken; empty as a rule.
    remark: str = ""
    #: What takes long at the moment, with how far it is; empty as a rule.
    progress: str = ""
    #: Id of the checkpoint that the variables were last restored from.
    restored: str = ""
    #: How often.
    restores: int = 0
    forgotten: int = 0


class RestoreReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore gave."""

    checkpoint: CheckpointView
    #: How many variables of the user's were restored.
    names: int
    #: Names that could not be restored -> why.
    lost: dict[str, str] = msgspec.field(default_factory=dict)
    rebuilt: dict[str, str] = msgspec.field(default_factory=dict)
    #: Names that were made again by running cells once more -> which.
    replayed: dict[str, str] = msgspec.field(default_factory=dict)
    remarks: list[str] = msgspec.field(default_factory=list)
    took_s: float = 0.0
    #: The new session, where it was restored into one.
    session: str = ""


class CheckpointDiff(msgspec.Struct, frozen=True, kw_only=True):
    """Names that differ from one checkpoint to another."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


_LABEL = re.compile(r"[^\W\d][\w .+:@-]*")


def check_label(label: str) -> str:
    """Return the label, or raise ValueError with the reason why it cannot name a checkpoint."""
    if len(label) > MAX_LABEL_CHARS:
        raise ValueError(f"name: has {len(label)} characters, at most {MAX_LABEL_CHARS} are allowed")
    if label and not _LABEL.fullmatch(label):
        raise ValueError("name: begins with a letter and has letters, digits, blanks and _.+:@- behind it")
    return label
