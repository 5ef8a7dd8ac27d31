"""torch's defaults, modes and switches."""

from __future__ import annotations

from typing import Any

from ..device import settings
from ..rules.registry import _restoring
from .world import Hidden, Kind, needed


class TorchSettings(Kind):
    kind = "torch.settings"

    def look(self, world: Hidden) -> Any:
        return settings.torch_settings(world.mentions("set_num_threads"))

    def put_back(self, value: Any, world: Hidden) -> None:
        needed("torch")
        restoring = _restoring.get(None)
        settings.set_torch_settings(value, restoring.device if restoring else str)
