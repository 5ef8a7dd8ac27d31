"""The queue, without what it asks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec

from jupyter_gpuaas.controller.scheduler import Scheduler
from jupyter_gpuaas.lifecycle.fairness import Outlook
from jupyter_gpuaas.model import ResourceRequest, SessionState


async def test_room_is_made_for_what_is_reserved_and_not_for_all_that_would_do() -> None:
    asked, reserved = ResourceRequest(), ResourceRequest(node="m")

    def waits(name: str) -> Any:
        session = SimpleNamespace(id=name, owner=name, request=asked, state=SessionState.QUEUED)
        return SimpleNamespace(session=session, kept=None)

    outlook = Outlook(waiting=("a", "b"), wants={"a": reserved})
    engine: Any = SimpleNamespace(why_never=lambda _: "", nodes=list, leases=list)
    fair: Any = SimpleNamespace(serve=lambda waiting, coming: outlook)
    sessions: Any = SimpleNamespace()
    scheduler = Scheduler(sessions, engine, fair)
    scheduler._waiting = {name: waits(name) for name in "ab"}
    scheduler._round()
    assert scheduler.requests() == [reserved, asked]
    assert [each.request for each in scheduler.waits()] == [reserved, asked]
    outlook = msgspec.structs.replace(outlook, wants={})
    scheduler._round()
    assert scheduler.requests() == [asked, asked]
