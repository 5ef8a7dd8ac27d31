"""The engine that the settings name."""

from __future__ import annotations

from jupyter_gpuaas.config import PREFIX, Settings
from jupyter_gpuaas.engine.base import Engine
from jupyter_gpuaas.engine.local import LocalEngine


def make_engine(settings: Settings, *, leftovers: bool = False) -> Engine:
    """Make it.

    Parameters
    ----------
    leftovers
        It is to find the nodes that run, and to start none.
    """
    if settings.engine == "ray":
        # Here, so that nobody needs Ray who does not use it.
        from jupyter_gpuaas.engine.ray.engine import RayEngine

        return RayEngine(settings, start=not leftovers)
    return LocalEngine(settings, nodes=0 if leftovers else None)


def engine_settings(settings: Settings) -> dict[str, str]:
    """The settings of the engine that are not their defaults, by name."""
    return {
        name: value
        for name, value in ((key.removeprefix(PREFIX).lower(), value) for key, value in settings.environment().items())
        if name == "engine" or name.startswith("ray_")
    }
