"""Ray has the commands, options and settings that docs/deploy says, and the service comes up by `ray symmetric-run`."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from tests.conftest import GpuaasHome
from tests.fault.ray_service import client_of
from tests.ray_cluster import RAY_WARNINGS, STORE_BYTES, need_ray
from tests.ray_namespaces import need_namespaces, tree

pytestmark = [pytest.mark.ray, *RAY_WARNINGS]
FOLDER = Path(__file__).parents[2] / "docs" / "deploy"


def commands(text: str, command: str) -> list[list[str]]:
    """The words of each such command in the blocks of a page."""
    blocks = re.findall(r"^```.*?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines if command in line]
    return [words[words.index(command.split()[-1]) + 1 :] for words in found]


def options_of(command: str) -> set[str]:
    from ray.scripts.scripts import cli

    return {option for each in cli.commands[command].params for option in each.opts}


def test_pages_use_options_that_ray_start_has() -> None:
    need_ray()
    known = options_of("start")
    starts = commands((FOLDER / "ray.md").read_text(), "ray start")
    (symmetric,) = commands((FOLDER / "slurm.md").read_text(), "ray symmetric-run")
    before = symmetric[: symmetric.index("--")]
    assert len(starts) == 2 and "--head" in starts[0] and "jupyter" in symmetric
    for words in (*starts, before):
        said = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert said - known - {"--min-nodes"} == set(), words
    assert {"--address", "--min-nodes"} <= options_of("symmetric-run")
    assert not {"--head", "--port", "--block", "--node-ip-address"} & set(before)  # which it sets itself
    cluster = next(
        each for each in yaml.safe_load_all((FOLDER / "kuberay.yaml").read_text()) if each["kind"] == "RayCluster"
    )
    for group in (cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]):
        assert {f"--{name}" for name in group["rayStartParams"]} <= known


def test_pages_use_settings_that_ray_has() -> None:
    need_ray()
    import ray

    folder = Path(ray.__file__).parent
    places = (
        folder / "scripts" / "symmetric_run.py",
        *folder.glob("_private/**/*.py"),
        *folder.glob("_common/**/*.py"),
    )
    known = b"".join(path.read_bytes() for path in (folder / "_raylet.so", *places))
    text = "".join(path.read_text() for path in FOLDER.iterdir() if path.suffix in (".md", ".yaml"))
    named = set(re.findall(r"\bRAY_[A-Za-z_]+\b", text)) - {"RAY_"}
    assert {"RAY_health_check_period_ms", "RAY_gcs_storage_path", "RAY_AUTH_MODE"} <= named
    unknown = {name for name in named if name.encode() not in known and name.removeprefix("RAY_").encode() not in known}
    assert unknown == set()


def started(command: list[str], environ: dict[str, str], path: Path) -> subprocess.Popen[bytes]:
    with path.open("wb") as log:
        return subprocess.Popen(command, env=environ, stdout=log, stderr=subprocess.STDOUT)


def is_service(process: psutil.Process) -> bool:
    """And not one of those that were only told to run it."""
    with contextlib.suppress(psutil.ZombieProcess):
        words = process.cmdline()
        return "up" in words and "symmetric-run" not in words
    return False


async def test_service_comes_up_by_symmetric_run_and_all_ends_with_it(gpuaas_home: GpuaasHome) -> None:
    """As docs/deploy/slurm.md has it, on one node; in a process namespace, as its end is a `ray stop`."""
    need_namespaces()
    with socket.socket() as probe:
        probe.bind(("", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    settings = {
        "GPUAAS_RAY_NODE_FOLDER": str(gpuaas_home.path / "nodes"),
        "GPUAAS_RAY_AGENT_HOST": "127.0.0.1",
        "GPUAAS_DEVICES": "cpu:1",
        "GPUAAS_SPARE_KERNELS": "0",
        "GPUAAS_RAY_GRANT_S": "60",
    }
    scripts = Path(sys.executable).parent
    up = [str(scripts / "jupyter"), "gpuaas", "up", "--engine", "ray"]
    run = [str(scripts / "ray"), "symmetric-run", "--address", address, "--min-nodes", "1"]
    run += ["--num-gpus=1", "--num-cpus=0", f"--object-store-memory={STORE_BYTES}", "--include-dashboard=false", "--"]
    alone = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    # The first process of a namespace is the parent of orphans. The end of these has to be seen by `ray stop`.
    alone += ["bash", "-c", '"$@"; exit $?', "bash"]
    environ = gpuaas_home.env | settings | {"PATH": f"{scripts}:{os.environ['PATH']}"}
    path = gpuaas_home.path / "run.log"
    process = started([*alone, *run, *up], environ, path)
    try:
        client = await client_of(gpuaas_home.path, lambda: process.poll() is None, path)
        (node,) = await client.nodes()
        view = await client.create_session("one", wait_s=60)
        assert view.session.lease is not None and view.session.lease.node_id == node.id
        await client.release(view.session.id)
        await client.close()
        (service,) = filter(is_service, tree(process.pid))
        service.send_signal(signal.SIGINT)
        assert process.wait(120) == 0, path.read_text()
        assert "Running command on head node" in path.read_text()
        assert "Stopped all" in path.read_text(), path.read_text()  # of Ray's processes
    finally:
        process.kill()  # and all of its namespace with it
        process.wait()
