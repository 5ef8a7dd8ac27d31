"""What becomes of a session by events and reports, in a database of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.catalogue.database import Database
from jupyter_gpuaas.controller.sessions import LiveSession, Sessions
from jupyter_gpuaas.lifecycle.session import SessionEvent
from jupyter_gpuaas.model import Lease, ResourceRequest, SessionState

E, S = SessionEvent, SessionState


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[Sessions]:
    with contextlib.closing(Database(tmp_path / "sessions.db", events_kept=1000)) as database:
        made = Sessions(database, Settings(home=str(tmp_path)))
        made.order = lambda live, commands: None
        yield made


@pytest.fixture
def live(sessions: Sessions) -> LiveSession:
    """An idle one."""
    made = sessions.create("me", "mine", ResourceRequest())
    sessions.advance(made, E.PLACED, lease=Lease("l", made.session.id, "one", ("cpu:0",), 1), epoch=1)
    sessions.advance(made, E.READY)
    return made


@pytest.mark.parametrize("then", [(E.HOST_DIED,), (E.RELEASE,), (E.WAKE, E.HOST_DIED), (E.WAKE, E.ITS_TURN)])
def test_session_keeps_what_its_host_gave_up_until_that_has_it_back_or_is_gone(
    sessions: Sessions, live: LiveSession, then: tuple[SessionEvent, ...]
) -> None:
    lease = live.lease
    sessions.advance(live, E.KEPT, record={"kept": lease})
    assert live.kept == lease and live.has_host  # when its devices have not been given back yet, too
    *before, last = then
    for event in before:
        sessions.advance(live, event)
        assert live.kept == lease
    sessions.advance(live, last)
    assert (live.kept, live.record.kept) == (None, None)
