"""The embedded service of the benchmark: in a folder of its own, ended with it; and how much memory its parts take."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import psutil
from rows import ZmqKernel

PARTS = {
    "jupyter_gpuaas.proxy": "proxy",
    "jupyter_gpuaas.node.host": "host",
    "jupyter_gpuaas.node.agent": "agent",
    "jupyter_gpuaas": "controller",
}


class Service:
    """``jupyter gpuaas up`` with nodes of several cpu devices; with ``tls``, by a CA of its own."""

    def __init__(self, devices: int = 4, nodes: int = 1, *, tls: bool = False) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="gpuaas-bench-"))
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("GPUAAS_", "JPY_"))}
        # What is installed has its bytecode: no process that starts meanwhile is to compile it once more.
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        self._devices, self._nodes = devices, nodes
        #: Environment of whatever is to use this service.
        self.env = {**environ, "GPUAAS_HOME": str(self._home), "GPUAAS_TLS": "on" if tls else "off"}
        self._tls = tls

    def start(self) -> None:
        # Else a benchmark that is ended so would leave it: no ``finally`` runs then.
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        if self._tls:
            self._command("certs", "init")
        self._command("up", "--detach", "--nodes", str(self._nodes), "--devices", f"cpu:{self._devices}")

    def stop(self) -> None:
        self._command("down")
        shutil.rmtree(self._home, ignore_errors=True)

    def kernel(self) -> ZmqKernel:
        """A kernel with a session of its own."""
        name = f"/bench-{uuid.uuid4().hex[:8]}.ipynb"
        return ZmqKernel("remote_gpu", {**self.env, "JPY_SESSION_NAME": name}, session_name=name)

    def memory(self) -> dict[str, float]:
        """Proportional set size in MB of the largest process of each part."""
        sizes: dict[str, float] = {}
        for process in psutil.process_iter():
            try:
                if process.environ().get("GPUAAS_HOME") != str(self._home):
                    continue
                words = process.cmdline()
                part = PARTS.get(words[words.index("-m") + 1]) if "-m" in words else None
                if part:
                    sizes[part] = max(sizes.get(part, 0.0), process.memory_full_info().pss / 1e6)
            except (psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
                continue
        return sizes

    def _command(self, *words: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "jupyter_gpuaas", *words], env=self.env, check=True, timeout=120,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
