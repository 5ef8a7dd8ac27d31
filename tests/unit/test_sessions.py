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
from jupyter_gpuaas.model import HostReport, HostState, Lease, ResourceRequest, SessionState

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


def says(live: LiveSession, state: HostState) -> HostReport:
    assert live.lease is not None
    return HostReport(session_id=live.session.id, lease=live.lease, state=state, kernel_starts=1)


@pytest.mark.parametrize("said", [HostState.IDLE, HostState.BUSY])
@pytest.mark.parametrize("when", ["before", "meanwhile", "afterwards"])
def test_session_that_stays_is_busy_if_its_host_is(
    sessions: Sessions, live: LiveSession, said: HostState, when: str
) -> None:
    sessions.reported(live, says(live, HostState.IDLE))
    if when == "before":
        sessions.reported(live, says(live, said))
    sessions.advance(live, E.MOVING)
    if when == "meanwhile":
        sessions.reported(live, says(live, said))
    assert live.session.state is S.MIGRATING
    sessions.stay(live, "a test")
    if when == "afterwards":
        sessions.reported(live, says(live, said))
    assert live.session.state.value == said.value


def test_session_that_stays_goes_by_no_word_of_a_former_host(sessions: Sessions, live: LiveSession) -> None:
    sessions.reported(live, says(live, HostState.BUSY))
    sessions.advance(live, E.HOST_DIED)
    sessions.advance(live, E.RESTORABLE, lease=None)
    sessions.advance(live, E.PLACED, lease=Lease("m", live.session.id, "two", ("cpu:0",), 2), epoch=2)
    sessions.advance(live, E.READY)
    sessions.advance(live, E.MOVING)
    sessions.stay(live, "a test")
    assert live.session.state is S.IDLE
