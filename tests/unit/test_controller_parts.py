"""Parts of the controller that need no service: reports, the bell, errors on the wire."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jupyter_gpuaas import errors
from jupyter_gpuaas.controller.bell import Bell
from jupyter_gpuaas.controller.gateway.kernels import REMEMBERED, Kernels
from jupyter_gpuaas.controller.gateway.routes import NewKernel, session_name
from jupyter_gpuaas.controller.reports import HOSTED_STATES, happened
from jupyter_gpuaas.lifecycle.session import SessionEvent, step
from jupyter_gpuaas.model import HostReport, HostState, Lease, SessionState, check_name

S, H, E = SessionState, HostState, SessionEvent
LEASE = Lease("l", "s", "local-0", ("cpu:0",), 1)


def report(state: H, *, starts: int = 1, cause: str = "") -> HostReport:
    return HostReport(session_id="s", lease=LEASE, state=state, kernel_starts=starts, cause=cause)


@pytest.mark.parametrize(
    ("state", "seen", "said", "events"),
    [
        (S.STARTING, 0, report(H.STARTING, starts=0), []),
        (S.STARTING, 0, report(H.IDLE), [E.READY]),
        (S.STARTING, 0, report(H.BUSY), [E.READY, E.CELL_STARTED]),
        (S.STARTING, 0, report(H.FAILED), [E.START_FAILED]),
        (S.IDLE, 1, report(H.IDLE), []),
        (S.IDLE, 1, report(H.BUSY), [E.CELL_STARTED]),
        (S.BUSY, 1, report(H.BUSY), []),
        (S.BUSY, 1, report(H.IDLE), [E.CELL_ENDED]),
        (S.BUSY, 1, report(H.STARTING, cause="out of memory"), [E.KERNEL_DIED]),
        (S.IDLE, 1, report(H.STARTING, cause="the kernel was restarted"), [E.RESTARTED]),
        (S.IDLE, 1, report(H.IDLE, starts=2), [E.KERNEL_DIED, E.READY]),
        (S.BUSY, 1, report(H.BUSY, starts=3), [E.KERNEL_DIED, E.READY, E.CELL_STARTED]),
        (S.STARTING, 1, report(H.IDLE, starts=2), [E.READY]),
        (S.BUSY, 1, report(H.FAILED), [E.KERNEL_DIED, E.START_FAILED]),
        (S.BUSY, 1, report(H.DEAD), [E.HOST_DIED]),
        (S.IDLE, 1, report(H.ENDING), [E.RELEASE]),
        (S.CLOSING, 1, report(H.DEAD), []),
        (S.QUEUED, 0, report(H.IDLE), []),
        # Parked with its process.
        (S.PARKED, 1, report(H.IDLE, starts=2), []),
        (S.RESTORING, 1, report(H.FAILED), []),
        (S.PARKED, 1, report(H.DEAD), [E.HOST_DIED]),
        # What stands still without devices: what becomes of its kernel counts when its turn has come.
        (S.SUSPENDED, 1, report(H.BUSY), []),
        (S.SUSPENDED, 1, report(H.IDLE, starts=2), []),
        (S.SUSPENDED, 1, report(H.STARTING, cause="the kernel was restarted"), []),
        (S.SUSPENDED, 1, report(H.FAILED), [E.START_FAILED]),
        (S.SUSPENDED, 1, report(H.DEAD), [E.HOST_DIED]),
        (S.SUSPENDED, 1, report(H.ENDING), [E.RELEASE]),
    ],
)
def test_happened_names_the_events_between(state: S, seen: int, said: HostReport, events: list[E]) -> None:
    assert [event for event, _ in happened(state, seen, said)] == events


@given(
    st.sampled_from(list(S)),
    st.integers(0, 3),
    st.builds(report, st.sampled_from(list(H)), starts=st.integers(0, 4), cause=st.sampled_from(["", "restarted"])),
)
def test_happened_any_report_leads_only_along_the_table(state: S, seen: int, said: HostReport) -> None:
    events = happened(state, seen, said)
    for event, _ in events:
        state, _ = step(state, event)  # Raises where the table has no such cell.
    if said.state in (H.IDLE, H.BUSY) and state in HOSTED_STATES - {S.SUSPENDED}:
        assert state.value == said.state.value


async def test_bell_ring_between_look_and_wait_is_not_missed() -> None:
    bell, looks = Bell(), 0

    def condition() -> bool:
        nonlocal looks
        looks += 1
        if looks == 1:
            asyncio.get_running_loop().call_soon(bell.ring)
        return looks == 2

    assert await bell.until(condition, 10)


async def test_bell_tells_when_time_is_up() -> None:
    assert not await Bell().until(lambda: False, 0.01)


ALL_ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.GpuaasError)]


@pytest.mark.parametrize("kind", ALL_ERRORS)
def test_every_error_survives_the_wire(kind: type[errors.GpuaasError]) -> None:
    error = kind.__new__(kind)
    errors.GpuaasError.__init__(error, "what", hint="do")
    if isinstance(error, errors.StaleEpoch):
        error.offered, error.current = 3, 4
    body = msgspec.json.decode(msgspec.json.encode(errors.to_wire(error)))
    back = errors.from_wire(body, status=error.status)
    assert (type(back), back.message, back.hint) == (kind, "what", "do")
    if isinstance(back, errors.StaleEpoch):
        assert (back.offered, back.current) == (3, 4)
    assert 400 <= kind.status < 600


@pytest.mark.parametrize("body", [None, [], "no", {}, {"error": 7}, {"error": "SystemExit", "message": "x"}])
def test_answer_that_is_not_ours_is_a_protocol_error(body: object) -> None:
    assert type(errors.from_wire(body, status=502)) is errors.RemoteProtocolError


@pytest.mark.parametrize("letter", ["x", "é", "語", "\U00020000"])
def test_name_of_a_gateways_kernel_is_the_end_of_a_long_path(letter: str) -> None:
    path = letter * 3000 + "/end.ipynb"
    known = session_name(NewKernel(env={"JPY_SESSION_NAME": path}))
    made = session_name(NewKernel(path=path))
    assert check_name(known) == known and known.endswith(letter + "/end.ipynb")
    assert check_name(made) == made and made.partition("#")[0].endswith(letter + "/end.ipynb")
    assert min(len(known.encode()), len(made.encode())) > 1000


def test_kernels_do_not_remember_for_ever_when_ended_sessions_were_active() -> None:
    alive = {str(number) for number in range(REMEMBERED)}
    kernels = Kernels(lambda session_id: session_id in alive)
    for session_id in sorted(alive):
        kernels.active(session_id)
    assert kernels._active_s.keys() == alive
    alive.clear()
    alive.update({"7", "new"})
    kernels.active("new")
    assert kernels._active_s.keys() == {"7", "new"}
