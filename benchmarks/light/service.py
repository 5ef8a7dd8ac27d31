"""The processes of a service with light kernels: begun, hurt, measured, ended."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import psutil

from benchmarks.light.nursery import VARIABLE
from jupyter_gpuaas.client.embedded import find_running
from jupyter_gpuaas.client.service import ServiceClient

ROOT = Path(__file__).parents[2]
READY_S = 120.0
END_S = 120.0


class Sample(msgspec.Struct):
    """The controller at one moment."""

    at_s: float
    #: Which of the controllers, counted from 0.
    life: int
    rss_bytes: int
    files: int
    cpu_s: float


class LightService:
    """A service in a folder of its own.

    Parameters
    ----------
    settings
        By their names; see ``docs/settings.md``.
    """

    def __init__(self, *, nodes: int, devices: int, settings: dict[str, str]) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="gpuaas-load-"))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GPUAAS_", "JPY_"))}
        self.env = kept | {
            "GPUAAS_HOME": str(self.home),
            "PYTHONPATH": str(ROOT),
            VARIABLE: str(self.home / "nursery"),
            **{f"GPUAAS_{name.upper()}": value for name, value in settings.items()},
        }
        self.nodes = nodes
        self._up = ["up", "--nodes", str(nodes), "--devices", f"cpu:{devices}"]
        self._nursery: subprocess.Popen[bytes] | None = None
        self._controller: subprocess.Popen[bytes] | None = None
        self.life = -1
        self.samples: list[Sample] = []
        self.url = self.token = ""

    async def start(self) -> None:
        """Begin with everything; returns when the service answers."""
        command = [sys.executable, "-m", "benchmarks.light.nursery", self.env[VARIABLE]]
        self._nursery = await asyncio.to_thread(
            subprocess.Popen, command, stdin=subprocess.PIPE, env=self.env, cwd=ROOT
        )
        while not Path(self.env[VARIABLE]).exists():
            if self._nursery.poll() is not None:
                raise RuntimeError("the process that starts hosts has ended")
            await asyncio.sleep(0.05)
        await self.start_controller()

    async def start_controller(self) -> None:
        """Another controller; returns when it answers."""
        with open(self.home / "service.log", "ab") as log:
            self._controller = await asyncio.to_thread(
                subprocess.Popen,
                [sys.executable, "-m", "benchmarks.light.controller", *self._up],
                env=self.env, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.life += 1
        deadline_s = asyncio.get_running_loop().time() + READY_S
        while (found := await find_running(self.home)) is None:
            if self._controller.poll() is not None or asyncio.get_running_loop().time() > deadline_s:
                raise RuntimeError(f"the controller does not start: {self.log()}")
            await asyncio.sleep(0.05)
        self.url, self.token = found.url, found.token

    def log(self) -> str:
        """The last words of the controllers."""
        return (self.home / "service.log").read_text("utf-8", "replace")[-4000:]

    def client(self) -> ServiceClient:
        """A client of its own, with connections of its own."""
        return ServiceClient(self.url, self.token)

    def kill_controller(self) -> None:
        """End the controller as the system would."""
        assert self._controller is not None
        self._controller.kill()
        self._controller.wait()

    def kill_agent(self, number: int) -> None:
        """End the agent of a node; the engine starts another one."""
        path = self.home / "nodes" / f"local-{number}" / "agent.json"
        try:
            os.kill(int(msgspec.json.decode(path.read_bytes())["pid"]), signal.SIGKILL)
        except (OSError, msgspec.MsgspecError):
            return  # the one before has not been replaced yet

    def look(self) -> None:
        """Note how the controller is."""
        assert self._controller is not None
        try:
            process = psutil.Process(self._controller.pid)
            with process.oneshot():
                times = process.cpu_times()
                rss_bytes = process.memory_info().rss
                if not rss_bytes:
                    return  # it was killed, and nobody has waited for it yet
                self.samples.append(
                    Sample(
                        asyncio.get_running_loop().time(),
                        self.life,
                        rss_bytes,
                        process.num_fds(),
                        times.user + times.system,
                    )
                )
        except psutil.Error:
            return  # it was killed, and the next one is on its way

    def sizes(self) -> dict[str, tuple[int, float]]:
        """How many processes of each kind there are, and their proportional set size together, in MB."""
        found: dict[str, tuple[int, float]] = {}
        for process in psutil.process_iter():
            try:
                if process.environ().get("GPUAAS_HOME") != str(self.home):
                    continue
                words = process.cmdline()
                kind = words[words.index("-m") + 1].rpartition(".")[2] if "-m" in words else "leash"
                kind = {"nursery": "hosts"}.get(kind, kind)
                count, size = found.get(kind, (0, 0.0))
                found[kind] = (count + 1, size + process.memory_full_info().pss / 1e6)
            except (psutil.Error, ValueError, IndexError):
                continue
        return found

    async def end(self) -> None:
        """End everything, whatever has happened."""
        try:
            if self._controller is not None and self._controller.poll() is None:
                self._controller.send_signal(signal.SIGINT)
                await asyncio.to_thread(self._controller.wait, END_S)
        except subprocess.TimeoutExpired:
            self._controller.kill()
            self._controller.wait()
        finally:
            if self._nursery is not None:
                assert self._nursery.stdin is not None
                self._nursery.stdin.close()
                self._nursery.wait(END_S)
            shutil.rmtree(self.home, ignore_errors=True)
