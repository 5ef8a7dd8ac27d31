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


#: The page's questions for what a session's cells have said that were answered: behind which number, in their order.
ASKED = """
return performance.getEntriesByType('resource').filter(each => each.name.includes('/missed?') && each.responseEnd > 0)
  .map(each => Number(new URL(each.name).searchParams.get('after')));
"""
#: Behind all records: it is asked only whether something was lost.
BEHIND_ALL = 2**53 - 1


def test_who_goes_on_without_what_was_lost_with_its_node_is_not_asked_again(
    pool: Lab, page: Page, tmp_path: Path
) -> None:
    sign = tmp_path / "sign"
    pool.notebook("start.ipynb", ("x = 1", f"x += 1\n{waiting_cell(sign)}", "x"))
    page.open(pool.address("start.ipynb"), 3)
    page.ran(0, 1)
    page.panel()
    page.see(lambda: any("after cell 1" in each for each in page.texts(".jp-gpuaas-point")))
    page.run(1)
    page.see(lambda: page.output(1) == "begun")
    pool.lose_node()
    page.see(lambda: "its variables are as after cell 1" in page.text(".jp-gpuaas-notice"))
    page.see(lambda: "NodeLost" in page.output(1))
    said = page.output(1)
    sign.touch()  # were it run again, it would come to its end

    page.press(".jp-gpuaas-notice button", "Go on without")
    page.see(lambda: not page.all(".jp-gpuaas-notice"))
    page.element("[data-jp-item-name='save'] jp-button").click()
    page.see(lambda: '"loss"' in (pool.folder / "start.ipynb").read_text())
    page.leave()

    page.open(pool.address("start.ipynb"), 3)

    def has_asked() -> bool:
        asked = page.driver.execute_script(ASKED)
        return BEHIND_ALL in asked and 0 in asked[asked.index(BEHIND_ALL) :]

    page.see(has_asked)
    page.ran(2, 2)  # the count goes on from the checkpoint: nothing else has run
    assert page.output(2).endswith("1")
    assert page.output(1) == said
    assert not page.all(".jp-gpuaas-notice")
    page.shot("gone-on")
