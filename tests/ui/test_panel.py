"""The side panel, the toolbar and what else says where a notebook runs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")

from tests.ui.lab import Lab
from tests.ui.page import Page


def test_a_notebook_says_everywhere_where_it_runs(pool: Lab, page: Page) -> None:
    pool.notebook("start.ipynb", ("data = bytes(50_000_000)\nlen(data)",))
    page.open(pool.address("start.ipynb"), 1)
    page.panel()
    page.ran(0, 1)

    page.see(lambda: "local-0 · CPU · " in page.chip())
    section = page.section("notebook")
    page.see(lambda: "local-0" in section.text and "after cell 1" in section.text)
    meter = page.element("#jp-gpuaas-notebook [role=meter]")
    assert meter.get_attribute("aria-label") == "Memory of CPU"
    page.see(lambda: "start.ipynb" in page.section("sessions").text)
    assert page.text(".jp-gpuaas-status") == "1 remote session"
    page.shot("panel")

    page.element("[data-id='jp-running-sessions']").click()
    row = page.see(lambda: next(e for e in page.all(".jp-RunningSessions-item") if "local-0" in e.text))
    page.shot("running")
    page.driver.execute_script("arguments[0].querySelector('.jp-RunningSessions-itemShutdown').click()", row)

    page.see(lambda: "start.ipynb was released." in page.notices())
    assert "start.ipynb" not in pool.home.cli("sessions").stdout


def test_the_panel_is_where_it_was_after_a_reload(pool: Lab, page: Page) -> None:
    page.driver.get(pool.address())
    page.panel()
    kept = Path(os.environ["JUPYTER_CONFIG_DIR"]) / "lab" / "workspaces"
    in_front = re.compile(r'"current": ?"jp-gpuaas-panel"')
    page.see(lambda: any(in_front.search(each.read_text()) for each in kept.glob("*")))

    page.driver.get(pool.address().removesuffix("&reset"))
    page.see(lambda: page.element(".jp-gpuaas-panel").is_displayed())
    page.see(lambda: "2 nodes on this machine" in page.section("service").text)
    page.shot("again")
