"""Which of several controllers acts."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from jupyter_gpuaas.lifecycle.acting import STOP_AT, Row, Seen, is_over, look, may_take, must_stop, pause_s

HELD = Row(term=3, beat=7, holder="a", url="http://a", ttl_s=10.0)
FREE = msgspec.structs.replace(HELD, holder="")


def test_lease_that_moves_is_not_taken_and_one_that_stands_still_is() -> None:
    seen = look(None, HELD, 100.0)
    assert not may_take(seen, 109.9)
    assert may_take(seen, 110.0)
    seen = look(seen, msgspec.structs.replace(HELD, beat=8), 109.0)
    assert not may_take(seen, 118.0)
    assert may_take(look(seen, seen.row, 118.0), 119.0)


def test_lease_that_was_given_back_is_taken_at_once() -> None:
    assert may_take(look(None, FREE, 0.0), 0.0)
    assert may_take(look(look(None, HELD, 0.0), FREE, 1.0), 1.0)


def test_lease_of_a_service_that_was_ended_ends_those_who_wait_and_not_those_who_begin() -> None:
    over = msgspec.structs.replace(FREE, ttl_s=-1.0)
    assert is_over(look(None, HELD, 0.0), over)
    assert not is_over(None, over)
    assert not is_over(look(None, over, 0.0), over), "one that began after the end goes on"
    assert may_take(look(None, over, 0.0), 0.0)


@given(
    ttl_s=st.floats(0.1, 100),
    pauses=st.lists(st.floats(0.001, 1.0), min_size=1, max_size=30),
    rate=st.floats(0.95, 1.05),
    offset=st.floats(-1e6, 1e6),
    answers_after_s=st.floats(0.0, 0.5),
)
def test_holder_always_stops_before_another_may_begin(
    ttl_s: float, pauses: list[float], rate: float, offset: float, answers_after_s: float
) -> None:
    """The last renewal is asked for at 0, and lands a while later; the other one's clock is off and runs at a rate."""
    row = Row(1, 1, "a", "", ttl_s)
    seen: Seen | None = None
    now_s = answers_after_s * ttl_s
    for pause in pauses:
        now_s += pause * pause_s(ttl_s)
        seen = look(seen, row, offset + now_s * rate)
        if may_take(seen, offset + now_s * rate + 1e-6):
            assert must_stop(0.0, ttl_s, now_s)
            assert now_s >= STOP_AT * ttl_s
            return
