"""A Ray cluster on this machine, with invented GPUs: a head without any, and nodes with one each."""

from __future__ import annotations

import atexit
import importlib.util
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from jupyter_gpuaas.config import Settings
from tests.service import quick_settings

STORE_BYTES = 100_000_000
TRIES = 4
#: On a busy machine.
WORKERS_END_S = 60.0
#: What an operator is told to set (docs/deploy/ray.md), and time to start in on a busy machine.
TUNED = {
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 3000,
    "health_check_failure_threshold": 4,
    "gcs_rpc_server_reconnect_timeout_s": 600,
    "agent_register_timeout_ms": 120_000,
}
#: Ray's own matter.
RAY_WARNINGS = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def need_ray() -> None:
    """Skip, loudly, where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("RAY IS NOT INSTALLED HERE, SO ITS ENGINE IS NOT TESTED (`make test-ray` installs it)")
    use_token()


def use_token() -> None:
    """A token for all clusters of this process; before Ray is imported, which reads it then."""
    if "ray" in sys.modules:
        return
    folder = tempfile.mkdtemp(prefix="gpuaas-ray-token-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "ray-token"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(path),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    os.environ |= {f"RAY_{name}": str(value) for name, value in TUNED.items()}


def _patiently(start: Callable[[], Any]) -> Any:
    """Ray gives a raylet 30 s to start, which is not enough on a busy machine."""
    for _ in range(TRIES - 1):
        try:
            return start()
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
    return start()


def settings_of(address: str, home: Path, **changes: Any) -> Settings:
    """Settings of a service on a cluster of this machine."""
    given: dict[str, Any] = {
        "engine": "ray",
        "ray_address": address,
        "ray_agent_host": "127.0.0.1",
        "ray_node_folder": str(home / "nodes"),
        "ray_poll_s": 0.25,
        # Here nobody else uses it, and to start an actor may take long.
        "ray_grant_s": 60.0,
    }
    return quick_settings(home, **(given | changes))


class RayCluster:
    """The processes of a cluster; its nodes come and go."""

    def __init__(self, names: tuple[str, ...] = ("node-0", "node-1")) -> None:
        need_ray()
        from ray.cluster_utils import Cluster

        self._cluster = _patiently(
            lambda: Cluster(
                initialize_head=True,
                head_node_args={
                    "num_cpus": 1,
                    "num_gpus": 0,
                    "object_store_memory": STORE_BYTES,
                    "include_dashboard": False,
                },
            )
        )
        self.address = str(self._cluster.address)
        self._nodes: dict[str, Any] = {}
        for name in names:
            self.add(name)

    def add(self, name: str, *, gpus: int = 1, **labels: str) -> None:
        """Another node; it is not one of the processes of the service whose folder the test has."""
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("GPUAAS_HOME", raising=False)
            self._nodes[name] = _patiently(
                lambda: self._cluster.add_node(
                    num_cpus=1,
                    num_gpus=gpus,
                    object_store_memory=STORE_BYTES,
                    labels={"gpuaas.io/node": name, **labels},
                )
            )

    def lose(self, name: str) -> None:
        """Kill a node's raylet; what Ray started there dies with it.

        Returns when that has happened: of an agent that is killed, too, the node's keeper would start another one.
        """
        node = self._nodes.pop(name)
        (raylet,) = node.all_processes["raylet"]
        workers = psutil.Process(raylet.process.pid).children(recursive=True)
        self._cluster.remove_node(node, allow_graceful=False)
        left = psutil.wait_procs(workers, timeout=WORKERS_END_S)[1]
        assert not left, f"of {name}, there are still {left}"

    def settings(self, home: Path, **changes: Any) -> Settings:
        """Settings of a service on it."""
        return settings_of(self.address, home, **changes)

    def close(self) -> None:
        """End all its processes."""
        import ray

        if ray.is_initialized():  # by an engine that was not closed
            ray.shutdown()
        self._cluster.shutdown()
