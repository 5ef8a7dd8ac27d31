"""The service through its REST and WebSocket face, over real node agents."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
from websockets.asyncio.client import connect

from jupyter_gpuaas.client.rest import websocket_url
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.controller.catalogue.database import Database
from jupyter_gpuaas.controller.catalogue.records import SessionRecord
from jupyter_gpuaas.controller.gate import OPEN_PATHS
from jupyter_gpuaas.controller.openapi import MEANINGS, refusals
from jupyter_gpuaas.engine.queue import LeaseQueue
from jupyter_gpuaas.errors import (
    _BY_NAME,
    CatalogueError,
    Forbidden,
    InvalidRequest,
    NoCapacity,
    NoSuchSession,
    QuotaExceeded,
    ServiceUnreachable,
    SessionEnded,
)
from jupyter_gpuaas.model import Event, GpuSession, NodeState, ResourceRequest, SessionState, SessionView
from tests.conftest import GpuaasHome, processes_with
from tests.service import Service, eventually, running_service

S = SessionState
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def service(gpuaas_home: GpuaasHome) -> AsyncIterator[Service]:
    async with running_service(gpuaas_home.path) as running:
        yield running


async def story(client: ServiceClient, session_id: str) -> list[str]:
    events = await client.events(session=session_id)
    return [event.target for event in events if event.kind == "transition"]


async def until(client: ServiceClient, session: GpuSession, *states: S) -> GpuSession:
    """Follow a session by long polls until it is in one of the states."""

    async def look() -> GpuSession | None:
        nonlocal session
        try:
            session = (await client.session(session.id, after=session.last_event, wait_s=5)).session
        except SessionEnded:
            session = next(each for each in await client.sessions(all=True) if each.id == session.id)
        return session if session.state in states else None

    found: GpuSession = await eventually(look)
    return found


# -- sessions ------------------------------------------------------------------------------------------------


async def test_create_session_runs_and_release_leaves_nothing(service: Service) -> None:
    view = await service.admin.create_session("first", wait_s=30)
    assert view.session.state is S.IDLE
    assert view.session.epoch == 1
    assert view.channel is not None
    assert len(await service.admin.allocations()) == 1
    ended = await service.admin.release(view.session.id)
    assert ended.session.state is S.CLOSED
    assert ended.session.lease is None
    assert await service.admin.allocations() == []
    assert await service.admin.sessions() == []
    assert await story(service.admin, view.session.id) == [
        "queued", "starting", "idle", "closing", "closed",
    ]  # fmt: skip
    sessions = service.controller.settings.folder / "nodes" / "local-0" / "sessions"
    assert list(sessions.iterdir()) == []


async def test_create_session_same_name_is_the_same_session(service: Service) -> None:
    name = "/home/someone/work dir/été & %2F.ipynb"
    first = await service.admin.create_session(name, wait_s=30)
    again = await service.admin.create_session(name)
    assert again.session.id == first.session.id
    assert (await service.admin.session(name)).session.id == first.session.id
    assert (await service.admin.release(name)).session.id == first.session.id
    other = await service.admin.create_session(name)
    assert other.session.id != first.session.id


async def test_create_session_at_once_by_many_is_one_session(service: Service) -> None:
    views = await asyncio.gather(*(service.admin.create_session("shared", wait_s=30) for _ in range(10)))
    assert len({view.session.id for view in views}) == 1
    assert len(await service.admin.allocations()) == 1


async def test_two_sessions_on_one_device_second_waits_with_its_place(service: Service) -> None:
    first = (await service.admin.create_session("first", wait_s=30)).session
    second = (await service.admin.create_session("second")).session
    third = (await service.admin.create_session("third")).session
    assert (await service.admin.session(second.id)).session.queue_place == 1
    assert (await service.admin.session(third.id)).session.queue_place == 2
    await service.admin.release(first.id)
    second = await until(service.admin, second, S.IDLE)
    assert second.queue_place == 0
    assert (await service.admin.session(third.id)).session.queue_place == 1
    places = [event.detail.get("queue_place") for event in await service.admin.events(session=third.id)]
    assert [place for place in places if place] == [2, 1]


async def test_the_use_of_one_device_by_one_after_the_other_is_never_more_than_the_time(service: Service) -> None:
    began_s = time.time()
    first = (await service.admin.create_session("first", wait_s=30)).session
    second = (await service.admin.create_session("second")).session
    assert first.devices_since_s >= began_s and first.since_s >= began_s
    assert (second.device_s, second.devices_since_s) == (0.0, 0.0)
    await service.admin.release(first.id)
    second = await until(service.admin, second, S.IDLE)
    assert second.device_s == 0.0 and second.devices_since_s > first.devices_since_s
    await service.admin.release(second.id)
    ended = await service.admin.sessions(all=True)
    passed_s = time.time() - began_s
    assert 0.0 < sum(each.device_s for each in ended) <= passed_s + 0.1  # rounded
    assert [each.devices_since_s for each in ended] == [0.0, 0.0]


async def test_who_waits_is_told_when_the_idle_session_before_it_is_parked(service: Service) -> None:
    first = (await service.admin.create_session("first", wait_s=30)).session
    second = (await service.admin.create_session("second")).session
    rest_s = service.controller.settings.park_for_waiting_s
    assert (await service.admin.session(second.id)).session.starts_s == pytest.approx(first.since_s + rest_s, abs=0.1)
    assert [each.starts_s > 0 for each in await service.admin.sessions()] == [False, True]
    (stored,) = [each.session for each in service.controller.sessions.all() if each.session.id == second.id]
    assert stored.starts_s == 0.0  # only in answers


async def test_sessions_in_pages_are_those_of_the_whole_list(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        await service.admin.create_session(f"number {number}")
    eve = service.client("eve")
    async with eve:
        theirs = (await eve.create_session("eve's")).session
        await service.admin.release((await service.admin.sessions())[1].id)
        for ended in (False, True):
            whole = await service.admin.sessions(all=ended)
            first = await service.admin.page_of_sessions(all=ended, limit=4)
            rest = await service.admin.page_of_sessions(all=ended, limit=4, after=first[-1].id)
            assert [each.id for each in first + rest] == [each.id for each in whole]
            assert len(first) == 4 and len(whole) == 5 + ended
        (found,) = await service.admin.page_of_sessions(name="number 3")
        assert found.name == "number 3"
        monkeypatch.setattr("jupyter_gpuaas.client.service.SESSIONS_A_PAGE", 2)
        assert [each.id for each in await service.admin.sessions(all=True)] == [each.id for each in whole]
        assert [each.id for each in await eve.sessions()] == [theirs.id]
        with pytest.raises(InvalidRequest, match="after"):
            await eve.page_of_sessions(after=whole[0].id)


async def test_release_of_a_queued_session_lets_the_next_through(service: Service) -> None:
    first = (await service.admin.create_session("first", wait_s=30)).session
    second = (await service.admin.create_session("second")).session
    third = (await service.admin.create_session("third")).session
    assert (await service.admin.release(second.id)).session.state is S.CLOSED
    assert (await service.admin.session(third.id)).session.queue_place == 1
    await service.admin.release(first.id)
    assert (await until(service.admin, third, S.IDLE)).state is S.IDLE


async def test_killed_host_fails_its_session_and_frees_the_device(service: Service) -> None:
    first = (await service.admin.create_session("first", wait_s=30)).session
    second = (await service.admin.create_session("second")).session
    hosts = service.controller.settings.folder / "nodes" / "local-0" / "hosts"
    record = next(
        found
        for found in (msgspec.json.decode(path.read_bytes()) for path in hosts.glob("*.json"))
        if found["session_id"] == first.id
    )
    os.kill(record["pid"], signal.SIGKILL)
    failed = await until(service.admin, first, S.FAILED)
    assert "ended unexpectedly" in failed.cause
    assert (await until(service.admin, second, S.IDLE)).state is S.IDLE
    assert (await story(service.admin, first.id))[-2:] == ["lost", "failed"]
    leases = await service.admin.allocations()
    assert [lease.session_id for lease in leases] == [second.id]


async def test_restart_gives_a_fresh_kernel_in_the_same_epoch(service: Service) -> None:
    session = (await service.admin.create_session("first", wait_s=30)).session
    await service.admin.restart(session.id)

    async def restarted() -> bool:
        return (await story(service.admin, session.id))[-2:] == ["starting", "idle"] and len(
            await story(service.admin, session.id)
        ) == 5

    await eventually(restarted)
    events = await service.admin.events(session=session.id)
    assert "restarted" in [event.detail.get("event") for event in events]
    assert (await service.admin.session(session.id)).session.epoch == 1


async def test_interrupt_of_an_idle_session_does_nothing(service: Service) -> None:
    session = (await service.admin.create_session("first", wait_s=30)).session
    await service.admin.interrupt(session.id)
    assert (await service.admin.session(session.id)).session.state is S.IDLE


async def test_killed_agent_comes_back_and_its_session_goes_on(service: Service) -> None:
    session = (await service.admin.create_session("first", wait_s=30)).session
    agent = service.controller.settings.folder / "nodes" / "local-0" / "agent.json"
    os.kill(msgspec.json.decode(agent.read_bytes())["pid"], signal.SIGKILL)
    await eventually(lambda: any(node.state == "lost" for node in service.engine.nodes()))
    await eventually(lambda: all(node.state == "up" for node in service.engine.nodes()))
    assert (await service.admin.session(session.id)).session.state is S.IDLE
    assert (await service.admin.release(session.id)).session.state is S.CLOSED
    causes = [event.cause for event in await service.admin.events() if event.kind == "node"]
    assert any("lost" in cause for cause in causes) and any("up" in cause for cause in causes)


async def test_unattended_session_ends_and_says_why(gpuaas_home: GpuaasHome) -> None:
    async with running_service(gpuaas_home.path, unattended_s=1.0) as service:
        session = (await service.admin.create_session("first", wait_s=30)).session
        ended = await until(service.admin, session, S.CLOSED)
        assert "unattended_s" in ended.cause
        causes = [event.cause for event in await service.admin.events(session=session.id)]
        assert any("no client was attached for 1 s" in cause for cause in causes)


async def test_ended_session_is_listed_with_all_and_refused_by_id(service: Service) -> None:
    session = (await service.admin.create_session("first", wait_s=30)).session
    await service.admin.release(session.id)
    assert [each.id for each in await service.admin.sessions(all=True)] == [session.id]
    with pytest.raises(SessionEnded, match="released"):
        await service.admin.session(session.id)
    with pytest.raises(NoSuchSession):
        await service.admin.session("first")


async def test_long_poll_answers_at_the_change_and_not_before(service: Service) -> None:
    await service.admin.create_session("first", wait_s=30)
    second = (await service.admin.create_session("second")).session
    second = (await service.admin.session(second.id)).session
    poll = asyncio.create_task(service.admin.session(second.id, after=second.last_event, wait_s=30))
    quick = await service.admin.session(second.id, after=second.last_event, wait_s=0.1)
    assert quick.session == second
    assert not poll.done()
    await service.admin.release("first")
    assert (await poll).session.last_event > second.last_event


@pytest.mark.long
@pytest.mark.parametrize("target", ["starting", "idle", "closing", "closed"])
async def test_catalogue_that_cannot_be_written_for_a_while_delays_but_loses_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """A full disk, say, at each step of a session's life."""
    store, failures = Database.store, 2

    def failing(self: Database, record: SessionRecord, **news: Any) -> SessionRecord:
        nonlocal failures
        if news.get("target") == target and failures:
            failures -= 1
            raise CatalogueError("the disk is full")
        return store(self, record, **news)

    monkeypatch.setattr(Database, "store", failing)
    session = (await service.admin.create_session("first", wait_s=30)).session
    assert (await until(service.admin, session, S.IDLE)).epoch == 1
    if target == "closing":
        for _ in range(2):
            with pytest.raises(CatalogueError, match="disk is full"):
                await service.admin.release(session.id)
    await service.admin.release(session.id)
    assert failures == 0
    assert (await story(service.admin, session.id)) == ["queued", "starting", "idle", "closing", "closed"]
    assert await service.admin.allocations() == []


async def test_leases_that_cannot_be_written_for_a_while_delay_the_end_of_a_session(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = (await service.admin.create_session("first", wait_s=30)).session
    save, failures = LeaseQueue._save, 2

    def failing(self: LeaseQueue) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(errno.ENOSPC, "no space left on device")
        save(self)

    monkeypatch.setattr(LeaseQueue, "_save", failing)
    assert (await service.admin.release(session.id)).session.state is S.CLOSED
    assert failures == 0
    assert await service.admin.allocations() == []


async def test_lease_that_cannot_be_written_is_told_to_who_waits_for_it_and_tried_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, is_full = LeaseQueue._save, True

    def failing(self: LeaseQueue) -> None:
        if is_full:
            raise OSError(errno.ENOSPC, "no space left on device")
        save(self)

    monkeypatch.setattr(LeaseQueue, "_save", failing)
    session = (await service.admin.create_session("first")).session

    async def is_told() -> bool:
        seen = (await service.admin.session(session.id)).session
        return seen.state is S.QUEUED and "lease not written" in seen.cause and "no space left" in seen.cause

    await eventually(is_told)
    is_full = False
    await until(service.admin, session, S.IDLE)


async def test_service_whose_disk_is_full_tells_nobody_but_ends_its_nodes(
    gpuaas_home: GpuaasHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_service(gpuaas_home.path) as service:
        await service.admin.create_session("first", wait_s=30)
        agent = service.engine._agents["local-0"].pid

        def full(*_: Any, **__: Any) -> Any:
            raise CatalogueError("the disk is full")

        monkeypatch.setattr(Database, "store", full)
        monkeypatch.setattr(Database, "announce", full)
        # Nodes are followed all the same.
        os.kill(agent, signal.SIGKILL)
        await eventually(lambda: service.engine.nodes()[0].state is NodeState.LOST)
        await eventually(lambda: service.engine.nodes()[0].state is NodeState.UP)
        assert not service.controller.watcher._tasks[""].done()
    assert processes_with("GPUAAS_HOME", str(gpuaas_home.path)) == []


# -- refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 2000}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": 7}, "name"),
        ({"name": "a", "colour": "red"}, "colour"),
        ({"name": "a", "request": {"devices": 0}}, "request.devices"),
        ({"name": "a", "request": {"devices": 1.5}}, "request.devices"),
        ({"name": "a", "request": {"memory_bytes": -1}}, "request.memory_bytes"),
        ({"name": "a", "request": {"memory_bytes": 2**70}}, "request.memory_bytes"),
        ({"name": "a", "request": {"speed": 9}}, "request.speed"),
        ({"name": "a", "request": []}, "request"),
        ({"name": "a", "wait_s": -1}, "wait_s"),
        ({"name": "a", "wait_s": 1e9}, "wait_s"),
        ({"name": "a", "env": {"A=B": "c"}}, "env"),
        ({"name": "a", "env": {"A": "\0"}}, "env"),
        ({"name": "a", "cwd": "work\0"}, "cwd"),
        ({"name": "a", "request": {"kind": "\ud800"}}, "request.kind"),
        ([], "body"),
    ],
)
async def test_create_session_bad_field_is_named_and_changes_nothing(
    service: Service, body: object, field: str
) -> None:
    async with raw(service) as http:
        answer = await http.post("/sessions", content=json.dumps(body), headers=JSON)
    assert answer.status_code == 422
    assert answer.json()["error"] == "InvalidRequest"
    assert field in answer.json()["message"]
    assert await service.admin.sessions(all=True) == []


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"", b'{"name": "\\ud800"}', b"[" * 20_000])
async def test_create_session_bad_json_is_refused(service: Service, content: bytes) -> None:
    async with raw(service) as http:
        answer = await http.post("/sessions", content=content, headers=JSON)
    assert 400 <= answer.status_code < 500
    assert answer.json()["message"]


@pytest.mark.parametrize("chunked", [False, True])
async def test_large_body_is_refused(service: Service, chunked: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * 65536

    content: Any = pieces() if chunked else b"x" * (40 * 65536)
    async with raw(service) as http:
        answer = await http.post("/sessions", content=content, headers=JSON)
    assert answer.status_code == 413
    assert "request_body_bytes" in answer.json()["message"]


@pytest.mark.parametrize(
    "request_",
    [
        ResourceRequest(devices=5),
        ResourceRequest(kind="cuda"),
        ResourceRequest(node="moon"),
        ResourceRequest(memory_bytes=2**59),
    ],
)
async def test_create_session_impossible_request_is_refused_at_once(
    service: Service, request_: ResourceRequest
) -> None:
    with pytest.raises(NoCapacity):
        await service.admin.create_session("a", request=request_)
    assert await service.admin.sessions(all=True) == []


async def test_create_session_over_the_quota_is_refused(gpuaas_home: GpuaasHome) -> None:
    async with running_service(gpuaas_home.path, sessions_per_user=2) as service:
        for name in "ab":
            await service.admin.create_session(name)
        with pytest.raises(QuotaExceeded, match="sessions_per_user"):
            await service.admin.create_session("c")
        async with service.client("bob") as bob:
            assert (await bob.create_session("c")).session.owner == "bob"
        await service.admin.release("b")
        await service.admin.create_session("c")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/sessions/x?after=-1"),
        ("GET", "/sessions/x?wait_s=nan"),
        ("GET", "/events?limit=0"),
        ("GET", "/events?after=x"),
        ("GET", "/sessions/x"),
        ("DELETE", "/sessions/x"),
        ("POST", "/sessions/x/ticket"),
        ("GET", "/sessions/%00"),
        ("GET", "/nowhere"),
        ("PATCH", "/sessions"),
        ("POST", "/tokens"),
    ],
)
async def test_bad_request_gets_a_reason(service: Service, method: str, path: str) -> None:
    async with raw(service) as http:
        answer = await http.request(method, path)
    assert 400 <= answer.status_code < 500
    assert set(answer.json()) >= {"error", "message", "hint"}


async def test_create_session_name_that_is_no_text_is_refused_by_the_client(service: Service) -> None:
    with pytest.raises(InvalidRequest, match="Unicode"):
        await service.admin.create_session("\udc80.ipynb")


# -- users ---------------------------------------------------------------------------------------------------


async def test_users_see_their_own_sessions_and_the_admin_sees_all(service: Service) -> None:
    async with service.client("ann") as ann, service.client("bob") as bob:
        mine = (await ann.create_session("work")).session
        other = (await bob.create_session("work")).session
        assert mine.id != other.id
        assert [each.id for each in await ann.sessions()] == [mine.id]
        assert {each.id for each in await service.admin.sessions()} == {mine.id, other.id}
        assert {event.session_id for event in await bob.events()} == {"", other.id}
        with pytest.raises(Forbidden):
            await ann.session(other.id)
        with pytest.raises(NoSuchSession):
            await service.admin.session("work")  # Names are each user's own.


@pytest.mark.sqlite
async def test_create_token_is_for_admins_and_its_token_works(service: Service) -> None:
    made = await service.admin.create_token("ann", ttl_s=60)
    assert made.role == "user"
    async with ServiceClient(service.url, made.token) as ann:
        assert await ann.sessions() == []
        with pytest.raises(Forbidden):
            await ann.create_token("eve", role="admin")
        with pytest.raises(Forbidden):
            await ann.stop()
    stored = (service.controller.settings.folder / "controller.db").read_bytes()
    wal = (service.controller.settings.folder / "controller.db-wal").read_bytes()
    assert made.token.encode() not in stored + wal


@pytest.mark.sqlite
async def test_secrets_are_readable_by_their_user_only(service: Service) -> None:
    folder = service.controller.settings.folder
    for name in ("controller.db", "controller.db-wal", "token", "leases.json"):
        path = folder / name
        if path.exists():
            assert path.stat().st_mode & 0o077 == 0, name


# -- events --------------------------------------------------------------------------------------------------


async def test_events_number_rises_by_one_and_after_and_limit_hold(service: Service) -> None:
    await service.admin.create_session("first", wait_s=30)
    events = await service.admin.events()
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.seq for event in await service.admin.events(after=2, limit=2)] == [3, 4]
    placed = next(event for event in events if event.target == "starting")
    assert (placed.source, placed.epoch, placed.cause) == ("queued", 1, "on local-0 with cpu:0")


async def test_stream_events_gives_the_old_then_the_new_and_misses_none(service: Service) -> None:
    session = (await service.admin.create_session("first", wait_s=30)).session
    seen: list[Event] = []
    stream = service.admin.stream_events()
    async for event in stream:
        seen.append(event)
        if event.target == "idle":
            break
    release = asyncio.create_task(service.admin.release(session.id))
    async for event in stream:
        seen.append(event)
        if event.target == "closed":
            break
    await stream.aclose()
    await release
    assert seen == await service.admin.events()


async def test_stream_events_end_of_the_service_ends_the_stream(gpuaas_home: GpuaasHome) -> None:
    async with running_service(gpuaas_home.path) as service:
        stream = service.admin.stream_events()
        assert (await anext(stream)).kind == "service"
        rest = asyncio.create_task(drain(stream))
    await asyncio.wait_for(rest, 10)


async def drain(stream: AsyncIterator[Event]) -> None:
    try:
        async for _ in stream:
            continue
    except ServiceUnreachable:
        return


@pytest.mark.long
async def test_events_old_ones_go_and_ended_sessions_with_them(gpuaas_home: GpuaasHome) -> None:
    async with running_service(gpuaas_home.path, events_kept=20) as service:
        for number in range(8):
            await service.admin.create_session(f"s{number}", wait_s=30)
            await service.admin.release(f"s{number}")
        events = await service.admin.events()
        assert 20 <= len(events) <= 25
        kept = {event.session_id for event in events}
        assert {each.id for each in await service.admin.sessions(all=True)} <= kept


# -- nodes, log, relay ---------------------------------------------------------------------------------------


async def test_nodes_show_devices_samples_and_leases(service: Service) -> None:
    session = (await service.admin.create_session("first", wait_s=30)).session
    (node,) = await service.admin.nodes()
    assert node.id == "local-0"
    assert node.leased == ("cpu:0",)
    assert [sample.device_id for sample in node.samples] == ["cpu:0"]
    assert session.lease is not None and session.lease.device_ids == ("cpu:0",)


async def test_log_system_is_text_and_of_a_queued_session_is_refused(service: Service) -> None:
    session = (await service.admin.create_session("first", wait_s=30)).session
    assert isinstance(await service.admin.log(session.id, kind="system"), str)
    queued = (await service.admin.create_session("second")).session
    with pytest.raises(Exception, match="queued"):
        await service.admin.log(queued.id)


async def test_relay_is_refused_in_the_agents_own_words(service: Service) -> None:
    """A client id that the agent does not take: the relay hands its answer on."""
    session = (await service.admin.create_session("first", wait_s=30)).session
    url = f"{websocket_url(service.url)}/sessions/{session.id}/channel?client=@@"
    with pytest.raises(Exception, match="400"):
        await connect(url, additional_headers={"Authorization": f"Bearer {service.token}"}, proxy=None)


async def test_openapi_describes_every_answer(service: Service) -> None:
    async with raw(service) as http:
        page = (await http.get("/openapi.json")).json()
        assert (await http.get("/docs")).status_code == 200
    assert page["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    known = page["components"]["schemas"]
    text = msgspec.json.encode(page).decode()
    references = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert references <= set(known)
    assert {"SessionView", "GpuSession", "Event", "NodeView"} <= references
    for path, operations in page["paths"].items():
        for method, operation in operations.items():
            assert operation.get("summary"), path
            refused = set() if path in OPEN_PATHS else {str(status) for status in refusals(path, method)}
            assert refused <= operation["responses"].keys(), path
            assert any(status.startswith("2") for status in operation["responses"]), path
    # Every status that one of our errors answers with is one that is told of.
    assert {kind.status for kind in _BY_NAME.values()} <= MEANINGS.keys()


async def test_health_needs_no_token(service: Service) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(f"{service.url}/health")
    assert answer.json()["status"] == "ok"


def raw(service: Service) -> httpx.AsyncClient:
    """Plain HTTP as the admin, for requests that our own client would not make."""
    return httpx.AsyncClient(
        base_url=service.url,
        headers={"Authorization": f"Bearer {service.token}"},
        trust_env=False,
        timeout=30,
    )


def test_session_view_survives_the_wire() -> None:
    session = GpuSession(id="a", name="n", owner="o", state=S.IDLE, epoch=1, request=ResourceRequest(), created_s=1.0)
    view = SessionView(session=session)
    assert msgspec.json.decode(msgspec.json.encode(view), type=SessionView) == view
