"""The side panel, the toolbar and what else says where a notebook runs."""

from __future__ import annotations

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")

from tests.ui.lab import Lab
from tests.ui.page import Page


def test_a_notebook_says_everywhere_where_it_runs(pool: Lab, page: Page) -> None:
    pool.notebook("start.ipynb", ("data = bytes(50_000_000)\nlen(data)",))
    page.open(pool.address("start.ipynb"), 1)
    page.panel()
    page.ran(0, 1)

    page.see(lambda: "local-0 · CPU · " in page.chip())
    section = page.section("notebook")
    page.see(lambda: "local-0" in section.text and "after cell 1" in section.text)
    meter = page.element("#jp-gpuaas-notebook [role=meter]")
    assert meter.get_attribute("aria-label") == "Memory of CPU"
    page.see(lambda: "start.ipynb" in page.section("sessions").text)
    assert page.text(".jp-gpuaas-status") == "1 remote session"
    page.shot("panel")

    page.element("[data-id='jp-running-sessions']").click()
    row = page.see(lambda: next(e for e in page.all(".jp-RunningSessions-item") if "local-0" in e.text))
    page.shot("running")
    page.driver.execute_script("arguments[0].querySelector('.jp-RunningSessions-itemShutdown').click()", row)

    page.see(lambda: "start.ipynb was released." in page.notices())
    assert "start.ipynb" not in pool.home.cli("sessions").stdout


def test_a_checkpoint_is_compared_and_restored_from_the_timeline(pool: Lab, page: Page) -> None:
    pool.notebook("start.ipynb", ("x = 1", "x = 2\ny = 3", "x"))
    page.open(pool.address("start.ipynb"), 3)
    page.panel()
    page.ran(0, 1)
    page.see(lambda: any("after cell 1" in each for each in page.texts(".jp-gpuaas-point")))
    page.ran(1, 2)
    page.see(lambda: any("after cell 2" in each for each in page.texts(".jp-gpuaas-point")))

    first = ".jp-gpuaas-point:first-child button"
    page.press_until(first, "Changes", lambda: "Hide changes" in page.text(".jp-gpuaas-point:first-child"))
    page.see(lambda: page.text(".jp-gpuaas-point .jp-gpuaas-reasons").split("\n") == ["added y", "changed x"])
    page.shot("timeline")
    page.all(".jp-gpuaas-point")[1].find_element("xpath", ".//button[contains(., 'Restore')]").click()
    page.press(".jp-Dialog button", "Restore here")

    page.see(lambda: "restored, as after cell 1" in page.notices())
    page.ran(2, 2)  # the count goes on from the checkpoint as well
    assert page.output(2).endswith("1")
    page.shot("restored")


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
        assert page.driver.execute_script(CONTRAST, page.element(selector)) >= 4.5, selector


#: Contrast of an element's text with what is behind it, by WCAG's formula.
CONTRAST = """
const parse = text => text.match(/[\\d.]+/g).map(Number);
const luminance = rgb => rgb.slice(0, 3).map(v => v / 255)
  .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
let behind = arguments[0];
while (behind && (parse(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0) behind = behind.parentElement;
const [one, other] = [
  luminance(parse(getComputedStyle(arguments[0]).color)),
  luminance(parse(getComputedStyle(behind ?? document.body).backgroundColor))
];
return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
"""
