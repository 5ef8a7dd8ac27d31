"""What a notebook session is there for, in a real browser. A part of ``make test``, where there is one."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver.common.keys import Keys

from jupyter_gpuaas.client.embedded import read_service_file
from tests.fault.test_sessions_go_on import sessions, until
from tests.ui.cells import ASK, SLIDER, waiting_cell
from tests.ui.lab import Lab
from tests.ui.page import MOVE_BUTTON, Page

pytestmark = pytest.mark.core

PREPARE = "import time\nfrom pathlib import Path\n\nepoch = 1"
TRAIN = (
    "epoch += 1\nprint('epoch', epoch, flush=True)\nwhile not Path('trained').exists():\n    time.sleep(0.05)\nepoch"
)


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
    page.shot("ran")
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
    page.shot("goes-on")


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
    page.shot("filled")


def test_the_loss_of_its_node_is_told_in_the_notebook_and_cells_run_again(pool: Lab, page: Page) -> None:
    pool.notebook("train.ipynb", (PREPARE, TRAIN))
    page.open(pool.address("train.ipynb"), 2)
    page.ran(0, 1)
    page.panel()
    page.see(lambda: any("after cell 1" in each for each in page.texts(".jp-gpuaas-point")))
    page.run(1)
    page.see(lambda: page.output(1) == "epoch 2")

    pool.lose_node()
    page.see(lambda: "its variables are as after cell 1" in page.text(".jp-gpuaas-notice"))
    page.shot("lost")
    page.picture("lost", ".jp-NotebookPanel", (1080, 380))
    (pool.folder / "trained").touch()
    page.press(".jp-gpuaas-notice button", "Rerun these cells")
    page.see(lambda: page.output(1).split() == ["epoch", "2", "[2]:", "2"])
    assert not page.all(".jp-gpuaas-notice")
    page.shot("rerun")


def test_a_move_that_waits_for_a_cell_shows_its_steps_and_can_be_cancelled(pool: Lab, page: Page) -> None:
    train = "for epoch in range(100):\n    print('epoch', epoch, flush=True)\n    time.sleep(1)"
    pool.notebook("train.ipynb", ("import time\nloss = 4.2", train, "loss"))
    page.open(pool.address("train.ipynb"), 3)
    page.ran(0, 1)
    page.run(1)
    page.see(lambda: page.output(1).startswith("epoch 0"))
    page.panel()

    page.press("#jp-gpuaas-notebook button", "Move…")
    page.see(lambda: page.element(".jp-Dialog .jp-gpuaas-plan"))
    page.press(".jp-Dialog button", "Move")

    steps = page.see(lambda: page.texts("#jp-gpuaas-notebook .jp-gpuaas-steps li"))
    assert steps[0] == "Making room on local-1"
    page.see(lambda: "waiting for the cell" in page.chip())
    page.see(lambda: "train.ipynb moves to local-1" in page.notices())
    page.shot("under-way")
    page.picture("moving")
    page.press("#jp-gpuaas-notebook button", "Cancel the move")

    page.see(lambda: "The move was cancelled. train.ipynb still runs on local-0." in page.notices())
    page.is_on("local-0")
    page.element("[data-jp-item-name='interrupt'] jp-button").click()
    page.see(lambda: page.prompt(1) == "[2]:")
    page.ran(2, 3)
    assert page.output(2).endswith("4.2")
    page.shot("cancelled")


def test_a_checkpoint_is_compared_and_restored_from_the_timeline(pool: Lab, page: Page) -> None:
    pool.notebook("train.ipynb", ("loss = 4.2", "best = loss / 2\nloss = best", "loss"))
    page.open(pool.address("train.ipynb"), 3)
    page.panel()
    page.ran(0, 1)
    page.see(lambda: any("after cell 1" in each for each in page.texts(".jp-gpuaas-point")))
    page.ran(1, 2)
    page.see(lambda: any("after cell 2" in each for each in page.texts(".jp-gpuaas-point")))

    first = ".jp-gpuaas-point:first-child button"
    page.press_until(first, "Changes", lambda: "Hide changes" in page.text(".jp-gpuaas-point:first-child"))
    page.see(lambda: page.text(".jp-gpuaas-point .jp-gpuaas-reasons").split("\n") == ["added best", "changed loss"])
    page.shot("timeline")
    page.driver.execute_script("arguments[0].scrollIntoView({block: 'end'})", page.element(".jp-gpuaas-reasons"))
    page.picture("panel")
    page.all(".jp-gpuaas-point")[1].find_element("xpath", ".//button[contains(., 'Restore')]").click()
    page.press(".jp-Dialog button", "Restore here")

    page.see(lambda: "restored, as after cell 1" in page.notices())
    page.ran(2, 2)  # the count goes on from the checkpoint as well
    assert page.output(2).endswith("4.2")
    page.shot("restored")


def test_a_notebook_that_waits_for_the_device_of_another_says_its_place(pool: Lab, page: Page) -> None:
    choice = {"devices": 1, "kind": "cpu", "memory_bytes": 0, "node": "local-1", "standby": 0}
    pool.notebook("first.ipynb", ("x = 1",), choice)
    pool.notebook("second.ipynb", ("y = 2",), choice)
    page.open(pool.address("first.ipynb"), 1)
    page.ran(0, 1)

    page.driver.get(pool.address("second.ipynb"))
    page.see(lambda: page.chip() == "place 1 in the queue")
    page.panel()
    page.see(lambda: "second.ipynb" in page.section("queue").text)
    page.see(lambda: page.text(".jp-gpuaas-status") == "2 remote sessions, 1 waiting")
    page.shot("waits")
    page.press("#jp-gpuaas-sessions button", "Release: first.ipynb")
    page.press(".jp-Dialog button", "Release")

    page.is_on("local-1")
    page.see(lambda: not page.all("#jp-gpuaas-queue"))
    page.see(page.is_connected)
    page.run_once_connected(0)
    page.see(lambda: page.prompt(0) == "[1]:")
    page.shot("its-turn")


def test_the_service_goes_away_and_comes_back_without_a_reload(pool: Lab, page: Page) -> None:
    pool.notebook("start.ipynb", ("x = 1", "x + 1"))
    page.open(pool.address("start.ipynb"), 2)
    page.panel()
    page.ran(0, 1)
    page.see(lambda: page.section("service").text == "2 nodes on this machine")
    page.see(lambda: any("after cell 1" in each for each in page.texts(".jp-gpuaas-point")))
    page.driver.execute_script("window.isTheSamePage = true")

    written = read_service_file(pool.home.path)
    assert written is not None
    controller = psutil.Process(written.pid)
    controller.kill()
    # What was under way just then may have had it started already, as any request does.
    told = ("does not run any more", "The service is starting")
    page.see(lambda: any(each in page.section("service").text for each in told))
    page.shot("gone")
    controller.wait(20)
    pool.home.cli("up", "--nodes", "2", "--detach")

    page.ran(1, 2)
    assert page.output(1).endswith("2")
    page.see(lambda: page.section("service").text == "2 nodes on this machine")
    page.see(lambda: any("after cell 2" in each for each in page.texts(".jp-gpuaas-point")))
    assert page.driver.execute_script("return window.isTheSamePage") is True
    page.shot("back")


def test_in_the_dark_everything_can_be_read(pool: Lab, page: Page) -> None:
    pool.notebook("start.ipynb", ("x = 1",))
    page.open(pool.address("start.ipynb"), 1)
    page.panel()
    page.ran(0, 1)
    page.is_on("local-0")
    assert page.driver.execute_script("return document.body.dataset.jpThemeLight") == "true"
    page.driver.find_element("xpath", "//div[contains(@class,'lm-MenuBar-itemLabel')][.='Settings']").click()
    page.see(lambda: page.element(".lm-Menu [data-type='submenu']")).click()
    page.press(".lm-Menu-item[data-command='apputils:change-theme']", "JupyterLab Dark")

    page.see(lambda: page.driver.execute_script("return document.body.dataset.jpThemeLight") == "false")
    page.expand("Nodes")
    page.see(lambda: page.section("nodes").text)
    page.shot("dark")
    for selector in (".jp-gpuaas-chip", "#jp-gpuaas-notebook dd", ".jp-gpuaas-act", ".jp-gpuaas-row-line"):
        assert page.contrast(selector) >= 4.5, selector


def test_a_session_is_moved_with_the_keyboard_alone(pool: Lab, page: Page) -> None:
    pool.notebook("start.ipynb", ("x = 1",))
    page.open(pool.address("start.ipynb"), 1)
    page.ran(0, 1)
    page.is_on("local-0")

    page.chord(Keys.CONTROL, Keys.SHIFT, Keys.ALT, "m")
    page.see(lambda: page.element(".jp-Dialog .jp-gpuaas-plan"))
    # The choice has the focus.
    page.see(lambda: page.driver.switch_to.active_element.get_attribute("value") == "local-1")
    page.shot("dialog")
    page.keys(Keys.ENTER)

    page.is_on("local-1")
    page.see(lambda: "start.ipynb now runs on local-1" in page.notices())
    page.shot("moved")
