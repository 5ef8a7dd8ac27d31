"""Requests that wait at the host: their order, and what those are told that will not run."""

from __future__ import annotations

import msgspec

from jupyter_gpuaas.model import Channel
from jupyter_gpuaas.node.held import Held, HeldRequests
from jupyter_gpuaas.wire.jupyter import make_parts, read_header
from jupyter_gpuaas.wire.waiting import memory_bytes

BOUND = 1 << 20


def held(name: str, msg_type: str = "execute_request", subshell: str = "") -> Held:
    parts = make_parts(name.encode(), msg_type, b"{}", {}, subshell=subshell)
    return Held(Channel.SHELL, read_header(parts[1]), parts)


def names(requests: list[Held]) -> list[str]:
    return [bytes(each.parts[0]).decode() for each in requests]


def test_what_the_kernel_gives_back_comes_before_what_it_never_had_in_its_order() -> None:
    requests = HeldRequests(BOUND)
    requests.add(held("young"))
    requests.put_before(held("old"))
    requests.put_before(held("older than young"))
    requests.add(held("youngest"))
    assert names(list(requests)) == ["old", "older than young", "young", "youngest"]
    assert names(requests.take()) == ["old", "older than young", "young", "youngest"]
    requests.add(held("later"))
    requests.put_before(held("given back again"))
    assert names(requests.take()) == ["given back again", "later"]


def test_cells_are_taken_by_shell_and_the_rest_keeps_its_order() -> None:
    requests = HeldRequests(BOUND)
    for each in (held("a"), held("b", "comm_msg"), held("c", subshell="s")):
        requests.add(each)
    requests.put_before(held("given back"))
    requests.put_before(held("asked", "complete_request"))
    assert names(requests.take_cells(None)) == ["given back", "a"]
    requests.put_before(held("given back later"))
    assert names(list(requests)) == ["asked", "given back later", "b", "c"]
    assert names(requests.take_cells()) == ["given back later", "c"]
    assert names(requests.take()) == ["asked", "b"]


def test_answer_of_a_cell_that_will_not_run_is_that_of_a_kernel() -> None:
    cell = held("client")
    kinds = [read_header(parts[1]).msg_type for _, parts in cell.aborted()]
    assert kinds == ["status", "execute_reply", "status"]
    kinds = [read_header(parts[1]).msg_type for _, parts in cell.interrupted()]
    assert kinds == ["status", "error", "execute_reply", "status"]
    channel, reply = cell.interrupted()[2]
    assert (channel, bytes(reply[0]), reply[2]) == (Channel.SHELL, b"client", cell.parts[1])
    assert msgspec.json.decode(reply[4])["ename"] == "KeyboardInterrupt"


def test_as_much_waits_as_may_and_what_was_taken_counts_no_more() -> None:
    one = held("a")
    requests = HeldRequests(2 * memory_bytes(one.parts))
    for take in (requests.take, requests.take_cells):
        assert requests.has_room_for(one)
        requests.add(one)
        assert requests.has_room_for(one)
        requests.put_before(one)
        assert not requests.has_room_for(one)
        assert take() == [one, one]
    assert HeldRequests(1).has_room_for(one)


def test_refusal_of_any_request_is_its_reply_and_what_asks_for_none_gets_none() -> None:
    told = held("client", "complete_request").failed("TooMuch", "why")
    assert [read_header(parts[1]).msg_type for _, parts in told] == ["status", "complete_reply", "status"]
    assert msgspec.json.decode(told[1][1][4])["ename"] == "TooMuch"
    assert held("client", "comm_msg").failed("TooMuch", "why") == []
