"""What this project adds to JupyterLab has no serious fault that axe-core can find."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")

from tests.conftest import GpuaasHome
from tests.ui.lab import Lab
from tests.ui.page import Page

AXE = Path(__file__).parents[2] / "labextension" / "node_modules" / "axe-core" / "axe.min.js"
pytestmark = pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed: `make labextension` does it")

RUN = """
const done = arguments[arguments.length - 1];
axe.run({include: [[arguments[0]]]}, {resultTypes: ['violations']}).then(
  ({violations}) => done(violations.map(v => ({id: v.id, impact: v.impact, nodes: v.nodes.map(n => n.html)}))),
  error => done([{id: String(error), impact: 'serious', nodes: []}])
);
"""


def faults(page: Page, selector: str) -> list[Any]:
    """Serious faults within what the selector finds."""
    assert page.element(selector).is_displayed(), selector
    found = page.driver.execute_async_script(RUN, selector)
    return [each for each in found if each["impact"] in ("serious", "critical")]


def test_panel_chip_and_dialog_have_no_serious_fault(lab: Lab, page: Page, gpuaas_home: GpuaasHome) -> None:
    gpuaas_home.cli("up", "--nodes", "2", "--detach")
    lab.notebook("start.ipynb", ("import socket\ns = socket.socket()\nx = 1",))
    page.open(lab.address("start.ipynb"), 1)
    page.panel()
    page.ran(0, 1)
    page.is_on("local-0")
    page.see(lambda: page.all(".jp-gpuaas-point"))
    for title in ("Nodes", "Story"):
        page.expand(title)
    page.driver.execute_script(AXE.read_text())

    assert faults(page, ".jp-gpuaas-panel") == []
    assert faults(page, ".jp-gpuaas-chip-item") == []
    assert faults(page, ".jp-gpuaas-status") == []

    page.press("#jp-gpuaas-notebook button", "Move…")
    page.see(lambda: page.element(".jp-Dialog .jp-gpuaas-plan"))
    assert faults(page, ".jp-Dialog .jp-gpuaas-dialog") == []
    page.shot("dialog")
