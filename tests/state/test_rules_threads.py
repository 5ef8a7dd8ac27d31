"""Locks, queues, threads, pools, processes, asyncio."""

from __future__ import annotations

import asyncio
import threading

import pytest

from jupyter_gpuaas.state.rules.registry import NotRestorable
from jupyter_gpuaas.state.rules.threads import _is_idle

from .roundtrip import cell, roundtrip


def test_locks_are_free_or_held_as_they_were() -> None:
    new, context, _ = roundtrip(
        cell(
            """
import threading
free = threading.Lock(); held = threading.Lock(); held.acquire()
r = threading.RLock(); twice = threading.RLock(); twice.acquire(); twice.acquire()
c = threading.Condition(free); own = threading.Condition()
class Mine(threading.Condition):
    def __init__(self): super().__init__(); self.note = 1
mine = Mine()
e = threading.Event(); e.set(); unset = threading.Event()
s = threading.Semaphore(3); s.acquire(); b = threading.BoundedSemaphore(1); bar = threading.Barrier(2)
l = threading.local(); l.x = 5
"""
        )
    )
    assert not new["free"].locked() and new["held"].locked() and not new["held"].acquire(timeout=0.01)
    taken: list[bool] = []
    for lock in (new["r"], new["twice"]):
        thread = threading.Thread(target=lambda lock=lock: taken.append(lock.acquire(timeout=0.1)))
        thread.start()
        thread.join()
    assert taken == [True, False]
    new["twice"].release()
    new["twice"].release()
    assert new["c"]._lock is new["free"]
    with new["own"], new["mine"]:
        new["own"].notify()
        assert not new["own"].wait(0.01)
    assert new["mine"].note == 1
    assert new["e"].is_set() and not new["unset"].wait(0.01)
    assert new["s"].acquire(False) and new["s"].acquire(False) and not new["s"].acquire(False)
    new["b"].acquire()
    new["b"].release()
    with pytest.raises(ValueError, match="released"):
        new["b"].release()
    assert new["bar"].parties == 2 and new["l"].x == 5
    assert len(context.rebuilds) == 3


def test_free_locks_are_exact() -> None:
    _, context, _ = roundtrip(cell("import threading\na = threading.Lock(), threading.RLock(), threading.Event()"))
    assert not context.rebuilds


def test_queues_keep_their_items() -> None:
    new, _, _ = roundtrip(
        cell(
            """
import queue
q = queue.Queue(3); q.put(1); q.put([q]); q.get()
l = queue.LifoQueue(); l.put(1); l.put(2)
p = queue.PriorityQueue(); [p.put(n) for n in (3, 1, 2)]
s = queue.SimpleQueue(); [s.put(n) for n in range(5)]; s.get(); s.put(s)
class Mine(queue.Queue): pass
m = Mine(); m.extra = 7; m.put("x")
"""
        )
    )
    assert new["q"].maxsize == 3 and new["q"].unfinished_tasks == 2 and new["q"].get(False)[0] is new["q"]
    new["q"].task_done()
    new["q"].task_done()
    new["q"].join()
    assert [new["l"].get(), new["l"].get()] == [2, 1]
    assert [new["p"].get() for _ in range(3)] == [1, 2, 3]
    assert [new["s"].get() for _ in range(4)] == [1, 2, 3, 4] and new["s"].get() is new["s"]
    assert type(new["m"]) is new["Mine"] and new["m"].extra == 7 and new["m"].get() == "x"


def test_threads_not_started_and_ended_and_idle_pools() -> None:
    made = cell(
        """
import threading
from concurrent.futures import ThreadPoolExecutor
out = []
def work(x): out.append(x)
later = threading.Thread(target=work, args=(1,), name="later")
done = threading.Thread(target=work, args=(2,)); done.start(); done.join()
class T(threading.Thread):
    def __init__(self, n): super().__init__(daemon=True); self.n = n
    def run(self): out.append(self.n)
mine = T(3)
timer = threading.Timer(0.0, work, (4,))
main = threading.main_thread()
pool = ThreadPoolExecutor(2, "p"); futures = [pool.submit(pow, 2, n) for n in range(5)]; [f.result() for f in futures]
pool.shutdown(); fresh = ThreadPoolExecutor(3)
"""
    )
    new, _, _ = roundtrip(made)
    for name in ("later", "mine", "timer"):
        new[name].start()
        new[name].join()
    assert new["out"] == [2, 1, 3, 4] and new["later"].name == "later" and new["mine"].daemon
    assert not new["done"].is_alive() and new["done"].ident == made["done"].ident
    new["done"].join()
    assert new["main"] is threading.main_thread()
    assert [future.result() for future in new["futures"]] == [1, 2, 4, 8, 16]
    with pytest.raises(RuntimeError, match="shutdown"):
        new["pool"].submit(pow, 2, 2)
    with new["fresh"] as pool:
        assert pool.submit(pow, 2, 2).result() == 4


def test_idle_pool_with_live_threads() -> None:
    made = cell(
        """
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(2); list(pool.map(abs, range(9)))
"""
    )
    while not all(map(_is_idle, made["pool"]._threads)):
        pass  # The last item has given its result and is just ending.
    new, _, _ = roundtrip(made)
    made["pool"].shutdown()
    with new["pool"] as pool:
        assert list(pool.map(abs, [-1])) == [1]


def test_what_runs_is_refused() -> None:
    event = threading.Event()
    made = cell("import threading\nfrom concurrent.futures import ThreadPoolExecutor")
    thread = threading.Thread(target=event.wait)
    thread.start()
    pool = made["ThreadPoolExecutor"](1)
    future = pool.submit(event.wait)
    try:
        for value in (thread, pool, future):
            made["x"] = value
            with pytest.raises(NotRestorable, match=r"running|at work|not ended|wait for"):
                roundtrip(made)
    finally:
        event.set()
        thread.join()
        pool.shutdown()


def test_processes() -> None:
    made = cell(
        """
import subprocess, sys
done = subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True)
p = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]); p.wait()
runs = subprocess.Popen(["sleep", "60"])
"""
    )
    runs = made.pop("runs")
    try:
        new, _, _ = roundtrip(made)
        assert new["p"].returncode == 3 and new["p"].poll() == 3 and new["done"].stdout == b"1\n"
        made["x"] = runs
        with pytest.raises(NotRestorable, match="running"):
            roundtrip(made)
    finally:
        runs.kill()
        runs.wait()


def test_asyncio() -> None:
    made = cell(
        """
import asyncio
async def double(x): return x * 2
"""
    )

    async def main() -> None:
        made["task"] = asyncio.ensure_future(made["double"](4))
        with pytest.raises(NotRestorable, match="not ended"):
            roundtrip(made)
        await made["task"]
        made["failed"] = asyncio.get_running_loop().create_future()
        made["failed"].set_exception(ValueError("no"))
        made["loop"] = asyncio.get_running_loop()
        made["q"], made["lock"], made["event"] = asyncio.Queue(), asyncio.Lock(), asyncio.Event()
        await made["q"].put(1)
        made["condition"] = asyncio.Condition(made["lock"])
        new, _, _ = roundtrip(made)
        assert await new["task"] == 8 and new["loop"] is asyncio.get_running_loop()
        with pytest.raises(ValueError, match="no"):
            await new["failed"]
        assert await new["q"].get() == 1 and new["condition"]._lock is new["lock"]
        async with new["lock"]:
            new["event"].set()
        await new["event"].wait()
        made["failed"].exception()
        waiting = asyncio.ensure_future(made["event"].wait())
        await asyncio.sleep(0)
        with pytest.raises(NotRestorable, match=r"wait for|not ended"):
            roundtrip({**made, "task": None, "loop": None})
        waiting.cancel()

    asyncio.run(main())


def test_multiprocessing_is_refused() -> None:
    for source in (
        "from multiprocessing.shared_memory import SharedMemory\nx = SharedMemory(create=True, size=8)",
        "import multiprocessing\nx = multiprocessing.Queue()",
        "import multiprocessing\nx = multiprocessing.Process(target=print)",
        "import datetime\nx = datetime.datetime_CAPI",
    ):
        made = cell(source)
        with pytest.raises(NotRestorable):
            roundtrip(made)
        if hasattr(made["x"], "unlink"):
            made["x"].close()
            made["x"].unlink()
