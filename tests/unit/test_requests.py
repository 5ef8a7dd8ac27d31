"""Requests of one client when the journal that knew of them is lost: the session's own setting says what is done."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.client.session import RemoteSession
from jupyter_gpuaas.errors import CellError
from jupyter_gpuaas.lifecycle.node_loss import ENAME
from jupyter_gpuaas.model import Channel
from jupyter_gpuaas.wire.after_loss import KINDS
from jupyter_gpuaas.wire.channel import Channel as SessionChannel
from jupyter_gpuaas.wire.jupyter import make_parts, read_header
from jupyter_gpuaas.wire.record import Buffer, Kind, Record
from jupyter_gpuaas.wire.requests import ANSWERED_KEPT, Requests
from jupyter_gpuaas.wire.waiting import Held
from tests.service import quick_settings

NONE: frozenset[int] = frozenset()


class Client:
    """Sends cells to a channel that only counts them, and notes what it is told."""

    def __init__(self) -> None:
        self.failed: list[tuple[str, str, str]] = []
        self.told: list[str] = []
        self.ended: list[str] = []
        self.requests = Requests(
            cast(SessionChannel, self),
            self._fail,
            lambda held: self.ended.append(held.msg_id),
            tell=self.told.append,
            most_bytes=1 << 20,
        )
        self._serial = 0

    def _fail(self, held: Held, ename: str, why: str) -> None:
        self.failed.append((held.msg_id, ename, why))

    # As a channel.

    def send(self, kind: Kind, parts: Sequence[Buffer]) -> int:
        self._serial += 1
        return self._serial

    def answered(self, serial: int) -> None: ...

    # As a front end.

    def cell(self) -> Held:
        return self.asks(Channel.SHELL, "execute_request")

    def asks(self, channel: Channel, msg_type: str) -> Held:
        parts = make_parts(b"", msg_type, b"{}", {})[1:]
        held = Held(channel, b"me", read_header(parts[0]).msg_id, msg_type, parts, 0.0)
        self.requests.send(held)
        return held

    def ran(self, count: int) -> None:
        """A cell has run, and its answer has come."""
        self.hears(Kind.SHELL, b"me", "execute_reply", self.cell(), status="ok", execution_count=count)

    def answer(self, held: Held) -> str:
        """Returns its id."""
        reply = held.msg_type.replace("_request", "_reply")
        self.hears(KINDS[held.channel], b"me", reply, held, status="ok")
        return held.msg_id

    def idle(self, held: Held, **more: bool) -> None:
        parts = make_parts(b"kernel.1.status", "status", held.parts[0], {"execution_state": "idle"})
        self.requests.heard(Record(Kind.IOPUB, 1, 0, tuple(parts)), **more)

    def hears(self, kind: Kind, topic: bytes, msg_type: str, asked: Held, **content: object) -> None:
        self.requests.heard(Record(kind, 1, 0, tuple(make_parts(topic, msg_type, asked.parts[0], dict(content)))))


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.mark.parametrize("policy", ["ask", "restore_only"])
def test_cell_that_had_begun_fails_as_its_session_has_it_and_the_next_one_is_sent_again(
    client: Client, policy: str
) -> None:
    begun, waiting = client.cell(), client.cell()
    client.hears(Kind.IOPUB, b"kernel.1.status", "status", begun, execution_state="busy")
    found = client.requests.host_lost({"on_node_loss": policy, "restored_cell": 4}, NONE, anew=True)
    ((msg_id, ename, why),) = client.failed
    assert (msg_id, ename) == (begun.msg_id, ENAME)
    assert "after cell 4" in why and ("run it again" in why) is (policy == "ask")
    assert [each.serial for each in found.before] == [waiting.serial]
    assert found.drop == {begun.serial}


def test_cell_that_had_begun_is_sent_again_where_its_session_has_it_so(client: Client) -> None:
    begun, waiting = client.cell(), client.cell()
    client.hears(Kind.IOPUB, b"kernel.1.status", "status", begun, execution_state="busy")
    found = client.requests.host_lost({"on_node_loss": "rerun", "restored_cell": 4}, NONE, anew=True)
    assert [each.serial for each in found.before] == [begun.serial, waiting.serial]
    assert (client.failed, found.drop) == ([], NONE)


def test_cells_that_were_answered_and_that_no_journal_tells_of_any_more_are_named_once(client: Client) -> None:
    for count in (3, 4, 5, 6):
        client.ran(count)
    client.hears(Kind.SHELL, b"me", "execute_reply", client.cell(), status="aborted")
    client.requests.host_lost({"restored_cell": 4}, NONE, anew=True)
    (told,) = client.told
    assert "as after cell 4" in told and "cells 5, 6" in told
    client.ran(5)
    client.requests.host_lost({"restored_cell": 4}, NONE, anew=True)
    assert "cell 5 " in client.told[1]
    client.requests.host_lost({"restored_cell": 4}, NONE, anew=True)
    assert len(client.told) == 2


@pytest.mark.parametrize(("anew", "restored"), [(False, 1), (True, 2), (True, None)])
def test_nothing_is_named_that_the_journal_tells_or_that_is_not_lost(
    client: Client, anew: bool, restored: int | None
) -> None:
    for count in (1, 2):
        client.ran(count)
    client.requests.host_lost({"restored_cell": restored}, NONE, anew=anew)
    assert client.told == []


def test_cell_that_was_answered_is_ended_where_no_journal_tells_that_it_has(client: Client) -> None:
    """Front ends show a cell as running until they have heard both."""
    done, early, cut, asked = client.cell(), client.cell(), client.cell(), client.asks(Channel.CONTROL, "debug_request")
    client.answer(done)
    client.idle(done)
    client.idle(early)  # on another of the kernel's sockets
    client.answer(early)
    unended = [client.answer(cut), client.answer(asked)]
    for _ in range(2):
        client.requests.host_lost({"restored_cell": 4}, NONE, anew=True)
        assert (client.ended, client.failed) == (unended, [])


def test_cell_is_left_to_the_host_that_has_the_journal_and_other_requests_are_not(client: Client) -> None:
    cell, other = client.cell(), client.asks(Channel.SHELL, "complete_request")
    client.answer(cell)
    client.answer(other)
    client.requests.host_lost({"restored_cell": 4}, NONE, anew=False)
    assert client.ended == [other.msg_id]
    client.idle(cell)
    client.requests.host_lost({"restored_cell": 4}, NONE, anew=True)
    assert client.ended == [other.msg_id]


def test_cell_whose_end_was_passed_over_is_ended_unless_it_comes_again(client: Client) -> None:
    lost, again = client.cell(), client.cell()
    for held in (lost, again):
        client.answer(held)
        client.idle(held, passed_over=True)
    client.idle(again)
    client.requests.host_lost({"restored_cell": 4}, NONE, anew=True)
    assert client.ended == [lost.msg_id]


def test_cell_that_runs_again_ends_again(client: Client) -> None:
    cell = client.cell()
    client.idle(cell)
    client.requests.host_lost({"on_node_loss": "rerun"}, NONE, anew=True)
    client.answer(cell)
    client.requests.host_lost({"on_node_loss": "rerun"}, NONE, anew=True)
    assert client.ended == [cell.msg_id]


def test_end_of_the_session_ends_what_was_answered_and_only_the_newest_are_remembered(client: Client) -> None:
    answered = [client.answer(client.cell()) for _ in range(ANSWERED_KEPT + 3)]
    client.requests.fail("SessionEnded", "it is over")
    assert (client.ended, client.failed) == (answered[3:], [])


@pytest.mark.parametrize("policy", ["ask", "rerun"])
async def test_cells_of_a_remote_session_have_the_same_fate(tmp_path: Path, policy: str) -> None:
    said: list[str] = []
    session = RemoteSession(cast(ServiceClient, None), "s", quick_settings(tmp_path), notice=said.append)
    begun, waiting, asked, answered = (
        asyncio.create_task(session.request(kind, {}))
        for kind in ("execute_request", "execute_request", "gpuaas_request", "gpuaas_request")
    )
    await asyncio.sleep(0)
    first, *_, last = (msg_id.encode() for msg_id in session._requests)
    parts = (b"k.status", b'{"msg_type":"status"}', b'{"msg_id":"%s"}' % first, b"{}", b'{"execution_state":"busy"}')
    session.record_received(Record(Kind.IOPUB, 1, 0, parts))
    parts = (b"", b'{"msg_type":"gpuaas_reply"}', b'{"msg_id":"%s"}' % last, b"{}", b'{"status":"ok"}')
    session.record_received(Record(Kind.SHELL, 2, 0, parts))
    found = session.host_lost({"on_node_loss": policy, "restored_cell": 2}, NONE, anew=True)
    assert await answered == {"status": "ok"}  # although its idle will not come
    assert [each.serial for each in found.before] == ([2] if policy == "ask" else [1, 2])
    assert len(said) == 1 and "lost" in said[0]
    with pytest.raises(CellError, match="ask again"):
        await asked
    if policy == "ask":
        with pytest.raises(CellError, match=r"as after cell 2.*run it again"):
            await begun
    assert (begun.done(), waiting.done()) == (policy == "ask", False)
    for task in (begun, waiting):
        task.cancel()
    await asyncio.gather(begun, waiting, return_exceptions=True)
