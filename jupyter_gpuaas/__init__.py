"""Notebook sessions on the GPU nodes of a pool, that outlive their client."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext jupyter_gpuaas``: adds ``%remote_gpu`` and ``%%remote_gpu``."""
    # Here, so that importing the package costs nothing.
    from jupyter_gpuaas.magics import register

    register(shell)
