"""Jupyter server extension: what front ends see of the service, and do with it (docs/lab-api.md).

Nothing else of this package needs ``jupyter_server``, and nothing else imports this part of it.
"""

from __future__ import annotations

from typing import Any


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """Jupyter server's hook: which applications this extension has."""
    from jupyter_gpuaas.server.app import GpuaasApp

    return [{"module": "jupyter_gpuaas.server", "app": GpuaasApp}]
