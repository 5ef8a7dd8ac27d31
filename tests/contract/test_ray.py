"""What the Ray engine does beside what every engine does."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from jupyter_gpuaas import __version__
from jupyter_gpuaas.engine import LeaseMeta
from jupyter_gpuaas.engine.process import alive
from jupyter_gpuaas.errors import AllocationError, NoCapacity
from jupyter_gpuaas.model import CUDA, Device, Lease, NodeState, ResourceRequest
from tests.certificates import own_ca
from tests.conftest import GpuaasHome
from tests.fault.nodes import agent_pid
from tests.ray_cluster import RAY_WARNINGS, RayCluster
from tests.service import eventually

pytestmark = [pytest.mark.ray, *RAY_WARNINGS]

ONE = ResourceRequest()
HALF = ResourceRequest(share=0.5)
#: Ray's label for what it has found a node's GPUs to be; here it is told.
TYPE = "ray.io/accelerator-type"


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    cluster = RayCluster(())
    cluster.add("big", gpus=2, zone="a", **{TYPE: "L4"})
    cluster.add("small", zone="b", **{TYPE: "T4"})
    yield cluster
    cluster.close()


@pytest.fixture
def home(cluster: RayCluster, gpuaas_home: GpuaasHome) -> Path:
    return gpuaas_home.path


@pytest.fixture
async def engine(cluster: RayCluster, home: Path) -> AsyncIterator[Any]:
    from jupyter_gpuaas.engine.ray.engine import RayEngine

    made = RayEngine(cluster.settings(home, devices="cpu:2"))
    await made.open()
    yield made
    await made.close(stop_nodes=True)


def meta(session: str) -> LeaseMeta:
    return LeaseMeta(session, 1)


def where(lease: Lease) -> tuple[str, tuple[str, ...]]:
    return lease.node_id, lease.device_ids


async def test_nodes_offer_what_ray_can_hand_out_and_have_its_labels(engine: Any) -> None:
    big, small = sorted(engine.nodes(), key=lambda node: str(node.id))
    assert (big.id, len(big.devices), big.labels["zone"]) == ("big", 2, "a")
    assert (small.id, len(small.devices), small.labels["zone"]) == ("small", 1, "b")


async def test_acquire_several_devices_by_label_and_away_from_a_node(engine: Any) -> None:
    with pytest.raises(NoCapacity, match="zone b"):
        await engine.acquire(ResourceRequest(devices=2, labels={"zone": "b"}), meta("a"))
    both = await engine.acquire(ResourceRequest(devices=2, labels={"zone": "in(a,c)"}), meta("b"), timeout=0)
    assert both.node_id == "big" and set(both.device_ids) == {"cpu:0", "cpu:1"}
    await engine.release(both.id)
    assert (await engine.acquire(ResourceRequest(avoid=("big",)), meta("c"), timeout=0)).node_id == "small"
    assert (await engine.acquire(ResourceRequest(labels={"zone": "!b"}), meta("d"), timeout=0)).node_id == "big"


async def test_acquire_by_the_type_of_accelerator(engine: Any) -> None:
    assert {node.id: node.labels[TYPE] for node in engine.nodes()} == {"big": "L4", "small": "T4"}
    with pytest.raises(NoCapacity, match="accelerator-type H100"):
        await engine.acquire(ResourceRequest(labels={TYPE: "H100"}), meta("a"))
    first = await engine.acquire(ResourceRequest(labels={TYPE: "in(H100,T4)"}), meta("b"), timeout=0)
    assert first.node_id == "small"
    with pytest.raises(AllocationError):  # it is taken, whatever else is free
        await engine.acquire(ResourceRequest(labels={TYPE: "T4"}), meta("c"), timeout=0.05)
    for name in "de":
        assert (await engine.acquire(ResourceRequest(labels={TYPE: "L4"}), meta(name), timeout=0)).node_id == "big"


async def test_acquire_shares_of_one_device(engine: Any) -> None:
    on_small = msgspec.structs.replace(HALF, node="small")
    first = await engine.acquire(on_small, meta("a"), timeout=0)
    second = await engine.acquire(on_small, meta("b"), timeout=0)
    assert where(first) == where(second) == ("small", ("cpu:0",))
    assert first.share == second.share == 0.5
    with pytest.raises(AllocationError):
        await engine.acquire(ResourceRequest(share=0.25, node="small"), meta("c"), timeout=0.05)
    await engine.release(first.id)
    third = await engine.acquire(ResourceRequest(share=0.25, node="small"), meta("c"), timeout=0)
    assert where(third) == where(second)


async def test_acquire_waits_for_what_others_hold_in_the_cluster_and_nobody_overtakes(
    cluster: RayCluster, home: Path
) -> None:
    from jupyter_gpuaas.engine.ray.engine import RayEngine

    engine = RayEngine(cluster.settings(home, devices="cpu:2", ray_grant_s=2.0))
    await engine.open()
    import ray

    class Foreign:
        def ready(self) -> bool:
            return True

    theirs = [ray.remote(Foreign).options(num_cpus=0, num_gpus=1).remote() for _ in range(3)]
    try:
        assert await asyncio.to_thread(lambda: ray.get([each.ready.remote() for each in theirs], timeout=60))
        first = asyncio.create_task(engine.acquire(ONE, meta("first")))
        second = asyncio.create_task(engine.acquire(ONE, meta("second")))
        # Nothing is free, whatever we think.
        with pytest.raises(AllocationError):
            await engine.acquire(ONE, meta("hasty"), timeout=0)
        assert not first.done() and not second.done()
        ray.kill(theirs.pop())
        lease = await asyncio.wait_for(first, 60)
        assert not second.done()
        ray.kill(theirs.pop())
        assert where(await asyncio.wait_for(second, 60)) != where(lease)
    finally:
        for each in theirs:
            ray.kill(each)
        await engine.close(stop_nodes=True)


async def test_lease_that_loses_its_actor_is_held_again_with_the_same_devices(engine: Any) -> None:
    import ray

    held = [await engine.acquire(ResourceRequest(node="big"), meta(name), timeout=0) for name in "ab"]
    for lease in held:
        ray.kill(engine._leases._holders[lease.id])
    for lease in reversed(held):  # so that Ray offers the other one's device first
        engine._leases.lost(lease.id)
        await eventually(lambda lease=lease: lease.id in engine._leases._holders)
    assert engine.leases() == held
    said = await engine._cluster.renew([engine._leases._holders[lease.id] for lease in held])
    assert [f"cpu:{each.ids[0]}" for each in said] == [lease.device_ids[0] for lease in held]


async def test_service_with_another_token_than_the_cluster_does_not_start_and_says_why(
    cluster: RayCluster, home: Path, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("f" * 64)
    settings = cluster.settings(home, ray_token_file=str(tmp_path / "token")).environment()
    environ = {name: value for name, value in (os.environ | settings).items() if not name.startswith("RAY_AUTH_TOKEN")}
    up = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "jupyter_gpuaas", "up"), env=environ, stderr=asyncio.subprocess.PIPE
    )
    _, said = await asyncio.wait_for(up.communicate(), 120)
    assert up.returncode == 1
    assert b"Ray" in said and b"oken" in said and b"Traceback" not in said, said.decode()


ORPHAN = """
import asyncio, sys
from pathlib import Path
from jupyter_gpuaas.config import load
from jupyter_gpuaas.engine.ray.cluster import Cluster
from jupyter_gpuaas.engine.ray.plan import RAY_NODE_LABEL

async def main():
    cluster = Cluster(load(), "orphans")
    await cluster.connect()
    (node,) = [each for each in await cluster.nodes() if each.labels.get("gpuaas.io/node") == "small"]
    holder = await cluster.hold("orphan", {"session_id": "x", "epoch": 1}, 1.0, [node.ray_id])
    print("asked", flush=True)
    await holder.first

asyncio.run(main())
"""


async def test_lease_that_waits_when_its_service_dies_does_not_keep_a_device(
    cluster: RayCluster, engine: Any, home: Path
) -> None:
    # 1. All is taken.  2. A service asks for a device, and is killed.  3. The device becomes free.
    lease = await engine.acquire(ResourceRequest(node="small"), meta("a"), timeout=0)
    environ = {**os.environ, **cluster.settings(home).environment()}
    asking = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ORPHAN, env=environ, stdout=asyncio.subprocess.PIPE
    )
    assert asking.stdout is not None
    assert await asking.stdout.readline() == b"asked\n"
    asking.kill()
    await asking.wait()
    await engine.release(lease.id)
    # Its actor begins, hears nothing of its service, and ends. We stand behind it.
    again = await asyncio.wait_for(engine.acquire(ResourceRequest(node="small"), meta("b")), 60)
    assert where(again) == where(lease)


async def test_lease_of_a_service_that_is_gone_ends_by_itself_and_its_agents_are_left_alone(
    cluster: RayCluster, home: Path
) -> None:
    from jupyter_gpuaas.engine.ray.engine import RayEngine

    first = RayEngine(cluster.settings(home, ray_lease_s=2.0))
    await first.open()
    await first.acquire(ResourceRequest(node="small"), meta("a"), timeout=0)
    pids, urls = [agent_pid(home, node) for node in ("big", "small")], {node.url for node in first.nodes()}
    await first.close(stop_nodes=False)
    (home / "other").mkdir()
    other = RayEngine(cluster.settings(home / "other", ray_node_folder=str(home / "nodes")))
    await other.open()
    try:
        assert not urls & {node.url for node in other.nodes()}
        # Another service, with another namespace: it knows nothing of the lease, and waits for Ray.
        await asyncio.wait_for(other.acquire(ResourceRequest(node="small"), meta("b")), 60)
    finally:
        await other.close(stop_nodes=True)
    assert all(alive(pid) for pid in pids)
    back = RayEngine(cluster.settings(home, ray_lease_s=2.0))
    await back.open()
    assert [agent_pid(home, node) for node in ("big", "small")] == pids
    await back.close(stop_nodes=True)


async def test_raylet_that_dies_and_comes_back_finds_its_agent_and_leases(
    cluster: RayCluster, engine: Any, home: Path
) -> None:
    lease = await engine.acquire(ResourceRequest(node="small"), meta("a"), timeout=0)
    pid, news = agent_pid(home, "small"), engine.events()
    cluster.lose("small")
    event = await asyncio.wait_for(anext(news), 60)
    assert (event.node_id, event.state) == ("small", NodeState.CORDONED)  # what runs there goes on
    assert alive(pid)
    assert engine.leases() == [lease]
    cluster.add("small", zone="b", **{TYPE: "T4"})
    event = await asyncio.wait_for(anext(news), 60)
    assert (event.node_id, event.state) == ("small", NodeState.UP)
    assert agent_pid(home, "small") == pid
    await eventually(lambda: lease.id in engine._leases._holders)
    with pytest.raises(AllocationError):
        await engine.acquire(ResourceRequest(node="small"), meta("b"), timeout=0)
    await news.aclose()


async def test_agent_that_is_started_again_has_the_settings_of_the_service_that_is_there_now(
    cluster: RayCluster, home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.util import list_named_actors

    from jupyter_gpuaas.engine.ray import members
    from jupyter_gpuaas.engine.ray.engine import RayEngine

    async def opened(**changes: Any) -> Any:
        made = RayEngine(cluster.settings(home, devices="cpu:2", **changes))
        await made.open()
        return made

    def keepers() -> list[str]:
        return sorted(name for name in list_named_actors() if name.startswith("agent-"))

    def setting(name: str) -> str | None:
        return psutil.Process(agent_pid(home, "small")).environ().get(f"GPUAAS_{name}")

    first = await opened()
    pid, kept = agent_pid(home, "small"), keepers()
    assert len(kept) == 2
    assert {node.version for node in first.nodes()} == {__version__}
    await first.close(stop_nodes=False)
    # With the same settings, everything is found as it was; what is of another version is said to be.
    with monkeypatch.context() as upgraded:
        upgraded.setattr(members, "__version__", "99")
        same = await opened()
    assert (agent_pid(home, "small"), keepers()) == (pid, kept)
    assert f"the agent of node small has version {__version__}, this service 99" in caplog.text
    await same.close(stop_nodes=False)
    # With others, agents are found, and those who look after them are new.
    other = await opened(workdir="session")
    try:
        assert agent_pid(home, "small") == pid
        await eventually(lambda: len(keepers()) == 2 and not set(keepers()) & set(kept))
        assert setting("WORKDIR") is None
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: agent_pid(home, "small") != pid and alive(agent_pid(home, "small")), 60)
        assert setting("WORKDIR") == "session"
    finally:
        await other.close(stop_nodes=False)
    own_ca(home)
    # They do not go on without TLS when it is switched on.
    secret = await opened(tls="on")
    try:
        assert {node.url.partition(":")[0] for node in secret.nodes()} == {"https"}
        pid = agent_pid(home, "small")
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: agent_pid(home, "small") != pid and alive(agent_pid(home, "small")), 60)
        assert setting("TLS") == "on"
    finally:
        await secret.close(stop_nodes=True)


async def test_agent_has_nothing_of_ray_in_its_environment_and_no_parent_of_ray(engine: Any, home: Path) -> None:
    process = psutil.Process(agent_pid(home, "big"))
    found = process.environ()
    assert not [name for name in found if name.startswith("RAY_") or name in ("OMP_NUM_THREADS", "RAYLET_PID")]
    assert "raylet" not in {parent.name() for parent in process.parents()}


async def test_slices_are_handed_out_by_their_uuids_as_the_node_was_started_with(
    cluster: RayCluster, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jupyter_gpuaas.engine.ray import plan
    from jupyter_gpuaas.engine.ray.cluster import Cluster

    uuids = ("MIG-4aa8cfd1-0000-5000-8000-000000000001", "MIG-4aa8cfd1-0000-5000-8000-000000000002")
    with monkeypatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", ",".join(uuids))
        cluster.add("slices", gpus=2)
    connection = Cluster(cluster.settings(home), "slices")
    await connection.connect()
    try:
        (node,) = [each for each in await connection.nodes() if each.alive and each.name == "slices"]
        holders = [await connection.hold(f"l{n}", {}, 1.0, [node.ray_id]) for n in range(2)]
        told = [await asyncio.wait_for(each.first, 60) for each in holders]
        assert {each.ids for each in told} == {(uuid,) for uuid in uuids}
        slices = [Device(f"cuda:{uuid}", CUDA, "slice", 1, uuid) for uuid in uuids]
        assert plan.devices_of(told[0].ids, slices) == (f"cuda:{told[0].ids[0]}",)
        for each in holders:
            await connection.free(each.actor)
    finally:
        await connection.close()
        cluster.lose("slices")


async def test_service_with_a_home_folder_of_its_own_adopts_the_lease_on_a_node_whose_agent_hangs(
    cluster: RayCluster, home: Path
) -> None:
    from jupyter_gpuaas.engine.ray.engine import RayEngine

    both = {"ray_namespace": "both", "ray_node_folder": str(home / "nodes"), "devices": "cpu:2"}
    first = RayEngine(cluster.settings(home, **both))
    await first.open()
    lease = await first.acquire(ResourceRequest(node="small"), meta("a"), timeout=0)
    pid = agent_pid(home, "small")
    await first.close(stop_nodes=False)
    (home / "other").mkdir()
    second = RayEngine(cluster.settings(home / "other", **both))
    os.kill(pid, signal.SIGSTOP)
    try:
        await second.open()
        assert [node.id for node in second.nodes()] == ["big"]
        assert second.leases() == [lease]
        os.kill(pid, signal.SIGCONT)
        await eventually(lambda: [node.state for node in second.nodes()] == [NodeState.UP] * 2)
        assert agent_pid(home, "small") == pid
    finally:
        os.kill(pid, signal.SIGCONT)
        await second.close(stop_nodes=True)
