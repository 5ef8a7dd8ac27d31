"""Sessions on the move: what is asked for, how far it is, and what one host tells the next."""

from __future__ import annotations

from typing import Literal

import msgspec

from ._compat import StrEnum
from .checkpoint import CheckpointStatus, CheckpointView

#: How a session travels: its checkpoint, the image of its process, or whichever loses nothing.
Via = Literal["auto", "portable", "image"]
VIAS: tuple[Via, ...] = ("auto", "portable", "image")


class Phase(StrEnum):
    """Phases of a migration; ``lifecycle.migration`` says which event leads where."""

    #: Devices on the target are asked for, and a kernel is started there.
    RESERVE = "reserve"
    #: State goes to the target while the user works on.
    PRE_COPY = "pre_copy"
    #: The cell that runs comes to its end; further ones wait.
    QUIESCE = "quiesce"
    #: What has changed since the last round goes to the target.
    STOP_COPY = "stop_copy"
    #: The target makes the objects.
    RESTORE = "restore"
    #: What the target has is compared with what the source had.
    VERIFY = "verify"
    #: The session is the target's, whatever happens now.
    CUTOVER = "cutover"
    DONE = "done"
    #: It stays where it was.
    FAILED = "failed"
    CANCELLED = "cancelled"


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One round of copying."""

    checkpoint: str
    #: Bytes that the target lacked and was sent.
    sent_bytes: int
    took_s: float


class MigrationView(msgspec.Struct, frozen=True, kw_only=True):
    """A migration as it is shown."""

    id: str
    session_id: str
    source: str
    target: str
    phase: Phase
    via: Via = "portable"
    #: What it is doing, or why it ended so, in words for the user.
    cause: str = ""
    started_s: float = 0.0
    rounds: tuple[Round, ...] = ()
    #: All bytes that went to the target: memory, outputs and files.
    bytes_sent: int = 0
    #: From the moment that cells had to wait until the target could run the next one; 0 before.
    downtime_s: float = 0.0
    total_s: float = 0.0
    #: Seconds of each phase that is over.
    phases_s: dict[str, float] = msgspec.field(default_factory=dict)
    #: Names that do not survive -> why.
    lost: dict[str, str] = msgspec.field(default_factory=dict)


class MigrationPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a migration would do (``--dry-run``, and the first lines of a real one)."""

    source: str
    target: str
    #: Names that move as they are, and those that are made anew -> how.
    moves: int
    rebuilt: dict[str, str] = msgspec.field(default_factory=dict)
    lost: dict[str, str] = msgspec.field(default_factory=dict)
    #: Of memory, outputs and files; an estimate.
    bytes_estimate: int = 0
    total_s_estimate: float = 0.0
    downtime_s_estimate: float = 0.0
    remarks: tuple[str, ...] = ()


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """Where a host in standby gets the state of the session that it will take over."""

    #: ``http://host:port/v1/sessions/<id>/transfer`` at the source's agent.
    url: str
    #: Opens it; see ``wire.ticket``. Never in logs, events, arguments or environments.
    ticket: str

    def __repr__(self) -> str:
        return f"Peer(url={self.url!r})"


class HeldRequest(msgspec.Struct, frozen=True):
    """A request that arrived and was not given to the kernel yet."""

    channel: str
    #: Address, header, parent, metadata, content and buffers.
    parts: tuple[bytes, ...]


class AskedRequest(msgspec.Struct, frozen=True):
    """A request that the kernel has and has not answered yet."""

    address: bytes
    channel: str
    header: bytes
    msg_type: str


class Loss(msgspec.Struct, frozen=True):
    """Of a session's host; how many requests had come from its clients by then, nobody knows."""

    #: Epoch of its successor.
    epoch: int
    #: Number of the last record in the journal that it left. Clients may have got more, which it had only in memory.
    last: int


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """What a host tells its successor, beside the journal and the kernel's state. Travels as msgpack."""

    #: Identity of the journal, which goes on with the session.
    journal: str
    #: Number of its last record, and of the last one that clients acknowledged or may have seen.
    last: int
    acknowledged: int
    sent: int
    #: Client -> number of the last request that arrived from it.
    inboxes: dict[str, int]
    #: Losses before, oldest first; they are counted since the last.
    losses: tuple[Loss, ...] = ()
    #: Digests of the requests that were passed on, oldest first; none of them runs again.
    seen: tuple[bytes, ...]
    held: tuple[HeldRequest, ...]
    kernel_starts: int
    #: Ids of the kernel's subshells; clients go on using them.
    subshells: tuple[str, ...] = ()
    #: Whether a host said this. Else it is what a dead one's journal tells: the inboxes are not known.
    whole: bool = True
    #: Cells that had begun, or may have, when their host died; and those of which only address and header are known.
    broken: tuple[HeldRequest, ...] = ()
    #: Execution counts of the newest cells that were answered, in this order; of a dead host only.
    answered: tuple[int, ...] = ()
    #: Headers of cells that were answered, and of which nobody has said that they have ended; of a dead host only.
    unended: tuple[bytes, ...] = ()
    #: Whether the kernel itself goes along, as an image; what it will answer there, and the prompt that it waits for.
    #: Of use only with that image: no checkpoint is of the same moment.
    imaged: bool = False
    asked: tuple[AskedRequest, ...] = ()
    prompt: tuple[bytes, ...] = ()
    checkpoints: CheckpointStatus | None = None


class Quiet(msgspec.Struct, frozen=True, kw_only=True):
    """A source that stands still: the checkpoint of its present state, already durable."""

    checkpoint: CheckpointView
    #: How long the running cell was waited for, and how long the checkpoint took.
    waited_s: float
    took_s: float


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One large region of a checkpoint's memory: by the digest of its group's record, and its number in that."""

    record: str
    region: int
    nbytes: int


class Outdated(msgspec.Struct, frozen=True, kw_only=True):
    """What of a session's newest checkpoint is mostly different by now."""

    #: Of what this is said, and the last one that was taken: another one after a restore.
    checkpoint: str = ""
    newest: str = ""
    parts: tuple[Part, ...] = ()
    #: A newer checkpoint is being written: of what that has anew, nothing is said here.
    writing: bool = False


class ImageRound(msgspec.Struct, frozen=True, kw_only=True):
    """A round of memory of a process image, of a kernel that goes on."""

    #: Why there was none, and will be none; empty if there was.
    none: str = ""
    image_bytes: int = 0


class Imaged(msgspec.Struct, frozen=True, kw_only=True):
    """A source whose kernel is stopped, wherever it was, and put into an image."""

    image: str
    #: Of the image, before compression.
    image_bytes: int
    #: How long it has been stopped.
    took_s: float
    #: What does not go along, in words: connections of the user's code.
    lost: tuple[str, ...] = ()


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What a host in standby has done with a checkpoint."""

    checkpoint: str
    sent_bytes: int
    took_s: float
    #: Of the whole state; less than that was sent where the rest was there.
    state_bytes: int = 0
    #: Names that could not be restored -> why. Only after the last round.
    lost: dict[str, str] = msgspec.field(default_factory=dict)


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What a session's own notebook asks the service for; carried out when the cell that asks has ended."""

    #: Rises from one to the next (nanoseconds since the epoch), also from one kernel to its successor.
    number: int
    #: ``migrate`` or ``park``.
    op: str
    target: str | None = None
    accept_loss: bool = False


class StandbyView(msgspec.Struct, frozen=True, kw_only=True):
    """A host on a second node that follows a session's checkpoints, to take it over when its node is lost."""

    #: ``waits`` for room, ``starts``, or ``follows``.
    state: str
    #: Empty while it waits.
    node: str = ""
    device_ids: tuple[str, ...] = ()
    #: Of the checkpoint that it has: id, cell, and size.
    checkpoint: str = ""
    cell: int = 0
    state_bytes: int = 0
    #: How long it took to bring what had changed.
    took_s: float = 0.0
    #: Why it is so, in words; empty when nothing is to be said.
    cause: str = ""


class DrainView(msgspec.Struct, frozen=True, kw_only=True):
    """A node that is being emptied."""

    node: str
    #: Until when, in seconds since the epoch.
    deadline_s: float
    #: Ids of the sessions that are still there.
    left: tuple[str, ...] = ()
    #: Of these, those that could not be moved at the last try -> why.
    refused: dict[str, str] = msgspec.field(default_factory=dict)
    done: bool = False
    cause: str = ""


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """A move that would make room."""

    session_id: str
    session_name: str
    source: str
    target: str
    #: The session that could be placed then.
    makes_room_for: str
    why: str
