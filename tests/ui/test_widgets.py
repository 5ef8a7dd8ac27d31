"""Widgets in the cells of a local notebook, in a real browser."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

pytest.importorskip("selenium", reason="selenium is not installed")
pytest.importorskip("anywidget", reason="anywidget is not installed")

from selenium.webdriver.common.keys import Keys

from tests.fault.test_sessions_go_on import until
from tests.ui.cells import waiting_cell
from tests.ui.lab import Lab
from tests.ui.page import Page

LOCAL = {"name": "python3", "display_name": "Python 3", "language": "python"}
CELLS = (
    "%load_ext jupyter_gpuaas\n%remote_gpu connect --session shown",
    "%%remote_gpu\nkept = 1",
    "%remote_gpu checkpoint --name mark",
    "%remote_gpu checkpoints",
)


def test_devices_are_shown_and_stay_live_and_checkpoints_have_their_names(pool: Lab, page: Page) -> None:
    cells = [new_code_cell(source) for source in CELLS]
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": LOCAL}), pool.folder / "local.ipynb")
    page.driver.get(pool.address("local.ipynb"))
    page.see(lambda: len(page.all(".jp-CodeCell")) == len(CELLS))
    page.see(lambda: page.element(".jp-Notebook-ExecutionIndicator").get_attribute("data-status") == "idle")

    page.ran(0, 1)
    shown = page.see(lambda: page.cell(0, ".gpuaas-widget"))
    assert shown.get_attribute("aria-label") == "Devices of the remote session"
    assert "shown" in shown.text and "on local-0" in shown.text
    meter = page.cell(0, ".gpuaas-widget [role='meter']")
    assert int(meter.get_attribute("aria-valuemax")) > 0
    page.shot("devices")

    for number in (1, 2, 3):
        page.ran(number, number + 1)
    listed = page.see(lambda: page.cell(3, ".gpuaas-widget"))
    assert "mark" in listed.text and "held the next cell up for" in listed.text
    page.shot("checkpoints")

    # Named in its place, while the cell runs or not, for everybody.
    page.driver.execute_script("arguments[0].scrollIntoView()", page.cell(3, ".gpuaas-widget"))
    page.press(".gpuaas-widget ol button", "Name checkpoint mark")
    field = page.see(lambda: page.cell(3, ".gpuaas-widget input"))
    page.see(lambda: page.focused_in(".gpuaas-widget input"))
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys("7", Keys.ENTER)
    page.see(lambda: "begins with a letter" in page.cell(3, ".gpuaas-widget .gpuaas-said").text)
    field.clear()
    field.send_keys("another", Keys.ENTER)
    page.see(lambda: "“another” after cell" in page.cell(3, ".gpuaas-widget").text)
    page.shot("named")
    assert "another" in pool.home.cli("checkpoints", "shown").stdout

    # The cell has ended long ago; what it shows follows the session.
    pool.home.cli("park", "shown")
    page.driver.execute_script("arguments[0].scrollIntoView()", page.cell(0, ".gpuaas-widget"))
    page.see(lambda: "parked" in page.cell(0, ".gpuaas-widget").text)
    assert page.all(".gpuaas-widget script") == []


def test_the_widget_moves_the_session_while_a_cell_of_the_notebook_runs(pool: Lab, page: Page, tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    cells = [
        new_code_cell(source) for source in (*CELLS[:2], waiting_cell(sign), "%%remote_gpu -o kept\nkept += 1", "kept")
    ]
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": LOCAL}), pool.folder / "local.ipynb")
    page.driver.get(pool.address("local.ipynb"))
    page.see(lambda: len(page.all(".jp-CodeCell")) == len(cells))
    page.run_once_connected(0)
    page.see(lambda: page.prompt(0) == "[1]:")
    page.ran(1, 2)
    (session,) = pool.ask("GET", "jupyter-gpuaas/v1/sessions")
    until(lambda: pool.ask("GET", f"jupyter-gpuaas/v1/sessions/{session['id']}/checkpoints"), 60)
    page.run(2)
    page.see(lambda: "begun" in page.output(2))  # from now on the kernel hears nobody

    page.driver.execute_script("arguments[0].scrollIntoView()", page.all(".jp-CodeCell")[0])
    page.see(lambda: page.cell(0, ".gpuaas-menu summary").is_displayed())
    assert "until it is parked or released" in page.cell(0, ".gpuaas-widget").text
    page.cell(0, ".gpuaas-menu summary").click()
    page.see(lambda: "it stands still for about" in page.cell(0, ".gpuaas-said").text)
    page.shot("menu")
    page.picture("widget", ".jp-NotebookPanel", (1080, 320))
    page.press(".gpuaas-menu button", "Move")

    page.see(lambda: "It runs on local-1 now." in page.cell(0, ".gpuaas-ended").text)
    page.see(lambda: "on local-1" in page.cell(0, ".gpuaas-widget [role='status']").text)
    page.see(lambda: "it stands still for about" in page.cell(0, ".gpuaas-said").text)  # the way back
    assert "It runs on local-1 now." in page.cell(0, ".gpuaas-ended").text
    assert page.prompt(2) == "[*]:"
    page.shot("moved")
    sign.touch()
    page.see(lambda: page.prompt(2) == "[3]:")
    page.ran(3, 4)
    page.ran(4, 5)
    assert page.output(4).endswith("2")
