"""Several controllers for tests: as processes on one database, or as what stands by in this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from jupyter_gpuaas.client.embedded import find_running, read_service_file
from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.server import listen, make_server
from tests.conftest import GpuaasHome
from tests.postgres import Server
from tests.service import eventually

ACTING_S = 2.0


class Controllers:
    """Controllers of one folder and one database, as processes with logs."""

    def __init__(self, home: GpuaasHome, url: str, **settings: Any) -> None:
        self.home = home
        self.url = url
        self._processes: list[subprocess.Popen[bytes]] = []
        given = {
            "devices": "cpu:1",
            "spare_kernels": 0,
            "stop_timeout_s": 2.0,
            "acting_s": ACTING_S,
            "database_url": url,
            **settings,
        }
        lines = [f"{name} = {json.dumps(value)}\n" for name, value in given.items()]
        (home.path / "settings.toml").write_text("".join(lines))

    def start(self) -> tuple[subprocess.Popen[bytes], Path]:
        log = self.home.path / f"controller-{len(self._processes)}.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "jupyter_gpuaas", "up", "--standby"],
                env=self.home.env,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(process)
        return process, log

    def close(self) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGTERM)
        for process in self._processes:
            process.wait(30)


@contextlib.contextmanager
def running_controllers(home: GpuaasHome, postgres: Server, **settings: Any) -> Iterator[Controllers]:
    """Controllers with these settings, until the end of the block."""
    made = Controllers(home, postgres.database_of(str(home.path)), **settings)
    try:
        yield made
    finally:
        # The last one ends the nodes, too.
        home.cli("down", check=False)
        made.close()


async def acts(home: GpuaasHome, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when this process is the one that acts."""

    async def look() -> bool:
        written = read_service_file(home.path)
        assert process.poll() is None, log.read_text()
        return written is not None and written.pid == process.pid and await find_running(home.path) is not None

    await eventually(look)


async def stands_by(log: Path) -> None:
    await eventually(lambda: "waits for its end" in log.read_text())


def url_of(process: subprocess.Popen[bytes]) -> str:
    """Where a controller listens."""
    (port,) = {
        each.laddr.port
        for each in psutil.Process(process.pid).net_connections("tcp")
        if each.status == psutil.CONN_LISTEN
    }
    return f"http://127.0.0.1:{port}"


@dataclass
class FarActing:
    """Knows where the other one is, as ``Acting`` does."""

    elsewhere: str
    key: str = ""
    moved: Any = field(default=lambda: None)

    def is_at(self, url: str) -> None:
        self.elsewhere = url
        self.moved()


@contextlib.asynccontextmanager
async def served(settings: Settings, app: Any) -> AsyncIterator[tuple[str, Any]]:
    listener = listen(settings, 0)
    server = make_server(settings, app)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        scheme = "https" if settings.tls == "on" else "http"
        yield f"{scheme}://127.0.0.1:{listener.getsockname()[1]}", server
    finally:
        server.should_exit = True
        await serving
        listener.close()
