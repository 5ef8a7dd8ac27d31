"""Cells of a notebook as the journal knows them: what a document that was closed meanwhile has missed."""

from __future__ import annotations

from typing import Any

import msgspec


class CellRun(msgspec.Struct, frozen=True, kw_only=True):
    """The newest execution of one cell."""

    cell_id: str
    msg_id: str
    #: Record of the request, and of the newest thing about it.
    number: int
    last: int
    code: str
    execution_count: int | None = None
    asked_s: float
    #: When the kernel said busy and idle to it.
    started_s: float | None = None
    ended_s: float | None = None
    #: ``waiting``, ``running``, ``ok``, ``error``, ``aborted``.
    status: str
    #: As in a notebook of format 4.
    outputs: list[dict[str, Any]] = msgspec.field(default_factory=list)
    #: Display id -> indices in ``outputs``.
    display_ids: dict[str, list[int]] = msgspec.field(default_factory=dict)
    #: Size of the outputs where they were left out because they are too large; else 0.
    dropped_bytes: int = 0
    #: While it has not ended: ids of the newest messages that are in ``outputs`` already.
    recent_ids: list[str] = msgspec.field(default_factory=list)


class CellRuns(msgspec.Struct, frozen=True, kw_only=True):
    """Cells that were asked for, or said something, behind a number of the journal."""

    #: Which journal; numbers of another one mean nothing in it.
    journal: str
    #: Oldest and newest record that is kept.
    first: int
    last: int
    #: Whether nothing behind that number was dropped before it could be read.
    whole: bool
    #: Where this host began with the variables as after a cell because the one before it was lost: that cell, and the
    #: last record before. Else None and 0; also for a session that began with a checkpoint of another.
    restored_cell: int | None = None
    restored_number: int = 0
    cells: tuple[CellRun, ...] = ()
