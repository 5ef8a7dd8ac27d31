"""JupyterLab and a headless Chromium. What a test asks for:

``lab``
    A JupyterLab of its own over a service folder of its own (``gpuaas_home``), in which nothing runs yet. For what is
    about the first use, or stops, kills or configures the service. Starting and ending both costs about 10 s.
``pool``
    A JupyterLab that the tests of a file share, over a service with two nodes of one cpu device each. Each test finds
    no notebook, kernel or session, and both nodes up: what the one before has left is tidied away, and what it has
    broken is made anew. Its service's folder is ``pool.home``.
``page``
    The tab of a Chromium that the tests of a file share; blank, without cookies.

Never both ``lab`` and ``pool`` in one test. All waits are ``page.see(...)`` or ``until(...)``, for something to be
there. Tests marked ``core`` are the few that say most, and each must pass beside whatever else runs.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import GpuaasHome

HAS_BROWSER = bool(
    shutil.which("chromedriver")
    and (shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome"))
)

#: Of a test with what it finds there; each step has a time of its own (``page.WAIT_S``).
TIMEOUT_S = 600
#: Whoever starts the service, and however long a test takes while others wait for a device.
POOL = "nodes = 2\npark_for_waiting_s = 0.0\nturn_s = 0.0\n"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.ui)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TIMEOUT_S))
            if not HAS_BROWSER:
                item.add_marker(pytest.mark.skip(reason="chromium and chromedriver are not installed"))


@pytest.fixture
def lab(gpuaas_home: GpuaasHome, tmp_path: Path) -> Iterator[Any]:
    """A JupyterLab of the test's own, with an empty folder."""
    from tests.ui.lab import Lab

    lab = Lab(tmp_path, gpuaas_home)
    lab.start()
    try:
        yield lab
    finally:
        lab.stop()


@pytest.fixture(scope="module")
def _pool(module_gpuaas_home: GpuaasHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from tests.ui.lab import Lab

    (module_gpuaas_home.path / "settings.toml").write_text(POOL)
    lab = Lab(tmp_path_factory.mktemp("pool"), module_gpuaas_home)
    try:
        yield lab
    finally:
        lab.stop()


@pytest.fixture
def pool(_pool: Any) -> Any:
    """A JupyterLab over two nodes, shared by the tests of the file."""
    from tests.ui.tidy import tidy

    tidy(_pool)
    return _pool


@pytest.fixture(scope="module")
def _browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    pytest.importorskip("selenium", reason="selenium is not installed")
    from tests.ui.browser import Browser

    browser = Browser(tmp_path_factory.mktemp("browser"))
    try:
        yield browser
    finally:
        browser.end()


@pytest.fixture
def page(_browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A blank tab. What is shown in it last logs nothing of ours, and asks nothing of the outside."""
    from tests.ui.page import Page

    page = Page(_browser.tab(), request.node.name.removeprefix("test_"))
    yield page
    complaints, elsewhere = page.complaints(), page.asked_elsewhere()
    _browser.rest()
    assert complaints == []
    assert elsewhere == []
