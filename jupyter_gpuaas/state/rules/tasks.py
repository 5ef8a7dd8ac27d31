"""asyncio: what is done keeps its result, what is free is made anew, what runs or is waited for is reported."""

from __future__ import annotations

import asyncio
from typing import Any

from .registry import Context, NotRestorable, rule


@rule("_asyncio.Future", "asyncio.futures.Future")
def reduce_future(future: Any, context: Context) -> Any:
    is_task = hasattr(future, "get_coro")
    what = "task" if is_task else "future"
    if not future.done():
        raise NotRestorable(f"is or holds an asyncio {what} that has not ended")
    context.rebuilt(f"a finished future with the result of the {what}" if is_task else "a finished future")
    if future.cancelled():
        return done_future, ("cancelled", None)
    error = future.exception()
    return done_future, ("result", future.result()) if error is None else ("error", error)


def done_future(how: str, outcome: Any) -> Any:
    future: asyncio.Future[Any] = asyncio.Future(loop=_loop())
    if how == "cancelled":
        future.cancel()
    elif how == "error":
        future.set_exception(outcome)
        future.exception()  # Was seen; nobody shall be warned again.
    else:
        future.set_result(outcome)
    return future


_own: list[asyncio.AbstractEventLoop] = []


def _loop() -> asyncio.AbstractEventLoop:
    """The loop that runs the notebook; where none does, one that never runs."""
    running = asyncio._get_running_loop()
    if running is not None:
        return running
    if not _own:
        _own.append(asyncio.new_event_loop())
    return _own[0]


@rule("asyncio.base_events.BaseEventLoop")
def reduce_loop(loop: Any, context: Context) -> Any:
    if loop is asyncio._get_running_loop():
        context.rebuilt("the event loop that runs the notebook")
        return running_loop, ()
    raise NotRestorable("is or holds an event loop that is not the notebook's")


def running_loop() -> Any:
    loop = asyncio._get_running_loop()
    if loop is None:
        raise NotRestorable("is or holds the running event loop, and there is none here")
    return loop


@rule("asyncio.mixins._LoopBoundMixin")
def reduce_bound(obj: Any, context: Context) -> Any:
    state = dict(vars(obj))
    for name in ("_waiters", "_getters", "_putters"):
        waiting = state.get(name)
        if waiting and any(not waiter.done() for waiter in waiting):
            raise NotRestorable("is or holds something that asyncio tasks wait for")
        if waiting:
            state[name] = type(waiting)()
    state["_loop"] = None  # Found again at first use.
    return make_bound, (type(obj),), state


def make_bound(kind: Any) -> Any:
    return kind.__new__(kind)


@rule("asyncio.streams.StreamReader", "asyncio.streams.StreamWriter", "asyncio.subprocess.Process")
@rule("asyncio.transports.BaseTransport", "asyncio.base_events.Server", "asyncio.runners.Runner")
@rule("asyncio.events.Handle", "asyncio.taskgroups.TaskGroup", "asyncio.timeouts.Timeout")
def reduce_connection(obj: Any, context: Context) -> Any:
    raise NotRestorable(f"is or holds an asyncio {type(obj).__name__}")
