"""What the controller tells an agent to host, and what the agent reports back."""

from __future__ import annotations

import msgspec

from ._compat import StrEnum
from .checkpoint import CheckpointPlan, CheckpointStatus
from .migration import Peer, Wish
from .session import Lease


class HostState(StrEnum):
    """A host's session as its node sees it (``SessionState`` is the controller's view)."""

    STARTING = "starting"
    #: It waits to take a session over from another host.
    STANDBY = "standby"
    IDLE = "idle"
    BUSY = "busy"
    #: The host process is gone; ``HostReport.cause`` says why.
    DEAD = "dead"
    #: The kernel could not be started.
    FAILED = "failed"
    #: The user's client shut the session down; the controller should release it.
    ENDING = "ending"


class HostSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a host needs to act for a session."""

    session_id: str
    name: str
    owner: str
    lease: Lease
    #: Key of the session's tickets.
    secret: str
    #: Folder that the kernel starts in, if ``machine`` is the node's own and it exists.
    cwd: str = ""
    #: ``Node.machine`` of the client, so that its paths can be told from the node's.
    machine: str = ""
    #: Environment variables for the kernel.
    env: dict[str, str] = msgspec.field(default_factory=dict)
    #: None: no checkpoints.
    checkpoints: CheckpointPlan | None = None
    #: Stand by to take the session over from there, instead of beginning it.
    peer: Peer | None = None
    #: What comes from ``peer`` is the image of the kernel's process, so no kernel is started.
    image: bool = False
    #: What becomes of cells that were cut off, where a former host was lost.
    on_node_loss: str = "ask"


class HostReport(msgspec.Struct, frozen=True, kw_only=True):
    """State of one hosted session."""

    session_id: str
    lease: Lease
    state: HostState
    #: Why, in words for the user; empty when nothing is to be said.
    cause: str = ""
    clients: int = 0
    #: Seconds since the epoch; 0 while a client is attached.
    unattended_since_s: float = 0.0
    #: Kernels that became ready so far: 1 after the first, more when one died or was restarted.
    kernel_starts: int = 0
    #: Memory of the session's processes.
    used_bytes: int = 0
    working_folder: str = ""
    #: What is wrong with the session while it goes on, such as a full disk; empty as a rule.
    warning: str = ""
    checkpoints: CheckpointStatus | None = None
    #: What its notebook asked for last.
    wish: Wish | None = None
    #: Whether its kernel can be put into an image.
    in_jail: bool = False
    #: Whether its processes stand still because it has no devices at the moment.
    suspended: bool = False
    #: Why that cannot be done to it; empty if it can.
    no_suspend: str = ""
    #: Execution counts of the cells whose effects went with the host before this one, as far as its journal tells.
    lost_cells: tuple[int, ...] = ()
    #: Whether its cells wait, as it was brought to a standstill to be moved or parked; it waits to be told what next.
    stands_still: bool = False
