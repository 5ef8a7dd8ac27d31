"""How the checkpoints of a kernel stand, and what its host is told of it. From any thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ..errors import StaleEpoch
from ..model import CheckpointStatus, CheckpointView
from ..state.archive import Checkpoint
from ..state.listing import view_of

#: Names that a report tells, so that it stays small.
NAMES_TOLD = 50
#: How often it is told how far something is.
PROGRESS_S = 0.5


class Standing:
    """The status, which changes as a whole.

    Parameters
    ----------
    tell
        Called from any thread with what the host should know: ``{"kind": ..., "status": ..., ...}``.
    """

    def __init__(self, every: int, tell: Callable[[dict[str, Any]], None]) -> None:
        self._status = CheckpointStatus(every=every)
        self._tell = tell
        self._lock = threading.Lock()
        self._progress_s = 0.0

    @property
    def status(self) -> CheckpointStatus:
        return self._status

    def change(self, more: Mapping[str, float] | None = None, /, **fields: Any) -> None:
        """These fields are so now, and those that count have so much more; all at once."""
        with self._lock:
            for name, count in (more or {}).items():
                fields[name] = getattr(self._status, name) + count
            self._status = msgspec.structs.replace(self._status, **fields)

    def note(self, kind: str, cause: str = "", **more: Any) -> None:
        """Tell the host how it stands, and why."""
        self._tell({"kind": kind, "cause": cause, "status": msgspec.to_builtins(self._status), **more})

    # -- what happens ------------------------------------------------------------------------------------------

    def taken(self, checkpoint: Checkpoint, waiting: int) -> None:
        """One is durable."""
        costs = checkpoint.costs
        more = {
            "taken": 1,
            "stall_s": costs.stall_s,
            "capture_s": costs.capture_s,
            "looked_bytes": costs.looked_bytes,
            "copied_bytes": costs.copied_bytes,
            "written_bytes": costs.written_bytes,
        }
        self.change(more, waiting=waiting, last=_told(view_of(checkpoint.manifest)), problem="")
        self.note("taken")

    def failed(self, error: BaseException) -> None:
        """One could not be taken."""
        told = f"{_reason(error)} {getattr(error, 'hint', '')}".strip()
        self.change({"failed": 1}, problem=told, last_problem=told)
        self.note("failed", told)

    def put_off(self, why: str) -> None:
        """One is not taken now; that is no failure."""
        self.change(problem=why)
        self.note("put_off", why)

    # -- what takes long ---------------------------------------------------------------------------------------

    def begins(self, *, at_once: bool = False) -> None:
        """Something begins that may take long; how far it is is told after a while, or at once."""
        self._progress_s = 0.0 if at_once else time.monotonic()

    def is_time(self) -> bool:
        """Whether progress was last told, or the beginning, long enough ago."""
        if time.monotonic() - self._progress_s <= PROGRESS_S:
            return False
        self._progress_s = time.monotonic()
        return True

    def progress(self, what: str) -> None:
        """Tell how far it is; empty when it is over."""
        if what or self._status.progress:
            self.change(progress=what)
            self.note("progress")


def _reason(error: BaseException) -> str:
    if isinstance(error, StaleEpoch):
        return f"the session has gone on at another host since, so this one takes no more checkpoints: {error}."
    if isinstance(error, MemoryError):
        return "there is not enough memory to copy what has changed."
    message = getattr(error, "message", "")
    return str(message) or f"{type(error).__name__}: {error}"


def _told(view: CheckpointView) -> CheckpointView:
    """The view without more names than a report should carry."""
    return msgspec.structs.replace(
        view,
        lost=dict(list(view.lost.items())[:NAMES_TOLD]),
        rebuilt=dict(list(view.rebuilt.items())[:NAMES_TOLD]),
    )
