"""What becomes of a session whose next host fails to bring it back."""

from __future__ import annotations

import pytest

from jupyter_gpuaas.lifecycle.migration import SLOWER, SLOWEST_BYTES_S, STILL_S
from jupyter_gpuaas.lifecycle.recovery import HOSTS_IN_A_ROW, after_failure, asks_former_host, limit_s
from jupyter_gpuaas.lifecycle.session import SessionEvent

E = SessionEvent


@pytest.mark.parametrize(
    ("failures", "event"), [(0, E.START_FAILED), (1, E.HOST_DIED), (2, E.HOST_DIED), (3, E.START_FAILED)]
)
def test_failed_host_is_followed_by_another_until_too_many_have_failed(failures: int, event: SessionEvent) -> None:
    found, cause = after_failure("out of memory.", failures)
    assert found is event
    assert cause.startswith("out of memory")
    assert ("3 hosts in a row" in cause) is (failures == HOSTS_IN_A_ROW)


def test_last_host_that_is_tried_goes_by_the_checkpoint_alone() -> None:
    assert [asks_former_host(failures) for failures in range(HOSTS_IN_A_ROW)] == [True, True, False]


def test_limit_grows_with_the_state_and_doubles_with_each_host() -> None:
    assert limit_s(60.0, 0, 0) == 60.0 + STILL_S
    assert limit_s(60.0, 10**9, 0) == 60.0 + STILL_S + SLOWER * 10**9 / SLOWEST_BYTES_S
    assert limit_s(60.0, 10**9, 2) == 4 * limit_s(60.0, 10**9, 0)
