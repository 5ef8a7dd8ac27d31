"""A JupyterLab of the test's own: started, stopped, and started again on the same port."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
import psutil
from nbformat.v4 import new_code_cell, new_notebook

from tests.fault.test_sessions_go_on import until

STOP_TIMEOUT_S = 20
REMOTE = {"name": "remote_gpu", "display_name": "Python 3 (remote GPU)", "language": "python"}


class Lab:
    """A Jupyter server with a folder of notebooks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        self._log = folder / "lab.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        quiet = Path(os.environ["JUPYTER_CONFIG_DIR"]) / "lab/user-settings/@jupyterlab/apputils-extension"
        quiet.mkdir(parents=True, exist_ok=True)
        # Nothing is asked of the outside, and no question about it covers what is looked at.
        (quiet / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')

    def start(self) -> None:
        """Start the server, and wait until it listens."""
        with self._log.open("ab") as output:
            process = self._process = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser", f"--ServerApp.port={self.port}",
                 "--IdentityProvider.token=t", f"--ServerApp.root_dir={self.folder}", "--ServerApp.port_retries=0",
                 "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"],
                stdout=output, stderr=output, env=dict(os.environ),
            )  # fmt: skip

        def port() -> int:
            assert process.poll() is None, self._log.read_text()
            listening = psutil.Process(process.pid).net_connections("tcp")
            return next((c.laddr.port for c in listening if c.status == psutil.CONN_LISTEN), 0)

        self.port = until(port)

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

    def notebook(self, name: str, cells: Sequence[str]) -> None:
        """Put a notebook of these cells there, whose kernel is the remote one."""
        document = new_notebook(cells=[new_code_cell(source) for source in cells], metadata={"kernelspec": REMOTE})
        nbformat.write(document, self.folder / name)

    def address(self, notebook: str = "") -> str:
        return f"http://127.0.0.1:{self.port}/lab{f'/tree/{notebook}' if notebook else ''}?token=t&reset"
