"""Cells that wait or run while the segment with their request goes: the journal tells of them all the same."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import cast

import msgspec
import pytest

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.model import Channel, Handover, HeldRequest
from jupyter_gpuaas.node import journal as journal_module
from jupyter_gpuaas.node import outflow, unanswered
from jupyter_gpuaas.node import segment as segment_module
from jupyter_gpuaas.node.attachment import Attachment
from jupyter_gpuaas.node.cell_runs import runs_of
from jupyter_gpuaas.node.journal import Journal
from jupyter_gpuaas.node.kernel_process import Kernel
from jupyter_gpuaas.node.remains import handover_of
from jupyter_gpuaas.node.session_host import SessionHost
from jupyter_gpuaas.wire.jupyter import make_parts, read_header
from jupyter_gpuaas.wire.record import Buffer, Kind, Record

from .test_session_host import Outputs, close, make_host

BOUND = 1 << 24
MOST_BYTES = 100_000
SMALL = Settings(journal_bytes=MOST_BYTES, journal_segment_bytes=10_000)


def cell(code: str = "1", subshell: str = "") -> list[Buffer]:
    return make_parts(b"client", "execute_request", b"{}", {"code": code}, {"cellId": "c"}, subshell=subshell)


def ask(host: SessionHost, *cells: list[Buffer]) -> None:
    records = [Record(Kind.SHELL, number, 0, tuple(parts)) for number, parts in enumerate(cells, 1)]
    host.requests_received(cast(Attachment, None), records)


def say(host: SessionHost, parent: list[Buffer], msg_type: str, content: dict[str, object]) -> None:
    topic = b"kernel.status" if msg_type == "status" else b"stream"
    parts = make_parts(b"", msg_type, bytes(parent[1]), content)[1:]
    host.kernel_said(Channel.IOPUB, [(topic, list(parts))])


def answer(host: SessionHost, request: list[Buffer], count: int) -> None:
    reply = make_parts(b"", "execute_reply", bytes(request[1]), {"status": "ok", "execution_count": count})[1:]
    host.kernel_said(Channel.SHELL, [(b"", list(reply))])


async def print_for_long(host: SessionHost, parent: list[Buffer], *, acknowledged: bool = True) -> None:
    """Until all that there was in the journal before is gone."""
    await host.settled()
    before = host.journal.last
    while host.journal.first <= before:
        say(host, parent, "stream", {"name": "stdout", "text": "x" * 500})
        await host.settled()
        if acknowledged:
            host.journal.acknowledge(host.journal.last)
        assert host.journal.size <= MOST_BYTES + 5000


def left_by(host: SessionHost) -> Journal:
    """What is on disk when the host dies now."""
    return Journal(
        host.folder / "journal", most_bytes=MOST_BYTES, segment_bytes=10_000, message_bytes=BOUND, memory_bytes=BOUND
    )


def told(host: SessionHost) -> Handover:
    return handover_of(left_by(host), BOUND)


def ids(requests: tuple[HeldRequest, ...]) -> list[str]:
    return [read_header(each.parts[1]).msg_id for each in requests]


def msg_id(request: list[Buffer]) -> str:
    return read_header(request[1]).msg_id


def with_kernel(host: SessionHost) -> SessionHost:
    host.kernel = cast(Kernel, Outputs())
    return host


@pytest.mark.parametrize("why", ["old", "acknowledged", "dropped", "in pieces"])
async def test_cells_whose_requests_have_gone_are_known_to_the_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    if why == "old":
        monkeypatch.setattr(journal_module, "KEEP_ACKNOWLEDGED_US", -1_000_000)
    if why == "in pieces":
        monkeypatch.setattr(outflow, "LARGE_BYTES", 1)
    host = with_kernel(make_host(tmp_path, SMALL))
    cells = [cell(), cell("2", "s"), cell("3"), cell("4")]
    ask(host, *cells[:2])
    say(host, cells[0], "status", {"execution_state": "busy"})
    for later in cells[2:]:  # in segments of their own
        await print_for_long(host, cells[0], acknowledged=why != "dropped")
        ask(host, later)
    for _ in range(3):  # so long that what is told of them goes, too
        await print_for_long(host, cells[0], acknowledged=why != "dropped")
    handover = told(host)
    assert ids(handover.broken) == [msg_id(cells[0]), msg_id(cells[1])]
    assert [list(each.parts) for each in handover.held] == cells[2:]
    assert len(handover.seen) >= 4
    host.kernel = None
    await close(host)


async def test_cell_that_is_answered_long_after_its_request_has_gone_is_answered_for_the_successor(
    tmp_path: Path,
) -> None:
    host = with_kernel(make_host(tmp_path, SMALL))
    first, second = cell(), cell("2")
    ask(host, first, second)
    await print_for_long(host, first)
    answer(host, first, 7)
    handover = told(host)
    assert (handover.answered, [bytes(each) for each in handover.unended]) == ((7,), [bytes(first[1])])
    assert ids(handover.broken) == [msg_id(second)]
    say(host, first, "status", {"execution_state": "idle"})
    assert told(host).unended == ()
    # Once all are answered, none is told of any more.
    await print_for_long(host, second)
    answer(host, second, 8)
    say(host, second, "status", {"execution_state": "idle"})
    await print_for_long(host, second)
    await print_for_long(host, second)
    handover = told(host)
    assert (handover.broken, handover.held, handover.answered, handover.unended) == ((), (), (), ())
    assert unanswered.MSG_TYPE.encode() not in b"".join(left_by(host).copy(0).pieces())
    host.kernel = None
    await close(host)


async def test_cell_whose_request_made_room_on_a_full_disk_is_known_to_the_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = with_kernel(make_host(tmp_path, SMALL))
    request = cell()
    ask(host, request)
    say(host, request, "status", {"execution_state": "busy"})
    host.journal.acknowledge(host.journal.last)
    real = os.pwritev

    def full_once(*_: object) -> int:
        monkeypatch.setattr(segment_module.os, "pwritev", real)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(segment_module.os, "pwritev", full_once)
    say(host, request, "stream", {"name": "stdout", "text": "x"})
    assert host.journal.first > 2
    assert ids(told(host).broken) == [msg_id(request)]
    host.kernel = None
    await close(host)


async def test_no_cell_runs_twice_or_is_lost_whenever_its_host_dies(tmp_path: Path) -> None:
    """One cell after the other is answered while others come; at each moment what is told is what is true."""
    host = with_kernel(make_host(tmp_path, SMALL))
    waiting: list[list[Buffer]] = []
    for number in range(60):
        waiting.append(cell(str(number)))
        ask(host, waiting[-1])
        if number % 3:
            say(host, waiting[0], "stream", {"name": "stdout", "text": "x" * (number % 7 * 1000)})
            answer(host, waiting[0], number)
            say(host, waiting.pop(0), "status", {"execution_state": "idle"})
        host.journal.acknowledge(host.journal.last)
        handover = told(host)
        assert ids(handover.broken) + ids(handover.held) == [msg_id(each) for each in waiting]
        assert [list(each.parts) for each in handover.held] == waiting[1:]
    assert host.journal.first > 1
    host.kernel = None
    await close(host)


async def test_successor_tells_its_own_successor_of_cells_that_it_got(tmp_path: Path) -> None:
    host = make_host(tmp_path, SMALL)
    waits = cell()
    host.stands_by = True
    held = HeldRequest(Channel.SHELL, tuple(map(bytes, waits)))
    host.take_over(
        Handover(
            journal=host.journal.id,
            last=0,
            acknowledged=0,
            sent=0,
            inboxes={},
            seen=(),
            held=(held,),
            kernel_starts=1,
        )
    )
    assert ids(told(host).broken) == [msg_id(waits)], "of its request there is nothing in this journal"
    host.held.take()
    await close(host)


@pytest.mark.parametrize("policy", ["ask", "rerun"])
async def test_request_too_large_to_be_told_again_is_answered_and_not_run(tmp_path: Path, policy: str) -> None:
    host = with_kernel(make_host(tmp_path, SMALL))
    runs, large = cell(), cell("x" * 20_000)
    ask(host, runs, large)
    await print_for_long(host, runs)
    handover = told(host)
    assert ids(handover.broken) == [msg_id(runs), msg_id(large)] and handover.held == ()
    (tmp_path / "next").mkdir()
    successor = make_host(tmp_path / "next", SMALL)
    successor.journal.extend(b"".join(left_by(host).copy(0).pieces()), 0)
    host.kernel = None
    await close(host)
    successor.spec = msgspec.structs.replace(successor.spec, on_node_loss=policy)
    successor.take_over(handover)
    assert [each.parts[1] for each in successor.held] == ([runs[1]] if policy == "rerun" else [])
    handover = told(successor)
    assert msg_id(large) not in ids(handover.broken) + ids(handover.held)
    await close(successor)


async def test_cells_that_are_told_again_are_no_other_runs_for_a_document(tmp_path: Path) -> None:
    host = with_kernel(make_host(tmp_path, Settings(journal_segment_bytes=10_000)))
    request = cell()
    ask(host, request)
    for _ in range(60):
        say(host, request, "stream", {"name": "stdout", "text": "x" * 1000})
    copy = host.journal.copy(0)
    assert unanswered.MSG_TYPE.encode() in b"".join(copy.pieces())
    (run,) = runs_of(copy, BOUND, after="", of="").cells
    assert run.msg_id == msg_id(request) and run.outputs[0]["text"] == "x" * 60_000
    host.kernel = None
    await close(host)
