"""JupyterLab as it is seen in a browser: what is waited for, pressed and read."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from selenium.common.exceptions import TimeoutException, WebDriverException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

#: For what comes within a second or two, but on a machine where much else may run.
WAIT_S = 60.0
MOVE_BUTTON = ".jp-NotebookPanel-toolbar [data-jp-item-name='gpuaas-migrate'] jp-button"
#: Where pictures of the documents are made anew, if they are to be.
PICTURES = os.environ.get("GPUAAS_PICTURES", "")
COLOURS = 128
SHOTS = Path(os.environ.get("GPUAAS_SHOTS") or Path(__file__).parent / "shots")

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

ASKED_ELSEWHERE = """
return performance.getEntriesByType('resource').map(each => each.name)
  .filter(name => !name.startsWith(location.origin) && !/^(data|blob|about):/.test(name));
"""


class Page:
    """One tab of the browser."""

    def __init__(self, driver: Any, name: str) -> None:
        self.driver = driver
        self._name = name

    # -- waiting and looking ---------------------------------------------------------------------------------

    def see(self, what: Callable[[], Any]) -> Any:
        """Wait for something; what comes and goes meanwhile is looked for again."""
        passing = [WebDriverException, StopIteration, IndexError]
        wait = WebDriverWait(self.driver, WAIT_S, poll_frequency=0.1, ignored_exceptions=passing)
        try:
            return wait.until(lambda _: what())
        except TimeoutException:
            self.shot("failed")
            raise

    def shot(self, what: str) -> None:
        """Keep a picture, to be looked at by a person."""
        SHOTS.mkdir(exist_ok=True)
        self.driver.save_screenshot(str(SHOTS / f"{self._name}-{what}.png"))

    def picture(self, name: str, selector: str = "", size: tuple[int, int] | None = None) -> None:
        """Make a picture of the documents anew, where that was asked for (``make pictures``): of this part of the page.

        Parameters
        ----------
        size
            Width and height in pixels of what is kept, from the upper left.
        """
        if not PICTURES:
            return
        from PIL import Image

        taken = self.element(selector).screenshot_as_png if selector else self.driver.get_screenshot_as_png()
        image = Image.open(io.BytesIO(taken)).convert("RGB")
        if size is not None:
            image = image.crop((0, 0, min(size[0], image.width), min(size[1], image.height)))
        # The default gives few pixels of a colour that of others: marks are small, and say what they say by it.
        few = image.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, kmeans=2)
        few.save(Path(PICTURES) / f"{name}.png", optimize=True)

    def all(self, selector: str) -> list[WebElement]:
        return list(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def element(self, selector: str) -> WebElement:
        found: WebElement = self.driver.find_element(By.CSS_SELECTOR, selector)
        return found

    def text(self, selector: str) -> str:
        return str(self.element(selector).text)

    def texts(self, selector: str) -> list[str]:
        return [each.text for each in self.all(selector)]

    def press(self, selector: str, label: str = "") -> None:
        """Press the button of this label (its own text, or what is read out) among those of the selector."""

        def pressed() -> bool:
            for each in self.all(selector):
                name = each.get_attribute("aria-label") or each.text
                if each.is_displayed() and each.is_enabled() and label in name:
                    each.click()
                    return True
            return False

        self.see(pressed)

    def press_in_panel(self, section: str, label: str) -> None:
        """Press the one button of a section of the panel that is read out so, scrolling to it as a person would."""

        def pressed() -> bool:
            (button,) = [
                each
                for each in self.all(f"#jp-gpuaas-{section} button")
                if (each.get_attribute("aria-label") or each.text) == label
            ]
            self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
            button.click()
            return True

        self.see(pressed)

    def press_until(self, selector: str, label: str, seen: Callable[[], Any]) -> None:
        """Press a button that is there until its work is done, again if that went nowhere: the page may have moved."""

        def done() -> bool:
            with suppress(WebDriverException):
                if seen():
                    return True
            for each in self.all(selector):
                if each.is_displayed() and label in (each.get_attribute("aria-label") or each.text):
                    each.click()
                    break
            return False

        self.see(done)

    def menu(self, name: str, command: str) -> None:
        """Choose a command from a menu of the menu bar."""
        bar = "//div[contains(@class,'lm-MenuBar-itemLabel')]"
        self.see(lambda: self.driver.find_element("xpath", f"{bar}[.='{name}']")).click()
        self.press(f".lm-Menu-item[data-command='{command}']")

    def right_click(self, element: WebElement) -> None:
        ActionChains(self.driver).context_click(element).perform()

    def keys(self, *keys: str) -> None:
        """Type at whatever has the focus."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def tab_to(self, label: str) -> list[str]:
        """Press Tab until the button of this label has the focus; gives the labels of those on the way, and its own."""
        passed = []
        for _ in range(200):
            self.keys(Keys.TAB)
            # The page itself, which has the focus between its end and its beginning, has every text.
            if (focused := self.driver.switch_to.active_element).tag_name != "button":
                continue
            passed.append(focused.get_attribute("aria-label") or focused.text)
            if label in passed[-1]:
                return passed
        self.shot("failed")
        raise AssertionError(f"Tab does not lead to {label!r}, but to {passed}")

    def focused_in(self, selector: str) -> bool:
        """Whether what has the focus is, or is within, what the selector finds."""
        script = "return document.activeElement.closest(arguments[0]) !== null"
        return bool(self.driver.execute_script(script, selector))

    def contrast(self, selector: str) -> float:
        """Contrast of the text of what the selector finds, 1 to 21."""
        return float(self.driver.execute_script(CONTRAST, self.element(selector)))

    def chord(self, *keys: str) -> None:
        """Press keys together."""
        chain = ActionChains(self.driver)
        for key in keys:
            chain.key_down(key)
        for key in reversed(keys):
            chain.key_up(key)
        chain.perform()

    # -- the notebook ----------------------------------------------------------------------------------------

    def open(self, address: str, cells: int) -> None:
        """Open a notebook, and wait until its session has a place: what is run before its kernel is there is lost."""
        self.driver.get(address)
        self.see(lambda: self.text(".jp-KernelName") == "Python 3 (remote GPU)")
        self.see(lambda: len(self.all(".jp-CodeCell")) == cells)
        self.see(lambda: " · " in self.chip())
        self.see(self.is_connected)

    def is_connected(self) -> bool:
        """Whether what is run now reaches the kernel."""
        # JupyterLab does not know the status of a kernel that was busy when the page came.
        status = self.element(".jp-Notebook-ExecutionIndicator").get_attribute("data-status")
        is_busy = self.element(".jp-gpuaas-chip").get_attribute("data-state") == "busy"
        return status in ("idle", "busy") or is_busy

    def leave(self) -> None:
        """Close the page as a person does who does not save."""
        self.driver.get("about:blank")
        alert_is_gone = self.driver.current_url == "about:blank"
        assert alert_is_gone

    def run(self, number: int) -> None:
        editor = self.cell(number, ".cm-content")
        editor.click()
        editor.send_keys(Keys.CONTROL, Keys.ENTER)

    def ran(self, number: int, count: int) -> None:
        """Run a cell, and wait for its end."""
        self.run(number)
        self.see(lambda: self.prompt(number) == f"[{count}]:")

    def run_once_connected(self, number: int) -> None:
        """Run a cell and wait for its end, where the notebook has a new kernel.

        What is asked for before the kernel's channels are there is marked as running, and then forgotten: it is asked
        for again.
        """

        before = self.see(lambda: self.prompt(number))

        def ended() -> bool:
            if self.prompt(number) in (before, "[ ]:"):
                self.run(number)
            return self.prompt(number) not in (before, "[ ]:", "[*]:")

        self.see(ended)

    def cell(self, number: int, selector: str) -> WebElement:
        return self.all(".jp-CodeCell")[number].find_element(By.CSS_SELECTOR, selector)

    def prompt(self, number: int) -> str:
        return self.cell(number, ".jp-InputPrompt").text

    def output(self, number: int) -> str:
        return self.cell(number, ".jp-OutputArea").text

    # -- what this project adds ------------------------------------------------------------------------------

    def chip(self) -> str:
        return self.text(".jp-NotebookPanel-toolbar .jp-gpuaas-chip")

    def is_on(self, node: str) -> None:
        """Wait until the toolbar says that the notebook runs there."""
        self.see(lambda: self.chip().startswith(f"{node} · "))

    def panel(self) -> None:
        """Open the side panel."""
        if not any(each.is_displayed() for each in self.all(".jp-gpuaas-panel")):
            self.see(lambda: self.element("[data-id='jp-gpuaas-panel']")).click()
        self.see(lambda: self.element(".jp-gpuaas-panel").is_displayed())

    def section(self, name: str) -> WebElement:
        return self.element(f"#jp-gpuaas-{name}")

    def expand(self, title: str) -> None:
        """Open a section of the side panel, if it is closed."""
        for each in self.all(".jp-gpuaas-panel .jp-AccordionPanel-title"):
            # Titles are shown in capitals.
            if title.upper() in each.text.upper() and each.get_attribute("aria-expanded") != "true":
                each.click()

    def notices(self) -> str:
        """What the notices on the page say."""
        return "\n".join(self.texts(".jp-toastContainer .Toastify__toast"))

    def complaints(self) -> list[str]:
        """What this project has logged to the console of the page, which is to be nothing."""
        logged = [each["message"] for each in self.driver.get_log("browser") if each["source"] == "console-api"]
        return [message for message in logged if "/jupyter-gpuaas/static/" in message]

    def asked_elsewhere(self) -> list[str]:
        """What the page has asked of any other server than its own."""
        return list(self.driver.execute_script(ASKED_ELSEWHERE))
