"""A database with many sessions, as a service has it after years."""

from __future__ import annotations

import secrets
import time
import uuid
from pathlib import Path

import msgspec
from sqlalchemy import insert

from jupyter_gpuaas.controller.catalogue.database import Database
from jupyter_gpuaas.controller.catalogue.records import SessionRecord
from jupyter_gpuaas.controller.catalogue.tables import events, sessions
from jupyter_gpuaas.model import GpuSession, ResourceRequest, SessionState

AT_ONCE = 1000


def store(path: Path, count: int, *, owners: int, parked: int) -> None:
    """Make a database with so many sessions; the newest are parked, all others have ended."""
    database = Database(path, events_kept=10 * count)
    began_s = time.time() - count
    try:
        for first in range(0, count, AT_ONCE):
            rows, told = [], []
            for number in range(first, min(count, first + AT_ONCE)):
                state = SessionState.PARKED if number >= count - parked else SessionState.CLOSED
                session = GpuSession(
                    id=uuid.uuid4().hex, name=f"/home/user/books/experiment-{number:05}.ipynb",
                    owner=f"user-{number % owners}", state=state, epoch=1, request=ResourceRequest(),
                    created_s=began_s + number, since_s=began_s + number + 0.5, cause="as it was",
                    last_event=number + 1,
                )  # fmt: skip
                record = SessionRecord(session=session, secret=secrets.token_hex(32), env={})
                rows.append(
                    {"id": session.id, "name": session.name, "owner": session.owner, "state": state.value,
                     "last_event": number + 1, "record": msgspec.json.encode(record)}
                )  # fmt: skip
                told.append(
                    {"time_s": session.since_s, "kind": "transition", "session_id": session.id, "owner": session.owner,
                     "source": "idle", "target": state.value, "cause": session.cause, "epoch": 1, "detail": {}}
                )  # fmt: skip
            with database.writing() as connection:
                connection.execute(insert(events), told)
                connection.execute(insert(sessions), rows)
    finally:
        database.close()
