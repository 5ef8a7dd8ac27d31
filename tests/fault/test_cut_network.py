"""A node whose network is cut: in a network namespace of its own, with a link to the service that is taken down.

Nothing answers then, and nothing is refused either: what is sent is gone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jupyter_gpuaas.engine import process
from tests.conftest import GpuaasHome
from tests.roaming import roaming
from tests.service import Service, eventually, running_service

from .nodes import is_stopped
from .test_silent_nodes import NO_MORE, QUICK, Counted, is_lost

pytestmark = pytest.mark.fault

#: Of a range that is for tests of networks and is nobody's; a link of two ends.
SERVICE_ADDRESS, NODE_ADDRESS = "198.18.77.1", "198.18.77.2"
NODE = "local-1"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Cable:
    """The link between the service and a node."""

    def __init__(self, namespace: str, far_end: str) -> None:
        self.namespace = namespace
        self._far_end = far_end

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        # At the far end: at the near one, the way to the node would be another one, and its absence an error at once.
        ip("-n", self.namespace, "link", "set", self._far_end, "down")
        try:
            yield
        finally:
            ip("-n", self.namespace, "link", "set", self._far_end, "up")


@pytest.fixture
def cable() -> Iterator[Cable]:
    if os.geteuid() != 0:
        pytest.skip("a network namespace of a test's own needs root")
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` (iproute2) to make a network namespace with")
    name = f"gpuaas-{os.getpid()}"
    near, far = f"gs{os.getpid()}"[:15], f"gn{os.getpid()}"[:15]
    try:
        ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespace can be made here: {error.stderr.strip()}")
    try:
        try:
            ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no pair of network devices can be made here: {error.stderr.strip()}")
        ip("addr", "add", f"{SERVICE_ADDRESS}/30", "dev", near)
        ip("link", "set", near, "up")
        ip("-n", name, "addr", "add", f"{NODE_ADDRESS}/30", "dev", far)
        ip("-n", name, "link", "set", far, "up")
        ip("-n", name, "link", "set", "lo", "up")
        yield Cable(name, far)
    finally:
        ip("netns", "del", name)  # takes both ends of the link along


@pytest.fixture
async def service(gpuaas_home: GpuaasHome, cable: Cable, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """Two nodes of one machine, one of them behind the cable."""

    def start(command: list[str], *, env: dict[str, str], **more: Any) -> subprocess.Popen[bytes]:
        if NODE in command:
            command = ["ip", "netns", "exec", cable.namespace, *command]
            env = env | {"GPUAAS_HOST": NODE_ADDRESS}
        return subprocess.Popen(command, env=env, **more)

    # Only there: everybody else starts processes as ever.
    known = SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL, STDOUT=subprocess.STDOUT)
    monkeypatch.setattr(process, "subprocess", known)
    async with running_service(gpuaas_home.path, **QUICK) as running:
        await eventually(lambda: len(list(gpuaas_home.path.glob("nodes/*/leash-*.json"))) == 2)
        assert NODE_ADDRESS in running.engine.agent(NODE).url
        yield running


async def test_node_that_is_cut_off_has_stopped_its_kernel_before_the_session_goes_on_elsewhere(
    service: Service, cable: Cable, tmp_path: Path
) -> None:
    await service.admin.cordon("local-0", cordoned=True)
    async with roaming(service, **NO_MORE) as roamer:
        await service.admin.cordon("local-0", cordoned=False)
        counted = Counted(service, roamer, tmp_path / "lines")
        await counted.begin()
        assert counted.node == NODE
        with cable.cut():
            await is_lost(counted)
            await counted.comes_back()
            # It stands still, and nobody who could end it reaches it.
            assert is_stopped(counted.kernel)
        await counted.only_one_is_left()
        story = await roamer.client.events(session=roamer.id)
        (cause,) = [event.cause for event in story if event.target == "lost"]
        assert "silent" in cause and NODE in cause
