"""The lease of a node at its agent, without a controller: what it stops, and what it lets go on."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator

import pytest

from jupyter_gpuaas.model import LeaseGrant, LeaseRenewal
from tests.conftest import GpuaasHome
from tests.fault.nodes import is_stopped
from tests.moving import SESSION, Nodes, Notebook, two_nodes
from tests.service import eventually

#: Between real nodes, and so not quick: a part of `make test-faults`.
pytestmark = pytest.mark.fault

LONG_S = 600.0


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


async def renew(nodes: Nodes, ttl_s: float, before: LeaseGrant | None = None, **stands: int) -> LeaseGrant:
    agent, beat_s = (before.agent, before.beat_s) if before is not None else ("", 0.0)
    return await nodes.place.agent.renew_lease(LeaseRenewal(ttl_s=ttl_s, agent=agent, beat_s=beat_s, stands=stands))


async def test_lease_runs_from_the_beat_and_not_from_the_arrival(nodes: Nodes, notebook: Notebook) -> None:
    kernel = int(await notebook.value("__import__('os').getpid()"))
    first = await renew(nodes, 0.3)
    assert not first.runs
    await renew(nodes, 0.3, first, **{SESSION: 1})
    await eventually(lambda: is_stopped(kernel))
    # One that was on its way for too long, and one that was meant for a former process of the agent.
    assert not (await renew(nodes, 0.3, first, **{SESSION: 1})).runs
    now = await renew(nodes, LONG_S, LeaseGrant(agent="another", beat_s=first.beat_s, runs=True), **{SESSION: 1})
    assert not now.runs and is_stopped(kernel)
    # An epoch that does not stand stays where it is; one that does goes on, and says so.
    assert (await renew(nodes, LONG_S, now, **{SESSION: 7})).runs
    assert is_stopped(kernel)
    await renew(nodes, LONG_S, now, **{SESSION: 1})
    await eventually(lambda: not is_stopped(kernel))
    assert await notebook.value("1 + 1") == "2"
    await eventually(lambda: any("stood still for" in each for each in notebook.notices))


async def test_node_that_needs_no_lease_any_more_goes_on(nodes: Nodes, notebook: Notebook) -> None:
    kernel = int(await notebook.value("__import__('os').getpid()"))
    await renew(nodes, 0.3, await renew(nodes, 0.3))
    await eventually(lambda: is_stopped(kernel))
    assert (await renew(nodes, 0.0, **{SESSION: 1})).runs
    await eventually(lambda: not is_stopped(kernel))
    assert await notebook.value("1 + 1") == "2"


async def test_suspended_session_hears_of_the_end_of_the_lease_and_of_the_next_one_and_stays_suspended(
    nodes: Nodes, notebook: Notebook
) -> None:
    kernel = int(await notebook.value("__import__('os').getpid()"))
    await nodes.place.agent.op(SESSION, 1, "suspend", {})
    await eventually(lambda: is_stopped(kernel))
    first = await renew(nodes, 0.3)
    await renew(nodes, 0.3, first)
    # Nothing of it runs, yet it may have been given to another node: its clients have to ask.
    await eventually(lambda: any("lost contact" in each for each in notebook.notices))
    now = await renew(nodes, LONG_S, first, **{SESSION: 1})
    await renew(nodes, LONG_S, now, **{SESSION: 1})
    await eventually(lambda: any("stood still for" in each for each in notebook.notices))
    assert is_stopped(kernel)
    await nodes.place.agent.op(SESSION, 1, "go_on", {})
    assert await notebook.value("1 + 1") == "2"


async def test_process_that_a_cell_set_apart_is_stopped_and_one_stopped_by_hand_stays_so(
    nodes: Nodes, notebook: Notebook
) -> None:
    await notebook.run("import os, subprocess")
    start = "subprocess.Popen(['sleep', '1000'], start_new_session=True, env={'PATH': os.environ['PATH']}).pid"
    runs, rests = [int(await notebook.value(start)) for _ in range(2)]
    os.kill(rests, signal.SIGSTOP)
    await eventually(lambda: is_stopped(rests))
    await renew(nodes, 0.3, await renew(nodes, 0.3))
    await eventually(lambda: is_stopped(runs))
    now = await renew(nodes, LONG_S)
    await renew(nodes, LONG_S, now, **{SESSION: 1})
    await eventually(lambda: not is_stopped(runs))
    assert is_stopped(rests)


async def test_session_that_was_handed_over_while_its_node_stood_still_does_not_go_on_by_the_lease(
    nodes: Nodes, notebook: Notebook
) -> None:
    kernel = int(await notebook.value("__import__('os').getpid()"))
    await notebook.run("x = 1")
    await nodes.place.op("quiesce", wait_s=30)
    await renew(nodes, 0.3, await renew(nodes, 0.3))
    await eventually(lambda: is_stopped(kernel))
    await nodes.place.op("hand_over")
    now = await renew(nodes, LONG_S)
    await renew(nodes, LONG_S, now, **{SESSION: 1})
    folder = nodes.settings.folder / "nodes" / nodes.place.node
    await eventually(lambda: all(b'"held": {}' in path.read_bytes() for path in folder.glob("leash-*.json")))
    assert is_stopped(kernel)
    await nodes.place.op("resume")
    assert await notebook.value("x") == "1"
