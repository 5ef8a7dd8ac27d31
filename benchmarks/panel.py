"""How the side panel copes with a large pool: ``python benchmarks/panel.py [--nodes N] [--sessions N] [--json]``.

A JupyterLab of its own in headless Chromium, over the controller with its real REST; nodes are made up
(``tests/ui/crowd.py``), sessions are made through the REST. Times are taken in the page, by its own clock; the
first use of each part is measured, with the pool's data loaded and the panel closed. Everything that is started ends.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import hardware

from tests.conftest import GpuaasHome
from tests.ui.browser import Browser
from tests.ui.crowded import OPEN, SCROLL, WATCH, Crowd, row, rows
from tests.ui.lab import Lab
from tests.ui.page import Page

FRAMES = 120
#: Of scrolling, a frame: some rows at once, as with a wheel that is turned fast.
PIXELS = 250
EVENTS = 30


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--sessions", type=int, default=2000)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    asked = parser.parse_args()
    head = hardware.describe()
    with tempfile.TemporaryDirectory(prefix="gpuaas-") as folder:
        found = measure(Path(folder), asked.nodes, asked.sessions)
    if asked.json:
        print(json.dumps({"header": head, "rows": found}, indent=2))
        return
    for name, value in head.items():
        print(f"{name}: {value}")
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name:{width}}  {value:,.1f}" if isinstance(value, float) else f"{name:{width}}  {value:,}")


def measure(folder: Path, nodes: int, sessions: int) -> dict[str, Any]:
    """Each figure by its name."""
    for name in ("config", "data", "runtime"):
        (folder / name).mkdir(mode=0o700)
        os.environ[f"JUPYTER_{name.upper()}_DIR"] = str(folder / name)
    (folder / "crowd").mkdir()
    began = time.monotonic()
    crowd = Crowd(folder / "crowd", nodes, sessions)
    found: dict[str, Any] = {
        "nodes": nodes,
        "sessions": sessions,
        "sessions made through REST, s": time.monotonic() - began,
    }
    os.environ |= {"GPUAAS_URL": crowd.url, "GPUAAS_TOKEN": crowd.token}
    lab = Lab(folder, GpuaasHome(folder / "home"))
    browser = Browser(folder)
    try:
        lab.start()
        page = Page(browser.tab(), "benchmark")
        page.driver.set_script_timeout(60)
        page.driver.get(lab.address())
        # The status bar counts the sessions as soon as they are there.
        page.see(lambda: page.text(".jp-gpuaas-status").startswith(f"{sessions} "))
        found |= in_page(page, crowd)
    finally:
        browser.end()
        lab.stop()
        crowd.end()
    return found


def in_page(page: Page, crowd: Crowd) -> dict[str, Any]:
    """What is measured in the page."""
    run = page.driver.execute_async_script
    found: dict[str, Any] = {"panel opens, ms": float(run(OPEN))}
    page.see(lambda: rows(page, "nodes") and rows(page, "sessions"))
    page.expand("Nodes")
    page.see(lambda: page.all("#jp-gpuaas-nodes .jp-gpuaas-sparkline"))
    inside = "return document.querySelectorAll('.jp-gpuaas-panel *').length"
    found["elements in the panel"] = int(page.driver.execute_script(inside))
    for section in ("sessions", "nodes", "queue"):
        if not rows(page, section):
            continue
        times = sorted(run(SCROLL, f"#jp-gpuaas-{section}", PIXELS, FRAMES))
        found[f"scrolling {section}: frame p50, ms"] = float(statistics.median(times))
        found[f"scrolling {section}: frame p95, ms"] = float(times[int(0.95 * len(times))])
        found[f"scrolling {section}: frame max, ms"] = float(times[-1])
    page.driver.execute_script("document.querySelector('#jp-gpuaas-sessions').scrollTop = 0")
    page.see(lambda: row(page, "sessions", 1))
    session = crowd.ask("GET", "sessions")[0]["id"]
    took = []
    for number in range(EVENTS):
        page.driver.execute_script(WATCH, 1)
        sent_ms = time.time() * 1000
        crowd.say(session, "idle" if number % 2 else "busy")
        took.append(float(page.see(lambda: page.driver.execute_script("return window.changedAt"))) - sent_ms)
    took.sort()
    found["node's report until its row has changed p50, ms"] = statistics.median(took)
    found["node's report until its row has changed max, ms"] = took[-1]
    found["heap of the page, MB"] = float(page.driver.execute_script("return performance.memory.usedJSHeapSize / 1e6"))
    page.shot("panel")
    return found


if __name__ == "__main__":
    main()
