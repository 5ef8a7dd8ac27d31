"""Locks and what is built of them: free ones exactly; held ones held by the thread that restores, if it was that one.

dill restores an RLock that nobody can take any more, and pickle refuses all of them.
"""

from __future__ import annotations

import re
import threading
from typing import Any

from .registry import Context, NotRestorable, rule


@rule("_thread.lock", exact=True)
def reduce_lock(lock: Any, context: Context) -> Any:
    if not lock.locked():
        return threading.Lock, ()
    context.rebuilt("a lock, held as it was; if a thread held it, that thread does not come back to free it")
    return held_lock, ()


def held_lock() -> Any:
    lock = threading.Lock()
    lock.acquire()
    return lock


@rule("_thread.RLock", exact=True)
def reduce_rlock(lock: Any, context: Context) -> Any:
    # Owner and count are told by repr only.
    found = re.search(r"owner=(\d+) count=(\d+)", repr(lock))
    owner, count = (int(found[1]), int(found[2])) if found else (0, 0)
    if not count:
        return threading.RLock, ()
    threads = {thread.ident for thread in threading.enumerate()}
    if owner in (threading.main_thread().ident, threading.get_ident()):
        context.rebuilt("a lock, held as it was by the thread that runs the cells")
        return held_rlock, (count,)
    if owner in threads:
        raise NotRestorable("is or holds a lock that a running thread holds")
    context.rebuilt("a new lock, free: the thread that held it has ended")
    return threading.RLock, ()


def held_rlock(count: int) -> Any:
    lock = threading.RLock()
    for _ in range(count):
        lock.acquire()
    return lock


@rule("threading._RLock")
def reduce_python_rlock(lock: Any, context: Context) -> Any:
    if lock._count:
        raise NotRestorable("is a lock of threading._RLock that is held")
    return type(lock), ()


@rule("threading.Condition")
def reduce_condition(condition: Any, context: Context) -> Any:
    if condition._waiters:
        raise NotRestorable("is or holds something that running threads wait for")
    plain = vars(threading.Condition(threading.RLock()))
    state = {name: value for name, value in vars(condition).items() if name not in plain}
    return make_condition, (type(condition), condition._lock), state or None


def make_condition(kind: Any, lock: Any) -> Any:
    condition = kind.__new__(kind)
    threading.Condition.__init__(condition, lock)
    return condition


@rule("_thread._local")
def reduce_local(local: Any, context: Context) -> Any:
    if type(local).__init__ is not object.__init__:
        raise NotRestorable("is a thread-local object with an __init__ of its own")
    context.rebuilt("thread-local values of the thread that runs the cells; not of others")
    return type(local), (), dict(local.__dict__) or None
