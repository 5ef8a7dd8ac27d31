"""Coming back to a notebook whose session ran on; more of it is in ``test_core``."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")

from tests.ui.cells import waiting_cell
from tests.ui.lab import Lab
from tests.ui.page import Page


def test_a_cell_that_still_runs_goes_on_streaming_into_its_place(pool: Lab, page: Page, tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    pool.notebook("start.ipynb", (waiting_cell(sign),))
    page.open(pool.address("start.ipynb"), 1)
    page.run(0)
    page.see(lambda: page.output(0) == "begun")
    page.leave()

    page.open(pool.address("start.ipynb"), 1)
    page.see(lambda: page.output(0) == "begun")
    page.see(lambda: page.prompt(0) == "[*]:")
    page.shot("running")
    sign.touch()

    page.see(lambda: page.output(0).split() == ["begun", "ended", "[1]:", "42"])
    page.see(lambda: page.prompt(0) == "[1]:")


def test_cleared_outputs_stay_cleared(pool: Lab, page: Page) -> None:
    pool.notebook("start.ipynb", ("print('secret')", "print('kept')"))
    page.open(pool.address("start.ipynb"), 2)
    page.is_on("local-0")
    page.ran(0, 1)
    page.ran(1, 2)
    page.cell(0, ".cm-content").click()
    page.driver.find_element("xpath", "//div[contains(@class,'lm-MenuBar-itemLabel')][.='Edit']").click()
    page.press(".lm-Menu-item[data-command='editmenu:clear-current']")
    page.see(lambda: page.output(0) == "")
    page.element("[data-jp-item-name='save'] jp-button").click()
    page.see(lambda: '"seen"' in (pool.folder / "start.ipynb").read_text())
    page.leave()

    page.open(pool.address("start.ipynb"), 2)
    page.is_on("local-0")
    page.see(lambda: page.output(1) == "kept")
    page.ran(1, 3)  # by now the question was answered, if it was asked
    assert page.output(0) == ""
