"""Moving a notebook's session, by hand, in the browser."""

from __future__ import annotations

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver.common.keys import Keys

from tests.conftest import GpuaasHome
from tests.ui.lab import Lab
from tests.ui.page import Page

SLIDER = (
    "import ipywidgets, os\nfrom IPython.display import display\n"
    "slider, label = ipywidgets.IntSlider(3, 0, 10), ipywidgets.Label('nothing yet')\n"
    "def seen(change): label.value = f\"{change['new']} on {os.environ['GPUAAS_NODE']}\"\n"
    "slider.observe(seen, 'value')\ndisplay(slider, label)\nshown = display('before', display_id=True)"
)
ASK = "shown.update('after the move')\nslider.value"
MOVE_BUTTON = ".jp-NotebookPanel-toolbar [data-jp-item-name='gpuaas-migrate'] jp-button"


@pytest.fixture
def two_nodes(gpuaas_home: GpuaasHome) -> None:
    gpuaas_home.cli("up", "--nodes", "2", "--detach")


@pytest.mark.usefixtures("two_nodes")
def test_the_button_moves_a_session_whose_slider_goes_on_working(lab: Lab, page: Page) -> None:
    lab.notebook("start.ipynb", (SLIDER, ASK))
    page.open(lab.address("start.ipynb"), 2)
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


@pytest.mark.usefixtures("two_nodes")
def test_a_move_that_waits_for_a_cell_shows_its_steps_and_can_be_cancelled(lab: Lab, page: Page) -> None:
    lab.notebook("start.ipynb", ("x = 1", "import time\nprint('begun', flush=True)\ntime.sleep(100)", "x"))
    page.open(lab.address("start.ipynb"), 3)
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
    page.press("#jp-gpuaas-notebook button", "Cancel the move")

    page.see(lambda: "The move was cancelled. start.ipynb still runs on local-0." in page.notices())
    page.is_on("local-0")
    page.element("[data-jp-item-name='interrupt'] jp-button").click()
    page.see(lambda: page.prompt(1) == "[2]:")
    page.ran(2, 3)
    assert page.output(2).endswith("1")


@pytest.mark.usefixtures("two_nodes")
def test_a_session_is_moved_with_the_keyboard_alone(lab: Lab, page: Page) -> None:
    lab.notebook("start.ipynb", ("x = 1",))
    page.open(lab.address("start.ipynb"), 1)
    page.ran(0, 1)
    page.is_on("local-0")

    page.chord(Keys.CONTROL, Keys.SHIFT, Keys.ALT, "m")
    page.see(lambda: page.element(".jp-Dialog .jp-gpuaas-plan"))
    focused = page.driver.switch_to.active_element
    assert focused.get_attribute("value") == "local-1"  # the choice has the focus
    page.shot("dialog")
    page.keys(Keys.ENTER)

    page.is_on("local-1")


@pytest.mark.usefixtures("two_nodes")
def test_a_session_is_moved_in_notebook_7_as_well(lab: Lab, page: Page) -> None:
    lab.notebook("start.ipynb", ("import os\nx = 1", "x, os.environ['GPUAAS_NODE']"))
    page.open(lab.address("start.ipynb").replace("/lab/tree/", "/notebooks/"), 2)
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


@pytest.mark.usefixtures("two_nodes")
def test_a_session_is_moved_from_the_context_menu_of_its_kernel(lab: Lab, page: Page) -> None:
    lab.notebook("start.ipynb", ("x = 1",))
    page.open(lab.address("start.ipynb"), 1)
    page.ran(0, 1)
    page.element("[data-id='jp-running-sessions']").click()
    kernel = page.see(lambda: page.element(".jp-RunningSessions-item.jp-mod-kernel"))

    page.right_click(kernel)
    page.press(".lm-Menu-item[data-command='gpuaas:migrate-kernel']")
    page.see(lambda: page.element(".jp-Dialog .jp-gpuaas-plan"))
    page.shot("dialog")
    page.press(".jp-Dialog button", "Move")

    page.is_on("local-1")
