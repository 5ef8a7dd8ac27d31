"""What those parts of the controller that act for sessions all act with."""

from __future__ import annotations

from dataclasses import dataclass

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.agents import Agents
from jupyter_gpuaas.controller.commands import Commands
from jupyter_gpuaas.controller.endings import Endings
from jupyter_gpuaas.controller.others import Others
from jupyter_gpuaas.controller.sessions import Sessions
from jupyter_gpuaas.engine.base import Engine


@dataclass(frozen=True)
class Means:
    """The same ones for each of them."""

    sessions: Sessions
    commands: Commands
    endings: Endings
    engine: Engine
    others: Others
    agents: Agents
    settings: Settings
