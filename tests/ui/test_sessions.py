"""What a person does with sessions from the side panel: attach, restore beside, forget, park, empty their node."""

from __future__ import annotations

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

pytest.importorskip("selenium", reason="selenium is not installed")

from tests.fault.test_sessions_go_on import sessions
from tests.ui.lab import Lab
from tests.ui.page import Page

LOCAL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def points(page: Page) -> list[str]:
    return page.texts(".jp-gpuaas-point")


def has_point(page: Page, cell: int) -> bool:
    """Whether the timeline has the checkpoint after a cell."""
    return any(f"after cell {cell}" in each for each in points(page))


def act_on_point(page: Page, cell: int, label: str) -> None:
    """Press a button of the checkpoint after a cell."""
    point = f"//li[contains(@class,'jp-gpuaas-point')][contains(., 'after cell {cell}')]"

    def pressed() -> bool:
        button = page.driver.find_element("xpath", f"{point}//button[contains(., '{label}')]")
        page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()
        return True

    page.see(pressed)


def test_a_notebook_is_attached_to_the_session_of_another(pool: Lab, page: Page) -> None:
    pool.notebook("first.ipynb", ("x = 7",))
    pool.notebook("second.ipynb", ("y = 1", "x"))
    page.open(pool.address("first.ipynb"), 1)
    page.ran(0, 1)
    page.leave()
    page.open(pool.address("second.ipynb"), 2)
    page.panel()
    page.ran(0, 1)

    page.press("#jp-gpuaas-sessions button", "Attach: first.ipynb")
    dialog = page.see(lambda: page.element(".jp-Dialog"))
    assert "Attach this notebook to first.ipynb?" in dialog.text
    page.shot("dialog")
    page.press(".jp-Dialog button", "Attach")

    page.see(lambda: "first.ipynb" in page.text("#jp-gpuaas-sessions [aria-current='true']"))
    page.see(lambda: not page.all(".jp-gpuaas-chip[data-state='none']") and " · " in page.chip())
    page.see(lambda: page.prompt(1) == "[ ]:" and page.is_connected())
    page.run_once_connected(1)
    page.see(lambda: page.output(1).endswith("7"))
    page.shot("attached")
    states = {each["name"].rsplit("/", 1)[-1]: each["state"] for each in sessions(pool.home)}
    assert states == {"first.ipynb": "idle", "second.ipynb": "idle"}  # the one that it had goes on


def test_a_checkpoint_is_restored_into_a_session_beside_the_first_and_one_is_forgotten(pool: Lab, page: Page) -> None:
    pool.notebook("start.ipynb", ("x = 1", "x = 2", "x"))
    page.open(pool.address("start.ipynb"), 3)
    page.panel()
    page.ran(0, 1)
    page.see(lambda: has_point(page, 1))
    page.ran(1, 2)
    page.see(lambda: has_point(page, 2))

    act_on_point(page, 1, "Restore")
    page.press(".jp-Dialog button", "Begin a new session with it")
    page.see(lambda: "A new session begins with 1 variable, as after cell 1." in page.notices())
    page.see(lambda: len(page.all("#jp-gpuaas-sessions .jp-gpuaas-row")) == 2)
    page.shot("beside")
    page.ran(2, 3)
    assert page.output(2).endswith("2")  # the first is as it was

    page.see(lambda: has_point(page, 3))
    act_on_point(page, 1, "Name")
    field = page.see(lambda: page.element(".jp-Dialog input"))
    field.send_keys("the first")
    page.press(".jp-Dialog button", "Name it")
    page.see(lambda: any(each.startswith("the first") for each in points(page)))
    page.shot("named")
    act_on_point(page, 1, "Forget")
    dialog = page.see(lambda: page.element(".jp-Dialog"))
    assert "Forget checkpoint “the first”?" in dialog.text
    assert "It cannot be restored any more." in dialog.text
    page.press(".jp-Dialog button", "Forget")
    page.see(lambda: "Removed: checkpoint “the first”." in page.notices())
    page.see(lambda: not has_point(page, 1))
    assert has_point(page, 2)
    page.shot("forgotten")

    new = next(each for each in sessions(pool.home) if not each["name"].endswith(".ipynb"))
    title = new["name"].rsplit("/", 1)[-1]
    page.press("#jp-gpuaas-sessions button", f"Attach: {title}")
    page.press(".jp-Dialog button", "Attach")
    page.see(lambda: title in page.text("#jp-gpuaas-sessions [aria-current='true']"))
    page.see(page.is_connected)
    page.run_once_connected(2)
    page.see(lambda: page.prompt(2) == "[2]:" and page.output(2).endswith("1"))
    assert not page.all(".jp-gpuaas-notice")  # nothing was lost
    page.shot("attached")


def test_a_session_that_is_to_begin_with_a_checkpoint_says_what_it_waits_for_and_is_given_up(
    pool: Lab, page: Page
) -> None:
    choice = {"devices": 1, "kind": "cpu", "memory_bytes": 0, "node": "local-0", "standby": 0}
    pool.notebook("start.ipynb", ("x = 1",), choice)
    page.open(pool.address("start.ipynb"), 1)
    page.panel()
    page.ran(0, 1)
    page.see(lambda: has_point(page, 1))

    act_on_point(page, 1, "Restore")
    page.press(".jp-Dialog button", "Begin a new session with it")
    page.see(lambda: "waits for a device: place 1." in page.notices())
    page.shot("waits")
    page.press(".jp-toastContainer .jp-toast-button", "Cancel")
    page.see(lambda: page.notices() == "The new session was ended. Its checkpoint stays.")
    page.see(lambda: len(page.all("#jp-gpuaas-sessions .jp-gpuaas-row")) == 1)
    page.shot("given-up")
    assert [each["name"].rsplit("/", 1)[-1] for each in sessions(pool.home)] == ["start.ipynb"]
    assert has_point(page, 1)


def test_a_session_is_parked_after_it_was_said_what_is_lost_and_its_next_cell_brings_it_back(
    pool: Lab, page: Page
) -> None:
    pool.notebook("start.ipynb", ("import socket\nlink = socket.socket()\nx = 5", "x"))
    page.open(pool.address("start.ipynb"), 2)
    page.panel()
    page.ran(0, 1)
    page.see(lambda: points(page))
    page.see(lambda: "1 name cannot be restored" in page.section("notebook").text)

    page.press("#jp-gpuaas-notebook button", "Park")
    dialog = page.see(lambda: page.element(".jp-Dialog"))
    assert "These names do not survive it: link" in dialog.text
    page.shot("dialog")
    page.press(".jp-Dialog button", "Park")
    page.see(lambda: page.chip() == "parked")
    page.see(lambda: "Its next cell brings it back." in page.notices())
    page.shot("parked")

    page.ran(1, 2)
    assert page.output(1).endswith("5")
    page.see(lambda: " · " in page.chip())


def test_a_node_is_emptied_from_the_panel_and_takes_sessions_again(pool: Lab, page: Page) -> None:
    pool.notebook("start.ipynb", ("x = 3", "x"))
    page.open(pool.address("start.ipynb"), 2)
    page.panel()
    page.ran(0, 1)
    page.is_on("local-0")
    page.expand("Nodes")
    page.see(lambda: "Use of CPU on local-0" in meters(page))

    page.press_in_panel("nodes", "Drain…: local-0")
    dialog = page.see(lambda: page.element(".jp-Dialog .jp-gpuaas-dialog"))
    assert "1 session on it moves to another node" in dialog.text
    page.shot("dialog")
    page.picture("nodes", ".jp-Dialog-content")
    page.press(".jp-Dialog button", "Drain")

    page.is_on("local-1")
    page.see(lambda: "It is empty." in page.section("nodes").text)
    assert "takes no new sessions" in page.section("nodes").text
    page.shot("empty")
    page.ran(1, 2)
    assert page.output(1).endswith("3")

    page.press_in_panel("nodes", "Uncordon: local-0")
    page.see(lambda: "takes no new sessions" not in page.section("nodes").text)
    page.press_in_panel("nodes", "Cordon: local-1")
    page.see(lambda: "takes no new sessions" in page.section("nodes").text)
    page.press_in_panel("nodes", "Uncordon: local-1")
    page.see(lambda: "takes no new sessions" not in page.section("nodes").text)


def meters(page: Page) -> list[str | None]:
    return [each.get_attribute("aria-label") for each in page.all("#jp-gpuaas-nodes [role='meter']")]


def test_a_local_kernel_and_a_remote_one_are_side_by_side(pool: Lab, page: Page) -> None:
    pool.notebook("remote.ipynb", ("import os\nos.environ['GPUAAS_NODE']",))
    local = new_notebook(cells=[new_code_cell("'here'")], metadata={"kernelspec": LOCAL})
    nbformat.write(local, pool.folder / "local.ipynb")
    page.open(pool.address("remote.ipynb"), 1)
    page.ran(0, 1)
    assert "local-0" in page.output(0)

    page.see(lambda: page.element(".jp-DirListing-item[title*='local.ipynb']"))
    page.driver.execute_script(DOUBLE_CLICK, page.element(".jp-DirListing-item[title*='local.ipynb']"))
    front = "#jp-main-dock-panel .jp-NotebookPanel:not(.lm-mod-hidden)"
    page.see(lambda: page.text(f"{front} .jp-gpuaas-chip") == "Local kernel")
    page.panel()
    page.see(lambda: "This notebook runs on a local kernel." in page.section("notebook").text)
    page.shot("local")
    prompt = f"{front} .jp-CodeCell .jp-InputPrompt"

    def ran_here() -> bool:
        if page.text(prompt) == "[ ]:":
            page.element(f"{front} .cm-content").click()
            page.press("[data-command='notebook:run-cell-and-select-next'], [data-jp-item-name='run'] jp-button")
        return page.text(prompt) == "[1]:"

    page.see(ran_here)
    assert "here" in page.text(f"{front} .jp-OutputArea")


DOUBLE_CLICK = "arguments[0].dispatchEvent(new MouseEvent('dblclick', {bubbles: true, cancelable: true}));"
