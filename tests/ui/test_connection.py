"""A browser whose connection to the Jupyter server breaks, and settings that a person has made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")

from tests.fault.cutter import Cutter
from tests.ui.cells import waiting_cell
from tests.ui.lab import Lab
from tests.ui.page import MOVE_BUTTON, Page


@pytest.fixture
def cable(pool: Lab) -> Iterator[Cutter]:
    """What the browser reaches the Jupyter server by."""
    cutter = Cutter(lambda: pool.port)
    yield cutter
    cutter.close()


def test_a_broken_connection_is_told_of_and_comes_back_without_a_reload(
    pool: Lab, page: Page, cable: Cutter, tmp_path: Path
) -> None:
    sign = tmp_path / "sign"
    pool.notebook("start.ipynb", (waiting_cell(sign), "_ + 1"))
    page.open(pool.address("start.ipynb").replace(f":{pool.port}/", f":{cable.port}/"), 2)
    page.panel()
    page.driver.execute_script("window.isTheSamePage = true")
    page.run(0)
    page.see(lambda: page.output(0) == "begun")

    cable.down = True
    assert cable.cut() > 0
    page.see(lambda: "The Jupyter server has not answered since" in page.section("service").text)
    assert page.element("#jp-gpuaas-service [role='alert']").is_displayed()
    page.shot("broken")
    sign.touch()  # the cell ends while nobody can hear it
    cable.down = False

    page.see(lambda: "nodes on this machine" in page.section("service").text)
    page.see(lambda: "The connection to the Jupyter server is back." in page.notices())
    page.see(lambda: page.output(0).split() == ["begun", "ended", "[1]:", "42"])
    page.see(lambda: page.prompt(0) == "[1]:")
    page.shot("back")
    page.ran(1, 2)
    assert page.output(1).endswith("43")
    page.see(lambda: any("after cell 2" in each for each in page.texts(".jp-gpuaas-point")))
    assert page.driver.execute_script("return window.isTheSamePage") is True


def test_the_toolbar_says_what_the_settings_want(pool: Lab, page: Page) -> None:
    settings = Path(os.environ["JUPYTER_CONFIG_DIR"]) / "lab/user-settings/jupyter-gpuaas"
    settings.mkdir(parents=True)
    kept = settings / "sessions.jupyterlab-settings"
    kept.write_text('{"chip": "place", "moveNotices": "failures"}')
    try:
        pool.notebook("start.ipynb", ("x = 1",))
        page.open(pool.address("start.ipynb"), 1)
        page.see(lambda: page.chip() == "local-0 · CPU")
        page.ran(0, 1)
        page.see(lambda: page.element(MOVE_BUTTON).is_enabled())
        page.element(MOVE_BUTTON).click()
        page.see(lambda: page.element(".jp-Dialog .jp-gpuaas-plan"))
        page.press(".jp-Dialog button", "Move")
        page.see(lambda: page.chip() == "local-1 · CPU")
        assert "start.ipynb" not in page.notices()
        page.shot("place")
    finally:
        kept.unlink()
        settings.rmdir()
