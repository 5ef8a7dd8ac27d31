"""Who asked, who is answered, and what happens to those who wait when the kernel dies."""

import msgspec
import pytest

from jupyter_gpuaas.model import Channel
from jupyter_gpuaas.node.dialogue import Dialogue
from jupyter_gpuaas.wire.jupyter import Header, make_parts, read_header
from jupyter_gpuaas.wire.record import Buffer


def ask(msg_type: str = "execute_request", address: bytes = b"client-a") -> list[Buffer]:
    return make_parts(address, msg_type, b"{}", {"code": "1"})


def request(dialogue: Dialogue, channel: Channel, parts: list[Buffer]) -> Header | None:
    """Accept a request and pass it on at once."""
    header = dialogue.accept(parts)
    if header is not None:
        dialogue.passed_on(channel, header, parts)
    return header


def said(msg_type: str, request: list[Buffer]) -> list[Buffer]:
    """As the kernel sends it: without an address."""
    return make_parts(b"", msg_type, request[1], {"status": "ok"})[1:]


def test_request_that_comes_twice_goes_on_once() -> None:
    dialogue, cell = Dialogue(10), ask()
    assert request(dialogue, Channel.SHELL, cell) is not None
    assert request(dialogue, Channel.SHELL, cell) is None


def test_namesakes_on_two_channels_both_go_on_and_are_answered_apart() -> None:
    """jupyter_client's manager and its client give the same msg_id to different requests."""
    dialogue, cell, shutdown = Dialogue(10), ask(address=b"client"), ask("shutdown_request", b"manager")
    msg_id = read_header(cell[1]).msg_id
    shutdown[1] = b'{"msg_id":"%s","msg_type":"shutdown_request"}' % msg_id.encode()
    assert request(dialogue, Channel.SHELL, cell) is not None
    assert request(dialogue, Channel.CONTROL, shutdown) is not None
    assert dialogue.answer(Channel.CONTROL, said("shutdown_reply", shutdown))[0] == b"manager"
    assert dialogue.busy
    assert dialogue.answer(Channel.SHELL, said("execute_reply", cell))[0] == b"client"


def test_request_beyond_memory_is_forgotten_oldest_first() -> None:
    dialogue, first = Dialogue(3), ask()
    request(dialogue, Channel.SHELL, first)
    for _ in range(3):
        request(dialogue, Channel.SHELL, ask())
    assert request(dialogue, Channel.SHELL, first) is not None


@pytest.mark.parametrize("header", [b"{}", b"not json", b"[]", b'{"msg_id": 5}'])
def test_request_without_a_readable_id_is_refused(header: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        Dialogue(10).accept([b"a", header, b"{}", b"{}", b"{}"])


def test_answer_finds_its_asker_among_many() -> None:
    dialogue = Dialogue(100)
    requests = [ask(address=b"client-%d" % i) for i in range(20)]
    for one in requests:
        request(dialogue, Channel.SHELL, one)
    for one in reversed(requests):
        assert dialogue.answer(Channel.SHELL, said("execute_reply", one))[0] == one[0]


def test_answer_to_nobody_has_no_address() -> None:
    assert Dialogue(10).answer(Channel.SHELL, said("execute_reply", ask()))[0] == b""


def test_busy_from_first_request_to_last_reply() -> None:
    dialogue, first, second = Dialogue(10), ask(), ask()
    request(dialogue, Channel.SHELL, ask("kernel_info_request"))
    assert not dialogue.busy
    request(dialogue, Channel.SHELL, first)
    request(dialogue, Channel.SHELL, second)
    dialogue.answer(Channel.SHELL, said("execute_reply", first))
    assert dialogue.busy
    dialogue.answer(Channel.SHELL, said("execute_reply", second))
    assert not dialogue.busy


def test_prompt_is_kept_until_it_is_answered() -> None:
    dialogue, cell = Dialogue(10), ask()
    request(dialogue, Channel.SHELL, cell)
    addressed = dialogue.answer(Channel.STDIN, said("input_request", cell))
    assert addressed[0] == b"client-a" and dialogue.prompt == addressed
    request(dialogue, Channel.STDIN, ask("input_reply"))
    assert dialogue.prompt is None


def test_prompt_of_a_cell_that_ended_is_not_kept() -> None:
    dialogue, cell = Dialogue(10), ask()
    request(dialogue, Channel.SHELL, cell)
    dialogue.answer(Channel.STDIN, said("input_request", cell))
    dialogue.answer(Channel.SHELL, said("execute_reply", cell))  # interrupted
    assert dialogue.prompt is None


def test_death_tells_everybody_who_waits_and_nobody_twice() -> None:
    dialogue, cell, completion = Dialogue(10), ask(), ask("complete_request", b"client-b")
    done = ask()
    for one in (cell, completion, done):
        request(dialogue, Channel.SHELL, one)
    dialogue.answer(Channel.SHELL, said("execute_reply", done))
    dialogue.status(make_parts(b"", "status", done[1], {"execution_state": "idle"})[1:], 0.0)
    told = dialogue.kernel_died("out of memory")
    kinds = [(channel, read_header(parts[1]).msg_type, bytes(parts[2])) for channel, parts in told]
    assert kinds == [
        (Channel.IOPUB, "error", cell[1]),
        (Channel.SHELL, "execute_reply", cell[1]),
        (Channel.IOPUB, "status", cell[1]),
        (Channel.SHELL, "complete_reply", completion[1]),
        (Channel.IOPUB, "status", completion[1]),
    ]
    assert told[1][1][0] == b"client-a"
    assert "out of memory" in msgspec.json.decode(told[0][1][4])["evalue"]
    assert dialogue.kernel_died("again") == [] and not dialogue.busy


def test_request_that_the_kernel_gives_back_is_under_way_no_more_and_stays_known() -> None:
    dialogue, cell = Dialogue(10), ask()
    request(dialogue, Channel.SHELL, cell)
    assert dialogue.busy
    returned = dialogue.returned(Channel.SHELL, cell[1:])
    assert returned == (read_header(cell[1]), cell)
    assert not dialogue.busy
    assert dialogue.kernel_died("it died") == []
    assert dialogue.accept(cell) is None


def test_request_that_comes_back_when_nobody_waits_for_it_any_more_is_not_to_run() -> None:
    dialogue, lost, again = Dialogue(10), ask(), ask()
    for each in (lost, again):
        request(dialogue, Channel.SHELL, each)
    first, second = dialogue.overdue(float("inf"))
    dialogue.give_up(first, "RequestLost", "it was lost")
    dialogue.passed_on(Channel.SHELL, *dialogue.take_back(second))
    assert dialogue.returned(Channel.SHELL, lost[1:]) is None
    assert dialogue.returned(Channel.SHELL, again[1:]) == (read_header(again[1]), again)
    assert dialogue.returned(Channel.SHELL, again[1:]) is None


def test_message_that_awaits_no_answer_is_kept_when_it_comes_back() -> None:
    dialogue, message = Dialogue(10), ask("comm_msg", b"")
    request(dialogue, Channel.SHELL, message)
    assert dialogue.returned(Channel.SHELL, message[1:]) == (read_header(message[1]), message)


def test_successor_knows_what_its_predecessor_has_seen_and_forgets_the_oldest() -> None:
    dialogue, cells, successor = Dialogue(10), [ask() for _ in range(3)], Dialogue(2)
    for cell in cells:
        request(dialogue, Channel.SHELL, cell)
    successor.remember(dialogue.seen)
    assert successor.accept(cells[2]) is None
    assert successor.accept(cells[1]) is None
    assert successor.accept(cells[0]) is not None


def test_reply_to_what_was_asked_at_the_former_host_finds_its_asker() -> None:
    former, cell = Dialogue(10), ask()
    request(former, Channel.SHELL, cell)
    prompt = former.answer(Channel.STDIN, said("input_request", cell))
    here = Dialogue(10)
    here.take_over(former.asked, map(bytes, former.prompt or ()))
    assert here.busy
    assert here.prompt == prompt
    assert here.answer(Channel.SHELL, said("execute_reply", cell))[0] == b"client-a"
    assert not here.busy
    assert here.prompt is None


def test_cell_that_was_answered_before_its_kernel_died_is_said_to_have_ended() -> None:
    """Its reply came, and the kernel was killed before it said that it was idle."""
    dialogue, ended, cell = Dialogue(10), ask(), ask()
    for each in (ended, cell):
        request(dialogue, Channel.SHELL, each)
        dialogue.answer(Channel.SHELL, said("execute_reply", each))
    dialogue.status(make_parts(b"", "status", ended[1], {"execution_state": "idle"})[1:], 0.0)
    ((channel, idle),) = dialogue.kernel_died("it was killed")
    assert (channel, read_header(idle[2])) == (Channel.IOPUB, read_header(cell[1]))
    assert msgspec.json.decode(idle[4]) == {"execution_state": "idle"}
    assert not dialogue.kernel_died("again")
