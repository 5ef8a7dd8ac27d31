"""A session comes back after its host was lost or put away: what it said is kept, and each cell has one fate."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from jupyter_gpuaas.errors import NoSuchSession, TransportError
from jupyter_gpuaas.model import CellRuns, HostState
from jupyter_gpuaas.wire import channel as channel_module
from jupyter_gpuaas.wire import link
from jupyter_gpuaas.wire.channel import Channel
from jupyter_gpuaas.wire.link import Link
from jupyter_gpuaas.wire.record import Buffer
from tests.conftest import GpuaasHome
from tests.moving import NODES, SESSION, Message, Nodes, Notebook, Place, two_nodes
from tests.service import eventually

from .test_moves import in_order

#: Between real nodes, and so not quick: a part of `make test-faults`.
pytestmark = pytest.mark.fault


@pytest.fixture
async def nodes(gpuaas_home: GpuaasHome) -> AsyncIterator[Nodes]:
    async with two_nodes(gpuaas_home.path) as made:
        await made.begin()
        yield made


@pytest.fixture
async def notebook(nodes: Nodes) -> AsyncIterator[Notebook]:
    made = Notebook(nodes, nodes.settings)
    made.start()
    yield made
    await made.close()


async def lose_host(nodes: Nodes) -> Place:
    """Kill the session's host, and wait until its agent has cleared up."""
    place = nodes.place
    os.kill(await nodes.host_pid(place), signal.SIGKILL)

    async def gone() -> bool:
        return await place.state() is None

    await eventually(gone)
    return place


@pytest.mark.parametrize("policy", ["ask", "rerun", "restore_only"])
@pytest.mark.parametrize("node", NODES)
async def test_host_that_dies_leaves_its_journal_and_cells_that_had_not_begun_run(
    nodes: Nodes, notebook: Notebook, tmp_path: Path, policy: str, node: str
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    await notebook.run("ran = []")
    await notebook.run("print('before'); ran.append('first')")
    checkpoint = await nodes.newest(nodes.place, 2)
    running = notebook.execute(f"open({str(gate)!r}).read(); ran.append('cut off')")
    queued = [notebook.execute(f"ran.append({n}); print('now')") for n in range(2)]
    await eventually(lambda: running.of_type("execute_input"))
    await notebook.channel.delivered(10)
    await lose_host(nodes)
    late = notebook.execute("ran.append('late')")
    await nodes.recover(checkpoint, node=node, on_node_loss=policy)
    ran = ["first", 0, 1, "late"]
    if policy == "rerun":
        gate.write_text("go")
        ran.insert(1, "cut off")
        assert (await running.reply())["status"] == "ok"
    else:
        reply = await running.reply()
        assert (reply["status"], reply["ename"]) == ("error", "NodeLost")
        assert "after cell 2" in reply["evalue"]
        assert ("run it again" in reply["evalue"]) is (policy == "ask")
    # What a client goes by where no journal tells it.
    assert notebook.welcomes[-1]["on_node_loss"] == policy
    for request in (*queued, late):
        assert (await request.reply())["status"] == "ok"
        assert len(request.replies) == 1
    assert await notebook.value("ran") == str(ran)
    assert in_order(notebook)
    assert notebook.losses == [False]
    assert not await nodes.agents[NODES[0]].has_remains(SESSION, epoch=1)


class Deaf:
    """A client's end of a link that is cut before what comes first is read."""

    def __init__(self, channel: Channel) -> None:
        self.link_closed = channel.link_closed

    def op_received(self, link: Link, op: Message) -> None:
        link.abort("the network is cut")

    def binary_received(self, link: Link, data: Buffer) -> None: ...

    def room(self, link: Link) -> None: ...

    def link_drained(self, link: Link) -> None: ...


async def test_client_whose_links_are_cut_after_a_loss_before_it_has_read_that_it_counts_anew_gets_in(
    nodes: Nodes, notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, unread = notebook.channel, 2

    async def connect(url: str, token: str, handler: Channel, **more: Any) -> Link:
        nonlocal unread
        unread -= 1
        return await link.connect(url, token, Deaf(handler) if unread >= 0 else handler, **more)

    async def cut() -> None:
        links = len(notebook.welcomes)
        assert channel._link is not None
        channel._link.abort("the network is cut")
        await eventually(lambda: len(notebook.welcomes) > links)

    for number in range(3):
        await notebook.run(f"ran = {number}")
    checkpoint = await nodes.newest(nodes.place, 3)
    await channel.delivered(10)
    monkeypatch.setattr(channel_module, "connect", connect)
    await lose_host(nodes)
    await nodes.recover(checkpoint)
    await eventually(lambda: notebook.losses)
    await cut()  # before it has asked anything
    await notebook.run("ran += 1")
    await cut()  # and after
    assert await notebook.value("ran") == "3"
    assert unread < 0 and notebook.losses == [False]
    assert [welcome["received"] for welcome in notebook.welcomes[-3:]] == [None, 0, 1]


async def test_client_that_has_not_read_that_it_counts_anew_gets_in_where_the_session_has_moved(
    nodes: Nodes, notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf, cut = True, 0

    async def connect(url: str, token: str, handler: Channel, **more: Any) -> Link:
        nonlocal cut
        cut += deaf
        return await link.connect(url, token, Deaf(handler) if deaf else handler, **more)

    await notebook.run("ran = 0")
    checkpoint = await nodes.newest(nodes.place, 1)
    await notebook.channel.delivered(10)
    monkeypatch.setattr(channel_module, "connect", connect)
    await lose_host(nodes)
    await nodes.recover(checkpoint)
    await eventually(lambda: cut)
    await nodes.move()
    deaf = False
    await notebook.run("ran += 1")
    assert await notebook.value("ran") == "1"
    assert [welcome["received"] for welcome in notebook.welcomes] == [0, None]


async def test_client_goes_on_that_has_heard_what_the_lost_host_had_in_memory_only(
    nodes: Nodes, notebook: Notebook
) -> None:
    await notebook.run("ran = [1]")
    checkpoint = await nodes.newest(nodes.place, 1)
    await notebook.channel.delivered(10)
    host = psutil.Process(await nodes.host_pid(nodes.place))
    host.rlimit(resource.RLIMIT_FSIZE, (1, host.rlimit(resource.RLIMIT_FSIZE)[1]))  # the disk is full
    for number in range(2, 6):
        await notebook.run(f"ran.append({number})")
    heard = notebook.channel.received
    await lose_host(nodes)
    await nodes.recover(checkpoint)
    await notebook.run("ran.append('after it')")
    assert await notebook.value("ran") == "[1, 'after it']"
    assert notebook.losses == [True]
    assert notebook.welcomes[-1]["behind"] and notebook.welcomes[-1]["after"] < heard


async def test_client_that_missed_two_losses_in_a_row_gets_what_was_said_between_them(
    nodes: Nodes, notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has heard what the first lost host had in memory only: those numbers are other records of the next one."""
    deaf = True

    async def connect(url: str, token: str, handler: Channel, **more: Any) -> Link:
        cut = deaf and handler is notebook.channel
        return await link.connect(url, token, Deaf(handler) if cut else handler, **more)

    await notebook.run("ran = [1]")
    checkpoint = await nodes.newest(nodes.place, 1)
    await notebook.channel.delivered(10)
    host = psutil.Process(await nodes.host_pid(nodes.place))
    host.rlimit(resource.RLIMIT_FSIZE, (1, host.rlimit(resource.RLIMIT_FSIZE)[1]))  # the disk is full
    await notebook.run("ran.append('in memory only')")
    heard = notebook.channel.received
    monkeypatch.setattr(channel_module, "connect", connect)
    await lose_host(nodes)
    await nodes.recover(checkpoint)
    other = Notebook(nodes, nodes.settings, "other")
    other.start()
    await other.run("ran.append('between')")
    await other.run("1")
    assert other.channel.received > heard
    checkpoint = await nodes.newest(nodes.place, 3)
    await other.close()
    await lose_host(nodes)
    await nodes.recover(checkpoint, node=NODES[0])
    await nodes.move()
    deaf = False
    await notebook.run("ran.append('after both')")
    assert await notebook.value("ran") == "[1, 'between', 'after both']"
    assert notebook.losses == [True]
    assert notebook.welcomes[-1]["behind"] and notebook.welcomes[-1]["after"] < heard
    told = "".join(notebook.notices)
    assert "after cell 1." in told and "after cell 3." in told


async def test_cells_that_were_answered_after_the_checkpoint_are_named(nodes: Nodes, notebook: Notebook) -> None:
    await notebook.run("ran = [1]")
    checkpoint = await nodes.newest(nodes.place, 1)
    for number in (2, 3):
        await notebook.run(f"ran.append({number})")
    told = notebook.notices
    await lose_host(nodes)
    await nodes.recover(checkpoint)
    assert await notebook.value("ran") == "[1]"
    (notice,) = told
    assert "after cell 1" in notice and "cells 2, 3" in notice


async def test_front_ends_are_told_which_cells_a_loss_has_undone(nodes: Nodes, notebook: Notebook) -> None:
    await notebook.run("ran = [1]")
    checkpoint = await nodes.newest(nodes.place, 1)
    for number in (2, 3):
        await notebook.run(f"print({number})")
    lost = await lose_host(nodes)

    async def cells(place: Place) -> CellRuns:
        return msgspec.json.decode(await place.agent.cells(SESSION, after="", journal=""), type=CellRuns)

    # Of what the host has left, and of the host that has taken it over.
    left = await cells(lost)
    shown = [(each.execution_count, [output["text"] for output in each.outputs]) for each in left.cells]
    assert shown == [(1, []), (2, ["2\n"]), (3, ["3\n"])]
    assert left.restored_cell is None
    await nodes.recover(checkpoint)
    await notebook.run("ran.append(2)")
    found = await cells(nodes.place)
    assert (found.journal, found.restored_cell) == (left.journal, 1)
    assert found.cells[:3] == left.cells
    undone = [each for each in found.cells if each.last <= found.restored_number and (each.execution_count or 0) > 1]
    assert undone == list(left.cells[1:])
    assert [each.execution_count for each in found.cells[3:]] == [2]


async def test_session_that_was_put_away_comes_back_as_it_was_with_what_waited(
    nodes: Nodes, notebook: Notebook
) -> None:
    place = nodes.place
    await notebook.run("import os; open('note', 'w').write('kept'); ran = [os.getcwd()]")
    quiet = await place.op("quiesce", wait_s=60)
    waiting = notebook.execute("ran.append('waited')")
    await notebook.channel.delivered(10)
    await place.op("hand_over")
    await place.agent.stop_host(SESSION, epoch=1, reason="parked", keep=True)
    assert await place.agent.has_remains(SESSION, epoch=1)
    with pytest.raises(NoSuchSession):
        await place.op("resume")
    await nodes.recover(quiet["checkpoint"]["id"], node=NODES[0])
    assert (await waiting.reply())["status"] == "ok"
    assert await notebook.value("len(ran)") == "2"
    assert await notebook.value("open('note').read()") == "'kept'"
    assert in_order(notebook)
    assert notebook.losses == []


async def test_remains_are_there_after_a_restart_of_the_agent_and_until_they_are_dropped(
    nodes: Nodes, notebook: Notebook
) -> None:
    await notebook.run("x = 1")
    place = await lose_host(nodes)
    os.kill(nodes.engine._agents[place.node].pid, signal.SIGKILL)

    async def has() -> bool:
        try:
            place.agent = nodes.again(place.node)
            return await place.agent.has_remains(SESSION, epoch=1)
        except TransportError:
            return False

    await eventually(has)
    with pytest.raises(NoSuchSession):
        await place.op("resume")
    await place.agent.drop_remains(SESSION, epoch=1)
    await place.agent.drop_remains(SESSION, epoch=1)
    assert not await place.agent.has_remains(SESSION, epoch=1)


async def test_journal_that_begins_anew_is_taken_from_its_beginning(nodes: Nodes, notebook: Notebook) -> None:
    await notebook.run("x = 41")
    checkpoint = await nodes.newest(nodes.place, 1)
    await notebook.run("print('a' * 10)")
    lost = await lose_host(nodes)
    await lost.agent.drop_remains(SESSION, epoch=1)
    nodes.place, place = None, Place(NODES[1], 2, nodes.agents[NODES[1]])
    sent_meanwhile = notebook.execute("x += 1")
    await place.agent.start_host(nodes.spec(NODES[1], 2, restore=checkpoint))

    async def idle() -> bool:
        return await place.state() is HostState.IDLE

    await eventually(idle)
    before, nodes.place = len(notebook.numbers), place
    assert (await sent_meanwhile.reply())["status"] == "ok"
    assert await notebook.value("x") == "42"
    assert notebook.losses == [True]
    anew = notebook.numbers[before:]
    assert anew == list(range(1, len(anew) + 1))
    journals = [welcome["journal"] for welcome in notebook.welcomes]
    assert len(set(journals)) == 2
    assert notebook.welcomes[-1]["restored_cell"] == 1


async def test_host_that_dies_after_it_handed_over_has_left_what_waited(nodes: Nodes, notebook: Notebook) -> None:
    place = nodes.place
    await notebook.run("ran = []")
    quiet = await place.op("quiesce", wait_s=60)
    waiting = [notebook.execute(f"ran.append({number})") for number in range(2)]
    await notebook.channel.delivered(10)
    await place.op("hand_over")
    await lose_host(nodes)
    await nodes.recover(quiet["checkpoint"]["id"])
    assert [(await request.reply())["status"] for request in waiting] == ["ok", "ok"]
    assert await notebook.value("ran") == "[0, 1]"
    assert in_order(notebook)
    assert (notebook.losses, notebook.notices) == ([], [])
