"""The suite's own modules are none of a notebook's."""

from __future__ import annotations

import pytest

from jupyter_gpuaas.state import retained


@pytest.fixture(autouse=True)
def no_modules_of_the_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would count as the user's, and in the whole suite they lead to so much that each look takes long."""
    judged = retained.is_of_the_user
    monkeypatch.setattr(retained, "_judged", {})
    monkeypatch.setattr(
        retained, "is_of_the_user", lambda name: name.partition(".")[0] not in ("tests", "conftest") and judged(name)
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that restored namespaces hold open are closed by the collector, at whatever test that is."""
    for item in items:
        if "tests/state/" in str(item.path) or item.path.name == "test_peer.py":
            item.add_marker(
                pytest.mark.filterwarnings("ignore:Exception ignored in. <_io:pytest.PytestUnraisableExceptionWarning")
            )
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"))
