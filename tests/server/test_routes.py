"""Each route of the extension: who may, what is refused, what is answered. One server and one service for all."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import GpuaasHome
from tests.server.routes import METHODS, Route, every_route
from tests.server.running import ANN, NOBODY, READER, JupyterServer, with_token
from tests.service import eventually

ROUTES = every_route()
#: What cannot be the body of any request that has one.
BAD_BODIES = (b"{", b"\xff", b"[]", b'"x"', b'{"no_such_field": 1}')


@pytest.fixture(scope="module")
def server(module_gpuaas_home: GpuaasHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    (module_gpuaas_home.path / "settings.toml").write_text('devices = "cpu:3"\nack_delay_s = 0.1\n')
    with JupyterServer(tmp_path_factory.mktemp("server")) as running:
        running.ready()
        yield running
        assert with_token(module_gpuaas_home.path, running.said) == []
        running.end()
        assert running.troubles() == []


@pytest.fixture(scope="module")
def kernel(server: JupyterServer) -> tuple[str, dict[str, Any]]:
    """A notebook's kernel and its session."""
    kernel_id = server.start_kernel("first.ipynb")
    return kernel_id, server.session_of(kernel_id)


@pytest.fixture(scope="module")
def bodies(server: JupyterServer, module_gpuaas_home: GpuaasHome) -> set[Route]:
    """Routes that want a body, as the service's own description and the extension's handlers say."""
    token = (module_gpuaas_home.path / "token").read_text().strip()
    url = server.ask("GET", "service").json()["url"]
    described = httpx.get(f"{url}/openapi.json", headers={"Authorization": f"Bearer {token}"}, trust_env=False).json()
    found = {Route("PUT", "choices")}
    for path, methods in described["paths"].items():
        starred = "v1" + re.sub(r"\{[^}]*\}", "*", path)
        found |= {Route(method.upper(), starred) for method, said in methods.items() if "requestBody" in said}
    wanted = found & set(ROUTES)
    assert len(wanted) >= 7, found
    return wanted


# -- who may -------------------------------------------------------------------------------------------------


def test_routes_are_those_of_the_document() -> None:
    """A route that is added is told of, and tried below without being named there."""
    document = (Path(__file__).parents[2] / "docs" / "lab-api.md").read_text()
    assert len(ROUTES) == len(set(ROUTES)) > 30
    for route in ROUTES:
        path = route.path.removeprefix("v1/").split("?")[0]
        words = [re.escape(part) if part != "*" else r"\{\w+\}" for part in path.split("/")]
        assert re.search("/".join(words), document), route


@pytest.mark.parametrize("route", ROUTES, ids=str)
def test_each_route_is_for_those_who_may(server: JupyterServer, route: Route) -> None:
    may_not = ["", "a-wrong-one", NOBODY] + ([] if route.method == "GET" else [READER])
    body = None if route.method in ("GET", "DELETE") else {}
    for token in may_not:
        answer = server.ask(route.method, route.of(), body, token=token)
        assert (answer.status_code, answer.json()["error"]) == (403, "Forbidden"), token
        assert answer.json()["message"]
    for token in {READER if route.method == "GET" else ANN, ANN}:
        answer = server.ask(route.method, route.of(), body, token=token)
        assert answer.status_code not in (401, 403, 405), answer.text
        assert answer.status_code < 500, answer.text


@pytest.mark.parametrize("path", sorted({route.path for route in ROUTES}))
def test_no_route_answers_another_method(server: JupyterServer, path: str) -> None:
    offered = {route.method for route in ROUTES if route.path == path}
    for method in {*METHODS, "OPTIONS", "HEAD"} - offered:
        answer = server.ask(method, Route(method, path).of(), token="")
        # What a browser asks before it asks tells nothing but that there is something.
        asks_before = method == "OPTIONS" and (answer.status_code, answer.text) == (200, "")
        assert asks_before or answer.status_code in (403, 405), (method, answer.text)
    for method in set(METHODS) - offered:
        answer = server.ask(method, Route(method, path).of(), {})
        assert (answer.status_code, bool(answer.json()["message"])) == (405, True), method


@pytest.mark.parametrize("route", [each for each in ROUTES if each.method != "GET"], ids=str)
def test_bad_bodies_are_refused_and_where_none_is_wanted_they_do_not_matter(
    server: JupyterServer, kernel: tuple[str, dict[str, Any]], bodies: set[Route], route: Route
) -> None:
    if route in bodies:
        path = route.of(session=kernel[1]["id"], node="local-0")
        for body in BAD_BODIES:
            answer = server.ask(route.method, path, body)
            # 400: not even text.
            assert answer.status_code in ((400, 422) if body == b"\xff" else (422,)), (body, answer.text)
            assert answer.json()["error"] == "InvalidRequest"
            assert answer.json()["message"]
    else:
        without = server.ask(route.method, route.of()).status_code
        assert without < 500
        for body in BAD_BODIES:
            assert server.ask(route.method, route.of(), body).status_code == without, body


def test_a_request_with_a_cookie_needs_the_xsrf_header(server: JupyterServer) -> None:
    with httpx.Client(base_url=server.url, trust_env=False) as browser:
        browser.get("/login")
        browser.get("/api/status", headers={"Authorization": f"token {ANN}"})  # gives the cookie that a login gives
        path = "/jupyter-gpuaas/service/start"
        assert browser.get("/jupyter-gpuaas/service", headers={"Referer": f"{server.url}/lab"}).status_code == 200
        refused = browser.post(path)
        assert (refused.status_code, refused.json()["error"]) == (403, "Forbidden")
        assert "xsrf" in refused.json()["message"].lower()
        answer = browser.post(path, headers={"X-XSRFToken": browser.cookies["_xsrf"]})
        assert (answer.status_code, answer.json()["state"]) == (200, "ready")


# -- the service ---------------------------------------------------------------------------------------------


def test_service_tells_what_runs_and_for_whom(server: JupyterServer, module_gpuaas_home: GpuaasHome) -> None:
    view = asyncio.run(eventually(lambda: (now := server.ask("GET", "service").json())["nodes"] and now))
    assert view["state"] == "ready"
    assert view["embedded"] is True
    assert view["nodes"] == 1
    assert (view["role"], view["problem"], view["may_start"]) == ("admin", "", False)
    assert view["user"]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", view["url"])
    assert server.ask("POST", "service/start").status_code == 200


def test_a_token_that_the_service_does_not_know_is_told(server: JupyterServer, tmp_path: Path) -> None:
    env = {"GPUAAS_URL": server.ask("GET", "service").json()["url"], "GPUAAS_TOKEN": "another"}
    with JupyterServer(tmp_path, env=env) as other:
        view = other.until("unreachable")
        assert "token" in view["problem"]
        answer = other.ask("GET", "v1/nodes")
        assert (answer.status_code, answer.json()["error"]) == (401, "Unauthorized")


# -- v1 ------------------------------------------------------------------------------------------------------


def test_v1_answers_as_the_service_does(server: JupyterServer, kernel: tuple[str, dict[str, Any]]) -> None:
    _, session = kernel
    (node,) = server.ask("GET", "v1/nodes").json()
    assert [device["kind"] for device in node["devices"]] == ["cpu"] * 3
    assert node["url"] == ""
    view = server.ask("GET", f"v1/sessions/{session['id']}").json()
    assert view["channel"] is None
    assert view["session"]["name"] == session["name"] == str(server.root / "first.ipynb")
    # By its name, which is a path, in one segment.
    name = session["name"].replace("/", "%2F")
    assert server.ask("GET", f"v1/sessions/{name}").json()["session"]["id"] == session["id"]
    assert [each["id"] for each in server.ask("GET", "v1/sessions", params={"name": session["name"]}).json()] == [
        session["id"]
    ]
    told = server.ask("GET", "v1/events", params={"session": session["id"], "1764282000000": ""}).json()
    assert [event["target"] for event in told if event["kind"] == "transition"][:3] == ["queued", "starting", "idle"]
    (lease,) = (each for each in server.ask("GET", "v1/allocations").json() if each["session_id"] == session["id"])
    assert lease["node_id"] == node["id"]
    assert server.ask("GET", f"v1/sessions/{session['id']}/log").headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error", "words"),
    [
        ("GET", "v1/sessions/none", None, 404, "NoSuchSession", "none"),
        ("POST", "v1/sessions/none/park", None, 404, "NoSuchSession", "none"),
        ("GET", "sessions/none/missed", None, 404, "NoSuchSession", "none"),
        ("POST", "v1/sessions/{s}/migrations", {"to": "x"}, 422, "InvalidRequest", "to"),
        ("POST", "v1/sessions/{s}/migrations", b"{", 422, "InvalidRequest", ""),
        ("PATCH", "v1/sessions/{s}/checkpoints", {"every": -1}, 422, "InvalidRequest", "every"),
        ("PATCH", "v1/sessions/{s}/checkpoints/none", {"name": "-"}, 422, "InvalidRequest", "name"),
        ("PATCH", "v1/sessions/{s}/checkpoints/none", {"name": "x"}, 404, "NoSuchCheckpoint", "none"),
        ("DELETE", "v1/sessions/{s}/migrations/none", None, 422, "InvalidRequest", "none"),
        ("POST", "v1/sessions/{s}/migrations", {}, 409, "AllocationError", ""),
        ("PUT", "v1/sessions/{s}/standby", {"standby": 2}, 422, "InvalidRequest", "standby"),
        ("GET", "v1/events?after=x", None, 422, "InvalidRequest", "after"),
        ("POST", "v1/nodes/none/cordon", None, 422, "InvalidRequest", "none"),
        ("POST", "v1/sessions/{s}/migrations", b" " * (1024**2 + 1), 413, "InvalidRequest", "request_body_bytes"),
    ],
)
def test_v1_refusals_are_the_services_own(
    server: JupyterServer,
    kernel: tuple[str, dict[str, Any]],
    method: str,
    path: str,
    body: Any,
    status: int,
    error: str,
    words: str,
) -> None:
    answer = server.ask(method, path.format(s=kernel[1]["id"]), body)
    assert answer.status_code == status, answer.text
    told = answer.json()
    assert told["error"] == error
    assert told["message"]
    assert words in told["message"] + told["hint"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "v1/tokens", 404),
        ("POST", "v1/stop", 404),
        ("GET", "v1/metrics", 404),
        ("GET", "v1/openapi.json", 404),
        ("GET", "v1/events/stream", 404),
        ("POST", "v1/sessions", 405),
        ("POST", "v1/sessions/{s}/ticket", 404),
        ("GET", "v1/sessions/{s}/channel", 404),
        ("GET", "v1/sessions/{s}/bundles/x", 404),
        ("POST", "v1/sessions/%2e%2e", 405),
        ("DELETE", "v1/sessions/%2e%2e", 404),
        ("GET", "v1/", 404),
        ("PUT", "v1/nodes", 405),
        ("POST", "sessions/{s}/missed", 405),
    ],
)
def test_other_routes_of_the_service_are_not_reached(
    server: JupyterServer, kernel: tuple[str, dict[str, Any]], method: str, path: str, status: int
) -> None:
    answer = server.ask(method, path.format(s=kernel[1]["id"]))
    assert answer.status_code == status, answer.text
    assert answer.json()["message"]
    assert server.ask("GET", "service").json()["state"] == "ready"


# -- kernels -------------------------------------------------------------------------------------------------


def test_a_kernel_knows_its_session_and_a_local_one_has_none(
    server: JupyterServer, kernel: tuple[str, dict[str, Any]]
) -> None:
    remote, session = kernel
    local = server.start_kernel("second.ipynb", "python3")
    try:
        assert server.ask("GET", f"kernels/{remote}").json() == {
            "kernel_id": remote,
            "remote": True,
            "session": {"id": session["id"], "name": session["name"], "epoch": 1},
            "problem": "",
        }
        view = server.ask("GET", f"kernels/{local}").json()
        assert (view["remote"], view["session"]) == (False, None)
        listed = server.ask("GET", "kernels").json()["kernels"]
        assert {each["kernel_id"]: each["remote"] for each in listed} == {remote: True, local: False}
        refused = server.ask("POST", f"kernels/{local}/detach")
        assert (refused.status_code, refused.json()["error"]) == (409, "InvalidRequest")
    finally:
        server.end_kernel(local)
    for method, path in (("GET", "kernels/none"), ("POST", "kernels/none/detach"), ("GET", f"kernels/{local}")):
        answer = server.ask(method, path)
        assert (answer.status_code, answer.json()["error"]) == (404, "NoSuchKernel")


# -- what was missed -----------------------------------------------------------------------------------------


def test_outputs_that_a_closed_tab_missed_are_told_by_cell(
    server: JupyterServer, kernel: tuple[str, dict[str, Any]]
) -> None:
    kernel_id, session = kernel
    path = f"sessions/{session['id']}/missed"
    flag = server.root / "go"

    async def leave() -> None:
        async with server.channels(kernel_id) as tab:
            seen = await tab.send("print('seen')", "cell-0")
            await tab.until(seen, "execute_reply")
            code = f"import os, time\nprint('begun')\nwhile not os.path.exists({str(flag)!r}): time.sleep(0.02)\n6 * 7"
            running = await tab.send(code, "cell-1")
            await tab.send("print('after')", "cell-2")
            await tab.until(running, "stream")

    asyncio.run(leave())

    def cells(after: str = "") -> dict[str, Any]:
        answer = server.ask("GET", path, params={"after": after})
        assert answer.status_code == 200, answer.text
        told = answer.json()
        return {**told, "cells": {each["cell_id"]: each for each in told["cells"]}}

    before = cells()
    assert before["whole"] is True
    assert [each["status"] for each in before["cells"].values()] == ["ok", "running", "waiting"]
    running = before["cells"]["cell-1"]
    assert running["outputs"] == [{"output_type": "stream", "name": "stdout", "text": "begun\n"}]
    assert running["ended_s"] is None
    assert running["recent_ids"]

    flag.touch()
    ended = asyncio.run(
        eventually(lambda: (found := cells(str(before["last"])))["cells"].get("cell-2", {}).get("ended_s") and found)
    )
    assert list(ended["cells"]) == ["cell-1", "cell-2"]  # nothing is new about the first
    counts = [before["cells"]["cell-0"], *ended["cells"].values()]
    first = counts[0]["execution_count"]
    assert [each["execution_count"] for each in counts] == [first, first + 1, first + 2]
    result = {"output_type": "execute_result", "data": {"text/plain": "42"}, "metadata": {}}
    assert ended["cells"]["cell-1"]["outputs"] == [
        {"output_type": "stream", "name": "stdout", "text": "begun\n"},
        {**result, "execution_count": first + 1},
    ]
    assert ended["cells"]["cell-2"]["outputs"] == [{"output_type": "stream", "name": "stdout", "text": "after\n"}]
    assert [each["status"] for each in ended["cells"].values()] == ["ok", "ok"]
    # A session that is parked has its journal still.
    assert server.ask("POST", f"v1/sessions/{session['id']}/park").json()["session"]["state"] == "parked"
    assert cells()["cells"] == {"cell-0": before["cells"]["cell-0"], **ended["cells"]}
    assert server.ask("POST", f"v1/sessions/{session['id']}/wake").status_code == 200
    server.session_of(kernel_id)
    # By the last request that the document has, and in another journal.
    assert list(cells(before["cells"]["cell-0"]["msg_id"])["cells"]) == ["cell-1", "cell-2"]
    unknown = cells("no-such-request")
    assert (unknown["whole"], list(unknown["cells"])) == (False, ["cell-0", "cell-1", "cell-2"])
    other = server.ask("GET", path, params={"after": str(ended["last"]), "journal": "another"}).json()
    assert (other["whole"], len(other["cells"])) == (False, 3)


# -- choosing ------------------------------------------------------------------------------------------------


def test_a_choice_is_kept_for_a_notebook_and_its_next_kernel_asks_for_it(
    server: JupyterServer, kernel: tuple[str, dict[str, Any]]
) -> None:
    where = {"params": {"path": "folder/chosen.ipynb"}}
    (server.root / "folder").mkdir(exist_ok=True)
    none = server.ask("GET", "choices", **where).json()
    assert none == {
        "path": "folder/chosen.ipynb",
        "name": str(server.root / "folder" / "chosen.ipynb"),
        "choice": None,
    }
    request = {"devices": 2, "kind": "cpu", "memory_bytes": 1, "node": None, "standby": 0, "priority": 0}
    kept = server.ask("PUT", "choices", {"request": request}, **where)
    whole = {**request, "on_node_loss": "", "share": 1.0, "labels": {}, "avoid": []}
    assert kept.json() == {**none, "choice": {"request": whole, "session": None}}
    kernel_id = server.start_kernel("folder/chosen.ipynb")
    session = server.session_of(kernel_id)
    assert session["name"] == none["name"]
    assert session["request"] == whole
    assert len(session["lease"]["device_ids"]) == 2
    # Another one attaches to that session; when it ends after it was detached, the session goes on.
    other = {"params": {"path": "other.ipynb"}}
    assert server.ask("PUT", "choices", {"session": session["id"]}, **other).status_code == 200
    attached = server.start_kernel("other.ipynb")
    assert server.session_of(attached)["id"] == session["id"]
    assert server.ask("POST", f"kernels/{attached}/detach").json() == {"detached": True}
    server.end_kernel(attached)
    assert server.ask("GET", f"v1/sessions/{session['id']}").json()["session"]["state"] in ("idle", "busy")
    # The end of a kernel that was not detached is that of its session.
    server.end_kernel(kernel_id)
    asyncio.run(eventually(lambda: server.ask("GET", f"v1/sessions/{session['id']}").status_code == 410))
    assert server.ask("DELETE", "choices", **where).json() == none
    assert server.ask("DELETE", "choices", **where).json() == none


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("a.ipynb", {"request": {"devices": 0}}, "devices"),
        ("a.ipynb", {"request": {"kind": "tpu"}}, "kind"),
        ("a.ipynb", {"request": {"memory_bytes": -1}}, "memory_bytes"),
        ("a.ipynb", {"request": {"node": ""}}, "node"),
        ("a.ipynb", {"request": {"device": 1}}, "device"),
        ("a.ipynb", {"session": "  "}, "session"),
        ("a.ipynb", {"sesion": "x"}, "sesion"),
        ("a.ipynb", [], "object"),
        ("a.ipynb", b"{", "body"),
        ("", {"session": None}, "path"),
        ("../a.ipynb", {"session": None}, "path"),
        ("x//a.ipynb", {"session": None}, "path"),
    ],
)
def test_a_choice_that_nothing_could_be_asked_with_is_refused(
    server: JupyterServer, path: str, body: Any, words: str
) -> None:
    answer = server.ask("PUT", "choices", body, params={"path": path})
    assert (answer.status_code, answer.json()["error"]) == (422, "InvalidRequest"), answer.text
    assert words in json.dumps(answer.json())
