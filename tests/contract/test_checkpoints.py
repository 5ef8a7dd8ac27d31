"""Checkpoints through the service's REST face: who may do what, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.client.session import RemoteSession
from jupyter_gpuaas.errors import (
    CheckpointError,
    Forbidden,
    GpuaasError,
    InvalidRequest,
    ManifestError,
    NoSuchCheckpoint,
    NoSuchSession,
)
from jupyter_gpuaas.model import CheckpointView, ResourceRequest, SessionState
from jupyter_gpuaas.state import Checkpointer
from jupyter_gpuaas.state.listing import owners_address
from jupyter_gpuaas.store import open_store
from tests.conftest import GpuaasHome
from tests.fault.nodes import agent_pid, records, stopped
from tests.service import Service, eventually, quick_settings, running_service


@pytest.fixture
async def service(gpuaas_home: GpuaasHome) -> AsyncIterator[Service]:
    settings = {"devices": "cpu:3", "checkpoint_share": 1e6, "workdir": "session"}
    async with running_service(gpuaas_home.path, **settings) as running:
        yield running


async def run(service: Service, client: ServiceClient, name: str, *cells: str) -> str:
    """Run cells in a session, which is found or made; returns its id."""
    view = await client.create_session(name, wait_s=30)

    async def idle() -> bool:  # what ran before may still be reported as running
        return (await client.session(view.session.id)).session.state is SessionState.IDLE

    await eventually(idle)
    session = RemoteSession(client, view.session.id, quick_settings(service.controller.settings.folder))
    await session.open(view.channel)
    try:
        for code in cells:
            content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}}
            reply = await session.request("execute_request", content | {"allow_stdin": False, "stop_on_error": True})
            assert reply["status"] == "ok", reply
    finally:
        await session.close()
    return view.session.id


async def taken(client: ServiceClient, session: str, count: int) -> list[CheckpointView]:
    async def look() -> list[CheckpointView] | None:
        found = await client.checkpoints(session)
        return found if len(found) >= count else None

    found: list[CheckpointView] = await eventually(look)
    return found


async def test_checkpoints_are_seen_and_used_by_their_owner_alone(service: Service) -> None:
    async with service.client("ann") as ann, service.client("bob") as bob:
        session = await run(service, ann, "a", "x = 1", "y = 2")
        first, second = await taken(ann, session, 2)
        assert (await ann.diff_checkpoints(session, first.id, "-1")).added == ("y",)
        for attempt in (
            bob.checkpoints(session),
            bob.take_checkpoint(session),
            bob.checkpoint_every(session, 0),
            bob.restore(session, first.id),
            bob.restore(session, first.id, new="mine"),
            bob.diff_checkpoints(session, first.id, second.id),
            bob.name_checkpoint(session, first.id, "mine"),
            bob.forget_checkpoint(session, first.id),
            bob.give_up(session, "r"),
        ):
            with pytest.raises(Forbidden):
                await attempt
        # Nor does the id help in a session of one's own, whose kernel has another key.
        own = await run(service, bob, "b", "z = 1")
        with pytest.raises(NoSuchCheckpoint):
            await bob.restore(own, first.id)
        assert len(await service.admin.checkpoints(session)) == 2


async def test_key_of_another_owner_restores_nothing(service: Service) -> None:
    async with service.client("ann") as ann:
        session = await run(service, ann, "a", "x = 1")
        (made,) = await taken(ann, session, 1)
    desk, database = service.controller.checkpoints, service.controller.database
    assert database.checkpoint_key("ann") == database.checkpoint_key("ann") != database.checkpoint_key("bob")
    store = open_store(owners_address(desk.address, "ann"))
    thief = Checkpointer(store, key=bytes.fromhex(database.checkpoint_key("bob")))
    assert thief.checkpoints() == []
    with pytest.raises(ManifestError):
        thief.restore(made.id)
    store.close()


async def test_key_is_in_no_event_view_log_or_environment(service: Service) -> None:
    name = service.controller.tokens.check(f"Bearer {service.token}").name
    session = await run(service, service.admin, "a", "import os, sys; print(dict(os.environ), sys.argv)")
    await taken(service.admin, session, 1)
    key = service.controller.database.checkpoint_key(name)
    events = await service.admin.events()
    said = [await service.admin.log(session, kind=kind) for kind in ("output", "system")]
    view = await service.admin.session(session)
    assert key not in repr((events, said, view))
    assert "GPUAAS_SESSION_ID" in said[0]


async def test_bad_requests_name_the_field_and_change_nothing(service: Service) -> None:
    session = await run(service, service.admin, "a", "x = 1")
    (made,) = await taken(service.admin, session, 1)
    headers = {"Authorization": f"Bearer {service.token}"}
    path = f"{service.url}/sessions/{session}"
    async with httpx.AsyncClient(headers=headers) as http:
        for method, where, body, field in (
            ("POST", "checkpoints", {"name": "-1"}, "name"),
            ("POST", "checkpoints", {"name": 3}, "name"),
            ("POST", "checkpoints", {"nme": "x"}, "nme"),
            ("POST", "checkpoints", {"request": "a/b"}, "request"),
            ("PATCH", "checkpoints", {"every": -1}, "every"),
            ("PATCH", "checkpoints", {}, "every"),
            ("PATCH", f"checkpoints/{made.id}", {"name": "-1"}, "name"),
            ("PATCH", f"checkpoints/{made.id}", {}, "name"),
            ("POST", "restores", {}, "checkpoint"),
            ("POST", "restores", {"checkpoint": ""}, "checkpoint"),
            ("POST", "restores", {"checkpoint": "-1", "new": ""}, "new"),
        ):
            answer = await http.request(method, f"{path}/{where}", json=body)
            assert answer.status_code == 422, (where, body)
            assert field in answer.json()["message"], answer.json()
    for attempt in (
        service.admin.restore(session, "nothing"),
        service.admin.diff_checkpoints(session, made.id, "nothing"),
        service.admin.name_checkpoint(session, "nothing", "mine"),
        service.admin.forget_checkpoint(session, "nothing"),
    ):
        with pytest.raises(NoSuchCheckpoint):
            await attempt
    with pytest.raises(NoSuchSession):
        await service.admin.checkpoints("nobody")
    with pytest.raises(CheckpointError, match="newest"):
        await service.admin.forget_checkpoint(session, "-1")
    assert len(await service.admin.checkpoints(session)) == 1


async def test_a_checkpoint_is_named_later_and_found_and_restored_by_its_name(service: Service) -> None:
    session = await run(service, service.admin, "a", "x = 1", "x = 2", "x = 3")
    made = await taken(service.admin, session, 3)
    named = await service.admin.name_checkpoint(session, made[0].id, "before")
    assert (named.id, named.label, named.cell) == (made[0].id, "before", made[0].cell)
    listed = await service.admin.checkpoints(session)
    assert [(each.id, each.label) for each in listed] == [
        (each.id, "before" if each is made[0] else "") for each in made
    ]
    with pytest.raises(CheckpointError, match="before"):
        await service.admin.name_checkpoint(session, "-1", "before")  # one name, one checkpoint
    assert (await service.admin.restore(session, "before")).checkpoint.id == made[0].id
    await run(service, service.admin, "a", "assert x == 1")
    await service.admin.name_checkpoint(session, "before", "first")
    await service.admin.name_checkpoint(session, "first", "")
    assert [each.label for each in await service.admin.checkpoints(session) if each.label] == []
    events = [each for each in await service.admin.events() if each.kind == "checkpoint_named"]
    assert [each.detail["name"] for each in events] == ["before", "first", ""]
    assert {each.detail["id"] for each in events} == {made[0].id}


async def test_checkpoints_of_an_ended_session_begin_a_new_one(service: Service) -> None:
    session = await run(service, service.admin, "a", "x = [1, 2]; y = x; x")
    (made,) = await taken(service.admin, session, 1)
    assert made.names == 2  # what IPython keeps of the cell and its output is not the user's
    await service.admin.release(session)
    assert [each.id for each in await service.admin.checkpoints(session)] == [made.id]
    assert [each.id for each in await service.admin.checkpoints("a")] == [made.id]
    report = await service.admin.restore(session, "-1", new="again")
    assert (report.checkpoint.id, report.names) == (made.id, 2)
    assert await run(service, service.admin, "again", "assert x == [1, 2] and x is y") == report.session
    with pytest.raises(InvalidRequest, match="new"):
        await service.admin.restore(session, "-1", new="again")
    await service.admin.forget_checkpoint(session, "-1")
    assert await service.admin.checkpoints(session) == []


async def test_session_that_begins_with_a_checkpoint_has_a_priority_that_its_user_may_have(service: Service) -> None:
    async with service.client("ann") as ann:
        await service.admin.put_user("ann", limits={"priority": 7})
        old = await ann.create_session("old", request=ResourceRequest(priority=7), wait_s=30)
        session = await run(service, ann, "old", "x = 1")
        assert old.session.id == session
        (made,) = await taken(ann, session, 1)
        await service.admin.put_user("ann", limits={"priority": 2})
        report = await ann.restore(session, made.id, new="again")
        assert (await ann.session(report.session)).session.request.priority == 2
        told = [each.cause for each in await ann.events(session=report.session) if each.kind == "session"]
        assert told == ["begins with priority 2: ann may ask for no more"]
        report = await service.admin.restore(session, made.id, new="for her")
        assert (await ann.session(report.session)).session.request.priority == 7


async def test_session_that_begins_with_a_checkpoint_has_lost_nothing_until_its_host_is_lost(
    service: Service, gpuaas_home: GpuaasHome
) -> None:
    session = await run(service, service.admin, "a", "x = 1", "x = 2")
    await taken(service.admin, session, 2)
    with stopped(agent_pid(gpuaas_home.path, "local-0")):  # the first order to start goes nowhere
        new = (await service.admin.restore(session, "-1", new="again")).session

        async def starts() -> bool:
            return (await service.admin.session(new)).session.state is SessionState.STARTING

        await eventually(starts)
    await run(service, service.admin, "again", "assert x == 2")
    assert (await service.admin.cells(new)).restored_cell is None
    own = (await taken(service.admin, new, 2))[-1]
    assert await lose_host(service, new) == own.cell == 3


async def lose_host(service: Service, session: str) -> int:
    """Kill the session's host; returns the cell that it comes back with."""
    (host,) = records(service.controller.settings.folder, session=session)
    os.kill(host.pid, signal.SIGKILL)

    async def restored() -> int | None:
        with contextlib.suppress(GpuaasError):  # no host at the moment
            return (await service.admin.cells(session)).restored_cell
        return None

    cell: int = await eventually(restored)
    return cell


@pytest.mark.parametrize("forgotten", [False, True])
async def test_session_that_begins_with_a_checkpoint_and_is_lost_before_its_first_cell_comes_back_with_it(
    service: Service, forgotten: bool
) -> None:
    session = await run(service, service.admin, "a", "x = [1]; y = x", "x.append(2)")
    await taken(service.admin, session, 2)
    report = await service.admin.restore(session, "-1", new="again")
    await run(service, service.admin, "again")  # no cell, only until it is there
    if forgotten:
        await service.admin.release(session)
        await service.admin.forget_checkpoint(session, "-1")
    assert await lose_host(service, report.session) == 2
    assert await run(service, service.admin, "again", "assert x == [1, 2] and x is y") == report.session


async def test_session_whose_host_is_lost_while_it_begins_with_a_checkpoint_begins_with_it_again(
    service: Service, tmp_path: Path
) -> None:
    once = tmp_path / "once"
    trouble = (
        "import os, pathlib, signal\n"
        "class Trouble:\n"
        f"    once = pathlib.Path({str(once)!r})\n"
        "    def __init__(self): self.kept = 1\n"
        "    def __setstate__(self, state):\n"
        "        self.__dict__.update(state)\n"
        "        if self.once.exists():\n"
        "            self.once.unlink()\n"
        "            os.kill(os.getppid(), signal.SIGKILL)\n"
        "            signal.pause()\n"
        "trouble = Trouble(); x = [1]; y = x"
    )
    session = await run(service, service.admin, "a", trouble)
    (made,) = await taken(service.admin, session, 1)
    assert not made.lost
    once.touch()
    report = await service.admin.restore(session, "-1", new="again")
    assert await run(service, service.admin, "again", "assert x is y and trouble.kept == 1") == report.session
    assert not once.exists()
    states = [each.target for each in await service.admin.events(session=report.session) if each.kind == "transition"]
    assert states.count("lost") == 1
    await eventually(lambda: not list(service.controller.settings.folder.glob("nodes/*/remains/*")))


async def test_checkpoint_is_forgotten_while_another_is_being_written(service: Service) -> None:
    session = await run(service, service.admin, "a", "x = 1", "y = 2")
    first, second = await taken(service.admin, session, 2)
    owner = service.controller.tokens.check(f"Bearer {service.token}").name
    store = open_store(owners_address(service.controller.checkpoints.address, owner))
    try:
        store.missing([])  # as a capture begins
        await service.admin.forget_checkpoint(session, first.id)
    finally:
        store.close()
    assert [each.id for each in await service.admin.checkpoints(session)] == [second.id]


async def test_checkpoint_that_cannot_be_restored_fails_the_new_session_with_the_reason(service: Service) -> None:
    session = await run(service, service.admin, "a", "x = 1", "y = 2")
    made = await taken(service.admin, session, 2)
    user = service.controller.tokens.check(f"Bearer {service.token}")
    record = service.controller.find_record(user, session)
    await service.admin.forget_checkpoint(session, made[0].id)
    live = service.controller.begin_from(record, "doomed", made[0].id, user)
    await eventually(live.ended)
    assert live.session.state is SessionState.FAILED
    assert made[0].id in live.session.cause


async def test_request_that_waits_for_a_cell_can_be_given_up(service: Service, tmp_path: Path) -> None:
    begun, gate = tmp_path / "begun", tmp_path / "gate"
    session = await run(service, service.admin, "a", "import time, pathlib")
    await taken(service.admin, session, 1)
    code = f"pathlib.Path({str(begun)!r}).touch()\nwhile not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.01)"
    running = asyncio.ensure_future(run(service, service.admin, "a", code))
    await eventually(begun.exists)  # a busy session may still be at something else than this cell
    taking = asyncio.ensure_future(service.admin.take_checkpoint(session, name="late", request="r1"))
    await service.admin.give_up(session, "r1")  # whichever of the two arrives first
    gate.touch()
    with pytest.raises(CheckpointError, match="interrupted"):
        await taking
    await running
    assert "late" not in [each.label for each in await service.admin.checkpoints(session)]


async def test_costs_are_in_the_view_the_events_and_the_metrics(service: Service) -> None:
    session = await run(service, service.admin, 'odd "name"', "x = bytes(100_000)")
    await taken(service.admin, session, 1)

    async def status() -> object:
        view = await service.admin.session(session)
        return view.checkpoints if view.checkpoints is not None and view.checkpoints.taken else None

    known = await eventually(status)
    assert known.last.host_bytes >= 100_000 and known.written_bytes > 0 and known.stall_s > 0
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {service.token}"}) as http:
        text = (await http.get(f"{service.url}/metrics")).text
        assert (await http.get(f"{service.url}/metrics", headers={"Authorization": ""})).status_code == 401
    line = next(line for line in text.splitlines() if line.startswith("gpuaas_checkpoints_taken_total{"))
    assert line.endswith(" 1") and 'name="odd \\"name\\""' in line
    assert 'gpuaas_sessions{state="idle"} 1' in text
    (event,) = [event for event in await service.admin.events() if event.kind == "checkpoint_taken"]
    assert event.session_id == session and event.detail["stall_s"] > 0


async def test_quota_stops_checkpoints_and_not_cells(gpuaas_home: GpuaasHome) -> None:
    settings = {"devices": "cpu:1", "checkpoint_share": 1e6, "workdir": "session", "checkpoint_quota_bytes": 400_000}
    async with running_service(gpuaas_home.path, **settings) as service:
        session = await run(service, service.admin, "a", "import os; small = 1")
        await taken(service.admin, session, 1)
        await run(service, service.admin, "a", "large = os.urandom(2_000_000)", "after = len(large)")

        async def problem() -> str:
            view = await service.admin.session(session)
            return view.checkpoints.problem if view.checkpoints is not None else ""

        assert "quota" in await eventually(problem)
        with pytest.raises(CheckpointError):
            await service.admin.take_checkpoint(session)
        await run(service, service.admin, "a", "assert after == 2_000_000; del large; small = 2")
        await service.admin.take_checkpoint(session, name="fits again")
        assert await problem_after(service, session) == ""
        await service.admin.restore(session, "fits again")
        await run(service, service.admin, "a", "assert small == 2 and after == 2_000_000")


async def problem_after(service: Service, session: str) -> str:
    """The problem, once the report of the last checkpoint has come."""

    async def last() -> bool:
        view = await service.admin.session(session)
        known = view.checkpoints
        return known is not None and known.last is not None and known.last.label == "fits again"

    await eventually(last)
    view = await service.admin.session(session)
    assert view.checkpoints is not None
    return view.checkpoints.problem


async def test_checkpoints_go_to_the_url_that_the_setting_names(gpuaas_home: GpuaasHome, tmp_path: Path) -> None:
    settings = {"devices": "cpu:1", "checkpoint_share": 1e6, "workdir": "session"}
    async with running_service(gpuaas_home.path, checkpoint_store=f"file://{tmp_path}/far", **settings) as service:
        session = await run(service, service.admin, "a", "x = [1]; y = x", "x.append(2)")
        await taken(service.admin, session, 2)
        assert (tmp_path / "far").is_dir() and not (gpuaas_home.path / "checkpoints").exists()
        assert (await service.admin.diff_checkpoints(session, "-2", "-1")).changed == ("x", "y")
        await service.admin.restore(session, "-2")
        await run(service, service.admin, "a", "assert x == [1] and x is y")
