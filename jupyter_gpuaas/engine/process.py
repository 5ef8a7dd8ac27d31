"""One local node: the process of its agent, started or found again, and watched until it ends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import psutil

from jupyter_gpuaas.engine.agent_client import AgentClient
from jupyter_gpuaas.engine.base import AgentEndpoint
from jupyter_gpuaas.errors import GpuaasError, TransportError
from jupyter_gpuaas.model import Node

START_POLL_S = 0.02
ALIVE_POLL_S = 1.0
#: How long an agent that does not answer may take to be gone, else it is left alone.
DYING_S = 5.0
LOG_TAIL_LINES = 10
#: A log larger than this is put aside when the agent starts.
LOG_BYTES = 8 * 1024**2


class AgentFile(msgspec.Struct, frozen=True):
    """Content of ``agent.json``, which an agent writes when it listens."""

    pid: int
    port: int
    url: str
    node: str


class AgentProcess:
    """The agent of one local node."""

    def __init__(self, node_id: str, folder: Path, *, environ: Mapping[str, str], devices: str) -> None:
        self.node_id = node_id
        self.folder = folder
        self.endpoint: AgentEndpoint | None = None
        self.pid = 0
        self._environ = environ
        self._devices = devices
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def started_here(self) -> bool:
        """Whether this process started it, rather than found it."""
        return self._child is not None

    async def adopt(self) -> Node | None:
        """The node, if its agent runs and takes our token."""
        written = self._read()
        if written is None or not alive(written.pid):
            return None
        # A pid may have been given to another process since: only an answer with our token counts.
        node = await self._ask(written)
        if node is not None:
            self.pid = written.pid
        return node

    async def start(self, *, timeout_s: float) -> Node:
        """Start the agent.

        Raises
        ------
        TransportError
            It ended or did not answer in time; the message has the end of its log.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / "agent.log"
        if path.exists() and path.stat().st_size > LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
        with open(path, "ab") as log:
            command = [sys.executable, "-m", "jupyter_gpuaas.node.agent", "--node", self.node_id]
            command += ["--folder", str(self.folder), "--devices", self._devices]
            spawning = asyncio.ensure_future(
                asyncio.to_thread(
                    subprocess.Popen,
                    command,
                    env=dict(self._environ),
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
            try:
                await asyncio.shield(spawning)
            finally:
                # Cancelled or not, the thread starts the process: it must be known to whoever stops it.
                self._child = await spawning
                self.pid = self._child.pid
        return await self._answering(self._child, timeout_s)

    async def _answering(self, child: subprocess.Popen[bytes], timeout_s: float) -> Node:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if child.poll() is not None:
                raise TransportError(
                    f"the agent of {self.node_id} ended with status {child.returncode}: {self._tail()}"
                )
            written = self._read()
            if written is not None and written.pid == self.pid:
                node = await self._ask(written)
                if node is not None:
                    return node
            await asyncio.sleep(START_POLL_S)
        await self.kill()
        raise TransportError(f"the agent of {self.node_id} did not answer in {timeout_s:g} s: {self._tail()}")

    async def ended(self) -> str:
        """Wait until the process is gone; the answer says how, as far as it is known."""
        pid = self.pid
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return self._reap()
        except (AttributeError, OSError):  # No such call on this system.
            while alive(pid) and (self._child is None or self._child.poll() is None):
                await asyncio.sleep(ALIVE_POLL_S)
            return self._reap()
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(fd, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(fd)
            os.close(fd)
        return self._reap()

    async def kill(self) -> None:
        """End the agent at once; its hosts go on."""
        if self._child is not None:
            self._child.kill()
            await asyncio.to_thread(self._child.wait)
            self._reap()

    async def stop(self, *, timeout_s: float) -> None:
        """End all hosts and the agent.

        An agent that is gone, or not quite there yet, has hosts that only it can end. So it is waited for, or
        started once more.
        """
        if self.endpoint is None:
            await self._again(timeout_s)
        while self.endpoint is not None:
            client = AgentClient(self.endpoint)
            try:
                await client.stop()
                await asyncio.wait_for(self.ended(), timeout_s)
                return
            except TransportError:
                # A process that is being killed may be there still while its port is not.
                await asyncio.wait_for(self.ended(), DYING_S)
            finally:
                await client.close()
            await self._again(timeout_s)

    async def _again(self, timeout_s: float) -> None:
        if self._child is not None and self._child.poll() is None:
            await self._answering(self._child, timeout_s)
        elif any((self.folder / "hosts").glob("*.json")):
            await self.start(timeout_s=timeout_s)

    def _reap(self) -> str:
        self.endpoint = None
        if self._child is None:
            return "its process is gone"
        status = self._child.wait()
        self._child = None
        return f"killed by signal {-status}" if status < 0 else f"ended with status {status}"

    def forget(self) -> None:
        """Leave the process to itself; it goes on when this one ends."""
        if self._child is not None:
            # Else its destructor warns of a child that still runs, which is what we want here.
            self._child.returncode = 0
            self._child = None

    def _read(self) -> AgentFile | None:
        try:
            return msgspec.json.decode((self.folder / "agent.json").read_bytes(), type=AgentFile)
        except (OSError, msgspec.MsgspecError):
            return None

    async def _ask(self, written: AgentFile) -> Node | None:
        try:
            token = (self.folder / "token").read_text("utf-8").strip()
        except OSError:
            return None
        client = AgentClient(AgentEndpoint(written.url, token))
        try:
            node = await client.node()
        except GpuaasError:
            return None
        finally:
            await client.close()
        if node.id != self.node_id:
            return None
        self.endpoint = client.endpoint
        return msgspec.structs.replace(node, url=written.url)

    def _tail(self) -> str:
        try:
            text = (self.folder / "agent.log").read_text("utf-8", "replace")
        except OSError as error:
            return str(error)
        return "\n".join(text.splitlines()[-LOG_TAIL_LINES:]) or "its log is empty."


def alive(pid: int) -> bool:
    """Whether the process exists and is not merely waiting to be reaped."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
