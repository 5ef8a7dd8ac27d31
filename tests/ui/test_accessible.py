"""What this project adds to JupyterLab has no serious fault that axe-core can find, and needs no mouse."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver.common.keys import Keys

from tests.ui.axe import SOURCE, faults
from tests.ui.lab import Lab
from tests.ui.page import Page

needs_axe = pytest.mark.skipif(not SOURCE.exists(), reason="axe-core is not installed: `make labextension` does it")
LOCAL = {"name": "python3", "display_name": "Python 3", "language": "python"}
SHOWN = (
    "%load_ext jupyter_gpuaas\n%remote_gpu connect --session shown",
    "%%remote_gpu\nkept = 1",
    "%remote_gpu checkpoint --name mark",
    "%remote_gpu checkpoints",
)


@pytest.fixture(params=["JupyterLab Light", "JupyterLab Dark"])
def themed(pool: Lab, request: pytest.FixtureRequest) -> Lab:
    """The shared JupyterLab in one of its themes."""
    settings = Path(os.environ["JUPYTER_CONFIG_DIR"]) / "lab/user-settings/@jupyterlab/apputils-extension"
    (settings / "themes.jupyterlab-settings").write_text(f'{{"theme": "{request.param}"}}')
    return pool


def dialog_has_no_fault(page: Page, name: str, focus: str = ".jp-Dialog-footer button") -> None:
    """Look at the dialog that comes, and at what has the focus in it, and leave it with the keyboard."""
    page.see(lambda: page.element(".jp-Dialog .jp-Dialog-content"))
    page.see(lambda: page.focused_in(f".jp-Dialog {focus}"))
    assert faults(page, ".jp-Dialog .jp-Dialog-content") == [], name
    page.shot(f"dialog-{name}")
    page.keys(Keys.ESCAPE)
    page.see(lambda: not page.all(".jp-Dialog"))


@needs_axe
def test_panel_chip_and_dialogs_have_no_serious_fault(themed: Lab, page: Page) -> None:
    themed.notebook("start.ipynb", ("import socket\ns = socket.socket()\nx = 1", "y = 2"))
    page.open(themed.address("start.ipynb"), 2)
    page.panel()
    for number in (0, 1):
        page.ran(number, number + 1)
        told = f"after cell {number + 1}"
        page.see(lambda told=told: any(told in each for each in page.texts(".jp-gpuaas-point")))
    for title in ("Nodes", "Story"):
        page.expand(title)
    first = ".jp-gpuaas-point:first-child"
    page.press_until(f"{first} button", "Changes", lambda: "Hide changes" in page.text(first))
    page.see(lambda: page.all(".jp-gpuaas-point .jp-gpuaas-reasons"))
    page.driver.execute_script("document.querySelectorAll('.jp-gpuaas-panel details').forEach(d => d.open = true)")
    page.see(lambda: page.all("#jp-gpuaas-nodes [role=meter]"))

    for selector in (".jp-gpuaas-panel", ".jp-gpuaas-chip-item", ".jp-gpuaas-status"):
        assert faults(page, selector) == [], selector
    page.shot("panel")

    page.press("#jp-gpuaas-notebook button", "Move…")
    page.see(lambda: page.element(".jp-Dialog .jp-gpuaas-plan"))
    dialog_has_no_fault(page, "move", "input[type='radio']")
    page.menu("Kernel", "gpuaas:choose")
    page.see(lambda: "Free now" in page.text(".jp-Dialog [role=status]"))
    dialog_has_no_fault(page, "choose", "select")
    page.press("#jp-gpuaas-sessions button", "Park: start.ipynb")
    dialog_has_no_fault(page, "park")
    page.press("#jp-gpuaas-sessions button", "Release: start.ipynb")
    dialog_has_no_fault(page, "release")
    page.press("#jp-gpuaas-checkpoints button", "Take one now")
    dialog_has_no_fault(page, "take", "input")
    page.press(".jp-gpuaas-point button", "Restore…")
    dialog_has_no_fault(page, "restore")
    page.press(".jp-gpuaas-point button", "Name…")
    dialog_has_no_fault(page, "name", "input")
    page.press(".jp-gpuaas-point button", "Forget")
    dialog_has_no_fault(page, "forget")
    page.press_in_panel("nodes", "Drain…: local-1")
    dialog_has_no_fault(page, "drain", "input")


@needs_axe
def test_widgets_have_no_serious_fault(themed: Lab, page: Page) -> None:
    pytest.importorskip("anywidget", reason="anywidget is not installed")
    cells = [new_code_cell(source) for source in SHOWN]
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": LOCAL}), themed.folder / "local.ipynb")
    page.driver.get(themed.address("local.ipynb"))
    page.see(lambda: len(page.all(".jp-CodeCell")) == len(SHOWN))
    page.run_once_connected(0)
    page.see(lambda: page.cell(0, ".gpuaas-widget [role='meter']"))
    for number in (1, 2, 3):
        page.run(number)
        page.see(lambda number=number: page.prompt(number) not in ("[ ]:", "[*]:"))
    page.see(lambda: page.cell(3, ".gpuaas-widget"))
    for number in (0, 3):
        page.driver.execute_script("arguments[0].scrollIntoView()", page.cell(number, ".gpuaas-widget"))
        mark = f"looked-at-{number}"
        page.driver.execute_script("arguments[0].id = arguments[1]", page.cell(number, ".gpuaas-widget"), mark)
        assert faults(page, f"#{mark}") == []
        page.shot(f"cell-{number}")


def test_everything_in_the_panel_is_done_with_the_keyboard_alone(pool: Lab, page: Page) -> None:
    pool.notebook("start.ipynb", ("x = 1", "x = 2"))
    page.open(pool.address("start.ipynb"), 2)
    for number in (0, 1):
        page.ran(number, number + 1)
    page.chord(Keys.CONTROL, Keys.SHIFT, Keys.ALT, "g")
    page.see(lambda: page.element("#jp-gpuaas-checkpoints").is_displayed())
    page.see(lambda: "after cell 2" in page.section("checkpoints").text)
    page.expand("Nodes")
    page.see(lambda: page.all("#jp-gpuaas-nodes [role=meter]"))

    # Each thing that can be done, in the order in which it is seen.
    page.driver.execute_script("document.querySelector('#jp-gpuaas-notebook').focus()")
    passed = page.tab_to("Drain…: local-0")
    wanted = ("Move…", "Checkpoint", "Park", "Release", "Open: start.ipynb", "Release: start.ipynb", "Take one now",
              "Restore…", "Name…", "Changes", "Forget", "Cordon: local-0", "Drain…: local-0")  # fmt: skip
    places = [next((at for at, label in enumerate(passed) if label.startswith(each)), -1) for each in wanted]
    assert -1 not in places and places == sorted(places), (passed, places)
    # The chip is one of the notebook's toolbar, in which JupyterLab moves the focus with the arrow keys.
    assert page.driver.execute_script("return arguments[0].tabIndex", page.element(".jp-gpuaas-status")) == 0

    page.driver.execute_script("document.querySelector('#jp-gpuaas-checkpoints').focus()")
    page.tab_to("Take one now")
    page.keys(Keys.ENTER)
    page.see(lambda: page.focused_in(".jp-Dialog input"))
    page.keys("by hand", Keys.ENTER)
    page.see(lambda: any("by hand" in each for each in page.texts(".jp-gpuaas-point")))
    page.see(lambda: not page.all(".jp-Dialog"))
    page.shot("taken")

    page.driver.execute_script("document.querySelector('#jp-gpuaas-checkpoints').focus()")
    page.tab_to("Name…: by hand")
    page.keys(Keys.ENTER)
    page.see(lambda: page.focused_in(".jp-Dialog input"))
    page.chord(Keys.CONTROL, "a")
    page.keys("another name", Keys.ENTER)
    page.see(lambda: any("another name" in each for each in page.texts(".jp-gpuaas-point")))
    page.see(lambda: not page.all(".jp-Dialog"))
    page.shot("named")

    page.driver.execute_script("document.querySelector('#jp-gpuaas-sessions').focus()")
    page.tab_to("Release: start.ipynb")
    page.keys(Keys.ENTER)
    page.see(lambda: page.focused_in(".jp-Dialog button"))
    page.keys(Keys.ENTER)
    page.see(lambda: "start.ipynb was released." in page.notices())
