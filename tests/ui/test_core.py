"""What a notebook session is there for, in a real browser. A part of ``make test``, where there is one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver.common.keys import Keys

from tests.fault.nodes import agent_pid, records
from tests.fault.test_sessions_go_on import sessions, until
from tests.ui.cells import ASK, SLIDER, waiting_cell
from tests.ui.lab import Lab
from tests.ui.page import MOVE_BUTTON, Page

pytestmark = pytest.mark.core


def state_of_session(lab: Lab) -> str:
    (session,) = sessions(lab.home)
    return str(session["state"])


def test_first_use_explains_itself_and_a_cell_runs(lab: Lab, page: Page) -> None:
    lab.notebook("start.ipynb", ("import os\nprint('on', os.environ['GPUAAS_NODE'])\n6 * 7",))
    page.driver.get(lab.address())
    page.panel()
    page.see(lambda: "Open a notebook with the kernel" in page.section("service").text)
    page.shot("off")
    page.press("#jp-gpuaas-service button", "Start it now")
    page.see(lambda: "On this machine" in page.section("service").text)
    titles = page.texts(".jp-gpuaas-panel .jp-AccordionPanel-title")
    assert not any("Nodes" in title or "Queue" in title for title in titles)  # one machine, nobody waits
    page.shot("ready")

    page.open(lab.address("start.ipynb"), 1)
    page.ran(0, 1)
    assert page.output(0).split() == ["on", "local-0", "[1]:", "42"]
    page.see(lambda: "local-0 · CPU · " in page.chip())
    page.leave()
    assert state_of_session(lab) == "idle"  # leaving the page does not end the session


def test_the_button_moves_a_session_whose_slider_goes_on_working(pool: Lab, page: Page) -> None:
    pool.notebook("start.ipynb", (SLIDER, ASK))
    page.open(pool.address("start.ipynb"), 2)
    page.ran(0, 1)
    page.is_on("local-0")
    page.cell(0, ".noUi-handle").send_keys(Keys.ARROW_RIGHT)
    page.see(lambda: "4 on local-0" in page.output(0))

    page.see(lambda: page.element(MOVE_BUTTON).is_enabled())
    page.element(MOVE_BUTTON).click()
    dialog = page.see(lambda: page.element(".jp-Dialog .jp-gpuaas-dialog"))
    assert "start.ipynb runs on local-0." in dialog.text
    page.see(lambda: "Stands still" in dialog.text)  # the plan is there
    assert page.texts(".jp-gpuaas-target-name") == ["local-1"]
    page.shot("dialog")
    page.picture("dialog", ".jp-Dialog-content")
    page.press(".jp-Dialog button", "Move")

    page.is_on("local-1")
    page.see(lambda: "start.ipynb now runs on local-1" in page.notices())
    page.shot("moved")
    page.cell(0, ".noUi-handle").send_keys(Keys.ARROW_RIGHT)
    page.see(lambda: "5 on local-1" in page.output(0))
    page.ran(1, 2)
    assert "5" in page.output(1)
    page.see(lambda: "after the move" in page.output(0))
    assert "before" not in page.output(0)


def test_outputs_of_a_cell_that_ended_meanwhile_are_filled_in(pool: Lab, page: Page, tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    pool.notebook("start.ipynb", (waiting_cell(sign), "print('not run')"))
    page.open(pool.address("start.ipynb"), 2)
    page.run(0)
    page.see(lambda: page.output(0) == "begun")
    page.leave()

    sign.touch()
    until(lambda: state_of_session(pool) == "idle", 60)
    page.open(pool.address("start.ipynb"), 2)

    page.see(lambda: page.output(0).split() == ["begun", "ended", "[1]:", "42"])
    page.see(lambda: page.prompt(0) == "[1]:")
    page.see(lambda: "1 cell came to its end" in page.notices())
    assert page.output(1) == ""
    page.shot("filled")


def test_outputs_are_there_after_the_jupyter_server_was_restarted_in_the_middle_of_a_cell(
    pool: Lab, page: Page, tmp_path: Path
) -> None:
    sign = tmp_path / "sign"
    pool.notebook("start.ipynb", (waiting_cell(sign), "_ + 1"))
    page.open(pool.address("start.ipynb"), 2)
    page.run(0)
    page.see(lambda: page.output(0) == "begun")
    page.leave()

    pool.stop()
    sign.touch()
    until(lambda: state_of_session(pool) == "idle", 60)
    pool.start()
    page.open(pool.address("start.ipynb"), 2)

    page.see(lambda: page.output(0).split() == ["begun", "ended", "[1]:", "42"])
    page.ran(1, 2)
    assert page.output(1).endswith("43")


def test_the_loss_of_its_node_is_told_in_the_notebook_and_cells_run_again(
    pool: Lab, page: Page, tmp_path: Path
) -> None:
    sign = tmp_path / "sign"
    pool.notebook("start.ipynb", ("x = 1", f"x += 1\n{waiting_cell(sign)}\nx"))
    page.open(pool.address("start.ipynb"), 2)
    page.ran(0, 1)
    page.panel()
    page.see(lambda: any("after cell 1" in each for each in page.texts(".jp-gpuaas-point")))
    page.run(1)
    page.see(lambda: page.output(1) == "begun")

    (session,) = sessions(pool.home)
    node = session["lease"]["node_id"]
    for pid in (agent_pid(pool.home.path, node), *(each.pid for each in records(pool.home.path, node))):
        os.kill(pid, signal.SIGKILL)

    page.see(lambda: "its variables are as after cell 1" in page.text(".jp-gpuaas-notice"))
    page.shot("lost")
    page.picture("lost", ".jp-NotebookPanel", (1080, 380))
    sign.touch()
    page.press(".jp-gpuaas-notice button", "Rerun these cells")
    page.see(lambda: page.output(1).split()[-1:] == ["2"])
    assert not page.all(".jp-gpuaas-notice")
    page.shot("rerun")
