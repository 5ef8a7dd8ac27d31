"""Two controllers on one PostgreSQL database: one acts, the other takes over, and sessions do not notice."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest

from jupyter_gpuaas.client.embedded import find_running, read_service_file
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.client.session import RemoteSession
from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.catalogue.database import Database
from jupyter_gpuaas.model import SessionState
from tests.conftest import GpuaasHome
from tests.controllers import Controllers, acts, running_controllers, stands_by, url_of
from tests.postgres import Server
from tests.service import eventually


@pytest.fixture
def controllers(gpuaas_home: GpuaasHome, postgres: Server) -> Iterator[Controllers]:
    with running_controllers(gpuaas_home, postgres) as made:
        yield made


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


@pytest.mark.long
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


async def test_controller_that_stands_by_says_so_and_where_the_other_is(controllers: Controllers) -> None:
    home = controllers.home
    first, first_log = controllers.start()
    await acts(home, first, first_log)
    written = read_service_file(home.path)
    assert written is not None
    second, second_log = controllers.start()
    await stands_by(second_log)
    async with httpx.AsyncClient(base_url=url_of(second), trust_env=False) as http:
        alive = await http.get("/healthz")
        assert (alive.status_code, alive.json()["status"]) == (200, "standby")
        refused = await http.get("/readyz")
        assert refused.status_code == 503 and written.url in refused.json()["hint"]
        # All else is answered by the one that acts: it asks for a token, too.
        assert (await http.get("/sessions")).status_code == 401
        token = {"Authorization": f"Bearer {(home.path / 'token').read_text().strip()}"}
        assert (await http.get("/sessions", headers=token)).json() == []


@pytest.mark.long
@pytest.mark.parametrize("way", [*(pytest.param(way, marks=pytest.mark.fault) for way in ("kill", "freeze")), "end"])
async def test_clients_use_either_controller_and_lose_nothing_when_one_takes_over(
    controllers: Controllers, way: str
) -> None:
    """Cells in order, through both addresses and both ways, while the controller that acts is taken away."""
    home = controllers.home
    (home.path / "settings.toml").write_text((home.path / "settings.toml").read_text().replace("cpu:1", "cpu:2"))
    first, first_log = controllers.start()
    await acts(home, first, first_log)
    second, second_log = controllers.start()
    await stands_by(second_log)
    token = (home.path / "token").read_text().strip()
    urls = {"one": url_of(first), "other": url_of(second)}
    async with ServiceClient(urls["one"], token) as one, ServiceClient(urls["other"], token) as other:
        settings = {relay: Settings(home=str(home.path), relay=relay) for relay in ("never", "always")}
        made = [(await client.create_session(name, wait_s=60)).session for client, name in ((one, "a"), (other, "b"))]
        assert {each.id for each in await one.sessions()} == {each.id for each in await other.sessions()}
        # Through the one that stands by, and by its relay: what is in between when it takes over is the question.
        remotes = [
            RemoteSession(other, session.id, settings[relay]) for session, relay in zip(made, settings, strict=True)
        ]
        try:
            for remote in remotes:
                await remote.open()
                assert await counted(remote, "n = 0") == "0"
            asked = [asyncio.create_task(count_to(remote, 25)) for remote in remotes]
            await eventually(lambda: all(remote_count >= 5 for remote_count in counts(remotes)))
            if way == "kill":
                first.kill()
            else:
                first.send_signal(signal.SIGSTOP if way == "freeze" else signal.SIGTERM)
            await acts(home, second, second_log)
            for task in asked:
                await asyncio.wait_for(task, 120)
            # The other address is good again as soon as there is somebody.
            if way == "freeze":
                first.send_signal(signal.SIGCONT)
            first.wait(30)
            third, third_log = controllers.start()
            await stands_by(third_log)
            async with ServiceClient(url_of(third), token) as again:
                assert {each.id for each in await again.sessions()} == {session.id for session in made}
                view = await again.session(made[0].id)
                assert view.channel is not None and url_of(third).replace("http", "ws") in view.channel.relay_url
                late = RemoteSession(again, made[1].id, settings["always"])
                await late.open()
                assert await counted(late, "n += 1") == "26"
                await late.close()
        finally:
            for remote in remotes:
                await remote.close()


#: How far each session has counted.
_COUNTS: dict[str, int] = {}


def counts(remotes: list[RemoteSession]) -> list[int]:
    return [_COUNTS.get(remote.id, 0) for remote in remotes]


async def counted(remote: RemoteSession, code: str) -> str:
    """The value that n has after a cell."""
    reply = await remote.request("execute_request", {"code": code, "user_expressions": {"n": "n"}})
    return str(reply["user_expressions"]["n"]["data"]["text/plain"])


async def count_to(remote: RemoteSession, last: int) -> None:
    """Each cell once, and each answer to it."""
    for number in range(1, last + 1):
        assert await counted(remote, "import time; time.sleep(0.1); n += 1") == str(number)
        _COUNTS[remote.id] = number


@pytest.mark.sqlite
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
