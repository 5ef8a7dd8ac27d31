"""``%remote_gpu`` without a kernel or a service."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from jupyter_gpuaas.magics import SESSION_ID, Interrupted, RemoteGpuMagics

Magic = Callable[[str], None]


class Desk:
    """Checkpoints of a kernel whose user is impatient."""

    def take(self, label: str, told: Any) -> Any:
        raise KeyboardInterrupt


@pytest.fixture
def local() -> Magic:
    """The magic in a local notebook."""
    shell = SimpleNamespace(kernel=SimpleNamespace(checkpoints=Desk()))
    return RemoteGpuMagics(shell).remote_gpu


@pytest.fixture
def inside(local: Magic, monkeypatch: pytest.MonkeyPatch) -> Magic:
    """The magic in a session's own kernel."""
    monkeypatch.setenv(SESSION_ID, "s")
    return local


def test_interrupted_command_is_one_line(inside: Magic) -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        inside("checkpoint")
    assert isinstance(caught.value, Interrupted)
    assert caught.value._render_traceback_() == ["KeyboardInterrupt: given up"]
