"""Sessions and what they ask for and hold."""

from __future__ import annotations

import re

import msgspec

from ._compat import StrEnum
from .checkpoint import CheckpointStatus
from .migration import MigrationView, StandbyView

MAX_NAME_CHARS = 1024
#: In UTF-8. Together with the longest name of a user it fits into an index of PostgreSQL, which takes 2,700 bytes.
MAX_NAME_BYTES = 1600


class SessionState(StrEnum):
    """States of a session; ``lifecycle.session`` says which event leads where."""

    #: Waits for devices.
    QUEUED = "queued"
    #: Has devices; its host and kernel are coming up.
    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    #: In the middle of a cell that stands still, without devices, until its turn comes.
    SUSPENDED = "suspended"
    #: Between two nodes, or on its way into the store: what it had is safe, and its requests wait.
    MIGRATING = "migrating"
    #: Its devices are given back; the next cell brings it back.
    PARKED = "parked"
    #: Its host is gone.
    LOST = "lost"
    #: Waits for devices on which its newest checkpoint is restored.
    RESTORING = "restoring"
    #: Is being ended; devices are still held.
    CLOSING = "closing"
    CLOSED = "closed"
    FAILED = "failed"


#: States in which a session can still do something; a name belongs to at most one such session of its owner.
LIVE_STATES = frozenset(
    {
        SessionState.QUEUED,
        SessionState.STARTING,
        SessionState.IDLE,
        SessionState.BUSY,
        SessionState.SUSPENDED,
        SessionState.MIGRATING,
        SessionState.PARKED,
        SessionState.LOST,
        SessionState.RESTORING,
    }
)


class Channel(StrEnum):
    """Jupyter's message channels (the heartbeat never leaves the client's machine)."""

    SHELL = "shell"
    IOPUB = "iopub"
    STDIN = "stdin"
    CONTROL = "control"


class ResourceRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a session asks for."""

    devices: int = 1
    #: ``cuda``, ``cpu``, or None for whatever the pool has.
    kind: str | None = None
    #: Least memory of each device.
    memory_bytes: int = 0
    #: Id of the one node that will do.
    node: str | None = None
    #: Standbys on other nodes, which follow its checkpoints: 0 or 1.
    standby: int = 0
    #: What becomes of a cell that is cut off when its host is lost: ``ask``, ``rerun`` or ``restore_only``, as of the
    #: setting of this name; empty for the service's own.
    on_node_loss: str = ""
    #: Who is served first, and who makes room for whom: the higher one.
    priority: int = 0
    #: Part of one device, where it need not be the whole. Others may have the rest.
    share: float = 1.0
    #: Selectors of the node's labels; see ``lifecycle.labels``.
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    #: Ids of nodes that will not do.
    avoid: tuple[str, ...] = ()


def parts(devices: float) -> tuple[int, float]:
    """How many devices, and how much of each, somebody means who says a number: 2, or 0.5.

    Raises
    ------
    ValueError
        It is neither a whole number nor a part of one.
    """
    if 0 < devices <= 1:
        return 1, devices
    if not devices >= 1 or not float(devices).is_integer():
        raise ValueError(f"{devices:g} is neither a number of devices nor a part of one")
    return int(devices), 1.0


class Lease(msgspec.Struct, frozen=True):
    """Right of one host to act for a session with these devices, until released."""

    id: str
    session_id: str
    node_id: str
    device_ids: tuple[str, ...]
    #: Fencing token: rises with every change of host.
    epoch: int
    #: How much of each device is held; others may hold the rest.
    share: float = 1.0


class GpuSession(msgspec.Struct, frozen=True, kw_only=True):
    """A durable remote kernel."""

    id: str
    name: str
    owner: str
    state: SessionState
    epoch: int
    request: ResourceRequest
    created_s: float
    #: Why it is in this state, in words for the user.
    cause: str = ""
    lease: Lease | None = None
    #: 1 is next; 0 when not queued.
    queue_place: int = 0
    #: Clients attached now, as its host last said.
    clients: int = 0
    #: Since when no client is attached (seconds since the epoch); 0 while one is.
    unattended_since_s: float = 0.0
    #: Sequence number of the newest event about this session.
    last_event: int = 0
    #: Since when it is in this state (seconds since the epoch); 0 where nobody has noted it.
    since_s: float = 0.0
    # What follows is only in answers.
    #: Device-seconds that it has used, without those of the lease that it has now,
    device_s: float = 0.0
    #: which count since this time; 0 where it has none.
    devices_since_s: float = 0.0
    #: When the service parks it because it is idle, or ends it because nobody is attached; 0 where it does not.
    parks_s: float = 0.0
    ends_s: float = 0.0
    #: When it is likely to get the devices that it waits for; 0 where nobody can tell.
    starts_s: float = 0.0


class ChannelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Where a client opens a session's channel and exchanges its bundles."""

    #: WebSocket address at the node's agent, opened with ``ticket``; empty while it is not known.
    direct_url: str
    #: WebSocket address at the controller, opened with the user's own token.
    relay_url: str
    #: Base address for bundles at the agent (``ticket``) and at the controller (user's token).
    bundle_url: str
    relay_bundle_url: str
    ticket: str
    epoch: int
    #: End of the ticket, seconds since the epoch.
    expires_s: float


class SessionView(msgspec.Struct, frozen=True, kw_only=True):
    """A session as the service answers with it."""

    session: GpuSession
    #: None while the session has no host that could be talked to.
    channel: ChannelInfo | None = None
    #: What its host last said of its checkpoints.
    checkpoints: CheckpointStatus | None = None
    #: Its migration: the one under way, else the last one.
    migration: MigrationView | None = None
    #: None where it wants no standby.
    standby: StandbyView | None = None
    #: Devices times the seconds for which the session has held them, standbys and both sides of a move included.
    device_seconds: float = 0.0


_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")


def check_name(name: str) -> str:
    """Return the name, or raise ValueError with the reason why it cannot name a session."""
    if not name.strip():
        raise ValueError("name: must not be empty")
    if len(name) > MAX_NAME_CHARS:
        raise ValueError(f"name: has {len(name)} characters, at most {MAX_NAME_CHARS} are allowed")
    size = len(name.encode("utf-8", "surrogatepass"))
    if size > MAX_NAME_BYTES:
        raise ValueError(f"name: has {size} bytes in UTF-8, at most {MAX_NAME_BYTES} are allowed")
    if _CONTROL_CHARACTERS.search(name):
        raise ValueError("name: must not contain control characters")
    return name
