"""What waits is demand for Ray's autoscaler, with the provider of Ray that starts nodes on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from jupyter_gpuaas.engine import LeaseMeta
from jupyter_gpuaas.errors import AllocationError, NoCapacity
from jupyter_gpuaas.model import ResourceRequest
from tests.conftest import GpuaasHome
from tests.ray_cluster import RAY_WARNINGS, STORE_BYTES
from tests.ray_namespaces import NamespaceCluster
from tests.service import eventually

pytestmark = [pytest.mark.ray, *RAY_WARNINGS]

#: For a node to be asked for, started, and its agent with it, on a busy machine.
GROWS_S = 180.0
KINDS = {
    "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
    "gpu": {
        "resources": {"CPU": 1, "GPU": 1, "object_store_memory": STORE_BYTES},
        "labels": {"zone": "a"},
        "node_config": {},
        "min_workers": 0,
        "max_workers": 1,
    },
}
#: What Ray's commands would fill in, and its monitor does not.
NOTHING_TO_SET_UP: dict[str, Any] = {
    "auth": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "initialization_commands": [],
    "setup_commands": [],
    "worker_setup_commands": [],
    "worker_start_ray_commands": [],
}
CONFIG = {
    **NOTHING_TO_SET_UP,
    "cluster_name": "grows",
    "max_workers": 2,
    "idle_timeout_minutes": 30,
    "upscaling_speed": 1.0,
    # The head is added to it by its address. The nodes share one, so they go by their ids.
    "provider": {
        "type": "fake_multinode",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "available_node_types": KINDS,
    "head_node_type": "ray.head.default",
}


@pytest.fixture
def cluster() -> Iterator[NamespaceCluster]:
    cluster = NamespaceCluster((), autoscaling=CONFIG)
    yield cluster
    cluster.close()


async def test_node_is_made_for_who_waits_and_for_nobody_else(
    cluster: NamespaceCluster, gpuaas_home: GpuaasHome
) -> None:
    from jupyter_gpuaas.engine.ray.engine import RayEngine

    engine: Any = RayEngine(cluster.settings(gpuaas_home.path, ray_autoscale="on"))
    await engine.open()
    try:
        assert engine.nodes() == []
        # Nothing is there, and it may come; what no node ever has is refused.
        with pytest.raises(AllocationError):
            await engine.acquire(ResourceRequest(), LeaseMeta("hasty", 1), timeout=0)
        with pytest.raises(NoCapacity):
            await engine.acquire(ResourceRequest(devices=2, share=0.5), LeaseMeta("odd", 1))
        lease = await asyncio.wait_for(engine.acquire(ResourceRequest(), LeaseMeta("a", 1)), GROWS_S)
        (node,) = engine.nodes()
        assert (lease.node_id, lease.device_ids, node.labels["zone"]) == (node.id, ("cpu:0",), "a")
        await engine.release(lease.id)
        # It is there, and taken at once by the next.
        again = await asyncio.wait_for(engine.acquire(ResourceRequest(), LeaseMeta("b", 1)), GROWS_S)
        assert again.node_id == node.id
        await eventually(lambda: len(engine.nodes()) == 1)
    finally:
        await engine.close(stop_nodes=True)
