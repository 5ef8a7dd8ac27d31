"""Moving a notebook's session, by hand, in the browser; the button is in ``test_core``."""

from __future__ import annotations

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")

from selenium.webdriver.common.keys import Keys

from tests.ui.lab import Lab
from tests.ui.page import MOVE_BUTTON, Page


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


def test_a_session_is_moved_from_the_context_menu_of_its_kernel_the_palette_and_the_menu(pool: Lab, page: Page) -> None:
    pool.notebook("start.ipynb", ("x = 1",))
    page.open(pool.address("start.ipynb"), 1)
    page.ran(0, 1)
    page.element("[data-id='jp-running-sessions']").click()
    kernel = page.see(lambda: page.element(".jp-RunningSessions-item.jp-mod-kernel"))

    page.right_click(kernel)
    page.press(".lm-Menu-item[data-command='gpuaas:migrate-kernel']")
    page.shot("dialog")
    move_to(page, "local-1")

    page.chord(Keys.CONTROL, Keys.SHIFT, "c")
    page.see(lambda: page.focused_in(".lm-CommandPalette"))
    page.keys("remote sessions move the session")
    page.see(lambda: page.text(".lm-CommandPalette-item.lm-mod-active").startswith("Move the Session…"))
    page.shot("palette")
    page.keys(Keys.ENTER)
    move_to(page, "local-0")

    page.menu("Kernel", "gpuaas:migrate")
    move_to(page, "local-1")


def move_to(page: Page, node: str) -> None:
    """Answer the dialog, which has the only other node chosen."""
    page.see(lambda: page.element(".jp-Dialog .jp-gpuaas-plan"))
    assert page.texts(".jp-gpuaas-target-name") == [node]
    page.press(".jp-Dialog button", "Move")
    page.is_on(node)
    page.see(lambda: page.element(MOVE_BUTTON).is_enabled())
