"""What the Jupyter server extension decides without a server: routes, events, choices, notes."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import yaml

from jupyter_gpuaas.client.choices import Choice, drop_choice, read_choice, write_choice
from jupyter_gpuaas.client.kernel_notes import (
    KernelNote,
    ask_to_detach,
    drop_note,
    drop_stale_notes,
    is_to_detach,
    read_note,
    write_note,
)
from jupyter_gpuaas.client.rest import Answer
from jupyter_gpuaas.model import Event, ResourceRequest
from jupyter_gpuaas.server.news import SERVICE, of_link, told
from jupyter_gpuaas.server.routes import LONG_S, LONGEST_WAIT_S, ROUTES, NotAllowed, for_browsers, query_of, way_of

ROOT = Path(__file__).parents[2]
EVENTS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "jupyter_gpuaas/server/events").iterdir()}


# -- routes --------------------------------------------------------------------------------------------------


def test_each_route_is_one_of_the_controllers() -> None:
    from jupyter_gpuaas.controller.app import make_app

    class Nothing:
        identity = audit = None
        epoch_of = staticmethod(lambda session_id: None)
        settings = type("S", (), {"request_body_bytes": 1, "public_url": ""})

    served = {
        (method.upper(), re.sub(r"{[^}]+}", "*", path).strip("/"))
        for path, operations in make_app(Nothing()).openapi()["paths"].items()  # type: ignore[arg-type]
        for method in operations
    }
    allowed = {(method, path) for path, methods in ROUTES.items() for method in methods}
    assert allowed <= served


def test_each_route_is_in_the_documentation() -> None:
    page = (ROOT / "docs" / "lab-api.md").read_text()
    for path in ROUTES:
        first = path.split("/")[-1] if path.split("/")[-1] != "*" else path.split("/")[-2]
        assert first in page, path


@pytest.mark.parametrize("path", ["tokens", "stop", "metrics", "sessions/a/ticket", "sessions/a/channel", "", "/nodes"])
def test_routes_that_are_not_for_browsers_are_not_there(path: str) -> None:
    for method in ("GET", "POST"):
        with pytest.raises(NotAllowed) as refused:
            way_of(method, path)
        assert refused.value.status == 404


def test_a_segment_that_could_lead_elsewhere_is_no_name() -> None:
    for name in ("..", ".", "%2e%2E", "%2e", ".%2e"):
        with pytest.raises(NotAllowed):
            way_of("GET", f"sessions/{name}")
    assert way_of("GET", "sessions/a%2Fb..c")


def test_a_wait_is_bounded_and_foreign_parameters_stay_behind() -> None:
    way = way_of("GET", "sessions/a")
    given = [("wait_s", "3600"), ("after", "7"), ("token", "secret"), ("_xsrf", "x"), ("1764282000000", "")]
    assert query_of(way, given) == ({"wait_s": "30", "after": "7"}, LONGEST_WAIT_S)
    assert query_of(way, [("wait_s", "-1")])[0] == {"wait_s": "0"}
    for odd in ("x", "nan"):
        assert query_of(way, [("wait_s", odd)])[0] == {"wait_s": odd}
    assert query_of(way_of("POST", "sessions/a/checkpoints"), [])[1] == LONG_S
    assert query_of(way_of("GET", "sessions/a/log"), []) == ({"tail": "1000"}, 0.0)
    assert query_of(way_of("GET", "sessions/a/log"), [("tail", "5"), ("follow", "1")])[0] == {"tail": "5"}


def test_what_opens_a_channel_is_not_for_browsers() -> None:
    view = {"session": {"id": "a"}, "channel": {"ticket": "secret", "direct_url": "ws://x"}}
    nodes = [{"id": "n", "url": "http://127.0.0.1:1", "devices": []}]
    assert json.loads(for_browsers(_json(view)).content) == {**view, "channel": None}
    assert json.loads(for_browsers(_json(nodes)).content) == [{**nodes[0], "url": ""}]
    refusal = Answer(404, "application/json", b'{"error":"NoSuchSession","message":"m","hint":""}')
    assert for_browsers(refusal) == refusal
    log = Answer(200, "text/plain; charset=utf-8", b'{"channel": 1}')
    assert for_browsers(log) is log


def _json(body: object) -> Answer:
    return Answer(200, "application/json", json.dumps(body).encode())


# -- events --------------------------------------------------------------------------------------------------

ABOUT = {"seq": 5, "time_s": 1.5, "session_id": "s", "epoch": 2, "cause": "why"}
EXAMPLES = [
    Event(**ABOUT, kind="transition", source="queued", target="starting", detail={"event": "placed"}),
    Event(**ABOUT, kind="transition", target="starting", detail={"event": "placed", "node": "n", "devices": ["cpu:0"]}),
    Event(**ABOUT, kind="session", detail={"queue_place": 3}),
    Event(
        **ABOUT,
        kind="migration",
        detail={"phase": "done", "migration": "m", "bytes_sent": 1, "total_s": 1, "secret": 1},
    ),
    Event(**ABOUT, kind="checkpoint_taken", detail={"id": "c", "cell": 4, "lost": ["x"], "stall_s": 0.1}),
    Event(**ABOUT, kind="checkpoint_failed", detail={"failed": 1}),
    Event(seq=6, time_s=1, kind="node", detail={"node": "n", "state": "lost"}),
    Event(seq=6, time_s=1, kind="drain", detail={"node": "n"}),
    Event(seq=6, time_s=1, kind="service", cause="the service has started"),
    Event(**ABOUT, kind="something_new", detail={"bytes_sent": "no number", "queue_place": True}),
]


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: event.kind)
def test_an_event_is_told_as_its_schema_says(event: Event) -> None:
    from jsonschema import Draft7Validator

    found = told(event)
    assert found
    for schema, data in found:
        name = schema.split(":")[2]
        assert EVENTS[name]["$id"] == schema
        Draft7Validator(EVENTS[name]).validate(data)
        assert (data["seq"], data["time_s"], data["cause"]) == (event.seq, event.time_s, event.cause)
        assert "secret" not in data


def test_schemas_are_complete_and_name_no_address() -> None:
    from jsonschema import Draft7Validator

    assert set(EVENTS) == {"session", "migration", "checkpoint", "allocation", "node", "service"}
    page = (ROOT / "docs" / "lab-api.md").read_text()
    for name, schema in EVENTS.items():
        assert (schema["$id"], schema["version"]) == (f"urn:jupyter-gpuaas:{name}:v1", "1")
        assert schema["title"]
        assert set(schema["required"]) == set(schema["properties"])
        assert schema["$id"] in page
        assert all(f"`{field}`" in page for field in schema["properties"]), name
    schema, data = of_link("unreachable", "why", 0, 2.0)
    assert schema == SERVICE
    Draft7Validator(EVENTS["service"]).validate(data)


def test_devices_are_told_when_they_change() -> None:
    (session, allocation) = told(EXAMPLES[1])
    assert (session[1]["kind"], session[1]["target"]) == ("transition", "starting")
    assert (allocation[1]["node"], allocation[1]["devices"]) == ("n", ["cpu:0"])
    given_back = msgspec.structs.replace(EXAMPLES[1], detail={"node": "", "devices": []})
    assert told(given_back)[1][1]["devices"] == []


# -- choices and notes ---------------------------------------------------------------------------------------


def test_a_choice_is_kept_by_name_for_its_user_only(tmp_path: Path) -> None:
    name = "/home/ann/été \udcff.ipynb"
    assert read_choice(tmp_path, name) is None
    choice = Choice(ResourceRequest(devices=2, kind="cuda", node="n"), session="s")
    plain = name.replace("\udcff", "")
    write_choice(tmp_path, plain, choice)
    assert read_choice(tmp_path, plain) == choice
    assert read_choice(tmp_path, "another") is None
    (path,) = (tmp_path / "choices").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_text("{")
    assert read_choice(tmp_path, plain) is None
    drop_choice(tmp_path, plain)
    drop_choice(tmp_path, plain)
    assert list((tmp_path / "choices").iterdir()) == []


def test_a_note_goes_with_its_proxy(tmp_path: Path) -> None:
    note = KernelNote(pid=os.getpid(), url="http://x", session_id="s", session_name="n")
    drop_stale_notes(tmp_path)
    write_note(tmp_path, "kernel-a", note)
    assert read_note(tmp_path, "kernel-a") == note
    assert read_note(tmp_path, "kernel-b") is None
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    write_note(tmp_path, "kernel-b", KernelNote(pid=int(gone.stdout), session_id="s"))
    ask_to_detach(tmp_path, "kernel-a")
    ask_to_detach(tmp_path, "kernel-b")
    assert read_note(tmp_path, "kernel-b") is None
    drop_stale_notes(tmp_path)
    assert {path.name for path in (tmp_path / "kernels").iterdir()} == {"kernel-a.json", "kernel-a.detach"}
    assert is_to_detach(tmp_path, "kernel-a")
    assert not is_to_detach(tmp_path, "kernel-b")
    drop_note(tmp_path, "kernel-a")
    assert list((tmp_path / "kernels").iterdir()) == []


# -- packaging -----------------------------------------------------------------------------------------------


def test_the_extension_is_switched_on_by_what_the_wheel_installs() -> None:
    (path,) = (ROOT / "jupyter-config" / "server-config").iterdir()
    (name,) = json.loads(path.read_text())["ServerApp"]["jpserver_extensions"]
    assert name == "jupyter_gpuaas.server"
    assert (
        '"jupyter-config/server-config" = "etc/jupyter/jupyter_server_config.d"'
        in (ROOT / "pyproject.toml").read_text()
    )


def test_nothing_else_needs_a_jupyter_server() -> None:
    """In a process where jupyter_server cannot be imported, the rest works."""
    code = (
        "import sys\n"
        "for name in ('jupyter_server', 'jupyter_events', 'tornado.web'): sys.modules[name] = None\n"
        "import jupyter_gpuaas.server, jupyter_gpuaas.magics, jupyter_gpuaas.proxy.app, jupyter_gpuaas.cli\n"
        "import jupyter_gpuaas.controller.app\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
