"""A JupyterLab over a service that has many nodes and sessions: the processes, and what is measured in its page."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from tests.ui.page import Page

ROOT = Path(__file__).parents[2]


class Crowd:
    """The process of ``tests.ui.crowd``; ``end`` it."""

    def __init__(self, folder: Path, nodes: int, sessions: int) -> None:
        self.nodes, self.sessions = nodes, sessions
        self._log = (folder / "crowd.log").open("wb")
        command = [sys.executable, "-m", "tests.ui.crowd", str(folder), f"--nodes={nodes}", f"--sessions={sessions}"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, cwd=ROOT
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.end()
            raise AssertionError((folder / "crowd.log").read_text()[-4000:])
        told = json.loads(line)
        self.url, self.token = str(told["url"]), str(told["token"])

    def say(self, session: str, state: str) -> None:
        """Let the session's node report that it is ``idle`` or ``busy`` now."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"session": session, "state": state}) + "\n")
        self._process.stdin.flush()

    def ask(self, method: str, path: str) -> Any:
        """A request to the service itself."""
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = httpx.request(method, f"{self.url}/{path}", headers=headers, trust_env=False, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def end(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(20)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()


#: Opens the panel and tells how long it took until its rows were painted, in milliseconds.
OPEN = """
const done = arguments[arguments.length - 1];
const began = performance.now();
document.querySelector('.jp-gpuaas-status').click();
const look = () => document.querySelector('#jp-gpuaas-sessions [role=listitem]')
  ? requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)))
  : requestAnimationFrame(look);
look();
"""

#: Scrolls a section by so many pixels a frame, and gives the time of each frame in milliseconds.
SCROLL = """
const [selector, pixels, frames, done] = arguments;
const section = document.querySelector(selector);
const times = [];
let last = 0;
const step = now => {
  if (last) times.push(now - last);
  last = now;
  section.scrollTop += pixels;
  if (times.length < frames) requestAnimationFrame(step); else done(times);
};
section.scrollTop = 0;
requestAnimationFrame(step);
"""

#: Notes from now on which rows of a section change, by their place, apart from ages, which change with the clock.
NOTE = """
const [selector] = arguments;
window.changedRows = new Set();
new MutationObserver(changes => {
  for (const { target } of changes) {
    const element = target.nodeType === Node.ELEMENT_NODE ? target : target.parentElement;
    if (element.closest('.jp-gpuaas-row-line')) continue;
    window.changedRows.add(element.closest('[role=listitem]')?.getAttribute('aria-posinset') ?? 'the list');
  }
}).observe(document.querySelector(selector), { subtree: true, childList: true, characterData: true, attributes: true });
"""

#: Notes when a row's state changes next, in milliseconds since the epoch.
WATCH = """
const state = document.querySelector(`#jp-gpuaas-sessions [aria-posinset='${arguments[0]}'] .jp-gpuaas-state`);
window.changedAt = 0;
new MutationObserver((_, observer) => {
  observer.disconnect();
  window.changedAt = performance.timeOrigin + performance.now();
}).observe(state, { subtree: true, childList: true, characterData: true, attributes: true });
"""


def row(page: Page, section: str, place: int) -> Any:
    """A row that is on the page, by its place in the list."""
    return page.element(f"#jp-gpuaas-{section} [aria-posinset='{place}']")


def rows(page: Page, section: str) -> int:
    """How many rows of a section are on the page."""
    return len(page.all(f"#jp-gpuaas-{section} [role=listitem]"))


def cut_off(page: Page, section: str) -> list[str]:
    """Rows of a section that are higher than the place that they have."""
    found = page.driver.execute_script(
        """
        const rows = document.querySelectorAll(`${arguments[0]} .jp-gpuaas-row`);
        return [...rows].filter(row => row.scrollHeight > row.clientHeight + 1)
          .map(row => `${row.scrollHeight} > ${row.clientHeight}: ${row.innerText}`);
        """,
        f"#jp-gpuaas-{section}",
    )
    return list(found)
