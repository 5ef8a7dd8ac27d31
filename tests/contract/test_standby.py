"""Two kernels: the variables of one come to the other, from a host on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from jupyter_gpuaas.model import Channel, CheckpointPlan
from jupyter_gpuaas.state.listing import owners_address
from jupyter_gpuaas.store import open_store
from jupyter_gpuaas.wire.jupyter import make_parts
from tests.kernels import Driven, driven
from tests.peers import Source
from tests.service import eventually

#: Between real nodes, and so not quick: a part of `make test-faults`.
pytestmark = pytest.mark.fault

KEY = "ab" * 32
PREPARE = """
import os, random, numpy as np, ipywidgets
os.makedirs("sub", exist_ok=True); os.chdir("sub")
os.environ["MINE"] = "here"
base = np.arange(1_000_000, dtype="f8"); view = base[10:20]; pair = [base, view]
shared = {"list": [1, 2]}; alias = shared["list"]
random.seed(5); np.random.seed(6)
def double(x): return [x * factor, len(shared)]
factor = 3
pipe = os.fdopen(os.pipe()[0])
slider = ipywidgets.IntSlider(value=4)
seen = []
slider.observe(lambda change: seen.append(change["new"]), "value")
1 + 1
"""


@pytest.fixture
def plan(tmp_path: Path) -> CheckpointPlan:
    return CheckpointPlan(store=str(tmp_path / "store"), key=KEY, owner="ann", share=1e6)


@pytest.fixture
async def source(tmp_path: Path, plan: CheckpointPlan) -> AsyncIterator[Driven]:
    async with driven(tmp_path / "one" / "work") as kernel:
        await kernel.adopt(plan, epoch=1)
        yield kernel


@pytest.fixture
async def target(tmp_path: Path, plan: CheckpointPlan) -> AsyncIterator[Driven]:
    async with driven(tmp_path / "two" / "work") as kernel:
        await kernel.adopt(plan, epoch=2, standby=True)
        yield kernel


@pytest.fixture
def host(plan: CheckpointPlan) -> AsyncIterator[Source]:
    made = Source(plan)
    yield made
    made.close()


async def test_session_goes_on_in_another_kernel(source: Driven, target: Driven, host: Source) -> None:
    await source.run(PREPARE)
    first = (await source.take())["id"]
    loaded = await target.standby("preload", first, host.peer)
    assert 8_000_000 <= loaded["state_bytes"] > loaded["sent_bytes"] > 500_000  # as they lie, which is packed
    assert await target.value("'numpy' in __import__('sys').modules and not 'base' in globals()")
    await source.run("base[500_000] = -1; alias.append(3); n = random.random()")
    last = (await source.take())["id"]
    again = await target.standby("preload", last, host.peer)
    assert again["sent_bytes"] < 3_000_000
    (target.work / "sub").mkdir()
    final = await target.standby("load", last, host.peer)
    assert final["sent_bytes"] < 100_000 and set(final["lost"]) == {"pipe"}
    assert await target.standby("load", last, host.peer) == final
    await target.go_on()

    expected = await source.value("(random.random(), list(np.random.rand(3)), slider.comm.comm_id, os.getpid())")
    assert await target.value("get_ipython().execution_count") == 3
    await target.run(
        "assert view.base is base and pair[0] is base and pair[1] is view and base[500_000] == -1 and base.sum() > 0\n"
        "assert shared['list'] is alias and alias == [1, 2, 3]\n"
        "assert double(2) == [6, 1]\n"
        "factor = 5\n"
        "assert double(2) == [10, 1]\n"
        "assert os.environ['MINE'] == 'here'\n"
        f"assert os.getcwd() == {str(target.work / 'sub')!r} and os.environ['GPUAAS_WORK'] == {str(target.work)!r}\n"
    )
    found = await target.value("(random.random(), list(np.random.rand(3)), slider.comm.comm_id, os.getpid())")
    assert found[:3] == expected[:3] and found[3] != expected[3]
    assert await target.value("(len(In), In[2][:4], Out[1], _1)") == (4, "base", 2, 2)
    # A message of the front end finds the widget.
    comm = expected[2]
    content = {"comm_id": comm, "data": {"method": "update", "state": {"value": 9}, "buffer_paths": []}}
    target.process.send(Channel.SHELL, make_parts(b"", "comm_msg", b"{}", content)[1:])
    assert await target.value("(slider.value, seen)") == (9, [9])


async def test_first_checkpoint_of_the_new_kernel_writes_what_has_changed(
    source: Driven, target: Driven, host: Source, plan: CheckpointPlan
) -> None:
    await source.run(
        "import numpy as np\nbig = np.random.rand(4_000_000); small = list(range(100)); text = 'abc' * 1000"
    )
    checkpoint = (await source.take())["id"]
    await target.standby("load", checkpoint, host.peer)
    await target.go_on()
    target.notes.clear()
    await target.run("big[0] = 7; small.append(1)")
    view = (await target.noted("taken"))["status"]["last"]
    assert view["parent"] == checkpoint and view["epoch"] == 2 and view["cell"] == 2
    assert view["copied_bytes"] <= 1024**2 and view["written_bytes"] < 1_200_000
    await target.run("text = 'new'")
    view = (await target.noted("taken"))["status"]["last"]
    assert view["looked_bytes"] < 1_000_000  # from here on, only what a cell may have touched is looked at
    # And what it wrote is whole.
    async with driven(target.work.parent / "three") as third:
        await third.adopt(plan, epoch=3, standby=True)
        await third.standby("load", view["id"], host.peer)
        assert await third.value("(big[0], float(big.sum()), small[-1], text)") == await target.value(
            "(big[0], float(big.sum()), small[-1], text)"
        )


async def test_move_there_and_back(source: Driven, target: Driven, host: Source, plan: CheckpointPlan) -> None:
    await source.run("import numpy as np\nbig = np.random.rand(2_000_000); n = 1")
    await target.standby("load", (await source.take())["id"], host.peer)
    await target.go_on()
    await target.run("big[5] = 1; n += 1")
    back = (await target.take())["id"]
    # The former host is too late now.
    await source.run("n = 100")
    note = await source.noted("failed")
    assert "another host" in note["cause"]
    assert (await source.take())["error"] == "StaleEpoch"
    async with driven(target.work.parent / "three") as third:
        await third.adopt(plan, epoch=3, standby=True)
        await third.standby("preload", back, host.peer)
        await third.standby("load", back, host.peer)
        await third.go_on()
        await third.run("n += 1")
        assert await third.value("(n, big[5])") == (3, 1.0)
        assert (await third.take())["epoch"] == 3


async def test_without_a_peer_chunks_come_from_the_store(source: Driven, target: Driven) -> None:
    await source.run("a = bytearray(5_000_000); b = a")
    checkpoint = (await source.take())["id"]
    loaded = await target.standby("preload", checkpoint, None)
    assert loaded["sent_bytes"] > 0
    await target.standby("load", checkpoint, None)
    assert await target.value("(a is b, len(a))") == (True, 5_000_000)


async def test_standby_that_follows_brings_what_is_new_and_imports_what_has_come(
    source: Driven, target: Driven
) -> None:
    await source.run("import numpy as np\nbig = np.random.rand(4_000_000); n = 0")
    first = await target.standby("preload", (await source.take())["id"], None)
    assert first["sent_bytes"] > 32_000_000
    for number in range(3):
        await source.run(f"big[{number}] = -1; n += 1")
        followed = await target.standby("preload", (await source.take())["id"], None)
        assert followed["sent_bytes"] < 3_000_000 < 32_000_000 < followed["state_bytes"]
    assert not await target.value("'iniconfig' in __import__('sys').modules")
    await source.run("import iniconfig; trouble = iniconfig.ParseError('here', 1, 'why')")
    last = (await source.take())["id"]
    await target.standby("preload", last, None)
    assert await target.value("'iniconfig' in __import__('sys').modules")
    assert (await target.standby("load", last, None))["sent_bytes"] < 1_000_000
    assert await target.value("(n, list(big[:3]), trouble.msg)") == (3, [-1.0] * 3, "why")


async def test_session_that_moves_often_keeps_no_more_checkpoints_than_it_may(
    source: Driven, target: Driven, plan: CheckpointPlan
) -> None:
    store = open_store(owners_address(plan.store, plan.owner))
    for number in range(24):
        await source.run(f"n = {number}")
        await source.take()
    last = (await source.take())["id"]
    assert len(store.manifests()) > 20
    few = msgspec.structs.replace(plan, keep=3)
    async with driven(target.work.parent / "three") as third:
        await third.adopt(few, epoch=3, standby=True)
        await third.standby("load", last, None)
        await third.go_on()
        await third.run("n += 1")  # soon after the move: no minute has passed
        await eventually(lambda: len(store.manifests()) <= 4)


async def test_standby_fills_no_more_memory_ahead_than_it_may(source: Driven, target: Driven) -> None:
    await source.run("import numpy as np\nbig = [np.random.rand(1_000_000) for _ in range(8)]")
    checkpoint = (await source.take())["id"]
    loaded = await target.standby("preload", checkpoint, None, most_bytes=30_000_000)
    assert loaded["state_bytes"] > 64_000_000 and loaded["sent_bytes"] < 40_000_000
    final = await target.standby("load", checkpoint, None)
    assert final["sent_bytes"] > 24_000_000
    assert await target.value("float(sum(a.sum() for a in big))") == await source.value(
        "float(sum(a.sum() for a in big))"
    )


async def test_what_cannot_be_done_is_an_error_of_its_class(
    source: Driven, target: Driven, host: Source, tmp_path: Path, plan: CheckpointPlan
) -> None:
    await source.run("a = 1")
    checkpoint = (await source.take())["id"]
    assert (await target.standby("preload", "nothing", host.peer))["error"] == "NoSuchCheckpoint"
    assert (await target.standby("dance", checkpoint, host.peer))["error"] == "CheckpointError"
    async with driven(tmp_path / "four") as other:
        await other.adopt(plan, epoch=2, standby=True, session="t")
        assert (await other.standby("preload", checkpoint, None))["error"] == "CheckpointError"
    await target.standby("load", checkpoint, host.peer)
    assert (await target.standby("preload", checkpoint, host.peer))["error"] == "MigrationError"
    host.close()
    async with driven(tmp_path / "five") as other:
        await other.adopt(plan, epoch=2, standby=True)
        assert (await other.standby("preload", checkpoint, host.peer))["error"] == "TransportError"
