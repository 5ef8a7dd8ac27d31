"""A Ray cluster whose nodes have networks of their own: links are cut, nodes frozen, and the head restarted.

The head is on this machine's own network, as the service is; each node in a network namespace, behind a bridge. For
root, with iproute2. What is made here has one name, by which nobody else's is touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from jupyter_gpuaas.config import Settings
from tests.ray_cluster import STORE_BYTES, TRIES, need_ray, settings_of

START_S = 120.0
END_S = 30.0
#: By which Ray's provider of invented nodes knows the head.
HEAD_ID = f"{0:05}".rjust(56, "f")


def need_namespaces() -> None:
    """Skip, loudly, where there can be none."""
    need_ray()
    missing = [name for name in ("ip", "unshare") if shutil.which(name) is None]
    if os.geteuid() != 0 or missing:
        why = f"NO {' NOR '.join(missing)} HERE" if missing else "NOT ROOT"
        pytest.skip(f"{why}: RAY IS NOT TESTED ON NODES WITH NETWORKS OF THEIR OWN")
    tried = subprocess.run(["unshare", "--net", "--pid", "--fork", "--mount-proc", "true"], capture_output=True)
    if tried.returncode:
        pytest.skip(f"NO NAMESPACES HERE ({tried.stderr.decode().strip()}): RAY IS NOT TESTED ON NODES WITH NETWORKS")


class NamespaceCluster:
    """A head with a memory that lasts, and nodes with one invented GPU each.

    Parameters
    ----------
    autoscaling
        What the head's autoscaler is told, but for the head's address; its nodes share the head's network.
    """

    def __init__(
        self, names: tuple[str, ...] = ("node-0", "node-1"), *, autoscaling: Mapping[str, Any] | None = None
    ) -> None:
        need_namespaces()
        self.folder = Path(tempfile.mkdtemp(prefix="gpuaas-ray-"))
        self._autoscaling = autoscaling
        self._id = secrets.token_hex(2)
        self._net = f"10.{secrets.randbelow(100) + 100}.{secrets.randbelow(250)}"
        self._numbers = {name: number for number, name in enumerate(names)}
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        with socket.socket() as probe:
            probe.bind(("", 0))
            self.address = f"{self._net}.1:{probe.getsockname()[1]}"
        try:
            ip("link", "add", self._bridge, "type", "bridge")
            ip("addr", "add", f"{self._net}.1/24", "dev", self._bridge)
            ip("link", "set", self._bridge, "up")
            self.start_head()
            for name in names:
                self._lay(name)
                self.add(name)
        except BaseException:
            self.close()
            raise

    @property
    def _bridge(self) -> str:
        return f"gpu{self._id}"

    def _space(self, name: str) -> str:
        return f"gpuaas-{self._id}-{self._numbers[name]}"

    def _cable(self, name: str) -> str:
        return f"gpu{self._id}n{self._numbers[name]}"

    def _lay(self, name: str) -> None:
        space, cable = self._space(name), self._cable(name)
        ip("netns", "add", space)
        ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
        ip("link", "set", cable, "master", self._bridge, "up")
        ip("-n", space, "addr", "add", f"{self.host(name)}/24", "dev", "eth0")
        ip("-n", space, "link", "set", "lo", "up")
        ip("-n", space, "link", "set", "eth0", "up")

    def host(self, name: str) -> str:
        """A node's address."""
        return f"{self._net}.{10 + self._numbers[name]}"

    # -- processes -----------------------------------------------------------------------------------------------

    def start_head(self) -> None:
        """The head, in a process namespace of its own: it refuses to start beside nodes of its cluster that it sees."""
        host, _, port = self.address.partition(":")
        (self.folder / "gcs").mkdir(exist_ok=True)
        memory = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(self.folder / "gcs")}
        more = []
        if self._autoscaling:
            provider = {**self._autoscaling["provider"], "gcs_address": self.address}
            (self.folder / "autoscaling.json").write_text(json.dumps({**self._autoscaling, "provider": provider}))
            memory = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
            memory["RAY_OVERRIDE_NODE_ID_FOR_TESTING"] = HEAD_ID
            more = ["--autoscaling-config", str(self.folder / "autoscaling.json")]
        alone = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
        arguments = [*more, "--head", "--port", port, "--num-gpus=0", "--include-dashboard=false"]
        self._start(
            "head", alone, [*arguments, "--node-ip-address", host, "--temp-dir", str(self.folder / "r")], memory
        )

    def add(self, name: str) -> None:
        """Start Ray on a node."""
        label = f"gpuaas.io/node={name}"
        arguments = ["--address", self.address, "--node-ip-address", self.host(name), "--num-gpus=1", "--labels", label]
        self._start(name, ["ip", "netns", "exec", self._space(name)], arguments, {})

    def _start(self, name: str, inside: list[str], arguments: list[str], more: dict[str, str]) -> None:
        environ = {key: value for key, value in os.environ.items() if key != "GPUAAS_HOME"} | more
        script = str(Path(sys.executable).with_name("ray"))
        own = ["--num-cpus=0", f"--object-store-memory={STORE_BYTES}", "--block", "--disable-usage-stats"]
        command = [*inside, sys.executable, script, "start", *arguments, *own]
        path = self.folder / f"{name}.log"
        for _ in range(TRIES):
            with path.open("wb") as log:
                self._started[name] = process = subprocess.Popen(
                    command, env=environ, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
                )
            until = time.monotonic() + START_S
            while process.poll() is None and time.monotonic() < until:
                if b"Ray runtime started" in path.read_bytes():
                    return
                time.sleep(0.1)
            self.lose(name)
            if b"timed out during startup" not in path.read_bytes():
                break  # else it was given 30 s by Ray, which is not enough on a busy machine
        raise AssertionError(path.read_text()[-4000:])

    def lose(self, name: str) -> None:
        """Kill what Ray runs on a node, or the head; what it did not start goes on."""
        process = self._started.pop(name)
        gone = tree(process.pid)
        for each in gone:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()
        psutil.wait_procs(gone, timeout=END_S)

    def again(self, name: str) -> None:
        """Start Ray on a node again, when the head has heard of the end of the former."""
        self.lose(name)
        until = time.monotonic() + START_S
        while self.host(name) in self._alive():
            assert time.monotonic() < until, f"the head still has {name}"
            time.sleep(0.2)
        self.add(name)

    def _alive(self) -> set[str]:
        """Addresses of the nodes that the head has."""
        from ray._raylet import GcsClient

        listed = GcsClient(address=self.address).get_all_node_info(timeout=START_S).values()
        return {each.node_manager_address for each in listed if each.state == each.ALIVE}

    def given_up(self, name: str) -> bool:
        """Whether Ray on a node has ended."""
        return self._started[name].poll() is not None

    def raylets(self) -> dict[str, int]:
        """Process of the raylet of each node."""
        return {
            name: each.pid
            for name in self._numbers
            for each in tree(self._started[name].pid)
            if each.name() == "raylet"
        }

    def everything(self, name: str) -> list[int]:
        """Ids of all processes on a node: Ray's, ours, kernels."""
        listed = subprocess.run(["ip", "netns", "pids", self._space(name)], check=True, capture_output=True, text=True)
        return [int(each) for each in listed.stdout.split()]

    # -- what goes wrong -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def cut(self, name: str) -> Iterator[None]:
        """A node's cable is unplugged for the time of the block."""
        ip("link", "set", self._cable(name), "down")
        try:
            yield
        finally:
            ip("link", "set", self._cable(name), "up")

    @contextlib.contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """Nothing runs on a node for the time of the block."""
        stopped = self.everything(name)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """The head answers nothing for the time of the block."""
        (server,) = [each for each in tree(self._started["head"].pid) if each.name() == "gcs_server"]
        server.suspend()
        try:
            yield
        finally:
            server.resume()

    # -- as the other cluster has it -----------------------------------------------------------------------------

    def settings(self, home: Path, **changes: Any) -> Settings:
        """Settings of a service on it."""
        return settings_of(self.address, home, **({"ray_agent_host": ""} | changes))

    def close(self) -> None:
        """End all processes of it, and take its network away."""
        with contextlib.suppress(ImportError):
            import ray

            if ray.is_initialized():  # by an engine that was not closed
                ray.shutdown()
        for name in list(self._started):
            self.lose(name)
        for name in self._numbers:
            with contextlib.suppress(subprocess.CalledProcessError, ProcessLookupError):  # was never laid
                for pid in self.everything(name):
                    os.kill(pid, signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", self._space(name)], capture_output=True)
            subprocess.run(["ip", "link", "del", self._cable(name)], capture_output=True)
        subprocess.run(["ip", "link", "del", self._bridge], capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def tree(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    try:
        top = psutil.Process(pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
