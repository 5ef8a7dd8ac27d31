"""The side panel over a large pool. How long things take, and at 200 nodes, is for ``benchmarks/panel.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("selenium", reason="selenium is not installed")

from tests.conftest import GpuaasHome
from tests.ui.crowded import NOTE, Crowd, cut_off, row, rows
from tests.ui.lab import Lab
from tests.ui.page import Page

NODES, SESSIONS = 50, 500
PLACES = NODES * 8
#: More rows than this are not on the page of a long list.
SEEN = 60


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    crowd = Crowd(tmp_path_factory.mktemp("crowd"), NODES, SESSIONS)
    try:
        yield crowd
    finally:
        crowd.end()


@pytest.fixture
def crowded(
    crowd: Crowd, gpuaas_home: GpuaasHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: Page
) -> Iterator[Page]:
    """The panel of a JupyterLab over the crowd."""
    monkeypatch.setenv("GPUAAS_URL", crowd.url)
    monkeypatch.setenv("GPUAAS_TOKEN", crowd.token)
    lab = Lab(tmp_path, gpuaas_home)
    lab.start()
    try:
        page.driver.get(lab.address())
        page.panel()
        page.see(lambda: rows(page, "sessions") and rows(page, "nodes") and rows(page, "queue"))
        yield page
    finally:
        page.driver.get("about:blank")
        lab.stop()
        monkeypatch.delenv("GPUAAS_URL")  # before its folder is closed, where no service has run


@pytest.mark.timeout(600)
def test_of_many_only_what_is_seen_is_on_the_page_and_whole(crowded: Page) -> None:
    page = crowded
    lengths = {"sessions": SESSIONS, "nodes": NODES, "queue": SESSIONS - PLACES}
    for section, length in lengths.items():
        assert 0 < rows(page, section) < SEEN, section
        assert row(page, section, 1).get_attribute("aria-setsize") == str(length)
    page.expand("Nodes")
    page.see(lambda: page.all("#jp-gpuaas-nodes [role=meter]"))
    page.see(lambda: page.all("#jp-gpuaas-nodes .jp-gpuaas-sparkline"))  # two looks at the devices
    for section in lengths:
        assert cut_off(page, section) == []
    page.shot("panel")
    for section, length in lengths.items():
        page.driver.execute_script("arguments[0].scrollTop = 1e9", page.section(section))
        last = page.see(lambda section=section, length=length: row(page, section, length))
        assert last.is_displayed()
        assert rows(page, section) < SEEN
    page.shot("ends")


def test_one_event_changes_one_row(crowded: Page, crowd: Crowd) -> None:
    page = crowded
    listed = crowd.ask("GET", "sessions")
    page.driver.execute_script(NOTE, "#jp-gpuaas-sessions")
    for place in (2, 1):
        session = listed[place - 1]
        assert session["state"] == "idle"
        before = row(page, "sessions", place).text
        crowd.say(session["id"], "busy")
        page.see(lambda place=place, before=before: row(page, "sessions", place).text != before)
    # That of the first has come after all that the second could have changed.
    assert set(page.driver.execute_script("return [...window.changedRows]")) == {"1", "2"}
    for place in (2, 1):
        crowd.say(listed[place - 1]["id"], "idle")


def test_a_queue_that_moves_up_is_asked_for_at_once(crowded: Page, crowd: Crowd) -> None:
    """News of each of some hundred sessions is one question, not some hundred."""
    page = crowded
    waiting = [each for each in crowd.ask("GET", "sessions") if each["state"] == "queued"]
    page.driver.execute_script("performance.clearResourceTimings(); performance.setResourceTimingBufferSize(5000)")
    crowd.ask("DELETE", f"sessions/{crowd.ask('GET', 'allocations')[0]['session_id']}")
    length = str(len(waiting) - 1)
    page.see(lambda: row(page, "queue", 1).get_attribute("aria-setsize") == length)
    page.see(lambda: "place 1 " in row(page, "queue", 1).text)
    asked = page.driver.execute_script(
        "return performance.getEntriesByType('resource').map(each => each.name).filter(each => each.includes('/v1/'))"
    )
    assert len(asked) < 40, asked
