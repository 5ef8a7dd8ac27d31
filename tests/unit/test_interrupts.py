"""Interrupts that come at a bad moment: each is carried out, once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from jupyter_gpuaas.cell.connection import Connection
from jupyter_gpuaas.cell.outputs import GaveUpWaiting, LocalOutputs
from jupyter_gpuaas.client.blocking import Blocking
from jupyter_gpuaas.client.session import Listener, Message
from jupyter_gpuaas.config import load
from jupyter_gpuaas.kernel.interrupts import Held
from jupyter_gpuaas.model import Channel, CheckpointPlan
from jupyter_gpuaas.node.kernel_process import KernelProcess
from jupyter_gpuaas.wire.record import Buffer

WAIT_S = 60
#: SIGINT goes to another thread of the process and wakes the main one from nothing, as it happens by chance to a main
#: thread that is about to wait.
DEAF = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})"
HEARING = "signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})"


@pytest.fixture
def interrupt() -> Iterator[Callable[[], None]]:
    """Interrupts this process so that its main thread, when it waits, is not woken."""
    main = threading.get_ident()
    go = threading.Event()
    over = threading.Event()

    def interrupter() -> None:
        while go.wait() and not over.is_set():
            go.clear()
            _wait_until_it_waits(main)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupter)
    thread.start()  # before the main thread blocks the signal: this one must not
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield go.set
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, former)
        over.set()
        go.set()
        thread.join()


def _wait_until_it_waits(thread: int) -> None:
    """Return when a thread has been at one and the same instruction for some time."""
    where: object = None
    seen = 0
    while seen < 20:
        frame = sys._current_frames()[thread]
        found = frame.f_code, frame.f_lasti
        seen = seen + 1 if found == where else 0
        where = found
        time.sleep(0.002)


def test_interrupt_that_wakes_nobody_ends_the_waiting_for_a_coroutine(interrupt: Callable[[], None]) -> None:
    over = threading.Event()

    async def work() -> None:
        interrupt()
        await asyncio.sleep(WAIT_S)
        over.set()

    with Blocking() as blocking:
        with pytest.raises(KeyboardInterrupt):
            blocking.run(work())
        assert not over.is_set()


class Session:
    """A remote session whose cell ends when it is interrupted."""

    def __init__(self, running: Callable[[], None]) -> None:
        self._running = running
        self._interrupted = asyncio.Event()
        self.slept = False

    async def request(
        self, msg_type: str, content: dict[str, Any], *, metadata: dict[str, Any], listener: Listener
    ) -> dict[str, Any]:
        listener.output(Message("stream", {"name": "stdout", "text": "sleeping\n"}, {}, (), 0))
        self._running()
        try:
            await asyncio.wait_for(self._interrupted.wait(), WAIT_S)
        except asyncio.TimeoutError:
            self.slept = True
        return {"status": "error", "ename": "KeyboardInterrupt"}

    def interrupt(self) -> None:
        self._interrupted.set()


def test_interrupt_that_wakes_nobody_reaches_the_remote_cell(interrupt: Callable[[], None]) -> None:
    said: list[str] = []
    connection = Connection(load(), said.append, ours=False)
    session = Session(interrupt)
    connection._session = session  # type: ignore[assignment]
    try:
        reply = connection._follow({}, {}, LocalOutputs(SimpleNamespace()))
    finally:
        connection._runner.close()
    assert reply["ename"] == "KeyboardInterrupt"
    assert not session.slept
    assert said == ["interrupting the remote cell; once more stops waiting for it"]


def test_second_interrupt_that_wakes_nobody_ends_the_waiting(interrupt: Callable[[], None]) -> None:
    connection = Connection(load(), lambda text: None, ours=False)
    session = Session(interrupt)
    session.interrupt = interrupt  # type: ignore[method-assign]
    connection._session = session  # type: ignore[assignment]
    try:
        with pytest.raises(GaveUpWaiting):
            connection._follow({}, {}, LocalOutputs(SimpleNamespace()))
        assert not session.slept
    finally:
        connection._runner.close()


# -- in the kernel -------------------------------------------------------------------------------


class Handler:
    """Listens to nothing."""

    def kernel_said(self, channel: Channel, batch: list[tuple[Buffer, list[Buffer]]]) -> None: ...

    def kernel_exited(self, status: int) -> None: ...


@pytest.fixture(params=[False, True], ids=["without checkpoints", "with checkpoints"])
async def kernel(request: pytest.FixtureRequest) -> AsyncIterator[KernelProcess]:
    with tempfile.TemporaryDirectory(prefix="gpuaas-") as folder:
        process = KernelProcess(Path(folder), os.environ, 2, Handler())
        await process.start(WAIT_S)
        if request.param:
            plan = CheckpointPlan(store=f"{folder}/store", key="ab" * 32, owner="ann")
            content = {"cwd": folder, "env": {}, "checkpoints": msgspec.to_builtins(plan), "session": "s", "epoch": 1}
            assert (await process.ask(Channel.CONTROL, "gpuaas_adopt_request", content))["status"] == "ok"
        yield process
        process.kill()
        await process.ended()
        process.close()


async def run(kernel: KernelProcess, code: str) -> dict[str, Any]:
    content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}}
    content |= {"allow_stdin": False, "stop_on_error": False}
    return await asyncio.wait_for(kernel.ask(Channel.SHELL, "execute_request", content), WAIT_S)


async def test_interrupt_that_the_kernel_sleeps_over_is_carried_out_once(kernel: KernelProcess, tmp_path: Path) -> None:
    told = tmp_path / "told"
    os.mkfifo(told)
    code = f"""
        import time
        {DEAF}
        caught = 0
        try:
            open({str(told)!r}, 'w').close()
            time.sleep(600)
        except KeyboardInterrupt:
            caught += 1
        {HEARING}
    """
    cell = asyncio.create_task(run(kernel, "\n".join(line[8:] for line in code.splitlines())))
    await asyncio.to_thread(told.read_bytes)
    kernel.interrupt()
    assert (await cell)["status"] == "ok"
    assert (await run(kernel, "assert caught == 1"))["status"] == "ok"


async def test_interrupt_before_the_first_line_of_a_cell_is_its_error_and_not_a_silence(kernel: KernelProcess) -> None:
    once = """
        import os, signal
        def interrupting(lines):
            if '# now\\n' in lines:
                os.kill(os.getpid(), signal.SIGINT)
            return lines
        get_ipython().input_transformers_cleanup.append(interrupting)
    """
    assert (await run(kernel, "\n".join(line[8:] for line in once.splitlines())))["status"] == "ok"
    reply = await run(kernel, "ran = 1\n# now\n")
    assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt")
    assert (await run(kernel, "assert 'ran' not in globals()"))["status"] == "ok"


def test_held_interrupts_are_noted_and_the_handler_is_put_back() -> None:
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Held() as held:
            os.kill(os.getpid(), signal.SIGINT)
        assert held.pressed
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with Held() as held:
            pass
        assert not held.pressed
    finally:
        signal.signal(signal.SIGINT, former)
