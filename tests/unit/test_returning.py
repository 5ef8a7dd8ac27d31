"""Which messages a kernel gives back while its session is brought to a standstill."""

from __future__ import annotations

import pytest

from jupyter_gpuaas.kernel.returning import Returning


def takes(returning: Returning, msg_type: str = "execute_request", session: str = "client", **more: bool) -> bool:
    return returning.takes(msg_type, session, **{"subshell": False, "aborting": False} | more)


def test_kernel_that_was_told_nothing_returns_nothing() -> None:
    assert not takes(Returning())


@pytest.mark.parametrize("msg_type", ["execute_request", "comm_msg", "complete_request", "gpuaas_request"])
def test_requests_of_clients_are_returned_and_those_of_the_host_handled(msg_type: str) -> None:
    returning = Returning()
    returning.begin()
    assert takes(returning, msg_type)
    assert not takes(returning, "gpuaas_checkpoint_request", "gpuaas")


def test_cells_behind_one_that_failed_are_left_to_be_aborted_and_nothing_else() -> None:
    returning = Returning()
    returning.begin()
    assert not takes(returning, aborting=True)
    assert takes(returning, "comm_msg", aborting=True)


def test_end_takes_effect_at_once_only_before_anything_was_returned() -> None:
    returning = Returning()
    returning.begin()
    assert returning.end(in_order=False)
    returning.begin()
    takes(returning, subshell=True)
    assert returning.end(in_order=False), "a subshell has an order of its own"
    returning.begin()
    takes(returning)
    assert not returning.end(in_order=False)
    assert returning.active and returning.still
    assert returning.end(in_order=True)
    assert not returning.active and not returning.still
    assert not takes(returning)
