"""What a kernel tells its host of its checkpoints and wishes, and how the host passes it on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from ..model import CheckpointStatus, Wish
from ..wire.record import Buffer
from ..wire.unreadable import UNREADABLE

#: Topic of the messages on iopub that are for the host alone.
TOPIC = b"gpuaas_checkpoint"


class _Note(msgspec.Struct):
    kind: str
    status: CheckpointStatus
    cause: str = ""


class _Wished(msgspec.Struct):
    wish: Wish


class CheckpointNotes:
    """The newest status, told on at most once in ``pause_s``: cells may be short and many.

    Parameters
    ----------
    changed
        Called in the event loop when there is something to report.
    """

    def __init__(self, pause_s: float, changed: Callable[[], None]) -> None:
        self.status: CheckpointStatus | None = None
        #: What a cell asked the service for last.
        self.wish: Wish | None = None
        self._pause_s = pause_s
        self._changed = changed
        self._timer: asyncio.TimerHandle | None = None

    def heard(self, content: Buffer) -> None:
        """A note has come; one that is none (a cell can publish what it likes) is passed over."""
        try:
            if b'"wish"' in bytes(content[:64]):
                self.wish = msgspec.json.decode(content, type=_Wished).wish
                self._tell_later()
                return
            note = msgspec.json.decode(content, type=_Note)
        except UNREADABLE:
            return
        before, self.status = self.status, note.status
        if before is not None and self.status.last is None:
            # Of a former kernel of this session: it can still be restored.
            self.status = msgspec.structs.replace(self.status, last=before.last)
        self._tell_later()

    def _tell_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._pause_s, self._report)

    def way_back(self) -> str:
        """What to tell the user of a kernel that has died; empty when nothing can be had back."""
        last = self.status.last if self.status is not None else None
        if last is None:
            return ""
        return f" `%remote_gpu restore {last.short}` brings back its variables as they were after cell {last.cell}."

    def _report(self) -> None:
        self._timer = None
        self._changed()
