"""Moving a notebook's session, by hand, in the browser; the button is in ``test_core``."""

from __future__ import annotations

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver.common.keys import Keys

from tests.ui.lab import Lab
from tests.ui.page import MOVE_BUTTON, Page


def test_a_move_that_waits_for_a_cell_shows_its_steps_and_can_be_cancelled(pool: Lab, page: Page) -> None:
    pool.notebook("start.ipynb", ("x = 1", "import time\nprint('begun', flush=True)\ntime.sleep(100)", "x"))
    page.open(pool.address("start.ipynb"), 3)
    page.ran(0, 1)
    page.run(1)
    page.see(lambda: page.output(1) == "begun")
    page.panel()

    page.press("#jp-gpuaas-notebook button", "Move…")
    page.see(lambda: page.element(".jp-Dialog .jp-gpuaas-plan"))
    page.press(".jp-Dialog button", "Move")

    steps = page.see(lambda: page.texts("#jp-gpuaas-notebook .jp-gpuaas-steps li"))
    assert steps[0] == "Making room on local-1"
    page.see(lambda: "Letting the cell that runs come to its end" in page.chip())
    page.see(lambda: "start.ipynb moves to local-1" in page.notices())
    page.shot("under-way")
    page.picture("moving")
    page.press("#jp-gpuaas-notebook button", "Cancel the move")

    page.see(lambda: "The move was cancelled. start.ipynb still runs on local-0." in page.notices())
    page.is_on("local-0")
    page.element("[data-jp-item-name='interrupt'] jp-button").click()
    page.see(lambda: page.prompt(1) == "[2]:")
    page.ran(2, 3)
    assert page.output(2).endswith("1")


def test_a_session_is_moved_with_the_keyboard_alone(pool: Lab, page: Page) -> None:
    pool.notebook("start.ipynb", ("x = 1",))
    page.open(pool.address("start.ipynb"), 1)
    page.ran(0, 1)
    page.is_on("local-0")

    page.chord(Keys.CONTROL, Keys.SHIFT, Keys.ALT, "m")
    page.see(lambda: page.element(".jp-Dialog .jp-gpuaas-plan"))
    focused = page.driver.switch_to.active_element
    assert focused.get_attribute("value") == "local-1"  # the choice has the focus
    page.shot("dialog")
    page.keys(Keys.ENTER)

    page.is_on("local-1")


def test_a_session_is_moved_in_notebook_7_as_well(pool: Lab, page: Page) -> None:
    pool.notebook("start.ipynb", ("import os\nx = 1", "x, os.environ['GPUAAS_NODE']"))
    page.open(pool.address("start.ipynb").replace("/lab/tree/", "/notebooks/"), 2)
    assert not page.all("#jp-left-stack:not(.lm-mod-hidden)")  # it is Notebook, whose side panels are closed
    page.ran(0, 1)
    page.is_on("local-0")

    page.see(lambda: page.element(MOVE_BUTTON).is_enabled())
    page.element(MOVE_BUTTON).click()
    page.see(lambda: page.element(".jp-Dialog .jp-gpuaas-plan"))
    page.press(".jp-Dialog button", "Move")

    page.is_on("local-1")
    page.ran(1, 2)
    assert page.output(1).endswith("(1, 'local-1')")
    page.shot("moved")


def test_a_session_is_moved_from_the_context_menu_of_its_kernel(pool: Lab, page: Page) -> None:
    pool.notebook("start.ipynb", ("x = 1",))
    page.open(pool.address("start.ipynb"), 1)
    page.ran(0, 1)
    page.element("[data-id='jp-running-sessions']").click()
    kernel = page.see(lambda: page.element(".jp-RunningSessions-item.jp-mod-kernel"))

    page.right_click(kernel)
    page.press(".lm-Menu-item[data-command='gpuaas:migrate-kernel']")
    page.see(lambda: page.element(".jp-Dialog .jp-gpuaas-plan"))
    page.shot("dialog")
    page.press(".jp-Dialog button", "Move")

    page.is_on("local-1")
