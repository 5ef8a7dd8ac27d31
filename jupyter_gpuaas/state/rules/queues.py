"""Queues between threads: with what is in them, without who waits on them."""

from __future__ import annotations

import copy
import queue
import threading
from typing import Any

from .iterators import referents
from .registry import Context, NotRestorable, rule

_SYNCHRONISED = frozenset({"mutex", "not_empty", "not_full", "all_tasks_done"})


@rule("queue.Queue")
def reduce_queue(items: Any, context: Context) -> Any:
    context.escaped("threads")
    if not items.mutex.acquire(timeout=1):
        raise NotRestorable("is a queue whose lock is held")
    try:
        state = {name: value for name, value in vars(items).items() if name not in _SYNCHRONISED}
        if "queue" in state:
            state["queue"] = copy.copy(state["queue"])
        waited = any(vars(items)[name]._waiters for name in _SYNCHRONISED - {"mutex"})
    finally:
        items.mutex.release()
    if waited:
        context.rebuilt("a queue with what was in it, without the threads that waited on it")
    return make_queue, (type(items),), state


def make_queue(kind: Any) -> Any:
    items = kind.__new__(kind)
    items.mutex = threading.Lock()
    for name in sorted(_SYNCHRONISED - {"mutex"}):
        setattr(items, name, threading.Condition(items.mutex))
    return items


@rule("_queue.SimpleQueue")
def reduce_simple_queue(items: Any, context: Context) -> Any:
    context.escaped("threads")
    count = items.qsize()
    lists = [held for held in referents(items) if type(held) is list]
    if len(lists) == 1 and len(lists[0]) >= count:
        content = lists[0][len(lists[0]) - count :]
    else:
        content = [items.get_nowait() for _ in range(count)]
        for item in content:
            items.put(item)
    return simple_queue, (type(items),), (content,), None, None, fill_simple_queue


def simple_queue(kind: Any) -> Any:
    return kind()


def fill_simple_queue(items: queue.SimpleQueue[Any], state: tuple[list[Any]]) -> None:
    for item in state[0]:
        items.put(item)
