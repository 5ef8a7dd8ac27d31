"""An agent that is nobody's child, so that Ray does not end it along with a worker or a raylet."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from platformdirs import user_data_dir

from jupyter_gpuaas.engine.environment import taken_over
from jupyter_gpuaas.engine.process import LOG_BYTES, START_POLL_S, AgentProcess, alive, private
from jupyter_gpuaas.errors import TransportError
from jupyter_gpuaas.model import Node

#: What a Ray worker has in its environment beside ``RAY_*``, and no kernel should get: Ray sets the number of threads
#: to that of the CPUs that an actor asked for, which is none.
_OF_WORKERS = frozenset({"OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "RAYLET_PID", "PYTHONBREAKPOINT", "SPT_NOENV"})

#: Run in between: starts the command in a session of its own, says its process id, and is gone.
_LAUNCH = """
import os, sys
said = int(sys.argv[1])
if os.fork():
    os._exit(0)
os.setsid()
pid = os.fork()
if pid:
    os.write(said, str(pid).encode())
    os._exit(0)
os.close(said)
os.execv(sys.argv[2], sys.argv[2:])
"""


def service_folder(base: str, namespace: str) -> Path:
    """Where, on each node, a service has the data of that node.

    A folder is what an agent is found by. Of several services on one cluster, each must find its own only.

    Parameters
    ----------
    base
        Setting ``ray_node_folder``.
    namespace
        Of the service in Ray: no other service has it.
    """
    above = Path(base) if base else Path(user_data_dir("jupyter-gpuaas", appauthor=False)).absolute() / "ray-nodes"
    return above / quote(namespace, safe="").replace(".", "%2E")


def clean(environ: Mapping[str, str]) -> dict[str, str]:
    """What an agent takes over from the environment of a Ray worker."""
    return {
        name: value
        for name, value in taken_over(environ).items()
        if not name.startswith("RAY_") and name not in _OF_WORKERS
    }


def visible_devices(environ: Mapping[str, str]) -> str:
    """The setting ``devices`` for what this node's raylet may hand out; empty where that is everything.

    An actor that asked for no GPU has the variable as its raylet has it.
    """
    listed = environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    return f"cuda:{listed}" if listed and listed not in ("-1", "NoDevFiles") else ""


class DetachedAgent(AgentProcess):
    """The agent of one Ray node, started so that it outlives whoever starts it."""

    async def start(self, *, timeout_s: float) -> Node:
        """Start the agent.

        Raises
        ------
        TransportError
            It ended or did not answer in time; the message has the end of its log.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.pid = pid = await asyncio.to_thread(self._launch)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            written = self._read()
            if written is not None and written.pid == pid:
                node = await self._ask(written)
                if node is not None:
                    return node
            if not alive(pid):
                raise TransportError(f"the agent of {self.node_id} has ended: {self._tail()}")
            await asyncio.sleep(START_POLL_S)
        # Nobody would find it, and the next one that is started would be a second one on its folder.
        with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
            await self._end_at_once(pid)
        raise TransportError(f"the agent of {self.node_id} did not answer in {timeout_s:g} s: {self._tail()}")

    def _launch(self) -> int:
        path = self.folder / "agent.log"
        if path.exists() and path.stat().st_size > LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
        command = [sys.executable, "-m", "jupyter_gpuaas.node.agent", "--node", self.node_id]
        command += ["--folder", str(self.folder), "--devices", self._devices]
        reading, writing = os.pipe()
        try:
            with open(path, "ab", opener=private) as log:
                subprocess.run(
                    [sys.executable, "-I", "-S", "-c", _LAUNCH, str(writing), *command],
                    env=dict(self._environ),
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=[writing],
                    check=True,
                )
        finally:
            os.close(writing)
        with open(reading, "rb") as said:  # until the process in between has closed it
            return int(said.read())
