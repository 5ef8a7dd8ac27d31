"""Metrics, health, logs, the dashboard and the doctor."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.client.session import RemoteSession
from jupyter_gpuaas.controller import routes_metrics
from jupyter_gpuaas.controller.catalogue.database import Database
from jupyter_gpuaas.engine import agent_client
from jupyter_gpuaas.errors import CatalogueError
from jupyter_gpuaas.logs import JsonFormatter
from jupyter_gpuaas.model import CheckpointStatus
from tests.conftest import GpuaasHome
from tests.service import Service, eventually, quick_settings, running_service

DOCS = Path(__file__).parents[2] / "docs"
MINUTE = timedelta(minutes=1)


@pytest.fixture
async def service(gpuaas_home: GpuaasHome) -> AsyncIterator[Service]:
    async with running_service(gpuaas_home.path) as running:
        yield running


async def families(client: ServiceClient) -> dict[str, Any]:
    """What is measured, by name, as Prometheus reads it."""
    found = {}
    for family in text_string_to_metric_families(await client.metrics()):
        assert family.name not in found, "each metric is told once"
        assert family.documentation and family.type in ("gauge", "counter")
        # The parser leaves out the end of a counter's name.
        found[family.name + ("_total" if family.type == "counter" else "")] = family
    return found


def values(family: Any) -> dict[tuple[str, ...], float]:
    return {tuple(sample.labels.values()): sample.value for sample in family.samples}


async def test_metrics_are_those_of_the_documentation_and_true(service: Service) -> None:
    session = (await service.admin.create_session('a "name"\\', wait_s=30)).session
    assert (await service.admin.create_session("waits")).session.state == "queued"
    live = service.controller.sessions.get(session.id)
    assert live is not None
    remote = RemoteSession(service.admin, session.id, quick_settings(service.controller.settings.folder))
    await remote.open()
    await remote.request("execute_request", {"code": "x = 1"})
    await eventually(lambda: live.checkpoints is not None and live.checkpoints.last is not None)
    await remote.close()
    found = await families(service.admin)
    documented = dict(re.findall(r"^\| `(gpuaas_\w+)` \| (\w+) \|", (DOCS / "metrics.md").read_text(), re.MULTILINE))
    assert {name: family.type for name, family in found.items()} == documented
    assert values(found["gpuaas_sessions"])["idle",] == 1
    assert values(found["gpuaas_devices"]) == {(): 1}
    assert values(found["gpuaas_devices_leased"]) == {(): 1}
    assert values(found["gpuaas_sessions_waiting"]) == {(): 1}
    assert values(found["gpuaas_nodes"]) == {("up",): 1, ("cordoned",): 0, ("lost",): 0}
    assert values(found["gpuaas_transitions_total"])["starting",] == 1
    assert values(found["gpuaas_http_requests_total"])["POST", "/sessions", "2xx"] == 2
    assert values(found["gpuaas_process_memory_bytes"])[()] > 1e6
    named = found["gpuaas_checkpoints_taken_total"].samples[0].labels
    assert (named["session"], named["name"]) == (session.id, 'a "name"\\')


async def test_metrics_labels_do_not_grow_with_what_is_asked_for(service: Service) -> None:
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as http:
        http.headers["Authorization"] = f"Bearer {service.token}"
        for number in range(30):
            await http.get(f"/sessions/none-{number}")
            await http.get(f"/nowhere/{number}")
            await http.request(f"VERB{number}", "/sessions")
    asked = values((await families(service.admin))["gpuaas_http_requests_total"])
    assert asked["GET", "/sessions/{session}", "4xx"] == 30
    assert len(asked) < 10, asked


async def test_metrics_have_lines_of_the_newest_sessions_only(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes_metrics, "MOST_SESSIONS", 2)
    for number in range(4):
        live = service.controller.sessions.get((await service.admin.create_session(f"s{number}")).session.id)
        assert live is not None
        live.checkpoints = CheckpointStatus(taken=number)
    found = await families(service.admin)
    for name in ("gpuaas_checkpoints_taken_total", "gpuaas_checkpoints_waiting"):
        assert [sample.labels["name"] for sample in found[name].samples] == ["s2", "s3"]
    assert sum(values(found["gpuaas_sessions"]).values()) == 4, "all are counted"


async def test_metrics_of_a_user_tell_of_the_user_only(service: Service) -> None:
    await service.admin.create_session("mine", wait_s=30)
    async with service.client("ann") as ann:
        found = await families(ann)
    assert values(found["gpuaas_sessions"])["idle",] == 0
    assert "gpuaas_devices" not in found and "gpuaas_http_requests_total" not in found


def test_dashboard_asks_for_what_there_is() -> None:
    board = json.loads((DOCS / "grafana" / "jupyter_gpuaas.json").read_text())
    asked = {name for p in board["panels"] for t in p["targets"] for name in re.findall(r"gpuaas_\w+", t["expr"])}
    documented = set(re.findall(r"`(gpuaas_\w+)`", (DOCS / "metrics.md").read_text()))
    assert asked and asked <= documented
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


async def test_ready_service_that_loses_its_database_or_ends_is_not(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as http:
        assert (await http.get("/healthz")).json()["status"] == "ok"
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "ready")
        with monkeypatch.context() as broken:

            def fails(_: Database) -> float:
                raise CatalogueError("the password is secret")

            broken.setattr(Database, "lasting", fails)
            answer = await http.get("/readyz")
            assert answer.status_code == 503
            assert answer.json()["checks"] == {"acts": "ok", "database": "does not answer", "nodes": "ok"}
        monkeypatch.setattr(service.controller, "is_closing", True)
        assert (await http.get("/readyz")).status_code == 503
        assert (await http.get("/healthz")).status_code == 200


async def test_service_without_nodes_is_ready_only_where_they_come_by_themselves(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as http:
        with monkeypatch.context() as empty:
            empty.setattr(service.engine, "nodes", list)
            answer = await http.get("/readyz")
            assert (answer.status_code, answer.json()["checks"]["nodes"]) == (503, "none answers")
            empty.setattr(service.engine, "grows", True)
            assert (await http.get("/readyz")).status_code == 200


def test_log_as_json_names_session_and_epoch() -> None:
    formatter = JsonFormatter()
    known = "0123456789abcdef" * 2
    formatter.epoch_of = {known: 7}.get
    record = logging.LogRecord("a.b", logging.WARNING, "f.py", 1, "session %s: %s\n", (known, "ü"), None)
    line = json.loads(formatter.format(record))
    assert (line["session"], line["epoch"], line["level"], line["logger"]) == (known, 7, "warning", "a.b")
    assert "\n" not in formatter.format(record)
    other = logging.LogRecord("a", logging.INFO, "f.py", 1, "lease %s is given back later", ("f" * 32,), None)
    assert not {"session", "epoch"} & json.loads(formatter.format(other)).keys()
    both = logging.LogRecord("a", logging.INFO, "f.py", 1, "lease %s of session %s", ("f" * 32, known), None)
    assert json.loads(formatter.format(both))["session"] == known
    try:
        raise ValueError("why")
    except ValueError:
        failed = logging.LogRecord("a", logging.ERROR, "f.py", 1, "failed", (), sys.exc_info())
    line = json.loads(formatter.format(failed))
    assert "ValueError: why" in line["exception"] and "session" not in line


#: Lets the kernel say something that is no message, which its host writes down.
NO_MESSAGE = (
    "parts = [b'a.status', b'<IDS|MSG>', b'', b'no JSON', b'no JSON', b'{}', b'{}']\n"
    "get_ipython().kernel.iopub_thread.send_multipart(parts)"
)


async def test_agents_and_hosts_log_as_the_service_does(gpuaas_home: GpuaasHome) -> None:
    node = gpuaas_home.path / "nodes" / "local-0"
    (node / "hosts").mkdir(parents=True)
    (node / "hosts" / "damaged.json").write_text("no record")

    def said(path: str, what: str) -> list[dict[str, Any]]:
        lines = [line for each in node.glob(path) for line in each.read_text().splitlines() if what in line]
        return [json.loads(line) for line in lines]

    async with running_service(gpuaas_home.path, log_format="json") as service:
        session = (await service.admin.create_session("mine", wait_s=30)).session
        (of_agent,) = said("agent.log", "damaged.json tells of no host")
        assert (of_agent["level"], of_agent["node"], of_agent["logger"][-5:]) == ("error", "local-0", "hosts")
        assert "session" not in of_agent
        remote = RemoteSession(service.admin, session.id, quick_settings(gpuaas_home.path))
        await remote.open()
        await remote.request("execute_request", {"code": NO_MESSAGE})
        await remote.close()
        of_host = (await eventually(lambda: said("hosts/*.log", "cannot be read")))[0]
        assert (of_host["level"], of_host["node"]) == ("warning", "local-0")
        assert (of_host["session"], of_host["epoch"]) == (session.id, session.epoch)


@pytest.mark.sqlite
def test_doctor_finds_what_is_wrong_and_says_what_to_do(gpuaas_home: GpuaasHome) -> None:
    done = gpuaas_home.cli("doctor", "--json", check=False)
    found = {each["what"]: each for each in json.loads(done.stdout)}
    assert done.returncode == 0, done.stdout
    assert {"versions", "home", "database", "store", "service", "devices", "CRIU"} <= found.keys()
    assert found["database"]["level"] == "note"
    (gpuaas_home.path / "token").write_text("t")
    os.chmod(gpuaas_home.path / "token", 0o644)
    database = Database(gpuaas_home.path / "controller.db", events_kept=10)
    with database.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    done = gpuaas_home.cli("doctor", check=False)
    assert done.returncode == 1
    assert "FAILURE  database" in done.stdout and "9999" in done.stdout
    assert "FAILURE  home: others can read" in done.stdout and "chmod 600" in done.stdout
    (gpuaas_home.path / "token").unlink()
    for path in gpuaas_home.path.glob("controller.db*"):
        path.unlink()


async def test_doctor_of_a_running_service_compares_clocks(
    service: Service, gpuaas_home: GpuaasHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPUAAS_TOKEN", service.token)
    done = await asyncio.to_thread(gpuaas_home.cli, "--url", service.url, "doctor", "--json", check=False)
    found = {each["what"]: each for each in json.loads(done.stdout)}
    assert found["service"]["level"] == found["clocks"]["level"] == "ok", done.stdout
    assert any(each["says"].startswith("1 of 1 nodes were compared") for each in json.loads(done.stdout)), done.stdout

    # As if the service's clock was a minute behind.
    (node,) = service.engine.nodes()
    client = service.controller.agents.of(node.id)
    monkeypatch.setattr(agent_client, "parsedate_to_datetime", lambda date: parsedate_to_datetime(date) + MINUTE)
    await client.node()
    (view,) = await service.admin.nodes()
    assert view.clock_ahead_s == pytest.approx(60, abs=3)
