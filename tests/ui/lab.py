"""A JupyterLab of the test's own: started, stopped, and started again on the same port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import nbformat
import psutil
from nbformat.v4 import new_code_cell, new_notebook

from tests.conftest import GpuaasHome
from tests.fault.nodes import agent_pid, records
from tests.fault.test_sessions_go_on import sessions, until

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 20
REMOTE = {"name": "remote_gpu", "display_name": "Python 3 (remote GPU)", "language": "python"}


class Lab:
    """A Jupyter server with a folder of notebooks.

    Parameters
    ----------
    home
        Of the service that its notebooks use.
    python
        The environment that it runs in, where that is not the tests' own.
    module
        ``jupyterlab`` or ``notebook``.
    """

    def __init__(
        self, folder: Path, home: GpuaasHome, *, python: str = sys.executable, module: str = "jupyterlab"
    ) -> None:
        self.home = home
        self._command = [python, "-m", module]
        self.folder = folder / "work"
        self.folder.mkdir()
        self._log = folder / "lab.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        quiet = Path(os.environ["JUPYTER_CONFIG_DIR"]) / "lab/user-settings/@jupyterlab/apputils-extension"
        quiet.mkdir(parents=True, exist_ok=True)
        # Nothing is asked of the outside, and no question about it covers what is looked at.
        (quiet / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')

    def __repr__(self) -> str:
        return f"<{' '.join(self._command)} in {self.folder}>"

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server, and wait until it listens."""
        with self._log.open("ab") as output:
            process = self._process = subprocess.Popen(
                [*self._command, "--allow-root", "--no-browser", f"--ServerApp.port={self.port}",
                 "--IdentityProvider.token=t", f"--ServerApp.root_dir={self.folder}", "--ServerApp.port_retries=0",
                 "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"],
                stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=self.home.env,
                cwd=self.folder,  # not the checkout, whose package would come before the one that is installed
            )  # fmt: skip

        def port() -> int:
            assert process.poll() is None, self._log.read_text()
            listening = psutil.Process(process.pid).net_connections("tcp")
            return next((c.laddr.port for c in listening if c.status == psutil.CONN_LISTEN), 0)

        self.port = until(port, START_TIMEOUT_S)

    def stop(self) -> None:
        """End the server in good order, as Ctrl-C does."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_TIMEOUT_S)

    def notebook(self, name: str, cells: Sequence[str], choice: dict[str, Any] | None = None) -> None:
        """Put a notebook of these cells there, whose kernel is the remote one, on devices that were chosen before."""
        metadata = {"kernelspec": REMOTE} | ({} if choice is None else {"gpuaas": {"choice": choice}})
        document = new_notebook(cells=[new_code_cell(source) for source in cells], metadata=metadata)
        nbformat.write(document, self.folder / name)

    def ask(self, method: str, path: str) -> Any:
        """A request to the server; gives what it answers with."""
        # The client's own time is for what a busy machine takes, not for what may be waited for.
        with httpx.Client(trust_env=False, timeout=60) as client:
            headers = {"Authorization": "token t"}
            answer = client.request(method, f"http://127.0.0.1:{self.port}/{path}", headers=headers)
            answer.raise_for_status()
            return answer.json() if answer.content else None

    def lose_node(self) -> None:
        """Kill the node of the one session that there is, with all that runs there."""
        (session,) = sessions(self.home)
        node = session["lease"]["node_id"]
        for pid in (agent_pid(self.home.path, node), *(each.pid for each in records(self.home.path, node))):
            os.kill(pid, signal.SIGKILL)

    def address(self, notebook: str = "") -> str:
        return f"http://127.0.0.1:{self.port}/lab{f'/tree/{notebook}' if notebook else ''}?token=t&reset"
