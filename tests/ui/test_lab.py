"""JupyterLab in a real browser: what a person sees who opens a notebook and works in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tests.conftest import GpuaasHome
from tests.fault.test_sessions_go_on import until

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.common.exceptions import TimeoutException, WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.ui,
    pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="chromium and chromedriver are not installed"),
]

WAIT_S = 30.0
CELLS = (
    "import os, time\nprint('on', os.environ['GPUAAS_NODE'])\n6 * 7",
    "print('begun', flush=True)\ntime.sleep(100)",
    "name = input('Name? ')\nprint('hello', name)",
    # One that is looked at while the session moves.
    "import ipywidgets, os\nfrom IPython.display import display\n"
    "slider, label = ipywidgets.IntSlider(3, 0, 10), ipywidgets.Label('nothing yet')\n"
    "def seen(change): label.value = f\"{change['new']} on {os.environ['GPUAAS_NODE']}\"\n"
    "slider.observe(seen, 'value')\ndisplay(slider, label)\nshown = display('before', display_id=True)",
    "shown.update('after the move')\nslider.value",
)
BROWSER_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1000",
)


@pytest.fixture
def lab(gpuaas_home: GpuaasHome, tmp_path: Path) -> Iterator[str]:
    """A JupyterLab with one notebook; the address of that notebook."""
    folder = tmp_path / "work"
    folder.mkdir()
    document = new_notebook(
        cells=[new_code_cell(source) for source in CELLS],
        metadata={"kernelspec": {"name": "remote_gpu", "display_name": "x", "language": "python"}},
    )
    nbformat.write(document, folder / "start.ipynb")
    log = tmp_path / "lab.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--allow-root", "--no-browser", "--ServerApp.port=0",
             "--IdentityProvider.token=t", f"--ServerApp.root_dir={folder}", "--ServerApp.port_retries=0",
             "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"],
            stdout=output, stderr=output, env=dict(os.environ),
        )  # fmt: skip
    try:

        def port() -> int:
            assert process.poll() is None, log.read_text()
            listening = psutil.Process(process.pid).net_connections("tcp")
            return next((c.laddr.port for c in listening if c.status == psutil.CONN_LISTEN), 0)

        yield f"http://127.0.0.1:{until(port)}/lab/tree/start.ipynb?token=t"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*BROWSER_FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    service = webdriver.ChromeService(CHROMEDRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    started = psutil.Process(service.process.pid).children(recursive=True)
    try:
        yield driver
    finally:
        driver.quit()
        _, left = psutil.wait_procs(started, timeout=5)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=5)


class Page:
    """The notebook, by what is seen of it."""

    def __init__(self, driver: Any, address: str) -> None:
        self._driver = driver
        driver.get(address)
        self.see(lambda: self.text(".jp-KernelName") == "Python 3 (remote GPU)")
        self.see(lambda: len(self._all(".jp-CodeCell")) == len(CELLS))

    def see(self, what: Callable[[], Any]) -> Any:
        """Wait for something; what comes and goes meanwhile is looked for again."""
        wait = WebDriverWait(self._driver, WAIT_S, poll_frequency=0.1, ignored_exceptions=[WebDriverException])
        try:
            return wait.until(lambda _: what())
        except TimeoutException:
            shots = os.environ.get("GPUAAS_SHOTS")
            if shots:
                self._driver.save_screenshot(f"{shots}/failed.png")
            raise

    def text(self, selector: str) -> str:
        return str(self._driver.find_element(By.CSS_SELECTOR, selector).text)

    def _all(self, selector: str) -> list[WebElement]:
        return list(self._driver.find_elements(By.CSS_SELECTOR, selector))

    def element(self, selector: str) -> WebElement:
        return self._driver.find_element(By.CSS_SELECTOR, selector)

    def run(self, number: int) -> None:
        editor = self._all(".jp-CodeCell")[number].find_element(By.CSS_SELECTOR, ".cm-content")
        editor.click()
        editor.send_keys(Keys.CONTROL, Keys.ENTER)

    def cell(self, number: int, selector: str) -> WebElement:
        return self._all(".jp-CodeCell")[number].find_element(By.CSS_SELECTOR, selector)

    def prompt(self, number: int) -> str:
        return self._all(".jp-CodeCell")[number].find_element(By.CSS_SELECTOR, ".jp-InputPrompt").text

    def output(self, number: int) -> str:
        return self._all(".jp-CodeCell")[number].find_element(By.CSS_SELECTOR, ".jp-OutputArea").text


def test_a_person_runs_cells_interrupts_one_and_answers_another(
    lab: str, browser: Any, gpuaas_home: GpuaasHome
) -> None:
    page = Page(browser, lab)

    page.run(0)
    page.see(lambda: page.prompt(0) == "[1]:")
    assert page.output(0).split() == ["on", "local-0", "[1]:", "42"]

    page.run(1)
    page.see(lambda: page.output(1) == "begun")
    assert page.prompt(1) == "[*]:"
    page.element("[data-jp-item-name='interrupt'] jp-button").click()
    page.see(lambda: "KeyboardInterrupt" in page.output(1))
    page.see(lambda: page.prompt(1) == "[2]:")

    page.run(2)
    field = page.see(lambda: page.element(".jp-Stdin-input"))
    field.send_keys("Ada", Keys.ENTER)
    page.see(lambda: "hello Ada" in page.output(2))
    page.see(lambda: page.prompt(2) == "[3]:")

    browser.get("about:blank")
    (line,) = [line for line in gpuaas_home.cli("sessions").stdout.splitlines() if "start.ipynb" in line]
    assert " idle " in line  # leaving the page does not end the session


def test_a_slider_goes_on_working_while_its_session_moves(lab: str, browser: Any, gpuaas_home: GpuaasHome) -> None:
    gpuaas_home.cli("up", "--nodes", "2", "--detach")
    page = Page(browser, lab)
    page.run(3)
    page.see(lambda: page.prompt(3) == "[1]:")
    handle = page.see(lambda: page.cell(3, ".noUi-handle"))

    handle.send_keys(Keys.ARROW_RIGHT)
    page.see(lambda: "4 on local-0" in page.output(3))

    moved = gpuaas_home.cli("migrate", "start.ipynb")
    assert "moved from local-0 to local-1" in moved.stdout

    page.cell(3, ".noUi-handle").send_keys(Keys.ARROW_RIGHT)
    page.see(lambda: "5 on local-1" in page.output(3))
    page.run(4)
    page.see(lambda: page.prompt(4) == "[2]:")
    assert "5" in page.output(4)
    page.see(lambda: "after the move" in page.output(3))
    assert "before" not in page.output(3)
    shots = os.environ.get("GPUAAS_SHOTS")
    if shots:
        browser.save_screenshot(f"{shots}/moved.png")
