"""Threads and pools of them: what has not begun begins later, what has ended has ended, what runs is reported."""

from __future__ import annotations

import sys
import threading
from typing import Any

from .registry import Context, NotRestorable, rule

_POOL = "concurrent.futures"


@rule("threading.Thread")
def reduce_thread(thread: Any, context: Context) -> Any:
    if thread is threading.main_thread():
        return threading.main_thread, ()
    if thread.is_alive():
        raise NotRestorable(f"is or holds a thread that is still running ({thread.name})")
    plain = vars(threading.Thread())
    own = {name: value for name, value in vars(thread).items() if name not in plain}
    if thread.ident is None:
        made = (thread._target, thread._args, thread._kwargs)
    else:
        context.rebuilt("a thread that has ended")
        made = (None, (), {})
    return make_thread, (type(thread), thread.name, thread.daemon, thread.ident, *made), own or None


def make_thread(kind: Any, name: str, daemon: bool, ident: int | None, target: Any, args: Any, kwargs: Any) -> Any:
    thread = kind.__new__(kind)
    threading.Thread.__init__(thread, None, target, name, args, kwargs, daemon=daemon)
    if ident is not None:
        thread._ident = ident
        thread._started.set()
        if hasattr(thread, "_handle"):  # Python 3.13
            thread._handle._set_done()
        else:
            thread._is_stopped = True
        for used in ("_target", "_args", "_kwargs"):
            delattr(thread, used)
    return thread


@rule("concurrent.futures.thread.ThreadPoolExecutor")
def reduce_thread_pool(pool: Any, context: Context) -> Any:
    if pool._work_queue.qsize() > 1 or not all(map(_is_idle, pool._threads)):
        raise NotRestorable("is a pool of threads that is at work")
    initial = getattr(pool, "_initializer", None), getattr(pool, "_initargs", ())
    if hasattr(pool, "_create_worker_context"):  # Python 3.14 keeps them in a closure
        raise NotRestorable("is a pool of threads")
    context.rebuilt("a pool of new threads")
    own = {name: value for name, value in vars(pool).items() if name not in _plain_pool(type(pool))}
    return (
        make_thread_pool,
        (type(pool), pool._max_workers, pool._thread_name_prefix, *initial, pool._shutdown),
        (own or None),
    )


def _is_idle(thread: Any) -> bool:
    """Whether a thread of a pool waits for work: then nothing of Python runs but the loop itself."""
    frame = sys._current_frames().get(thread.ident)
    return frame is None or frame.f_code.co_name == "_worker"


def _plain_pool(kind: Any) -> dict[str, Any]:
    from concurrent.futures import ThreadPoolExecutor

    return vars(ThreadPoolExecutor(1))


def make_thread_pool(kind: Any, workers: int, prefix: str, initializer: Any, initargs: Any, shut: bool) -> Any:
    from concurrent.futures import ThreadPoolExecutor

    pool = kind.__new__(kind)
    ThreadPoolExecutor.__init__(pool, workers, prefix, initializer, initargs)
    if shut:
        pool.shutdown()
    return pool


@rule("concurrent.futures._base.Future")
def reduce_future(future: Any, context: Context) -> Any:
    if not future.done():
        raise NotRestorable("is or holds a future whose work has not ended")
    return NotImplemented
