"""What the service says about itself, its users and their tokens."""

from __future__ import annotations

import msgspec

from ._compat import StrEnum

MAX_USER_CHARS = 256


class ServiceFile(msgspec.Struct, frozen=True):
    """Content of ``HOME/service.json``: the controller that runs, or that ran last."""

    url: str
    pid: int
    port: int
    nodes: int
    #: Settings with which to find its nodes, should it be gone: those of its engine that are not the default.
    engine: dict[str, str] = msgspec.field(default_factory=dict)
    #: File with the authorities of its certificate; empty for those of this machine.
    ca: str = ""


class Scope(StrEnum):
    """What a token may be used for."""

    #: Look at one's own sessions, their outputs and checkpoints, at events and nodes.
    READ = "read"
    #: Make, use, move and end one's own sessions.
    SESSIONS = "sessions"
    #: Fetch the figures of everybody's sessions, and nothing else. For who scrapes them.
    METRICS = "metrics"
    #: Everybody's sessions, users and tokens, nodes, and the end of the service.
    ADMIN = "admin"


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one user may have; None means what the settings say for all."""

    #: Live sessions.
    sessions: int | None = None
    #: Devices held at the same time.
    devices: int | None = None
    #: Device-hours within the window of the setting ``quota_window_s``.
    device_hours: float | None = None
    #: Bytes of checkpoints.
    checkpoint_bytes: int | None = None
    #: The highest priority that may be asked for.
    priority: int | None = None
    #: Weight in the fair share: who has twice as much may have used twice as much before waiting behind others.
    share: float | None = None


class UserView(msgspec.Struct, frozen=True, kw_only=True):
    """Whose token it is."""

    user: str
    #: ``admin`` or ``user``.
    role: str
    scopes: tuple[str, ...] = ()
    #: What the user may have, the settings' words filled in.
    limits: Limits = Limits()


class NewToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token just made; the service itself keeps only its hash."""

    token: str
    user: str
    role: str
    #: Seconds since the epoch; 0 means that it does not end.
    expires_s: float = 0.0
    #: What it is called when it is listed or revoked.
    id: str = ""
    scopes: tuple[str, ...] = ()


class TokenView(msgspec.Struct, frozen=True, kw_only=True):
    """A token as it is listed: it cannot be used."""

    id: str
    user: str
    role: str
    scopes: tuple[str, ...]
    created_s: float
    #: Seconds since the epoch; 0 means that it does not end.
    expires_s: float = 0.0
    #: What its maker has noted.
    label: str = ""
    made_by: str = ""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A user as admins see one."""

    user: str
    created_s: float
    #: None of the user's tokens is accepted.
    blocked: bool = False
    #: What differs from the settings.
    limits: Limits = Limits()
    #: Tokens that are valid.
    tokens: int = 0
    #: Live sessions, and devices that they hold.
    sessions: int = 0
    devices: float = 0
    #: Device-seconds within the window of the setting ``quota_window_s``.
    device_seconds: float = 0.0


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """Devices that are kept for one user's sessions from one time to another."""

    id: str
    user: str
    devices: int
    from_s: float
    #: Its end; a while before it (setting ``reservation_notice_s``) its user's sessions are told.
    until_s: float
    #: ``cuda``, ``cpu``, or None for whatever there is.
    kind: str | None = None
    #: Id of the node whose devices they are; None for any.
    node: str | None = None
    label: str = ""
    made_by: str = ""

    def runs(self, now_s: float) -> bool:
        """Whether it holds at this time."""
        return self.from_s <= now_s < self.until_s


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Something that somebody did, or was refused."""

    seq: int
    time_s: float
    #: Empty where no valid token was shown.
    user: str = ""
    #: Id of the token.
    token: str = ""
    #: Where it came from.
    address: str = ""
    #: Method and route.
    action: str = ""
    #: What it was done to: the path as it came.
    target: str = ""
    #: HTTP status of the answer; 101 for a channel that was opened, 499 for a caller that went before the answer.
    status: int = 0
    note: str = ""


def check_user(name: str) -> str:
    """Return the name, or raise ValueError with the reason why it cannot name a user."""
    if not name or name != name.strip():
        raise ValueError("user: must not be empty, nor begin or end with spaces")
    if len(name) > MAX_USER_CHARS:
        raise ValueError(f"user: has {len(name)} characters, at most {MAX_USER_CHARS} are allowed")
    if not name.isprintable():
        raise ValueError("user: must have printable characters only")
    return name
