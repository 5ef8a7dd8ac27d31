"""The simulator of scheduling: nobody is lost in it, and no device is given twice."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture
def scheduling(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [BENCHMARKS, *sys.path])
    return importlib.import_module("scheduling")


def test_every_rule_begins_every_session_and_gives_no_device_twice(scheduling: Any) -> None:
    sessions = scheduling.trace(60, 8, seed=3)
    devices = sum(scheduling.DEVICES[number % len(scheduling.DEVICES)] for number in range(8))
    for name, (rule, parks) in scheduling.RULES.items():

        def watched(simulation: Any, rule: Any = rule) -> Any:
            outlook = rule(simulation)
            held = [(each.lease.node_id, one) for each in simulation.holding.values() for one in each.lease.device_ids]
            held += [(each.node_id, one) for each in outlook.placements for one in each.device_ids]
            assert len(held) == len(set(held)) <= devices
            return outlook

        simulation = scheduling.Simulation(sessions, 8, watched, parks=parks)
        simulation.run()
        assert all(each.begun_s >= each.arrives_s for each in simulation.sessions.values()), name
        simulation.close()
        found = scheduling.figures(simulation)
        assert 0 < found["computing"] <= found["held"] <= 1
        assert 0 < found["fairness"] <= 1
        assert bool(found["parkings"]) <= parks
        assert 0 <= found["moves"] <= found["parkings"]
