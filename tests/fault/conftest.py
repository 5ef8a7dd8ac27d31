"""What the fault tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .session import ProxyRun


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Callable[..., ProxyRun]]:
    """Starts kernel proxies by session name, and ends them whatever happens."""
    started: list[ProxyRun] = []

    def start(name: str, environ: dict[str, str] | None = None) -> ProxyRun:
        started.append(ProxyRun(tmp_path, name, environ))
        return started[-1]

    yield start
    for run in started:
        run.close()
