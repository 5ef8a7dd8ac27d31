"""One local node: the process of its agent, started or found again, and watched until it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import msgspec
import psutil

from jupyter_gpuaas.engine.agent_client import AgentClient
from jupyter_gpuaas.engine.base import AgentEndpoint, GoneHost
from jupyter_gpuaas.errors import GpuaasError, TransportError
from jupyter_gpuaas.model import Node
from jupyter_gpuaas.wire.tls import Credentials

START_POLL_S = 0.02
#: How long an agent of an earlier service may take to answer when it is found again.
ADOPT_S = 5.0
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


class _HostFile(msgspec.Struct, frozen=True):
    """What an agent writes of each of its hosts, as far as it matters here."""

    pid: int
    started_s: float
    session_id: str = ""
    epoch: int = 0


class AgentProcess:
    """The agent of one local node.

    Parameters
    ----------
    credentials
        What it is spoken to with; with a certificate, it has to speak TLS.
    """

    #: What is started.
    module = "jupyter_gpuaas.node.agent"

    def __init__(
        self,
        node_id: str,
        folder: Path,
        *,
        environ: Mapping[str, str],
        devices: str,
        credentials: Credentials | None = None,
    ) -> None:
        self.node_id = node_id
        self.folder = folder
        self._credentials = credentials or Credentials()
        self.endpoint: AgentEndpoint | None = None
        self.pid = 0
        #: It was found, and did not answer.
        self.silent = False
        self._environ = environ
        self._devices = devices
        self._child: subprocess.Popen[bytes] | None = None
        #: What it answered last, or why it did not.
        self._trouble = ""

    @property
    def started_here(self) -> bool:
        """Whether this process started it, rather than found it."""
        return self._child is not None

    async def adopt(self) -> Node | None:
        """The node, if its agent runs and takes our token; ``silent`` where it runs and does not answer."""
        written = self._read()
        if written is None or not alive(written.pid):
            return None
        # A pid may have been given to another process since: only an answer with our token counts.
        node: Node | None = None
        with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
            node = await asyncio.wait_for(self._ask(written), ADOPT_S)
        if node is not None and written.url.startswith("https:") != bool(self._credentials.cert):
            # It is from before TLS was switched on, or off. The next agent finds its hosts.
            await self._end_at_once(written.pid)
            return None
        if node is not None:
            self.pid = written.pid
        elif self._is_ours(written.pid) and self.last_known() is not None:
            self.silent, self.pid = True, written.pid
            self.endpoint = AgentEndpoint(written.url, self._token(), self._credentials)
        return node

    async def _end_at_once(self, pid: int) -> None:
        """End an agent that need not be our child; its hosts go on."""
        self.endpoint = None
        if self._is_ours(pid):
            self.pid = pid
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            await asyncio.wait_for(self.ended(), DYING_S)

    def last_known(self) -> Node | None:
        """What the agent last said of its node."""
        try:
            return msgspec.json.decode((self.folder / "node.json").read_bytes(), type=Node)
        except (OSError, msgspec.MsgspecError):
            return None

    def _is_ours(self, pid: int) -> bool:
        """Whether a process is the agent of this folder, as far as its command tells."""
        try:
            return str(self.folder) in psutil.Process(pid).cmdline() and alive(pid)
        except psutil.Error:
            return False

    def _token(self) -> str:
        try:
            return (self.folder / "token").read_text("utf-8").strip()
        except OSError:
            return ""

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
        with open(path, "ab", opener=private) as log:
            command = [sys.executable, "-m", self.module, "--node", self.node_id]
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
        raise TransportError(
            f"the agent of {self.node_id} did not answer in {timeout_s:g} s. {self._trouble} Its log: {self._tail()}"
        )

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
        await _readable(fd)
        return self._reap()

    async def dead_hosts(self) -> AsyncIterator[GoneHost]:
        """Hosts of sessions that are dead, each as soon as it is; for while the agent cannot tell."""
        hosts = {asyncio.ensure_future(_host_ended(host)): host for host in await asyncio.to_thread(self._hosts)}
        try:
            while hosts:
                done, _ = await asyncio.wait(hosts, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    host = hosts.pop(task)
                    if task.result():
                        yield GoneHost(host.session_id, host.epoch)
        finally:
            for task in hosts:
                task.cancel()
            await asyncio.gather(*hosts, return_exceptions=True)

    def _hosts(self) -> list[_HostFile]:
        found = []
        for path in (self.folder / "hosts").glob("*.json"):
            with contextlib.suppress(OSError, msgspec.MsgspecError):  # being removed, or written
                found.append(msgspec.json.decode(path.read_bytes(), type=_HostFile))
        return [host for host in found if host.pid and host.session_id]

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
                await self._gone()
            finally:
                await client.close()
            await self._again(timeout_s)

    async def _gone(self) -> None:
        """Wait until an agent that does not answer is gone; one that hangs is killed."""
        try:
            await asyncio.wait_for(self.ended(), DYING_S)
        except (asyncio.TimeoutError, TimeoutError):
            if not self._is_ours(self.pid):
                raise
            os.kill(self.pid, signal.SIGKILL)
            await asyncio.wait_for(self.ended(), DYING_S)

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
        token = self._token()
        if not token:
            return None
        client = AgentClient(AgentEndpoint(written.url, token, self._credentials))
        try:
            node = await client.node()
        except GpuaasError as error:
            self._trouble = str(error)
            return None
        finally:
            await client.close()
        if node.id != self.node_id:
            return None
        self.endpoint = client.endpoint
        node = msgspec.structs.replace(node, url=written.url)
        with contextlib.suppress(OSError):  # it is for who finds the agent silent
            draft = self.folder / "node.json.new"
            draft.write_bytes(msgspec.json.encode(node))
            draft.replace(self.folder / "node.json")
        return node

    def _tail(self) -> str:
        try:
            text = (self.folder / "agent.log").read_text("utf-8", "replace")
        except OSError as error:
            return str(error)
        return "\n".join(text.splitlines()[-LOG_TAIL_LINES:]) or "its log is empty."


async def _host_ended(host: _HostFile) -> bool:
    """Return when a host's process has ended; False where that cannot be seen."""
    try:
        fd = os.pidfd_open(host.pid)
    except ProcessLookupError:
        return True
    except (AttributeError, OSError):  # No such call on this system.
        return False
    try:
        if abs(psutil.Process(host.pid).create_time() - host.started_s) >= 1:
            os.close(fd)
            return True  # The pid is another's by now.
    except psutil.NoSuchProcess:
        os.close(fd)
        return True
    except psutil.Error:
        pass
    await _readable(fd)
    return True


async def _readable(fd: int) -> None:
    """Wait until a process is gone whose descriptor this is, and close it."""
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    loop.add_reader(fd, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)


def private(path: str, flags: int) -> int:
    """Opens a file, which is for its user only where it is made by that."""
    return os.open(path, flags, 0o600)


def alive(pid: int) -> bool:
    """Whether the process exists and is not merely waiting to be reaped."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
