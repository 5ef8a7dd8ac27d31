"""The service and the Jupyter server end, are killed and come back; events go on and sessions stay."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from jupyter_gpuaas.client.embedded import read_service_file
from tests.conftest import GpuaasHome
from tests.server.running import JupyterServer, with_token


@pytest.fixture
def home(gpuaas_home: GpuaasHome) -> Iterator[GpuaasHome]:
    settings = 'devices = "cpu:1"\nspare_kernels = 0\nretry_most_s = 0.2\n'
    (gpuaas_home.path / "settings.toml").write_text(settings)
    yield gpuaas_home


def kill_controller(home: GpuaasHome) -> None:
    written = read_service_file(home.path)
    assert written is not None
    process = psutil.Process(written.pid)
    process.kill()
    process.wait(20)


def test_nothing_is_started_before_it_is_wanted_and_a_killed_controller_is_found_again(
    home: GpuaasHome, tmp_path: Path
) -> None:
    with JupyterServer(tmp_path) as server:
        first = server.until("off")
        assert (first["may_start"], first["nodes"], first["url"]) == (True, 0, "")
        assert read_service_file(home.path) is None

        async def live() -> str:
            async with server.events() as events:
                loop = asyncio.get_running_loop()
                nodes = await loop.run_in_executor(None, server.ask, "GET", "v1/nodes")
                assert [node["id"] for node in nodes.json()] == ["local-0"]
                await events.until("service", kind="state", state="starting")
                ready = await events.until("service", kind="state", state="ready", nodes=1)
                assert (ready["seq"], ready["problem"]) == (0, "")
                kernel_id = await loop.run_in_executor(None, server.start_kernel, "a.ipynb")
                idle = await events.until("session", kind="transition", target="idle")
                session = str(idle["session"])
                given = [each for each in events.heard if each["schema_id"] == "urn:jupyter-gpuaas:allocation:v1"]
                assert [(each["session"], each["node"]) for each in given] == [(session, "local-0")]
                assert given[0]["devices"] == ["cpu:0"]

                async with server.channels(kernel_id) as tab:
                    await tab.until(await tab.send("kept = 6 * 7"), "execute_reply")
                taken = await events.until("checkpoint", kind="checkpoint_taken")
                assert (taken["session"], taken["cell"]) == (session, 1)
                assert taken["checkpoint"]

                kill_controller(home)
                await events.until("service", kind="state", state="off")
                # Any request that needs it starts it again; its sessions have gone on.
                listed = await loop.run_in_executor(None, server.ask, "GET", "v1/sessions")
                assert listed.status_code == 200, listed.text
                assert [each["id"] for each in listed.json()] == [session]
                await events.until("service", kind="state", state="ready")
                # Said before anybody listened again.
                begun = await events.until("service", kind="service")
                assert begun["seq"] > taken["seq"]
                async with server.channels(kernel_id) as tab:
                    reply = await tab.until(await tab.send("kept"), "execute_result")
                    assert reply["content"]["data"]["text/plain"] == "42"
                numbers = [each["seq"] for each in events.heard if each.get("seq")]
                assert numbers == sorted(numbers)
                return session

        session = asyncio.run(live())
        log = server.log.read_text()
        assert with_token(home.path, [*server.said, log]) == []
        # The Jupyter server ends in order, with all its kernels: the session stays, and a new server finds it.
        server.end()
        assert server.troubles() == []
    assert list((home.path / "kernels").iterdir()) == []
    with JupyterServer(tmp_path) as server:
        server.until("ready")
        assert server.session_of(server.start_kernel("a.ipynb"))["id"] == session


def test_a_configured_service_that_does_not_answer_is_told_and_found_when_it_comes(
    home: GpuaasHome, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    token = "a-token-of-its-own-that-nobody-guesses"
    (home.path / "token").write_text(token)  # which the service takes for its admin's when it comes
    with JupyterServer(tmp_path, env={"GPUAAS_URL": f"http://127.0.0.1:{port}", "GPUAAS_TOKEN": token}) as server:
        view = server.until("unreachable")
        assert view["problem"]
        assert (view["embedded"], view["may_start"]) == (False, False)
        for method, path in (("GET", "v1/nodes"), ("POST", "v1/sessions/x/park"), ("GET", "sessions/x/missed")):
            answer = server.ask(method, path)
            assert (answer.status_code, answer.json()["error"]) == (503, "ServiceUnreachable")
            assert answer.json()["message"]
            assert answer.json()["hint"]
        refused = server.ask("POST", "service/start")
        assert (refused.status_code, refused.json()["error"]) == (409, "InvalidRequest")
        home.cli("up", "--detach", "--port", str(port))
        server.until("ready")
        assert server.ask("GET", "v1/nodes").status_code == 200
        home.cli("down")
        server.until("unreachable")
        assert with_token(home.path, [*server.said, server.log.read_text()]) == []


def test_a_server_that_may_not_start_the_service_says_so(home: GpuaasHome, tmp_path: Path) -> None:
    with JupyterServer(tmp_path, config='c.GpuaasApp.start_service = "never"') as server:
        assert server.until("off")["may_start"] is False
        answer = server.ask("GET", "v1/nodes")
        assert (answer.status_code, answer.json()["error"]) == (503, "ServiceUnreachable")
        assert "gpuaas up" in answer.json()["hint"]
        assert server.ask("POST", "service/start").status_code == 409
        assert read_service_file(home.path) is None
