"""What a test finds in a JupyterLab that others have used before: nothing of theirs, and two nodes that are up."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import httpx

from tests.fault.test_sessions_go_on import until
from tests.ui.lab import Lab

NODES = 2
#: What a machine with much else to do may take for it.
DEADLINE_S = 120.0


def tidy(lab: Lab) -> None:
    """Bring the server and its service to where they began, starting what does not run."""
    if not (lab.runs and service_is_ready(lab)):
        lab.home.cli("up", "--nodes", str(NODES), "--detach")
    if not lab.runs:
        lab.start()
    until(lambda: nothing_runs(lab), DEADLINE_S)
    until(lambda: all_nodes_are_up(lab), DEADLINE_S)
    for path in lab.folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    shutil.rmtree(lab.home.path / "choices", ignore_errors=True)
    shutil.rmtree(Path(os.environ["JUPYTER_CONFIG_DIR"]) / "lab" / "workspaces", ignore_errors=True)
    for theme in Path(os.environ["JUPYTER_CONFIG_DIR"]).glob("lab/user-settings/**/themes.jupyterlab-settings"):
        theme.unlink()


def service_is_ready(lab: Lab) -> bool:
    with suppress(httpx.HTTPStatusError):
        return bool(lab.ask("GET", "jupyter-gpuaas/service")["state"] == "ready")
    return False


def nothing_runs(lab: Lab) -> bool:
    """Whether there is no kernel and no session; whatever there is, is ended."""
    # A kernel that is just being added makes the server answer with 500, one that goes meanwhile with 404.
    with suppress(httpx.HTTPStatusError):
        kernels = lab.ask("GET", "api/kernels")
        for each in kernels:
            lab.ask("DELETE", f"api/kernels/{each['id']}")
        sessions = lab.ask("GET", "jupyter-gpuaas/v1/sessions")
        for each in sessions:
            lab.ask("DELETE", f"jupyter-gpuaas/v1/sessions/{each['id']}")
        return not kernels and not sessions and not lab.ask("GET", "jupyter-gpuaas/v1/allocations")
    return False


def all_nodes_are_up(lab: Lab) -> bool:
    with suppress(httpx.HTTPStatusError):
        return [each["state"] for each in lab.ask("GET", "jupyter-gpuaas/v1/nodes")] == ["up"] * NODES
    return False
