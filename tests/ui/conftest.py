"""A JupyterLab and a headless Chromium, for one test each."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import GpuaasHome

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.ui)
            if not (CHROMIUM and CHROMEDRIVER):
                item.add_marker(pytest.mark.skip(reason="chromium and chromedriver are not installed"))


@pytest.fixture
def lab(gpuaas_home: GpuaasHome, tmp_path: Path) -> Iterator[Any]:
    """A JupyterLab that runs, with an empty folder."""
    from tests.ui.lab import Lab

    lab = Lab(tmp_path)
    lab.start()
    try:
        yield lab
    finally:
        lab.stop()


@pytest.fixture
def page(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A tab of a browser of its own."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from tests.ui.page import Page

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    # A page that is left with unsaved changes asks; a person who closes the lid does not answer.
    options.set_capability("unhandledPromptBehavior", "accept")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*BROWSER_FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    service = webdriver.ChromeService(CHROMEDRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    started = psutil.Process(service.process.pid).children(recursive=True)
    try:
        yield Page(driver, request.node.name.removeprefix("test_"))
    finally:
        driver.quit()
        _, left = psutil.wait_procs(started, timeout=5)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=5)
