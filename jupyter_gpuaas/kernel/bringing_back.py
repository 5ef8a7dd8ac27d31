"""The variables of a checkpoint in the place of those that a kernel has, and what is told of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..model import Replay, RestoreReport
from ..state.ahead import Ahead
from ..state.checkpointer import Checkpoint, Checkpointer, RestoreResult
from ..state.listing import notes, variables, view_of
from ..state.lost import Lost
from ..state.recipes import CellRecord
from ..state.remaking import WORD


class BroughtBack(NamedTuple):
    """What came of it."""

    checkpoint: Checkpoint
    result: RestoreResult
    #: The session's cells until then.
    cells: list[CellRecord]

    @property
    def unsure(self) -> frozenset[str]:
        """Names that are not what the cells had made."""
        return frozenset(name for name, found in self.result.report.items() if found.outcome in ("lost", "replayed"))

    @property
    def lost(self) -> dict[str, str]:
        """Names and why, in the words of who restores with a magic or the command line."""
        found = notes(self.result.report, "lost")
        return {name: note.replace(WORD, "restore with --replay all") for name, note in found.items()}

    def say_why_lost(self, space: dict[str, Any]) -> None:
        """Let the lost names say so in these words."""
        space.update({name: Lost(name, note) for name, note in self.lost.items() if type(space.get(name)) is Lost})

    def report(self, took_s: float) -> RestoreReport:
        """For whoever asked for it."""
        report = self.result.report
        return RestoreReport(
            checkpoint=view_of(self.checkpoint.manifest),
            names=variables(report),
            lost=self.lost,
            rebuilt=notes(report, "rebuilt"),
            replayed=notes(report, "replayed"),
            remarks=list(self.result.remarks),
            took_s=took_s,
        )


def bring_back(
    checkpointer: Checkpointer,
    checkpoint: Checkpoint,
    space: dict[str, Any],
    *,
    told: Callable[[int, int], None],
    replay: Replay,
    running: Callable[[CellRecord], None],
    ahead: Ahead | None,
) -> BroughtBack:
    """Restore; what fails leaves the variables as they were. Parameters as of ``Checkpointer.restore``."""
    before = dict(space)
    try:
        result = checkpointer.restore(
            checkpoint,
            into=space,
            device_map=_device_map(checkpoint.manifest.world.devices),
            replay=replay,
            running=running,
            progress=told,
            ahead=ahead,
        )
        return BroughtBack(checkpoint, result, checkpointer.cells(checkpoint))
    except BaseException:
        space.clear()
        space.update(before)
        raise


def _device_map(devices: Sequence[str]) -> dict[str, str]:
    """Where memory of the checkpoint's devices goes here; those that are here keep their place."""
    labels = json.loads(os.environ.get("GPUAAS_DEVICES") or "[]")
    here = sum(label.get("kind") == "cuda" for label in labels)
    found = {}
    for device in devices:
        kind, _, index = device.partition(":")
        if kind == "cuda" and (not here or (index.isdecimal() and int(index) >= here)):
            found[device] = "cuda:0" if here else "cpu"
    return found
