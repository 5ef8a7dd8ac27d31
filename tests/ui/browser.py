"""A headless Chromium that serves one test after the other."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import psutil
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from urllib3.exceptions import HTTPError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A tab of a test is in front, whatever the browser thinks of it.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
    "--window-size=1400,1000",
)
END_TIMEOUT_S = 5.0
#: What a browser or its driver that has died is known by.
_DEAD = (WebDriverException, HTTPError)


class Browser:
    """One Chromium with one tab. What it has cached stays, cookies do not; one that has died is replaced."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self._driver: Any = None
        self._started: list[psutil.Process] = []

    def tab(self) -> Any:
        """The tab, blank and without cookies."""
        if self._driver is not None:
            try:
                self._blank()
            except _DEAD:
                self.end()
        if self._driver is None:
            self._start()
        return self._driver

    def rest(self) -> None:
        """Leave the page, so that nothing of it runs on behind the test."""
        if self._driver is not None:
            try:
                self._blank()
            except _DEAD:
                self.end()

    def _blank(self) -> None:
        self._driver.get("about:blank")
        self._driver.execute_cdp_cmd("Network.clearBrowserCookies", {})

    def _start(self) -> None:
        self._number += 1
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM or ""
        # A page that is left with unsaved changes asks; a person who closes the lid does not answer.
        options.set_capability("unhandledPromptBehavior", "accept")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        for flag in (*FLAGS, f"--user-data-dir={self._folder / f'profile-{self._number}'}"):
            options.add_argument(flag)
        # It lives longer than the service folder of the test that starts it, which ends what has its name.
        env = {name: value for name, value in os.environ.items() if not name.startswith("GPUAAS_")}
        service = webdriver.ChromeService(CHROMEDRIVER, env=env)
        self._driver = webdriver.Chrome(options=options, service=service)
        self._started = psutil.Process(service.process.pid).children(recursive=True)

    def end(self) -> None:
        """End it, and all its processes."""
        driver, self._driver = self._driver, None
        if driver is not None:
            with contextlib.suppress(*_DEAD, OSError):
                driver.quit()
        _, left = psutil.wait_procs(self._started, timeout=END_TIMEOUT_S)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=END_TIMEOUT_S)
        self._started = []
