"""One machine and one session look simple: what is about a cluster is not there."""

from __future__ import annotations

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver.common.keys import Keys

from tests.ui.lab import Lab
from tests.ui.page import MOVE_BUTTON, Page

CELLS = ("import os\nprint('on', os.environ['GPUAAS_NODE'])",)
#: Items of a toolbar are fewer.
MOST_ITEMS = 40


def test_one_machine_and_one_session_have_no_parts_of_a_cluster(lab: Lab, page: Page) -> None:
    lab.notebook("start.ipynb", CELLS)
    page.open(lab.address("start.ipynb"), 1)
    page.panel()
    page.ran(0, 1)
    page.see(lambda: "local-0 · CPU · " in page.chip())
    page.see(lambda: "after cell 1" in page.section("notebook").text)
    page.see(lambda: "after cell 1" in page.section("checkpoints").text)
    page.shot("panel")

    titles = page.texts(".jp-gpuaas-panel .jp-AccordionPanel-title")
    assert [title.upper() for title in titles] == ["THIS NOTEBOOK", "MY SESSIONS", "CHECKPOINTS", "STORY"]
    assert page.text("#jp-gpuaas-service") == "On this machine"
    assert not any(each.is_displayed() for each in page.all(MOVE_BUTTON))
    assert "Move" not in page.text(".jp-gpuaas-panel")
    page.menu("Kernel", "gpuaas:choose")
    form = page.see(lambda: page.element(".jp-Dialog .jp-gpuaas-form"))
    page.shot("choose")
    assert "Node" not in form.text and "standby" not in form.text
    page.press(".jp-Dialog button", "Cancel")
    page.see(lambda: not page.all(".jp-Dialog"))

    # The arrow keys, which move the focus along JupyterLab's toolbar, lead to the chip as to any other of its items.
    first = page.element(".jp-NotebookPanel-toolbar [data-jp-item-name='save'] jp-button")
    page.driver.execute_script("arguments[0].focus()", first)
    for _ in range(MOST_ITEMS):
        if page.focused_in(".jp-gpuaas-chip"):
            break
        page.keys(Keys.ARROW_RIGHT)
    assert page.focused_in(".jp-gpuaas-chip")
    assert page.element(".jp-gpuaas-chip").get_attribute("tabindex") == "0"
    page.element("[data-id='jp-gpuaas-panel']").click()  # closes the panel
    page.see(lambda: not page.element(".jp-gpuaas-panel").is_displayed())
    page.driver.execute_script("document.querySelector('.jp-gpuaas-chip').focus()")
    page.keys(Keys.ENTER)
    page.see(lambda: page.element(".jp-gpuaas-panel").is_displayed())
    assert page.complaints() == []
