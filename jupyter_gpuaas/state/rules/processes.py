"""Child processes and what talks to them: they end with their session, so a running one is reported."""

from __future__ import annotations

from typing import Any

from .registry import Context, NotRestorable, rule


@rule("subprocess.Popen")
def reduce_popen(process: Any, context: Context) -> Any:
    if process.poll() is None:
        raise NotRestorable(f"is a process that is still running (pid {process.pid})")
    # Its pipes are files: closed ones come back, one with unread output is reported as an open pipe.
    context.rebuilt("a process that has ended, with its return code")
    return make_popen, (type(process),), dict(vars(process))


def make_popen(kind: Any) -> Any:
    process = kind.__new__(kind)
    process._child_created = False
    return process


@rule("concurrent.futures.process.ProcessPoolExecutor")
def reduce_process_pool(pool: Any, context: Context) -> Any:
    if pool._pending_work_items:
        raise NotRestorable("is a pool of processes that is at work")
    context.rebuilt("a pool of new processes")
    method = pool._mp_context.get_start_method()
    more = {"max_tasks_per_child": pool._max_tasks_per_child} if getattr(pool, "_max_tasks_per_child", None) else {}
    shut = bool(pool._shutdown_thread)
    return process_pool, (type(pool), pool._max_workers, method, pool._initializer, pool._initargs, more, shut)


def process_pool(
    kind: Any, workers: int, method: str, initializer: Any, initargs: Any, more: dict[str, Any], shut: bool
) -> Any:
    import multiprocessing

    pool = kind(workers, multiprocessing.get_context(method), initializer, initargs, **more)
    if shut:
        pool.shutdown()
    return pool


@rule(
    *("multiprocessing.process.BaseProcess", "multiprocessing.managers.BaseManager"),
    *("multiprocessing.managers.BaseProxy", "multiprocessing.pool.Pool", "multiprocessing.queues.Queue"),
    *("multiprocessing.queues.SimpleQueue", "multiprocessing.synchronize.SemLock"),
    *("multiprocessing.synchronize.Condition", "multiprocessing.synchronize.Event"),
    *("multiprocessing.connection._ConnectionBase", "multiprocessing.connection.Listener"),
    *(
        "multiprocessing.sharedctypes.SynchronizedBase",
        "multiprocessing.heap.Heap",
        "multiprocessing.heap.BufferWrapper",
    ),
    *("multiprocessing.shared_memory.SharedMemory", "multiprocessing.shared_memory.ShareableList"),
)
def reduce_shared(obj: Any, context: Context) -> Any:
    # Some of these pickle themselves, for a child to meet what is there now: not what was there at the checkpoint.
    raise NotRestorable(f"is shared between processes ({type(obj).__module__}.{type(obj).__qualname__})")


@rule("_socket.socket")
def reduce_socket(sock: Any, context: Context) -> Any:
    raise NotRestorable("is or holds a socket")


@rule("builtins.PyCapsule", exact=True)
def reduce_capsule(capsule: Any, context: Context) -> Any:
    # dill writes the address; in another process that is a crash.
    raise NotRestorable("is or holds a pointer into a library in C")
