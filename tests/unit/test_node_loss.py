"""What becomes of requests when a session's host is lost: decided by the host's successor and by the proxy."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path

import msgspec
import pytest

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.lifecycle.node_loss import lost_cells, notice, sort_out
from jupyter_gpuaas.model import Channel, Handover
from jupyter_gpuaas.node.held import HANDOVER
from jupyter_gpuaas.node.remains import Remains, Shelf, handover_of, note
from jupyter_gpuaas.wire.after_loss import Fate, fate
from jupyter_gpuaas.wire.jupyter import make_parts, read_header
from jupyter_gpuaas.wire.record import Buffer, Kind
from jupyter_gpuaas.wire.waiting import Held

from .test_journal import US, make

BOUND = 1 << 24


def test_oldest_unanswered_cell_of_each_shell_counts_as_begun() -> None:
    cells: list[tuple[str, str | None]] = [("a", None), ("b", None), ("c", "s"), ("d", "s"), ("e", None)]
    assert sort_out(cells, {"e"}) == (["a", "c", "e"], ["b", "d"])
    assert sort_out([], {"e"}) == ([], [])


@pytest.mark.parametrize(
    ("answered", "cell", "lost"),
    [([1, 2, 3], 1, [2, 3]), ([1, 2, 3], 3, []), ([1, 2, 3, 2], 2, []), ([5, 6], 0, [5, 6]), ([1], None, [])],
)
def test_cells_after_the_checkpoint_are_lost_and_those_of_an_earlier_loss_not_again(
    answered: list[int], cell: int | None, lost: list[int]
) -> None:
    assert lost_cells(answered, cell) == lost
    assert all(str(number) in notice(lost, cell, "why") for number in lost)


# -- the successor -------------------------------------------------------------------------------------------------


def cell(code: str = "1", subshell: str = "") -> list[Buffer]:
    return make_parts(b"client", "execute_request", b"{}", {"code": code}, subshell=subshell)


def answer(request: list[Buffer], count: int) -> list[Buffer]:
    return make_parts(b"client", "execute_reply", request[1], {"status": "ok", "execution_count": count})


def busy(request: list[Buffer]) -> list[Buffer]:
    return make_parts(b"kernel.status", "status", request[1], {"execution_state": "busy"})


def idle(request: list[Buffer]) -> list[Buffer]:
    return make_parts(b"kernel.status", "status", request[1], {"execution_state": "idle"})


def test_handover_of_a_dead_host_is_what_its_journal_tells(tmp_path: Path) -> None:
    journal = make(tmp_path, BOUND, 2000)
    done, running, large, queued = cell(), cell(), cell("x" * 3_000_000), cell()
    aborted = cell()
    for kind, parts in (
        (Kind.REQUEST, done),
        (Kind.REQUEST, running),
        (Kind.IOPUB, busy(done)),
        (Kind.REQUEST, large),
        (Kind.SHELL, answer(done, 7)),
        (Kind.REQUEST, aborted),
        (Kind.SHELL, make_parts(b"client", "execute_reply", aborted[1], {"status": "aborted"})),
        (Kind.IOPUB, busy(running)),
        (Kind.REQUEST, queued),
        (Kind.CONTROL, answer(queued, 1)),  # not its shell's
    ):
        journal.append(kind, US, parts)
        journal.flush(US)
    handover = handover_of(journal, BOUND)
    assert [list(each.parts) for each in handover.broken] == [running]
    assert [list(each.parts) for each in handover.held] == [large, queued]
    assert (handover.journal, handover.last, handover.answered) == (journal.id, 10, (7,))
    assert len(handover.seen) == 5
    assert not handover.whole


def test_cell_that_was_answered_and_of_which_nobody_has_said_that_it_ended_is_handed_over(tmp_path: Path) -> None:
    journal = make(tmp_path, BOUND, 2000)
    ended, early, cut = cell(), cell(), cell()
    for request, said in (
        (ended, [(Kind.SHELL, answer(ended, 1)), (Kind.IOPUB, idle(ended))]),
        (early, [(Kind.IOPUB, idle(early)), (Kind.SHELL, answer(early, 2))]),
        (cut, [(Kind.SHELL, answer(cut, 3))]),
    ):
        for kind, parts in ((Kind.REQUEST, request), (Kind.IOPUB, busy(request)), *said):
            journal.append(kind, US, parts)
            journal.flush(US)
    handover = handover_of(journal, BOUND)
    assert [read_header(header).msg_id for header in handover.unended] == [read_header(cut[1]).msg_id]
    assert (handover.answered, handover.broken, handover.held) == ((1, 2, 3), (), ())


def test_all_cells_behind_one_that_failed_are_handed_over_when_their_ends_are_missing(tmp_path: Path) -> None:
    journal = make(tmp_path, BOUND, 2000)
    cells = [cell(str(number)) for number in range(40)]
    for request in cells:
        journal.append(Kind.REQUEST, US, request)
    for request in cells:
        journal.append(Kind.IOPUB, US, busy(request))
        aborted = make_parts(b"client", "execute_reply", request[1], {"status": "aborted"})
        journal.append(Kind.SHELL, US, aborted)
    for request in cells[:3]:
        journal.append(Kind.IOPUB, US, idle(request))
    journal.flush(US)
    assert [bytes(header) for header in handover_of(journal, BOUND).unended] == [request[1] for request in cells[3:]]


def test_outputs_that_nobody_can_read_change_nothing_in_a_handover(tmp_path: Path) -> None:
    journal = make(tmp_path, BOUND, 2000)
    done, running = cell(), cell()
    odd: list[Buffer] = [b"kernel.status", b"\xff", b"{", b"[" * 5000, b'{"execution_state": "idle"}']
    said: list[tuple[Kind, list[Buffer]]] = [
        (Kind.REQUEST, done),
        (Kind.REQUEST, running),
        (Kind.IOPUB, odd),
        (Kind.SHELL, answer(done, 1)),
        (Kind.IOPUB, [odd[0], done[1], *odd[2:]]),
        (Kind.IOPUB, [*odd[:2], running[1], *odd[3:]]),
        (Kind.IOPUB, idle(done)),
    ]
    for kind, parts in said:
        journal.append(kind, US, parts)
    journal.flush(US)
    handover = handover_of(journal, BOUND)
    assert (handover.unended, handover.answered) == ((), (1,))
    assert [list(each.parts) for each in handover.broken] == [running]


def test_handover_of_a_host_that_said_nothing_is_empty(tmp_path: Path) -> None:
    handover = handover_of(make(tmp_path), BOUND)
    assert (handover.last, handover.held, handover.broken, handover.seen) == (0, (), (), ())


def test_handover_of_a_host_that_died_with_its_image_is_for_whoever_has_the_image(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "remains", Settings())
    folder = tmp_path / "sessions" / "s"
    folder.mkdir(parents=True)
    journal = make(folder, BOUND, 2000)
    done = cell()
    for kind, parts in ((Kind.REQUEST, done), (Kind.SHELL, answer(done, 7))):
        journal.append(kind, US, parts)
        journal.flush(US)
    said = msgspec.structs.replace(handover_of(journal, BOUND), whole=True, answered=(), imaged=True)
    (folder / HANDOVER).write_bytes(msgspec.msgpack.encode(said))
    shelf.add(note("s", 1, "secret", ordered=True), folder)
    for image in (True, False):
        near, far = socket.socketpair()
        passed = {"method": "GET", "path": "handover", "query": {"image": "1"} if image else {}}
        remains = shelf.get("s")
        assert remains is not None
        shelf.serve(remains, far, passed, b"")
        with near, near.makefile("rb") as answered:
            body = answered.read().partition(b"\r\n\r\n")[2]
        told = msgspec.msgpack.decode(body, type=Handover)
        # A checkpoint is all that others begin with, so that they have to tell what is lost.
        assert told == said if image else (told.whole, told.answered) == (False, (7,))
    shelf.close()


def test_remains_nobody_ordered_are_given_up_in_time_and_others_stay(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "remains", Settings())
    for name in ("old", "ordered", "young"):
        make(tmp_path / "sessions" / name)
        shelf.add(note(name, 3, "secret", ordered=False), tmp_path / "sessions" / name)
    make(tmp_path / "sessions" / "odd")
    (tmp_path / "sessions" / "odd").rename(tmp_path / "remains" / "odd")
    assert not shelf.order("ordered", 2)
    assert shelf.order("ordered", 3)
    young = shelf.get("young")
    assert isinstance(young, Remains) and young.epoch == 3
    assert "secret" not in repr(young)
    shelf.expire(young.since_s + 3600)
    assert shelf.get("young") is not None and not (tmp_path / "remains" / "odd").exists()
    shelf.expire(young.since_s + 3700)
    assert (shelf.get("old"), shelf.get("young")) == (None, None)
    assert shelf.get("ordered") is not None
    # Late, by somebody who does not know that a newer host has been here.
    shelf.drop("ordered", up_to=2)
    assert shelf.get("ordered") is not None
    shelf.drop("ordered", up_to=3)
    shelf.drop("ordered")
    assert list((tmp_path / "remains").iterdir()) == []


def test_what_an_agent_that_ended_meanwhile_has_dropped_in_part_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(tmp_path / "remains", Settings())
    make(tmp_path / "sessions" / "s")
    shelf.add(note("s", 3, "secret", ordered=True), tmp_path / "sessions" / "s")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda path, **more: None)
        shelf.drop("s")
    assert len(list((tmp_path / "remains").iterdir())) == 1
    shelf.expire(time.time())
    assert list((tmp_path / "remains").iterdir()) == []


def test_folder_without_a_journal_leaves_nothing(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "remains", Settings())
    (tmp_path / "s").mkdir()
    shelf.add(note("s", 1, "x", ordered=True), tmp_path / "s")
    assert shelf.get("s") is None


# -- the proxy -----------------------------------------------------------------------------------------------------


def sent(serial: int, msg_type: str = "execute_request", *, begun: bool = False, whole: bool = True) -> Held:
    parts = make_parts(b"", msg_type, b"{}", {})[1:]
    msg_id = read_header(parts[0]).msg_id
    held = Held(Channel.SHELL, b"client", msg_id, msg_type, parts if whole else parts[:1], 0.0)
    held.serial, held.begun = serial, begun
    return held


def decide(requests: list[Held], kept: set[int], *, anew: bool = True, policy: str = "ask") -> tuple[Fate, list[int]]:
    found = fate({(Channel.SHELL, held.msg_id): held for held in requests}, frozenset(kept), anew=anew, policy=policy)
    serials = {held.msg_id: held.serial for held in requests}
    return found, [serials[msg_id] for _, msg_id in found.broken]


def test_cells_that_had_not_begun_are_sent_again_before_what_was_never_received() -> None:
    found, broken = decide([sent(1, begun=True), sent(2), sent(3), sent(4)], {3, 4})
    assert broken == [1]
    assert [each.serial for each in found.before] == [2]
    assert bytes(found.before[0].parts[0]) == b"client"
    assert found.drop == {1}


def test_oldest_cell_is_not_sent_again_even_if_nobody_said_that_it_arrived() -> None:
    found, broken = decide([sent(1), sent(2)], {1, 2})
    assert (broken, found.drop, found.before) == ([1], {1}, [])


def test_rerun_sends_all_again_in_their_order() -> None:
    found, broken = decide([sent(1, begun=True), sent(2), sent(3)], {3}, policy="rerun")
    assert (broken, [each.serial for each in found.before], found.drop) == ([], [1, 2], frozenset())


def test_cell_that_was_too_large_to_keep_is_answered_with_an_error() -> None:
    _, broken = decide([sent(1), sent(2, whole=False)], set(), policy="rerun")
    assert broken == [2]


@pytest.mark.parametrize("anew", [True, False])
def test_other_requests_that_had_arrived_are_answered_and_the_rest_sent(anew: bool) -> None:
    requests = [sent(1, "complete_request"), sent(2, "complete_request")]
    found, _ = decide(requests, {2}, anew=anew)
    assert [msg_id for _, msg_id in found.unheard] == [requests[0].msg_id]
    assert found.before == [] and found.drop == frozenset()


def test_cells_are_the_hosts_matter_where_the_journal_goes_on() -> None:
    found, broken = decide([sent(1, begun=True), sent(2)], {2}, anew=False)
    assert (broken, found.unheard, found.before, found.drop) == ([], [], [], frozenset())
    assert msgspec.to_builtins(found)
