"""Programs that start kernels, each as its user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from websockets.sync.client import connect

from tests.conftest import GpuaasHome
from tests.fault.test_sessions_go_on import until

CODE = "import os\nprint('on', os.environ['GPUAAS_NODE'])\n6 * 7"


@pytest.fixture(autouse=True)
def _home(module_gpuaas_home: GpuaasHome) -> GpuaasHome:
    return module_gpuaas_home


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    path = tmp_path / "in.ipynb"
    cell = new_code_cell(CODE)
    document = new_notebook(cells=[cell], metadata={"kernelspec": {"name": "remote_gpu", "display_name": "x"}})
    nbformat.write(document, path)
    return path


def jupyter(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", *arguments], check=True, timeout=120, capture_output=True)


def outputs(path: Path) -> list[Any]:
    (cell,) = [cell for cell in nbformat.read(path, 4).cells if cell.source == CODE]
    return [output.get("text") or output["data"]["text/plain"] for output in cell.outputs]


@pytest.mark.parametrize(
    "command",
    [
        ["papermill", "-k", "remote_gpu", "in.ipynb", "out.ipynb"],
        ["nbconvert", "--to", "notebook", "--execute", "in.ipynb", "--output", "out.ipynb"],
        ["jupyter", "execute", "in.ipynb", "--output", "out.ipynb"],
    ],
    ids=lambda command: command[0] + " " + command[1],
)
def test_program_runs_a_notebook_on_a_node_and_leaves_no_session(
    module_gpuaas_home: GpuaasHome, notebook: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(notebook.parent)
    jupyter(*command)
    assert outputs(notebook.parent / "out.ipynb") == ["on local-0\n", "42"]
    until(lambda: json.loads(module_gpuaas_home.cli("sessions", "--json").stdout) == [])


@pytest.fixture
def server(module_gpuaas_home: GpuaasHome, tmp_path: Path) -> Iterator[str]:
    """A real Jupyter server; its address without the scheme."""
    log = tmp_path / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyter_server", "--allow-root", "--no-browser", "--ServerApp.port=0",
             "--IdentityProvider.token=t", f"--ServerApp.root_dir={tmp_path}", "--ServerApp.port_retries=0"],
            stdout=output, stderr=output, env=dict(os.environ),
        )  # fmt: skip
    try:

        def port() -> int:
            listening = psutil.Process(process.pid).net_connections("tcp")
            return next((c.laddr.port for c in listening if c.status == psutil.CONN_LISTEN), 0)

        yield f"127.0.0.1:{until(port)}"
    finally:
        process.terminate()
        process.wait(20)


def message(msg_type: str, content: dict[str, Any], msg_id: str, channel: str = "shell") -> str:
    header = {"msg_id": msg_id, "msg_type": msg_type, "session": "s", "username": "", "version": "5.3", "date": ""}
    return json.dumps(
        {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": channel, "buffers": []}
    )


def test_jupyter_server_page_reload_while_a_cell_runs_keeps_the_session(server: str, tmp_path: Path) -> None:
    import httpx

    with httpx.Client(base_url=f"http://{server}", headers={"Authorization": "token t"}, trust_env=False) as http:
        body = {"path": "nb.ipynb", "name": "nb", "type": "notebook", "kernel": {"name": "remote_gpu"}}
        kernel = until(lambda: http.post("/api/sessions", json=body, timeout=60).json())["kernel"]["id"]
        address = f"ws://{server}/api/kernels/{kernel}/channels?token=t&session_id="
        go = tmp_path / "go"
        code = (
            "import pathlib, time\nprint('first', flush=True)\n"
            f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)\nprint('second')"
        )
        with connect(address + "one", proxy=None) as page:
            page.send(message("execute_request", {"code": code, "silent": False}, "m1"))
            while "first" not in str(page.recv(timeout=60)):
                pass
        with connect(address + "two", proxy=None) as page:
            go.touch()
            page.send(message("execute_request", {"code": "'alive'", "silent": False}, "m2"))
            heard = ""
            while "execute_result" not in heard:
                heard = str(page.recv(timeout=60))
            assert "alive" in heard
        http.delete(f"/api/kernels/{kernel}", timeout=60)
