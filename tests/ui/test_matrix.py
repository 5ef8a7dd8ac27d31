"""One wheel in the oldest and the newest JupyterLab and Notebook that it is for, each as a user installs it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

pytest.importorskip("selenium", reason="selenium is not installed")

from tests.conftest import GpuaasHome
from tests.ui.environments import FRONT_ENDS, FrontEnd, build_wheel, install, no_node, run
from tests.ui.lab import Lab
from tests.ui.page import MOVE_BUTTON, Page

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(1800)]

LOCAL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
SHOW = "%load_ext jupyter_gpuaas\n%remote_gpu connect --session shown"
WHERE = "import os\nprint('on', os.environ['GPUAAS_NODE'])\n6 * 7"


@pytest.fixture(scope="module")
def wheel() -> Path:
    return build_wheel()


@pytest.fixture(scope="module", params=FRONT_ENDS, ids=lambda each: each.name)
def installed(request: pytest.FixtureRequest, wheel: Path) -> tuple[FrontEnd, Path]:
    """A front end, and the Python of its environment."""
    front_end: FrontEnd = request.param
    return front_end, install(front_end, wheel)


@pytest.fixture
def server(installed: tuple[FrontEnd, Path], gpuaas_home: GpuaasHome, tmp_path: Path) -> Iterator[Lab]:
    """The front end's server, which has never run before, over a service of two nodes from the same environment."""
    front_end, python = installed
    env = no_node(python) | {"GPUAAS_HOME": str(gpuaas_home.path)}
    run(python, "-m", "jupyter_gpuaas", "up", "--nodes", "2", "--detach", env=env)
    lab = Lab(tmp_path, gpuaas_home, python=str(python), module=front_end.module)
    lab.start()
    try:
        yield lab
    finally:
        lab.stop()


def test_both_extensions_are_enabled_without_node(installed: tuple[FrontEnd, Path]) -> None:
    _, python = installed
    env = no_node(python)
    listed = re.sub(r"\x1b\[[0-9;]*m", "", run(python, "-m", "jupyter", "labextension", "list", env=env))
    (line,) = [line for line in listed.splitlines() if line.strip().startswith("jupyter-gpuaas ")]
    assert "enabled" in line and "OK" in line, listed
    listed = re.sub(r"\x1b\[[0-9;]*m", "", run(python, "-m", "jupyter", "server", "extension", "list", env=env))
    assert re.search(r"jupyter_gpuaas\S* enabled", listed), listed
    assert re.search(r"jupyter_gpuaas\S* .*OK", listed), listed
    packages = run(python, "-m", "pip", "list", "--disable-pip-version-check", env=env).splitlines()
    print(*(line for line in packages if re.match(r"(jupyterlab|notebook|jupyter_server) ", line)), sep="\n")


def test_a_notebook_runs_moves_and_shows_where_it_is(installed: tuple[FrontEnd, Path], server: Lab, page: Page) -> None:
    front_end, _ = installed
    is_lab = front_end.module == "jupyterlab"
    server.notebook("start.ipynb", (WHERE,))
    address = server.address("start.ipynb")
    page.open(address if is_lab else address.replace("/lab/tree/", "/notebooks/"), 1)
    page.ran(0, 1)
    page.is_on("local-0")
    assert page.output(0).split() == ["on", "local-0", "[1]:", "42"]

    # The kernel picker offers it.
    page.element(".jp-KernelName").click()
    offered = page.see(lambda: page.element(".jp-Dialog select").text)
    assert "Python 3 (remote GPU)" in offered
    page.shot(f"{front_end.name}-picker")
    page.press(".jp-Dialog button", "Cancel")

    if is_lab:
        page.panel()
    else:
        page.menu("View", "gpuaas:show-panel")
        page.see(lambda: page.element(".jp-gpuaas-panel").is_displayed())
    page.see(lambda: "start.ipynb" in page.section("sessions").text)
    page.see(lambda: "local-0" in page.section("notebook").text)
    page.shot(f"{front_end.name}-panel")

    page.see(lambda: page.element(MOVE_BUTTON).is_enabled())
    page.element(MOVE_BUTTON).click()
    page.see(lambda: page.element(".jp-Dialog .jp-gpuaas-plan"))
    page.press(".jp-Dialog button", "Move")
    page.is_on("local-1")
    page.ran(0, 2)
    assert "local-1" in page.output(0)
    assert page.complaints() == []


def test_widgets_are_shown_in_a_local_notebook(installed: tuple[FrontEnd, Path], server: Lab, page: Page) -> None:
    front_end, _ = installed
    nbformat.write(
        new_notebook(cells=[new_code_cell(SHOW)], metadata={"kernelspec": LOCAL}), server.folder / "local.ipynb"
    )
    address = server.address("local.ipynb")
    page.driver.get(address if front_end.module == "jupyterlab" else address.replace("/lab/tree/", "/notebooks/"))
    page.see(lambda: len(page.all(".jp-CodeCell")) == 1)
    page.see(lambda: page.element(".jp-Notebook-ExecutionIndicator").get_attribute("data-status") == "idle")
    page.run_once_connected(0)
    shown = page.see(lambda: page.cell(0, ".gpuaas-widget"))
    assert "shown" in shown.text and "on local-0" in shown.text
    page.shot(front_end.name)
