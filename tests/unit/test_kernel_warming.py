"""What a kernel that waits for its session does ahead, and that it goes no further once it has one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jupyter_gpuaas.kernel.kernel import GpuKernel
from tests.kernels import driven

AHEAD = """
import sys
import jupyter_gpuaas.kernel.kernel
from jupyter_gpuaas.kernel.warming import steps_ahead
needed = ("jupyter_gpuaas.kernel.standby", "jupyter_gpuaas.state.restore", "dill")
assert not set(needed) & set(sys.modules)
steps = sum(1 for _ in steps_ahead({"__name__": "__main__"}))
assert steps >= 3, steps
assert set(needed) <= set(sys.modules), set(needed) - set(sys.modules)
from jupyter_gpuaas.state.hidden import kinds
from jupyter_gpuaas.state.rules import registry
assert registry._loaded and not any(name in sys.modules for name in ("numpy", "torch", "pandas"))
patches = next(kind for kind in kinds() if kind.kind == "patches")
assert "json" in patches._modules
"""


class _Loop:
    def __init__(self) -> None:
        self.called: list[tuple[Any, ...]] = []

    def add_callback(self, *call: Any) -> None:
        self.called.append(call)


class _Kernel:
    """As much of a kernel as the steps need."""

    def __init__(self) -> None:
        self.io_loop = _Loop()
        self._taken = False

    _warm_up = GpuKernel._warm_up


def test_all_is_there_and_no_package_of_the_users() -> None:
    done = subprocess.run([sys.executable, "-c", AHEAD], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_messages_come_between_steps_until_there_is_a_session() -> None:
    taken: list[int] = []

    def steps() -> Iterator[None]:
        for number in range(4):
            taken.append(number)
            yield

    kernel, ahead = _Kernel(), steps()
    kernel._warm_up(ahead)
    assert taken == [0] and len(kernel.io_loop.called) == 1
    act, *arguments = kernel.io_loop.called.pop()
    act(*arguments)
    assert taken == [0, 1] and len(kernel.io_loop.called) == 1
    kernel._taken = True
    act, *arguments = kernel.io_loop.called.pop()
    act(*arguments)
    assert taken == [0, 1] and not kernel.io_loop.called


def test_steps_come_to_an_end() -> None:
    kernel = _Kernel()
    kernel._warm_up(iter([None]))
    act, *arguments = kernel.io_loop.called.pop()
    act(*arguments)
    assert not kernel.io_loop.called


#: Whether the baseline of libraries is there, which is the last step.
BASELINE = """(
    lambda hidden: hidden is not None
    and any(kind._modules for kind in hidden._KINDS if kind.kind == 'patches')
)(__import__('sys').modules.get('jupyter_gpuaas.state.hidden'))"""


async def test_kernel_without_a_session_gets_ready(tmp_path: Path) -> None:
    modules = "__import__('sys').modules"
    async with driven(tmp_path / "work") as kernel, asyncio.timeout(60):
        while not await kernel.value(BASELINE):  # steps come between these messages
            pass
        assert await kernel.value(f"{{'jupyter_gpuaas.kernel.standby', 'dill'}} <= {modules}.keys()")
        assert not await kernel.value(f"'numpy' in {modules}")
