"""A real kernel that loses what it is sent, or does not notice that it has come: the cell runs all the same, once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from jupyter_gpuaas.wire.record import Kind
from tests.conftest import GpuaasHome
from tests.moving import Notebook, two_nodes
from tests.service import eventually

#: With real nodes, and so not quick: a part of `make test-faults`.
pytestmark = pytest.mark.fault

#: The next request is read from its socket and goes nowhere.
LOSES = """
kernel = get_ipython().kernel
def lose(msg, passed=kernel._passed_to_main):
    kernel._passed_to_main = passed
    return True
kernel._passed_to_main = lose
ran = []
"""
#: Nobody is told any more of what comes for the main thread.
DEAF = """
stream = get_ipython().kernel.shell_channel_thread.manager._shell_channel_to_main.to_stream
stream.io_loop.remove_handler(stream.socket)
ran = []
"""
#: The next cell is answered, and that it has ended is not said.
ENDLESS = """
kernel = get_ipython().kernel
ended = []
def publish(state, channel, parent=None, said=kernel._publish_status):
    if (state, channel) == ("idle", "shell"):
        ended.append(state)
    if len(ended) != 2 or state != "idle":
        said(state, channel, parent)
kernel._publish_status = publish
"""
#: A cell that ends with the task that handles it: the kernel says neither a reply nor that it is idle.
CANCELS = """
import asyncio
await asyncio.sleep(0)
ran = globals().get("ran", 0) + 1
for task in asyncio.all_tasks():
    task.cancel()
"""
#: How often the kernel has been asked what it does.
COUNTS = """
import asyncio
kernel, looks = get_ipython().kernel, []
async def count(*message, asked=kernel.control_handlers["gpuaas_look_request"]):
    looks.append(1)
    await asked(*message)
kernel.control_handlers["gpuaas_look_request"] = count
"""
#: Something that is no message, and what the cell itself says, arrive together.
BABBLES = """
kernel = get_ipython().kernel
for stream in (kernel.iopub_socket, kernel.shell_channel_thread.manager._main_to_shell_channel.from_socket):
    ident = kernel._parent_ident["shell"]
    for _ in range(3):
        stream.send_multipart([*(ident or [b"status"]), b"<IDS|MSG>", b"", b"{", b"{", b"{}", b"{}"])
"""


@pytest.fixture
async def notebook(gpuaas_home: GpuaasHome) -> AsyncIterator[Notebook]:
    async with two_nodes(gpuaas_home.path, begin_s=0.3) as nodes:
        await nodes.begin()
        made = Notebook(nodes, nodes.settings)
        made.start()
        yield made
        await made.close()


async def test_cell_that_the_kernel_has_lost_runs_once_and_the_user_is_told(notebook: Notebook) -> None:
    await notebook.run(LOSES)
    await notebook.run("ran.append(1)")
    assert await notebook.value("ran") == "[1]"
    assert any("sent again" in text for text in notebook.notices)


async def test_cell_of_whose_coming_the_kernel_was_not_told_runs_once(notebook: Notebook) -> None:
    await notebook.run(DEAF)
    await notebook.run("ran.append(1)")
    assert await notebook.value("ran") == "[1]"
    assert not notebook.notices, "it was not lost, and is not sent again"


async def test_cell_that_was_answered_and_whose_end_is_lost_ends_all_the_same(notebook: Notebook) -> None:
    await notebook.run(ENDLESS)
    await notebook.run("1")
    assert await notebook.value("len(ended) > 1") == "True"


async def test_cell_of_which_the_kernel_says_no_more_is_answered_and_not_run_again(notebook: Notebook) -> None:
    lost = notebook.execute(CANCELS)
    assert (await lost.reply())["ename"] == "RequestLost"
    assert len(lost.replies) == 1 and await notebook.value("ran") == "1"
    await notebook.run("1")


async def test_long_cell_is_asked_for_and_not_answered_before_its_end(notebook: Notebook) -> None:
    await notebook.run(COUNTS)
    runs = notebook.execute("while len(looks) < 2: await asyncio.sleep(0.01)")
    assert (await runs.reply())["status"] == "ok"
    assert len(runs.replies) == 1 and not notebook.notices


async def test_cell_that_sends_what_is_no_message_gets_its_answer(notebook: Notebook) -> None:
    assert (await notebook.run(BABBLES))["status"] == "ok"
    await notebook.run("1")


async def test_who_asks_is_told_what_the_kernel_does(notebook: Notebook) -> None:
    async def look() -> dict[str, Any]:
        return await notebook.ask("gpuaas_look_request", {}, kind=Kind.CONTROL).reply()

    async def is_free() -> bool:
        return (await look())["busy"] == []

    running = notebook.execute("input()", stdin=True)
    await notebook.prompts.get()
    found = await look()
    assert (found["running"], found["busy"]) == ([running.msg_id], [""])
    assert "raw_input" in found["doing"] and "MainThread" in found["threads"]
    notebook.channel.send_op({"op": "interrupt"})
    assert (await running.reply())["ename"] == "KeyboardInterrupt"
    await eventually(is_free)
