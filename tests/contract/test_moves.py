"""A session moves from one real node to another while its client goes on: nothing lost, nothing twice, all in order."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from jupyter_gpuaas.client.bundles import put_bundle
from jupyter_gpuaas.errors import MigrationError, NoSuchSession, QuiesceTimeout, StaleEpoch
from jupyter_gpuaas.model import HostState
from jupyter_gpuaas.state.bundle import assemble
from jupyter_gpuaas.wire import ticket
from jupyter_gpuaas.wire.record import Kind
from tests.conftest import GpuaasHome
from tests.moving import NODES, Nodes, Notebook, Place, two_nodes
from tests.service import eventually

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


async def begin_to_quiesce(place: Place) -> asyncio.Task[dict[str, Any]]:
    """The op, which has begun: one that comes second is refused at once."""
    asked = {asyncio.create_task(place.op("quiesce", wait_s=60)) for _ in range(2)}
    (refused,), (going,) = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
    assert isinstance(refused.exception(), MigrationError)
    return going


def in_order(notebook: Notebook) -> bool:
    return notebook.numbers == list(range(1, len(notebook.numbers) + 1))


async def test_move_under_a_client_that_executes_runs_each_cell_once_in_order(nodes: Nodes, notebook: Notebook) -> None:
    await notebook.run("done = [0]\nfrom IPython.display import display\nhandle = display('first', display_id='d')")
    counts: list[int] = []

    async def work() -> None:
        number = 0
        while not stop.is_set() or number % 5:
            number += 1
            reply = await notebook.execute(f"done.append({number}); print({number})").reply()
            assert reply["status"] == "ok", reply
            counts.append(reply["execution_count"])

    stop = asyncio.Event()
    working = asyncio.create_task(work())
    await eventually(lambda: len(counts) > 3)
    target = await nodes.move()
    before = len(counts)
    await eventually(lambda: len(counts) > before + 3)
    stop.set()
    await working
    assert target.node == NODES[1]
    assert await notebook.value("done") == str(list(range(len(counts) + 1)))
    assert counts == list(range(2, len(counts) + 2))
    assert in_order(notebook)
    shown = notebook.execute("handle.update('second')")
    await shown.reply()
    (update,) = shown.of_type("update_display_data")
    assert update["content"]["transient"] == {"display_id": "d"}
    assert [reason for reason, retry_s in notebook.unlinked if retry_s] == []
    assert [welcome["epoch"] for welcome in notebook.welcomes] == [1, 2]
    assert len({welcome["journal"] for welcome in notebook.welcomes}) == 1


async def test_requests_that_wait_behind_a_cell_when_it_moves_run_once_on_the_new_node(
    nodes: Nodes, notebook: Notebook, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    await notebook.run("ran = []")
    running = notebook.execute(f"ran.append('slow'); open({str(gate)!r}).read()")
    queued = [notebook.execute(f"ran.append({n}); import os; os.environ['GPUAAS_NODE']") for n in range(3)]
    asked = notebook.ask("complete_request", {"code": "ra", "cursor_pos": 2})
    await eventually(lambda: running.of_type("execute_input"))
    moving = asyncio.create_task(nodes.move())
    source = nodes.place
    await eventually(lambda: _stands_by(nodes))
    late = notebook.execute("ran.append('late')")
    assert await source.state() in (HostState.BUSY, HostState.IDLE)
    await asyncio.to_thread(gate.write_text, "go")
    await moving
    for request in (*queued, asked, late):
        assert (await request.reply())["status"] == "ok"
        assert len(request.replies) == 1
    assert await notebook.value("ran") == "['slow', 0, 1, 2, 'late']"
    (result,) = queued[0].of_type("execute_result")
    assert result["content"]["data"]["text/plain"] == f"'{NODES[1]}'"
    assert [r.replies[0]["content"]["execution_count"] for r in (running, *queued, late)] == [2, 3, 4, 5, 6]
    assert in_order(notebook)


async def test_cells_behind_one_that_fails_are_aborted_wherever_they_wait(
    nodes: Nodes, notebook: Notebook, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    failing = notebook.execute(f"open({str(gate)!r}).read(); 1 / 0")
    at_kernel = notebook.execute("x = 1")
    await eventually(lambda: failing.of_type("execute_input"))
    quieting = await begin_to_quiesce(nodes.place)
    at_host = notebook.execute("x = 2")
    await notebook.channel.delivered(10)
    await asyncio.to_thread(gate.write_text, "go")
    await quieting
    replies = [await request.reply() for request in (failing, at_kernel, at_host)]
    assert [reply["status"] for reply in replies] == ["error", "aborted", "aborted"]
    await nodes.place.op("resume")
    assert (await notebook.execute("x").reply())["ename"] == "NameError"


async def _stands_by(nodes: Nodes) -> bool:
    return await nodes.agents[NODES[1]].hosts() != []


STEPS = ("stand_by", "quiesce", "preload", "load", "hand_over", "succeed")


@pytest.mark.parametrize(
    "last", [step if step in ("quiesce", "succeed") else pytest.param(step, marks=pytest.mark.fault) for step in STEPS]
)
async def test_move_given_up_after_any_step_leaves_the_source_working(
    nodes: Nodes, notebook: Notebook, last: str
) -> None:
    await notebook.run("ran = []")
    source, target = nodes.place, await nodes.stand_by()
    checkpoint, held = "", []
    for step in STEPS[1 : STEPS.index(last) + 1]:
        if step == "quiesce":
            checkpoint = (await source.op(step, wait_s=60))["checkpoint"]["id"]
            held = [notebook.execute(f"ran.append({n})") for n in range(3)]
            await notebook.channel.delivered(10)
        elif step in ("preload", "load"):
            await target.op(step, checkpoint=checkpoint)
        elif step == "hand_over":
            nodes.place = None
            assert (await source.op(step))["held"] == 3
        else:
            await target.op(step)
    with pytest.raises(MigrationError):  # it has not arrived
        await target.op("quiesce")
    await target.end()
    await source.op("resume")
    nodes.place = source
    for request in held:
        assert (await request.reply())["status"] == "ok"
    await notebook.run("ran.append('after')")
    assert await notebook.value("ran") == str([*range(len(held)), "after"])
    assert in_order(notebook)
    await nodes.move()
    assert await notebook.value("ran") == str([*range(len(held)), "after"])


async def test_cell_that_does_not_end_in_time_goes_on_and_what_waited_runs(
    nodes: Nodes, notebook: Notebook, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    running = notebook.execute(f"ran = ['slow']; open({str(gate)!r}).read()")
    await eventually(lambda: running.of_type("execute_input"))
    queued = notebook.execute("ran.append('queued')")
    with pytest.raises(QuiesceTimeout):
        await nodes.place.op("quiesce", wait_s=0.3)
    late = notebook.execute("ran.append('late')")
    await asyncio.to_thread(gate.write_text, "go")
    for request in (running, queued, late):
        assert (await request.reply())["status"] == "ok"
    assert await notebook.value("ran") == "['slow', 'queued', 'late']"
    assert await nodes.place.op("resume") == {}


async def test_kernel_that_dies_while_its_cell_is_waited_for_fails_the_move_and_the_session_goes_on(
    nodes: Nodes, notebook: Notebook, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    dying = notebook.execute(f"open({str(gate)!r}).read(); import os; os._exit(3)")
    queued = notebook.execute("x = 1")
    await eventually(lambda: dying.of_type("execute_input"))
    quieting = await begin_to_quiesce(nodes.place)
    late = notebook.execute("y = 2")
    await notebook.channel.delivered(10)
    await asyncio.to_thread(gate.write_text, "go")
    with pytest.raises(MigrationError):
        await quieting
    assert [(await request.reply())["status"] for request in (dying, queued, late)] == ["error", "error", "ok"]
    assert await notebook.value("y") == "2"
    await nodes.place.op("quiesce", wait_s=60)


async def test_client_that_comes_while_the_session_is_quiet_is_let_in_and_its_cells_wait(
    nodes: Nodes, notebook: Notebook
) -> None:
    await notebook.run("ran = []")
    await nodes.place.op("quiesce", wait_s=60)
    first = notebook.execute("ran.append(1)")
    await notebook.channel.delivered(10)
    assert notebook.channel._link is not None
    notebook.channel._link.abort("the network is bad")
    other = Notebook(nodes, nodes.settings, "other")
    other.start()
    second = other.execute("ran.append(2)")
    await other.channel.delivered(10)
    await eventually(lambda: len(notebook.welcomes) == 2)
    third = notebook.execute("ran.append(3)")
    await notebook.channel.delivered(10)
    assert not [request for request in (first, second, third) if request.replies]
    await nodes.move()
    for request in (first, second, third):
        await request.reply()
    assert await other.value("ran") == "[1, 2, 3]"
    assert in_order(notebook)
    await other.close()


async def test_cell_that_waits_for_input_is_waited_for_and_answered(nodes: Nodes, notebook: Notebook) -> None:
    asking = notebook.execute("name = input('who? ')", stdin=True)
    prompt = await asyncio.wait_for(notebook.prompts.get(), 30)
    quieting = await begin_to_quiesce(nodes.place)
    assert prompt["content"]["prompt"] == "who? "
    notebook.ask("input_reply", {"value": "ann"}, kind=Kind.STDIN)
    await quieting
    assert (await asking.reply())["status"] == "ok"
    await nodes.move()
    assert await notebook.value("name") == "'ann'"


async def test_interrupt_cancels_cells_that_wait_for_the_move_and_leaves_the_rest(
    nodes: Nodes, notebook: Notebook
) -> None:
    await notebook.run("ran = []")
    await nodes.place.op("quiesce", wait_s=60)
    cells = [notebook.execute(f"ran.append({n})") for n in range(2)]
    asked = notebook.ask("complete_request", {"code": "ra", "cursor_pos": 2})
    interrupt = notebook.ask("interrupt_request", {}, kind=Kind.CONTROL)
    replies = [await cell.reply() for cell in cells]
    assert [reply["status"] for reply in replies] == ["error", "aborted"]
    assert replies[0]["ename"] == "KeyboardInterrupt"
    await eventually(lambda: interrupt.replies)
    await nodes.move()
    assert "ran" in (await asked.reply())["matches"]
    assert await notebook.value("ran") == "[]"


async def test_subshell_is_waited_for_and_goes_along_with_its_id(
    nodes: Nodes, notebook: Notebook, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    made = notebook.ask("create_subshell_request", {}, kind=Kind.CONTROL)
    subshell = (await made.reply())["subshell_id"]
    await notebook.run("ran = []")
    running = notebook.execute(f"open({str(gate)!r}).read(); ran.append(1)", subshell_id=subshell)
    queued = notebook.execute("ran.append(2)", subshell_id=subshell)
    await eventually(lambda: running.of_type("execute_input"))
    moving = asyncio.create_task(nodes.move())
    await eventually(lambda: _stands_by(nodes))
    assert running.replies == []
    await asyncio.to_thread(gate.write_text, "go")
    await moving
    assert (await queued.reply())["status"] == "ok"
    assert await notebook.value("ran") == "[1, 2]"


async def test_transfer_is_opened_by_its_own_ticket_and_by_no_other(nodes: Nodes, notebook: Notebook) -> None:
    place = nodes.place
    client, transfer = place.ticket("ann"), place.ticket(ticket.TRANSFER_USER)
    async with httpx.AsyncClient(base_url=place.url, trust_env=False) as web:

        async def status(path: str, shown: str) -> int:
            return (await web.get(path, headers={"Authorization": f"Bearer {shown}"})).status_code

        assert await status("/transfer/journal?after=0", transfer) == 200
        assert await status("/transfer/journal?after=999999", transfer) == 400
        assert await status("/transfer/handover", transfer) == 409
        assert await status("/transfer/journal?after=0", client) == 401
        assert await status("/transfer/handover", "x") == 401
        assert await status("/transfer/nothing", transfer) == 404
        assert await status("/channel?client=c", transfer) == 401


async def test_stale_epoch_is_refused_by_every_op(nodes: Nodes) -> None:
    source = nodes.place
    for op in ("quiesce", "hand_over", "resume"):
        with pytest.raises(StaleEpoch):
            await Place(source.node, 7, source.agent).op(op)
    with pytest.raises(MigrationError):
        await source.op("hand_over")
    with pytest.raises(MigrationError):
        await source.op("live")


async def test_bundle_waits_for_the_end_of_a_standstill_and_is_refused_where_the_session_left(nodes: Nodes) -> None:
    place, info = nodes.place, await nodes.ticket()

    async def put(name: str) -> None:
        await put_bundle(info, name, assemble([]), relay="never")

    await put("a")
    await place.op("quiesce", wait_s=60)
    waiting = asyncio.create_task(put("b"))
    await place.report()
    await place.op("resume")
    await waiting
    await place.op("quiesce", wait_s=60)
    waiting = asyncio.create_task(put("c"))
    await place.report()
    await place.op("hand_over")
    with pytest.raises(NoSuchSession):
        await waiting
    with pytest.raises(NoSuchSession):
        await put("d")
