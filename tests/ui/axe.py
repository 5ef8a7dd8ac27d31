"""What axe-core has to say of a part of a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.ui.page import Page

SOURCE = Path(__file__).parents[2] / "labextension" / "node_modules" / "axe-core" / "axe.min.js"
SERIOUS = ("serious", "critical")

_RUN = """
const done = arguments[arguments.length - 1];
axe.run({include: [[arguments[0]]]}, {resultTypes: ['violations']}).then(
  ({violations}) => done(violations.map(v => ({id: v.id, impact: v.impact, nodes: v.nodes.map(n => n.html)}))),
  error => done([{id: String(error), impact: 'serious', nodes: []}])
);
"""


def faults(page: Page, selector: str) -> list[Any]:
    """Serious faults within what the selector finds, which must be there to be seen."""
    assert page.element(selector).is_displayed(), selector
    if not page.driver.execute_script("return 'axe' in window"):
        page.driver.execute_script(SOURCE.read_text())
    return [each for each in page.driver.execute_async_script(_RUN, selector) if each["impact"] in SERIOUS]
