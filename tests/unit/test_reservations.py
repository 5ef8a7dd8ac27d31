"""What can be reserved beside what is."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.catalogue.database import Database
from jupyter_gpuaas.controller.catalogue.reservations import ReservationRows
from jupyter_gpuaas.controller.fair_use import FairUse
from jupyter_gpuaas.controller.others import Others
from jupyter_gpuaas.errors import InvalidRequest
from jupyter_gpuaas.model import Device, Node, NodeState


def test_reservations_of_several_nodes_stand_beside_each_other(tmp_path: Path) -> None:
    devices = tuple(Device(f"cpu:{number}", "cpu", "cpu", 10) for number in range(4))
    engine: Any = SimpleNamespace(nodes=lambda: [Node(name, NodeState.UP, devices) for name in "ab"])
    sessions: Any = SimpleNamespace(all=list, tell_user=lambda *_: None)
    limits: Any = None  # nobody asks for devices
    database = Database(tmp_path / "x.db", events_kept=10)
    fair = FairUse(sessions, engine, Others(engine), limits, ReservationRows(database), Settings(home=str(tmp_path)))
    until_s = time.time() + 600

    def reserve(count: int, node: str | None, from_s: float = 0.0) -> None:
        end_s = max(until_s, from_s + 1)
        more: dict[str, Any] = {"kind": None, "label": "", "made_by": "root"}
        fair.reserve("ann", count, from_s=from_s, until_s=end_s, node=node, **more)

    for name in "ab":
        reserve(4, name)
        with pytest.raises(InvalidRequest, match=f"node {name} has 4 of these, of which 4 are reserved"):
            reserve(1, name)
    with pytest.raises(InvalidRequest, match="the pool has 8 of these, of which 8 are reserved"):
        reserve(1, None)
    reserve(2, None, from_s=until_s)
    with pytest.raises(InvalidRequest, match="node a has 4 of these, of which 2 are reserved"):
        reserve(3, "a", from_s=until_s)
    database.close()
