"""When checkpoints that need not be kept are removed, and which. Works in the writer's thread."""

from __future__ import annotations

import contextlib
import time

from ..errors import NoSuchCheckpoint
from ..model import CheckpointPlan
from ..state.archive import Archive
from ..state.checkpointer import Checkpointer
from ..state.fence import of_session
from ..store.retention import Kept, Retention, to_forget

EVERY_S = 60.0


class Tidying:
    """Removes what the plan of one session does not keep."""

    def __init__(self, plan: CheckpointPlan, session: str) -> None:
        self._plan = plan
        self._session = session
        self._last_s = time.monotonic()
        self._soon = self._full = self._looked = False

    def soon(self) -> None:
        """Something was removed by hand."""
        self._soon = True

    def full(self) -> None:
        """The quota is reached: more has to go than usual."""
        self._full = True

    def act(self, checkpointer: Checkpointer) -> None:
        """Tidy up, if it is time to."""
        due = self._full or self._soon or time.monotonic() - self._last_s > EVERY_S or self._too_many(checkpointer)
        if not due:
            return
        full, self._full, self._soon = self._full, False, False
        self._last_s = time.monotonic()
        store = checkpointer.store
        everything = Archive(store, key=bytes.fromhex(self._plan.key)).checkpoints()
        kept: dict[str, list[Kept]] = {self._session: []}
        for found in (each.manifest for each in everything):
            kept.setdefault(found.session, []).append(Kept(found.id, found.created_s, found.label))
        own = kept.pop(self._session)
        keep = max(1, len(own) // 2) if full else self._plan.keep
        rule = Retention(keep_last=keep, max_age_s=self._plan.keep_s)
        gone = to_forget(own, rule, now_s=time.time())
        rule = Retention(max_age_s=self._plan.keep_s)
        for theirs in kept.values():
            gone += to_forget(theirs, rule, now_s=time.time())
        for checkpoint_id in gone:
            with contextlib.suppress(NoSuchCheckpoint):  # another session's kernel was faster
                store.forget(checkpoint_id)
        checkpointer.collect()

    def _too_many(self, checkpointer: Checkpointer) -> bool:
        """Looked at once in the life of a kernel: one whose session moves on before a minute has passed tidies, too."""
        looked, self._looked = self._looked, True
        if looked or not self._plan.keep:
            return False
        own = of_session(self._session, checkpointer.store.manifests())
        return len(own) > self._plan.keep + max(16, self._plan.keep // 4)
