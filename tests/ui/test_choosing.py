"""Which devices a notebook has: choosing them, and waiting for them."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver.support.ui import Select

from tests.fault.test_sessions_go_on import sessions, until
from tests.ui.lab import Lab
from tests.ui.page import Page


def test_a_notebook_is_begun_on_chosen_devices_and_remembers_them(pool: Lab, page: Page) -> None:
    page.driver.get(pool.address())
    page.press(".jp-LauncherCard", "Remote GPU…")
    page.see(lambda: "Free now on 2 nodes." in page.text(".jp-Dialog [role=status]"))
    kind, share, node = (Select(each) for each in page.all(".jp-Dialog select"))

    kind.select_by_visible_text("GPU")
    page.see(lambda: "No node has such devices" in page.text(".jp-Dialog [role=status]"))
    kind.select_by_visible_text("CPU")
    share.select_by_value("0.5")
    node.select_by_visible_text("local-1")
    page.see(lambda: "Free now on 1 node." in page.text(".jp-Dialog [role=status]"))
    page.shot("dialog")
    page.press(".jp-Dialog button", "Create")

    page.see(lambda: page.chip().startswith("local-1 · 0.5 of CPU"))
    (session,) = sessions(pool.home)
    assert [session["request"][name] for name in ("kind", "share", "node")] == ["cpu", 0.5, "local-1"]
    page.element("[data-jp-item-name='save'] jp-button").click()
    document = pool.folder / "Untitled.ipynb"
    until(lambda: '"gpuaas"' in document.read_text() and document.read_text().rstrip().endswith("}"))
    assert json.loads(document.read_text())["metadata"]["gpuaas"]["choice"]["node"] == "local-1"


def test_a_choice_in_the_notebook_is_applied_where_it_was_not_made(pool: Lab, page: Page) -> None:
    pool.notebook("start.ipynb", ("x = 1",))
    document = pool.folder / "start.ipynb"
    content = json.loads(document.read_text())
    choice = {"devices": 1, "kind": "cpu", "memory_bytes": 0, "node": "local-1", "standby": 0}
    content["metadata"]["gpuaas"] = {"choice": choice}
    document.write_text(json.dumps(content))
    page.open(pool.address("start.ipynb"), 1)
    page.is_on("local-1")
    page.ran(0, 1)

    page.menu("Kernel", "gpuaas:choose")
    page.see(lambda: "local-1" in page.text(".jp-Dialog form, .jp-Dialog .jp-gpuaas-form"))
    page.shot("dialog")
    page.press(".jp-Dialog button", "Choose")

    # The same devices: nothing is asked, and the session goes on.
    page.see(lambda: not page.all(".jp-Dialog"))
    (session,) = sessions(pool.home)
    assert {name: session["request"][name] for name in choice} == choice
    assert session["state"] == "idle"


def test_a_notebook_that_asks_for_what_is_not_there_says_so(pool: Lab, page: Page) -> None:
    choice = {"devices": 1, "kind": "cpu", "memory_bytes": 0, "node": "elsewhere", "standby": 0}
    pool.notebook("start.ipynb", ("x = 1",), choice)
    page.driver.get(pool.address("start.ipynb"))
    why = "there is no node 'elsewhere' (nodes: local-0, local-1)."
    page.see(lambda: page.chip() == "No session")
    assert why in (page.element(".jp-NotebookPanel-toolbar .jp-gpuaas-chip").get_attribute("title") or "")
    page.panel()
    page.see(lambda: why in page.section("notebook").text)
    page.see(page.is_connected)
    page.run(0)
    page.see(lambda: why in page.output(0))
    page.shot("refused")
    assert sessions(pool.home) == []
