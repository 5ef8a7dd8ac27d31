"""What finds and starts the agent of a Ray node; it needs no Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jupyter_gpuaas.engine.environment import for_nodes
from jupyter_gpuaas.engine.ray.actors import AgentKeeper
from jupyter_gpuaas.wire.machine import machine_id
from tests.conftest import GpuaasHome
from tests.service import quick_settings

START_S = 60.0


class Keepers:
    """Keepers of agents of one node; all of them are ended with it."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._made: list[AgentKeeper] = []

    def of(self, namespace: str) -> AgentKeeper:
        """As a service makes one, each time that it starts."""
        environ = for_nodes(quick_settings(self._home))
        made = AgentKeeper("a", str(self._home / "nodes"), namespace, environ, str(self._home), machine_id())
        self._made.append(made)
        return made

    def close(self) -> None:
        for each in self._made:
            each.stop(START_S)


@pytest.fixture
def keepers(gpuaas_home: GpuaasHome) -> Iterator[Keepers]:
    made = Keepers(gpuaas_home.path)
    yield made
    made.close()


def agents(home: GpuaasHome) -> list[int]:
    """Processes of agents."""
    return [each.pid for each in home.processes() if "jupyter_gpuaas.node.agent" in each.cmdline()]


def url(keeper: AgentKeeper) -> str:
    said = keeper.ensure(START_S)
    assert "error" not in said, said
    return str(said["url"])


def test_agent_is_found_by_its_own_service_only(keepers: Keepers) -> None:
    first, second = keepers.of("first"), keepers.of("second")
    theirs = url(first)
    assert url(second) != theirs
    second.stop(START_S)
    assert url(keepers.of("first")) == theirs


def test_agent_that_does_not_answer_in_time_is_ended_before_another_is_started(
    keepers: Keepers, gpuaas_home: GpuaasHome
) -> None:
    keeper = keepers.of("service")
    assert "did not answer in 0 s" in keeper.ensure(0.0)["error"]
    assert agents(gpuaas_home) == []
    url(keeper)
    assert len(agents(gpuaas_home)) == 1
