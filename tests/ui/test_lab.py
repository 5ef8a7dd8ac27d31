"""JupyterLab in a real browser: what a person sees who opens a notebook and works in it."""

from __future__ import annotations

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver.common.keys import Keys

from tests.ui.lab import Lab
from tests.ui.page import Page

CELLS = (
    "import os, time\nprint('on', os.environ['GPUAAS_NODE'])\n6 * 7",
    "print('begun', flush=True)\ntime.sleep(100)",
    "name = input('Name? ')\nprint('hello', name)",
)


def test_a_person_runs_cells_interrupts_one_and_answers_another(pool: Lab, page: Page) -> None:
    pool.notebook("start.ipynb", CELLS)
    page.open(pool.address("start.ipynb"), len(CELLS))

    page.ran(0, 1)
    assert page.output(0).split() == ["on", "local-0", "[1]:", "42"]

    page.run(1)
    page.see(lambda: page.output(1) == "begun")
    assert page.prompt(1) == "[*]:"
    page.element("[data-jp-item-name='interrupt'] jp-button").click()
    page.see(lambda: "KeyboardInterrupt" in page.output(1))
    page.see(lambda: page.prompt(1) == "[2]:")

    page.run(2)
    field = page.see(lambda: page.element(".jp-Stdin-input"))
    field.send_keys("Ada", Keys.ENTER)
    page.see(lambda: "hello Ada" in page.output(2))
    page.see(lambda: page.prompt(2) == "[3]:")

    page.leave()
    (line,) = [line for line in pool.home.cli("sessions").stdout.splitlines() if "start.ipynb" in line]
    assert " idle " in line  # leaving the page does not end the session
