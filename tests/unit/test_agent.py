"""The node agent in this process: what it does when it runs out of something."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from pathlib import Path

import msgspec
import pytest

from jupyter_gpuaas.errors import StaleEpoch, TransportError
from jupyter_gpuaas.model import HostReport, HostSpec, HostState, Lease
from jupyter_gpuaas.node import agent as agent_module
from jupyter_gpuaas.node import only_one
from jupyter_gpuaas.node.agent import Agent
from tests.service import quick_settings

LEASE = Lease("l", "s", "local-0", ("cpu:0",), 1)
SPEC = HostSpec(session_id="s", name="n", owner="ann", lease=LEASE, secret="x")


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent("local-0", tmp_path, quick_settings(tmp_path))


@pytest.fixture
async def listener(agent: Agent) -> AsyncIterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.setblocking(False)
        accepting = asyncio.create_task(agent._accept(made))
        yield made
        accepting.cancel()
        await asyncio.gather(accepting, *agent._tasks, return_exceptions=True)


async def ask(listener: socket.socket, request: bytes = b"GET /v1/node HTTP/1.1\r\nHost: x\r\n\r\n") -> bytes:
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


async def test_agent_without_descriptors_for_a_while_accepts_again(
    agent: Agent, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, failures = asyncio.get_running_loop(), 2
    accept = loop.sock_accept

    async def exhausted(sock: socket.socket) -> object:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(errno.EMFILE, "too many open files")
        return await accept(sock)

    monkeypatch.setattr(loop, "sock_accept", exhausted)
    assert b" 401 " in await asyncio.wait_for(ask(listener), 10)
    assert b" 401 " in await asyncio.wait_for(ask(listener), 10)
    assert not failures


async def test_agent_closes_connections_beyond_those_that_it_can_hear_out(
    agent: Agent, listener: socket.socket
) -> None:
    agent._settings = msgspec.structs.replace(agent._settings, unserved_connections=2)
    silent = [await asyncio.open_connection(*listener.getsockname()) for _ in range(2)]
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    for _, each in silent:
        each.close()
        await each.wait_closed()
    await asyncio.wait_for(asyncio.gather(*agent._tasks), 5)
    assert b" 401 " in await asyncio.wait_for(ask(listener), 10)


async def test_agent_host_that_did_not_start_may_be_ordered_again(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes: list[HostReport | TransportError] = [
        TransportError("no memory for a process."),
        HostReport(session_id="s", lease=LEASE, state=HostState.STARTING),
    ]

    async def start(*_: object) -> HostReport:
        outcome = outcomes.pop(0)
        if isinstance(outcome, TransportError):
            raise outcome
        return outcome

    monkeypatch.setattr(agent._hosts, "start", start)
    with pytest.raises(TransportError):
        await agent._start(SPEC)
    assert (await agent._start(SPEC))[0] == 201
    with pytest.raises(StaleEpoch):
        await agent._start(SPEC)


async def test_agent_start_that_comes_after_its_end_is_refused(agent: Agent) -> None:
    await agent._no_more_starts("s", "1")
    with pytest.raises(StaleEpoch):
        await agent._start(SPEC)


async def test_agent_end_of_a_host_that_is_being_started_waits_for_its_start(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def start(*_: object) -> HostReport:
        begun.set()
        await go_on.wait()
        return HostReport(session_id="s", lease=LEASE, state=HostState.STARTING)

    monkeypatch.setattr(agent._hosts, "start", start)
    starting = asyncio.create_task(agent._start(SPEC))
    await begun.wait()
    ending = asyncio.create_task(agent._no_more_starts("s", "1"))
    await asyncio.sleep(0)
    assert not ending.done()
    go_on.set()
    await ending
    assert (await starting)[0] == 201


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"session_id": 1}'])
async def test_agent_body_that_is_none_is_refused_with_a_reason(
    agent: Agent, listener: socket.socket, body: bytes
) -> None:
    head = f"POST /v1/hosts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {agent._token}\r\n"
    answer = await ask(listener, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    assert answer.startswith(b"HTTP/1.1 400 ") and b'"body: ' in answer


async def test_agent_whose_token_was_not_written_to_its_end_makes_another(tmp_path: Path) -> None:
    """It was killed before it had written a byte: with an empty one, whoever shows none would be let in."""
    (tmp_path / "token").write_bytes(b"")
    made = Agent("local-0", tmp_path, quick_settings(tmp_path))
    assert len(made._token) > 30 and (tmp_path / "token").read_text() == made._token
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    assert Agent("local-0", tmp_path, quick_settings(tmp_path))._token == made._token


def test_agent_beside_another_on_its_folder_ends_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(only_one, "PATIENCE_S", 0.0)
    with only_one.hold(tmp_path):
        monkeypatch.setattr(agent_module, "log_to_stderr", lambda log_format: None)
        with pytest.raises(SystemExit, match=f"{tmp_path} has an agent already, process {os.getpid()}"):
            agent_module.main(["--node", "a", "--folder", str(tmp_path)])
    assert not (tmp_path / "token").exists()


def test_agent_waits_for_a_former_one_that_is_about_to_be_gone(tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:
        with only_one.hold(tmp_path):
            waiting = pool.submit(lambda: only_one.hold(tmp_path).__enter__())
            with pytest.raises(TimeoutError):
                waiting.result(3 * only_one.PAUSE_S)
        waiting.result(30)
