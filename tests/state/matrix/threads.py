"""Locks, queues, threads, tasks, processes and sockets."""

from __future__ import annotations

from tests.state.cases import GONE, HONEST, RIGHT, case

CASES = [
    case(
        "lock",
        "Lock: free and held",
        """
        import threading
        free, held = threading.Lock(), threading.Lock()
        held.acquire()
        guards = {'held': held}
        """,
        """
        assert guards['held'] is held and held.locked() and not free.locked()
        held.release()
        assert held.acquire(blocking=False) and free.acquire(timeout=1)
        """,
        HONEST,
    ),
    case(
        "lock",
        "RLock: free, and held twice by the main thread",
        """
        import threading
        free, held = threading.RLock(), threading.RLock()
        held.acquire()
        held.acquire()
        """,
        """
        import threading
        def try_it():
            got.append(held.acquire(blocking=False))
            if got[-1]:
                held.release()

        got = []
        assert free.acquire(timeout=1) and free.acquire(timeout=1)
        assert held.acquire(timeout=1)
        held.release()
        """,
        HONEST,
        strict="""
        for wanted in (False, False, True):
            thread = threading.Thread(target=try_it)
            thread.start()
            thread.join()
            assert got[-1] is wanted
            if not wanted:
                held.release()
        """,
    ),
    case(
        "lock",
        "Condition over a named lock",
        """
        import threading
        lock = threading.Lock()
        condition = threading.Condition(lock)
        plain = threading.Condition()
        ready = []
        """,
        """
        import threading

        def wake():
            with condition:
                ready.append(1)
                condition.notify()

        with condition:
            assert lock.locked()
            thread = threading.Thread(target=wake)
            thread.start()
            assert condition.wait_for(lambda: ready, timeout=5)
        thread.join()
        assert plain.acquire(timeout=1) and not lock.locked()
        plain.notify_all()
        plain.release()
        """,
        RIGHT,
    ),
    case(
        "lock",
        "Event, Semaphore, BoundedSemaphore, Barrier",
        """
        import threading
        set_event, clear_event = threading.Event(), threading.Event()
        set_event.set()
        two = threading.Semaphore(3)
        two.acquire()
        bounded = threading.BoundedSemaphore(1)
        barrier = threading.Barrier(2)
        """,
        """
        import threading
        assert set_event.is_set() and set_event.wait(0) and not clear_event.wait(0)
        thread = threading.Thread(target=clear_event.set)
        thread.start()
        assert clear_event.wait(5)
        thread.join()
        assert [two.acquire(blocking=False) for _ in range(3)] == [True, True, False]
        bounded.acquire(timeout=1)
        bounded.release()
        try:
            bounded.release()
        except ValueError:
            pass
        else:
            raise AssertionError('is not bounded')
        thread = threading.Thread(target=barrier.wait, args=(5,))
        thread.start()
        barrier.wait(5)
        thread.join()
        """,
        RIGHT,
    ),
    case(
        "lock",
        "queues with items and limits",
        """
        import queue
        line = queue.Queue(maxsize=3)
        line.put([1])
        line.put('two')
        first = line.queue[0]
        simple = queue.SimpleQueue()
        simple.put('a'), simple.put('b')
        priority = queue.PriorityQueue()
        priority.put(5), priority.put(1)
        stack = queue.LifoQueue()
        stack.put(1), stack.put(2)
        """,
        """
        assert line.qsize() == 2 and line.maxsize == 3 and line.get(timeout=1) is first
        line.put(3, timeout=1), line.put(4, timeout=1)
        assert line.full() and line.unfinished_tasks == 4
        assert simple.get(timeout=1) == 'a' and simple.qsize() == 1 and priority.get(timeout=1) == 1
        assert stack.get(timeout=1) == 2
        """,
        RIGHT,
    ),
    case(
        "lock",
        "object that guards its state with locks and thread locals",
        """
        import threading

        class Account:
            def __init__(self):
                self._lock = threading.RLock()
                self._changed = threading.Condition(self._lock)
                self._local = threading.local()
                self._local.user = 'me'
                self.total = 0

            def add(self, n):
                with self._lock, self._lock:
                    self.total += n
                    self._changed.notify_all()
                return self._local.user

        account = Account()
        account.add(5)
        """,
        """
        import threading
        assert account.add(1) == 'me' and account.total == 6
        failed = []

        def elsewhere():
            try:
                account._local.user
            except AttributeError as error:
                failed.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join(5)
        assert failed
        """,
        HONEST,
    ),
    case(
        "lock",
        "thread that runs",
        """
        import threading
        stop = threading.Event()
        ticks = []
        thread = threading.Thread(target=lambda: stop.wait(60), name='ticker', daemon=True)
        thread.start()
        """,
        """
        assert thread.is_alive() and thread.name == 'ticker'
        stop.set()
        thread.join(5)
        assert not thread.is_alive()
        """,
        GONE,
    ),
    case(
        "lock",
        "threads that have not started and that have ended",
        """
        import threading
        done = []
        ended = threading.Thread(target=done.append, args=(1,), name='ended')
        ended.start()
        ended.join()
        waiting = threading.Thread(target=done.append, args=(2,), name='waiting')
        timer = threading.Timer(3600, done.append, (3,))
        """,
        """
        assert not ended.is_alive() and ended.name == 'ended' and done == [1]
        waiting.start()
        waiting.join(5)
        assert done == [1, 2] and timer.interval == 3600
        """,
        HONEST,
    ),
    case(
        "lock",
        "ThreadPoolExecutor that is idle, future that is done",
        """
        from concurrent.futures import ThreadPoolExecutor
        pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix='mine')
        future = pool.submit(pow, 2, 10)
        future.result()
        """,
        """
        assert pool.submit(pow, 2, 3).result(timeout=5) == 8 and pool._max_workers == 2
        assert future.done() and future.result(timeout=5) == 1024
        pool.shutdown()
        """,
        HONEST,
    ),
    case(
        "lock",
        "thread pool and process pool of multiprocessing",
        """
        from multiprocessing.pool import ThreadPool
        pool = ThreadPool(2)
        doubled = pool.map(lambda x: x * 2, [1, 2])
        """,
        """
        assert doubled == [2, 4] and pool.map(str, [1, 2]) == ['1', '2']
        """,
        HONEST,
    ),
    case(
        "lock",
        "asyncio: Queue, Event, Lock",
        """
        import asyncio

        async def make():
            queue = asyncio.Queue(maxsize=2)
            await queue.put('a')
            event = asyncio.Event()
            event.set()
            return queue, event, asyncio.Lock()

        queue, event, lock = asyncio.run(make())
        """,
        """
        async def use():
            assert event.is_set() and await queue.get() == 'a' and queue.maxsize == 2
            async with lock:
                return queue.empty()

        assert asyncio.run(use())
        """,
        HONEST,
    ),
    case(
        "lock",
        "asyncio: task that waits in a loop",
        """
        import asyncio
        loop = asyncio.new_event_loop()

        async def forever():
            await asyncio.Event().wait()

        task = loop.create_task(forever())
        loop.run_until_complete(asyncio.sleep(0))
        """,
        """
        assert not task.done() and task.get_loop() is loop
        task.cancel()
        """,
        GONE,
    ),
    case(
        "process",
        "subprocess that runs",
        """
        import subprocess
        child = subprocess.Popen(['sleep', '60'])
        """,
        """
        assert child.poll() is None
        child.kill()
        child.wait()
        """,
        GONE,
    ),
    case(
        "process",
        "subprocess that has ended",
        """
        import subprocess
        child = subprocess.Popen(['sh', '-c', 'exit 3'])
        child.wait()
        finished = subprocess.run(['echo', 'hi'], capture_output=True, text=True)
        """,
        """
        assert finished.stdout == 'hi\\n' and finished.returncode == 0
        assert child.returncode == 3 and child.poll() == 3 and child.args[0] == 'sh'
        """,
        HONEST,
    ),
    case(
        "process",
        "sockets: listening, connected pair",
        """
        import socket
        server = socket.create_server(('127.0.0.1', 0))
        left, right = socket.socketpair()
        left.send(b'x')
        """,
        """
        assert right.recv(1) == b'x'
        server.getsockname()
        """,
        GONE,
    ),
    case(
        "process",
        "pipe, raw file descriptor wrapped in an object",
        """
        import os
        reading, writing = os.pipe()
        pipe_in, pipe_out = os.fdopen(reading, 'rb'), os.fdopen(writing, 'wb')
        """,
        """
        pipe_out.write(b'x')
        pipe_out.flush()
        assert pipe_in.read(1) == b'x'
        """,
        GONE,
    ),
]
