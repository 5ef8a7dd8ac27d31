"""A small façade for synchronous callers: an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")

#: A signal that arrives when a thread is about to wait, but does not wait yet, wakes nobody: Python lets go of its
#: interpreter lock first, and on a busy machine that takes milliseconds. So the main thread looks up that often.
LOOK_UP_S = 0.2


def outcome(future: concurrent.futures.Future[T], timeout: float | None = None) -> T:
    """Wait for a future's result; a KeyboardInterrupt ends the waiting wherever it comes.

    Raises
    ------
    concurrent.futures.TimeoutError
        There was none in ``timeout`` seconds, and the future is not done.
    """
    end_s = None if timeout is None else time.monotonic() + timeout
    while True:
        left_s = LOOK_UP_S if end_s is None else min(LOOK_UP_S, end_s - time.monotonic())
        concurrent.futures.wait([future], max(0.0, left_s))
        if future.done():
            return future.result()
        if end_s is not None and time.monotonic() >= end_s:
            raise concurrent.futures.TimeoutError


class Blocking:
    """Runs coroutines in a background event loop for callers that have none, or whose own loop is busy.

    A KeyboardInterrupt in the caller ends the waiting, not the coroutine: who wants it to end keeps the future that
    `submit` gives and cancels it.
    """

    def __init__(self, name: str = "gpuaas-client") -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start a coroutine; the answer is its future."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Wait for a coroutine's result.

        Raises
        ------
        TimeoutError
            It took longer than ``timeout`` seconds, and was cancelled.
        """
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("Blocking.run called from its own event loop would wait for ever")
        future = self.submit(work)
        try:
            return outcome(future, timeout)
        except concurrent.futures.TimeoutError:
            if future.done():  # The coroutine itself raised it.
                raise
            future.cancel()
            raise TimeoutError(f"no result after {timeout:g} s") from None

    def close(self) -> None:
        """Cancel what still runs and end the thread."""
        if self._loop.is_closed():
            return
        outcome(self.submit(_cancel_others()))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Blocking:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
