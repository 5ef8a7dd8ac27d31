"""Two controllers on one PostgreSQL database: one acts, the other takes over, and sessions do not notice."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from jupyter_gpuaas.client.embedded import find_running, read_service_file
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.client.session import RemoteSession
from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.catalogue.database import Database
from jupyter_gpuaas.model import SessionState
from tests.conftest import GpuaasHome
from tests.postgres import Server
from tests.service import eventually

ACTING_S = 2.0


class Controllers:
    """Controllers of one folder and one database, as processes with logs."""

    def __init__(self, home: GpuaasHome, url: str) -> None:
        self.home = home
        self.url = url
        self._processes: list[subprocess.Popen[bytes]] = []
        (home.path / "settings.toml").write_text(
            f'devices = "cpu:1"\nspare_kernels = 0\nstop_timeout_s = 2.0\n'
            f'acting_s = {ACTING_S}\ndatabase_url = "{url}"\n'
        )

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


@pytest.fixture
def controllers(gpuaas_home: GpuaasHome, postgres: Server) -> Iterator[Controllers]:
    made = Controllers(gpuaas_home, postgres.new_database())
    yield made
    # The last one ends the nodes, too.
    gpuaas_home.cli("down", check=False)
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


@asynccontextmanager
async def client_of(home: GpuaasHome) -> AsyncIterator[ServiceClient]:
    endpoint = await find_running(home.path)
    assert endpoint is not None
    async with ServiceClient(endpoint.url, endpoint.token) as client:
        yield client


async def run(home: GpuaasHome, session: str, code: str) -> str:
    """The value that the name n then has."""
    async with client_of(home) as client:
        remote = RemoteSession(client, session, Settings(home=str(home.path)))
        try:
            await remote.open()
            asked = {"code": code, "user_expressions": {"n": "n"}}
            reply = await remote.request("execute_request", asked)
            return str(reply["user_expressions"]["n"]["data"]["text/plain"])
        finally:
            await remote.close()


@pytest.mark.parametrize("way", [pytest.param("kill", marks=pytest.mark.fault), "freeze", "end"])
async def test_controller_that_stands_by_takes_over(controllers: Controllers, way: str) -> None:
    home = controllers.home
    first, first_log = controllers.start()
    await acts(home, first, first_log)
    second, second_log = controllers.start()
    await stands_by(second_log)
    async with client_of(home) as client:
        session = (await client.create_session("book", wait_s=30)).session
    assert await run(home, session.id, "n = 41") == "41"
    if way == "kill":
        first.kill()
    elif way == "freeze":
        first.send_signal(signal.SIGSTOP)
    else:
        first.send_signal(signal.SIGTERM)
    await acts(home, second, second_log)
    async with client_of(home) as client:
        found = (await client.create_session("book", wait_s=30)).session
        assert (found.id, found.epoch, found.state) == (session.id, session.epoch, SessionState.IDLE)
    assert await run(home, session.id, "n += 1") == "42"
    if way == "freeze":
        database = Database(controllers.url, events_kept=1000)
        first.send_signal(signal.SIGCONT)
        assert first.wait(30) == 1, "a controller that was frozen ends when it finds out"
        assert "another controller has taken over" in first_log.read_text()
        causes = [event.cause for event in database.events(after=0, limit=1000) if event.kind == "service"]
        assert causes == ["the service has started"] * 2, "and writes nothing more"
        database.close()
    else:
        assert first.wait(30) == (-signal.SIGKILL if way == "kill" else 0)
    # It may come back, and waits for its turn.
    third, third_log = controllers.start()
    await stands_by(third_log)
    home.cli("down")
    assert second.wait(30) == 0
    assert third.wait(30) == 0, "the service was ended, and so nobody waits for it any more"


async def test_controller_that_stands_by_refuses_and_says_where_the_other_is(controllers: Controllers) -> None:
    home = controllers.home
    first, first_log = controllers.start()
    await acts(home, first, first_log)
    written = read_service_file(home.path)
    assert written is not None
    second, second_log = controllers.start()
    await stands_by(second_log)
    (port,) = {
        each.laddr.port
        for each in psutil.Process(second.pid).net_connections("tcp")
        if each.status == psutil.CONN_LISTEN
    }
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
        alive = await http.get("/healthz")
        assert (alive.status_code, alive.json()["status"]) == (200, "standby")
        for path in ("/readyz", "/health", "/sessions"):
            refused = await http.get(path)
            assert refused.status_code == 503
            assert written.url in refused.json()["hint"]
            assert refused.headers["Retry-After"] == "1"


def test_standby_without_a_common_database_is_refused(gpuaas_home: GpuaasHome) -> None:
    done = gpuaas_home.cli("up", "--standby", check=False)
    assert done.returncode == 1
    assert "PostgreSQL" in done.stderr


async def test_database_url_reaches_neither_nodes_nor_kernels(controllers: Controllers) -> None:
    home = controllers.home
    home.cli("up", "--detach")
    async with client_of(home) as client:
        await client.create_session("book", wait_s=30)
    written = read_service_file(home.path)
    assert written is not None
    others = [process for process in home.processes() if process.pid != written.pid]
    assert len(others) >= 3, "an agent, a host and a kernel"
    for process in others:
        assert controllers.url not in (*process.environ().values(), *process.cmdline())
