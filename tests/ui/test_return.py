"""Coming back to a notebook whose session ran on: outputs, and what the loss of its node has cost."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")

from tests.conftest import GpuaasHome
from tests.fault.test_sessions_go_on import kill_host, sessions, until
from tests.ui.lab import Lab
from tests.ui.page import Page


def waiting_cell(sign: Path) -> str:
    """A cell that runs until a file is there."""
    return (
        "import pathlib, time\nprint('begun', flush=True)\n"
        f"while not pathlib.Path({str(sign)!r}).exists(): time.sleep(0.05)\n"
        "print('ended', flush=True)\n6 * 7"
    )


def state_of_session(home: GpuaasHome) -> str:
    (session,) = sessions(home)
    return str(session["state"])


def test_outputs_of_a_cell_that_ended_meanwhile_are_filled_in(
    lab: Lab, page: Page, gpuaas_home: GpuaasHome, tmp_path: Path
) -> None:
    sign = tmp_path / "sign"
    lab.notebook("start.ipynb", (waiting_cell(sign), "print('not run')"))
    page.open(lab.address("start.ipynb"), 2)
    page.run(0)
    page.see(lambda: page.output(0) == "begun")
    page.leave()

    sign.touch()
    until(lambda: state_of_session(gpuaas_home) == "idle")
    page.open(lab.address("start.ipynb"), 2)

    page.see(lambda: page.output(0).split() == ["begun", "ended", "[1]:", "42"])
    page.see(lambda: page.prompt(0) == "[1]:")
    page.see(lambda: "1 cell came to its end" in page.notices())
    assert page.output(1) == ""
    page.shot("filled")


def test_a_cell_that_still_runs_goes_on_streaming_into_its_place(
    lab: Lab, page: Page, gpuaas_home: GpuaasHome, tmp_path: Path
) -> None:
    sign = tmp_path / "sign"
    lab.notebook("start.ipynb", (waiting_cell(sign),))
    page.open(lab.address("start.ipynb"), 1)
    page.run(0)
    page.see(lambda: page.output(0) == "begun")
    page.leave()

    page.open(lab.address("start.ipynb"), 1)
    page.see(lambda: page.output(0) == "begun")
    page.see(lambda: page.prompt(0) == "[*]:")
    page.shot("running")
    sign.touch()

    page.see(lambda: page.output(0).split() == ["begun", "ended", "[1]:", "42"])
    page.see(lambda: page.prompt(0) == "[1]:")


def test_outputs_are_there_after_the_jupyter_server_was_restarted_in_the_middle_of_a_cell(
    lab: Lab, page: Page, gpuaas_home: GpuaasHome, tmp_path: Path
) -> None:
    sign = tmp_path / "sign"
    lab.notebook("start.ipynb", (waiting_cell(sign), "_ + 1"))
    page.open(lab.address("start.ipynb"), 2)
    page.run(0)
    page.see(lambda: page.output(0) == "begun")
    page.leave()

    lab.stop()
    sign.touch()
    until(lambda: state_of_session(gpuaas_home) == "idle")
    lab.start()
    page.open(lab.address("start.ipynb"), 2)

    page.see(lambda: page.output(0).split() == ["begun", "ended", "[1]:", "42"])
    page.ran(1, 2)
    assert page.output(1).endswith("43")


def test_cleared_outputs_stay_cleared(lab: Lab, page: Page) -> None:
    lab.notebook("start.ipynb", ("print('secret')", "print('kept')"))
    page.open(lab.address("start.ipynb"), 2)
    page.is_on("local-0")
    page.ran(0, 1)
    page.ran(1, 2)
    page.cell(0, ".cm-content").click()
    page.driver.find_element("xpath", "//div[contains(@class,'lm-MenuBar-itemLabel')][.='Edit']").click()
    page.press(".lm-Menu-item[data-command='editmenu:clear-current']")
    page.see(lambda: page.output(0) == "")
    page.element("[data-jp-item-name='save'] jp-button").click()
    page.see(lambda: '"seen"' in (lab.folder / "start.ipynb").read_text())
    page.leave()

    page.open(lab.address("start.ipynb"), 2)
    page.is_on("local-0")
    page.see(lambda: page.output(1) == "kept")
    page.ran(1, 3)  # by now the question was answered, if it was asked
    assert page.output(0) == ""


def test_the_loss_of_its_node_is_told_in_the_notebook_and_cells_run_again(
    lab: Lab, page: Page, gpuaas_home: GpuaasHome, tmp_path: Path
) -> None:
    gpuaas_home.cli("up", "--nodes", "2", "--detach")
    sign = tmp_path / "sign"
    lab.notebook("start.ipynb", ("x = 1", f"x += 1\n{waiting_cell(sign)}\nx"))
    page.open(lab.address("start.ipynb"), 2)
    page.ran(0, 1)
    page.panel()
    page.see(lambda: any("after cell 1" in each for each in page.texts(".jp-gpuaas-point")))
    page.run(1)
    page.see(lambda: page.output(1) == "begun")

    kill_host(gpuaas_home, sessions(gpuaas_home)[0]["name"])

    page.see(lambda: "its variables are as after cell 1" in page.text(".jp-gpuaas-notice"))
    page.shot("lost")
    sign.touch()
    page.press(".jp-gpuaas-notice button", "Rerun these cells")
    page.see(lambda: page.output(1).split()[-1:] == ["2"])
    assert not page.all(".jp-gpuaas-notice")
    page.shot("rerun")
