"""What the kernel sends from the thread that says it: whole, in order, and with nothing left unread."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from ipykernel.thread import make_selector_io_loop
from jupyter_client.jsonutil import extract_dates
from jupyter_client.session import Session, json_packer, json_unpacker
from zmq.eventloop.zmqstream import ZMQStream

from jupyter_gpuaas.kernel.direct import Replies, share
from jupyter_gpuaas.kernel.interrupts import Postponed
from jupyter_gpuaas.kernel.iopub import DirectStream, IpcIOPubThread
from jupyter_gpuaas.kernel.packing import pack, unpack
from jupyter_gpuaas.model import Channel
from jupyter_gpuaas.node.kernel_process import KernelProcess
from jupyter_gpuaas.wire.jupyter import make_parts
from jupyter_gpuaas.wire.record import Buffer

WAIT_MS = 30_000
WAIT_S = WAIT_MS / 1000
#: Number of the last message of many.
LAST = 2000


class Published:
    """An iopub thread with one subscriber."""

    def __init__(self, folder: Path, *, high_water: int = 1000) -> None:
        self.context = zmq.Context()
        self.address = f"ipc://{folder}/p"
        self.socket = self.context.socket(zmq.XPUB)
        self.socket.setsockopt(zmq.XPUB_NODROP, 1)
        self.socket.setsockopt(zmq.SNDHWM, high_water)
        self.socket.bind(self.address)
        self.session = Session()
        make: Any = IpcIOPubThread
        self.thread = make(self.socket, pipe=True, session=self.session)
        self.thread.start()
        self.reader = self.subscriber(high_water)

    def subscriber(self, high_water: int = 1000) -> Any:
        reader: Any = self.context.socket(zmq.SUB)
        reader.setsockopt(zmq.RCVHWM, high_water)
        reader.setsockopt(zmq.RCVTIMEO, WAIT_MS)
        reader.setsockopt(zmq.LINGER, 0)
        reader.setsockopt(zmq.SUBSCRIBE, b"")
        reader.connect(self.address)
        assert b"iopub_welcome" in b"".join(reader.recv_multipart())
        return reader

    def close(self) -> None:
        self.reader.close()
        collecting, ended = self.thread._event_pipe_gc_task, threading.Event()
        assert collecting is not None
        collecting.add_done_callback(lambda _: ended.set())
        self.thread.io_loop.add_callback(collecting.cancel)
        assert ended.wait(WAIT_S)
        self.thread.stop()
        self.thread.close()
        self.context.destroy(linger=0)


@pytest.fixture
def published(tmp_path: Path) -> Iterator[Published]:
    made = Published(tmp_path)
    yield made
    made.close()


@pytest.fixture
def interruptible() -> Iterator[None]:
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.fixture
def handed_over(published: Published, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the iopub thread was asked to do; a few things, as it uses the socket for a moment now and then."""
    asked: list[Any] = []
    schedule = published.thread.schedule

    def noted(what: Any) -> None:
        asked.append(what)
        schedule(what)

    monkeypatch.setattr(published.thread, "schedule", noted)
    return asked


def test_messages_leave_in_the_thread_that_publishes_them(published: Published, handed_over: list[Any]) -> None:
    for number in range(100):
        published.thread.send_multipart([b"topic", b"%d" % number])
        published.thread.background_socket.send_multipart([b"topic", b"again"], copy=False)
        assert published.reader.recv_multipart() == [b"topic", b"%d" % number]
        assert published.reader.recv_multipart() == [b"topic", b"again"]
    assert len(handed_over) < 100  # not 200 and more


def test_messages_that_a_stalled_reader_holds_up_come_whole_and_in_order(tmp_path: Path) -> None:
    published = Published(tmp_path, high_water=5)
    try:
        sent = [[b"topic", b"%d" % number, b"x" * 100_000] for number in range(100)]
        for parts in sent:
            published.thread.send_multipart(parts)
        assert published.thread.waits
        assert [published.reader.recv_multipart() for _ in sent] == sent
        published.thread.send_multipart([b"later"])
        assert published.reader.recv_multipart() == [b"later"]
    finally:
        published.close()


def test_threads_that_publish_together_keep_their_own_order(published: Published) -> None:
    def publish(name: bytes) -> None:
        for number in range(500):
            published.thread.send_multipart([name, b"%d" % number, name * 2])

    threads = [threading.Thread(target=publish, args=(name,)) for name in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    came: dict[bytes, list[int]] = {b"a": [], b"b": [], b"c": []}
    for _ in range(1500):
        name, number, twice = published.reader.recv_multipart()
        assert twice == name * 2
        came[name].append(int(number))
    for thread in threads:
        thread.join(WAIT_S)
    assert all(numbers == list(range(500)) for numbers in came.values())


def test_subscriber_that_comes_while_messages_leave_is_welcomed(published: Published) -> None:
    over = threading.Event()

    def publish() -> None:
        while not over.is_set():
            published.thread.send_multipart([b"topic", b"x"])

    published.reader.setsockopt(zmq.UNSUBSCRIBE, b"")
    thread = threading.Thread(target=publish)
    thread.start()
    try:
        for number in range(20):
            reader = published.context.socket(zmq.SUB)
            reader.setsockopt(zmq.RCVTIMEO, WAIT_MS)
            reader.setsockopt(zmq.LINGER, 0)
            # Its own topic: nothing but the welcome comes under it.
            reader.setsockopt(zmq.SUBSCRIBE, b"mine%d" % number)
            reader.connect(published.address)
            assert reader.recv_multipart()[0] == b"mine%d" % number
            reader.close()
    finally:
        over.set()
        thread.join(WAIT_S)


@pytest.mark.usefixtures("interruptible")
def test_interrupt_between_two_frames_comes_behind_the_message(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = zmq.Socket.send

    def interrupted(self: Any, *arguments: Any, **more: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return send(self, *arguments, **more)

    monkeypatch.setattr(zmq.Socket, "send", interrupted)
    with pytest.raises(KeyboardInterrupt):
        published.thread.send_multipart([b"topic", b"one", b"two"])
    monkeypatch.undo()
    published.thread.send_multipart([b"topic", b"three"])
    assert published.reader.recv_multipart() == [b"topic", b"one", b"two"]
    assert published.reader.recv_multipart() == [b"topic", b"three"]


def test_postponed_interrupt_goes_to_the_handler_of_before() -> None:
    came: list[str] = []
    former = signal.signal(signal.SIGINT, lambda number, frame: came.append("now"))
    try:
        with Postponed():
            signal.raise_signal(signal.SIGINT)
            assert not came
        assert came == ["now"]
        with Postponed():
            pass
        assert came == ["now"]
    finally:
        signal.signal(signal.SIGINT, former)


# -- streams -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def stream(published: Published) -> Iterator[Any]:
    made = stream_of(published)
    yield made
    made.close()


def stream_of(published: Published) -> Any:
    make: Any = DirectStream
    return make(published.session, published.thread, "stdout", watchfd=False)


def text_of(published: Published) -> str:
    _, parts = published.session.feed_identities(published.reader.recv_multipart())
    content = published.session.deserialize(parts)["content"]
    return str(content["text"])


def test_flushes_send_what_was_written_without_the_thread(
    published: Published, stream: Any, handed_over: list[Any]
) -> None:
    for number in range(100):
        stream.write(f"number {number}")
        stream.flush()
        assert text_of(published) == f"number {number}"
        stream.flush()  # of nothing
    assert len(handed_over) < 100  # not 200 and more


def test_what_nobody_flushes_is_sent_all_the_same(published: Published, stream: Any) -> None:
    stream.write("one")
    assert text_of(published) == "one"
    stream.write("two")
    stream.flush()
    assert text_of(published) == "two"
    stream.write("three")
    assert text_of(published) == "three"


def test_prints_of_several_threads_and_flushes_lose_nothing(published: Published, stream: Any) -> None:
    def write(name: str) -> None:
        for number in range(300):
            stream.write(f"{name}{number}\n")
            if number % 7 == 0:
                stream.flush()

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    stream.flush()
    lines: list[str] = []
    while len(lines) < 600:
        lines += text_of(published).splitlines()
    for name in "ab":
        assert [line for line in lines if line[0] == name] == [f"{name}{number}" for number in range(300)]


def test_flush_waits_for_messages_that_wait(tmp_path: Path) -> None:
    published = Published(tmp_path, high_water=2)
    stream = stream_of(published)
    try:
        for number in range(50):
            published.thread.send_multipart([b"topic", b"%d" % number, b"x" * 100_000])
        assert published.thread.waits
        stream.write("behind them")
        flushed = threading.Thread(target=stream.flush)
        flushed.start()
        for number in range(50):
            assert published.reader.recv_multipart()[1] == b"%d" % number
        flushed.join(WAIT_S)
        assert text_of(published) == "behind them"
    finally:
        stream.close()
        published.close()


def test_forked_process_prints_through_its_parent(published: Published, stream: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, which users make all the same
        child = os.fork()
    if not child:
        stream.write("from the child")
        stream.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert text_of(published) == "from the child"


# -- replies -----------------------------------------------------------------------------------------------------------


def test_requests_are_read_while_another_thread_replies(tmp_path: Path) -> None:
    context = zmq.Context()
    shell: Any = context.socket(zmq.ROUTER)
    shell.bind(f"ipc://{tmp_path}/s")
    loop = make_selector_io_loop()
    shared = share(shell)
    stream = ZMQStream(shared, loop)
    shared.watched(loop, stream._handle_events)
    requests: list[list[bytes]] = []
    all_came = threading.Event()

    def read(parts: list[bytes]) -> None:
        requests.append(parts)
        if len(requests) == 2000:
            all_came.set()

    stream.on_recv(read)
    owner = threading.Thread(target=loop.start)
    owner.start()
    client: Any = context.socket(zmq.DEALER)
    client.setsockopt(zmq.IDENTITY, b"client")
    client.setsockopt(zmq.LINGER, 0)
    client.setsockopt(zmq.RCVTIMEO, WAIT_MS)
    client.connect(f"ipc://{tmp_path}/s")
    try:
        client.send_multipart([b"first"])
        wait_for(lambda: bool(requests))

        def ask() -> None:
            for number in range(1999):
                client.send_multipart([b"%d" % number, b"request"])

        asking = threading.Thread(target=ask)
        asking.start()
        replies = Replies(shared, None)
        sent = 0
        while not all_came.is_set() and sent < 100_000:
            replies.send_multipart([b"client", b"%d" % sent, b"reply"])
            sent += 1
        assert all_came.wait(WAIT_S)
        asking.join(WAIT_S)
        assert [parts[1] for parts in requests[1:]] == [b"%d" % number for number in range(1999)]
    finally:
        loop.add_callback(loop.stop)
        owner.join(WAIT_S)
        loop.close()
        context.destroy(linger=0)


# -- a kernel ----------------------------------------------------------------------------------------------------------


class Heard:
    """Keeps the numbers that a kernel publishes, each as often as it is in its message."""

    def __init__(self) -> None:
        self.numbers: list[list[int]] = []
        self.last = asyncio.Event()

    def kernel_said(self, channel: Channel, batch: list[tuple[Buffer, list[Buffer]]]) -> None:
        for topic, parts in batch:
            if topic == b"number":
                self.numbers.append([read_number(part) for part in parts])
                if self.numbers[-1][0] == LAST:
                    self.last.set()

    def kernel_exited(self, status: int) -> None: ...


def read_number(part: Buffer) -> int:
    """The number in a part of a message; -1 where it is something else."""
    try:
        return int(msgspec.json.decode(part)["msg_id"])
    except (msgspec.MsgspecError, TypeError, KeyError):
        return -1


@pytest.fixture
async def kernel() -> AsyncIterator[tuple[KernelProcess, Heard]]:
    heard = Heard()
    with tempfile.TemporaryDirectory(prefix="gpuaas-") as folder:
        process = KernelProcess(Path(folder), os.environ, 2, heard)
        await process.start(WAIT_S)
        yield process, heard
        process.kill()
        await process.ended()
        process.close()


async def run(kernel: KernelProcess, code: str) -> dict[str, Any]:
    content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
    return await asyncio.wait_for(kernel.ask(Channel.SHELL, "execute_request", content), WAIT_S)


async def test_interrupts_at_any_moment_tear_no_message(kernel: tuple[KernelProcess, Heard]) -> None:
    process, heard = kernel
    code = f"""
import random, signal, sys, threading, time
def publish(number):
    parts = [b'{{"msg_id": "%d"}}' % number] * 6
    get_ipython().kernel.iopub_socket.send_multipart([b"number", b"<IDS|MSG>", b"", *parts])
shown, over, main = 0, False, threading.get_ident()
def interrupting():
    while not over:
        time.sleep(random.uniform(0, 0.002))
        signal.pthread_kill(main, signal.SIGINT)
thread = threading.Thread(target=interrupting)
while not over or thread.is_alive():
    try:
        if not thread.ident:
            thread.start()
        while shown < {LAST - 1}:
            shown += 1
            publish(shown)
        over = True
        thread.join()
    except KeyboardInterrupt:
        pass
"""
    assert (await run(process, code))["status"] == "ok"
    assert (await run(process, f"publish({LAST})"))["status"] == "ok"
    await asyncio.wait_for(heard.last.wait(), WAIT_S)
    assert all(len(numbers) == 6 and len(set(numbers)) == 1 for numbers in heard.numbers)
    came = [numbers[0] for numbers in heard.numbers]
    assert came == sorted(set(came)) and len(came) > LAST / 2  # some were interrupted before they were sent


async def test_cell_does_not_overtake_a_message_to_a_comm(kernel: tuple[KernelProcess, Heard]) -> None:
    process, _ = kernel
    target = """
order = []
def opened(comm, message):
    comm.on_msg(lambda message: order.append(message["content"]["data"]))
get_ipython().kernel.comm_manager.register_target("numbers", opened)
"""
    assert (await run(process, target))["status"] == "ok"

    def tell(kind: str, content: dict[str, Any]) -> None:
        process.send(Channel.SHELL, make_parts(b"", kind, b"{}", {"comm_id": "one", **content})[1:])

    tell("comm_open", {"target_name": "numbers", "data": {}})
    cells = []
    for number in range(0, 200, 2):
        tell("comm_msg", {"data": number})
        cells.append(asyncio.ensure_future(run(process, f"order.append({number + 1})")))
        await asyncio.sleep(0)  # so that it is sent
    assert all(reply["status"] == "ok" for reply in await asyncio.gather(*cells))
    # Messages to comms need not wait for cells that wait, so only this much is certain.
    look = """
assert sorted(order) == list(range(200)), order
assert [number for number in order if number % 2] == list(range(1, 200, 2)), order
assert all(order.index(number) < order.index(number + 1) for number in range(0, 200, 2)), order
"""
    assert (await run(process, look))["status"] == "ok"


# -- packing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": NaN, "b": -Infinity}',
        b'{"a": "\xff"}',
        b'{"a": "\\ud800"}',
        b'{"a": 123456789012345678901234567890, "b": [1.0, 1e5, 1e400, null, true], "a": {}}',
    ],
)
def test_what_comes_is_read_as_jupyter_client_reads_it(data: bytes) -> None:
    assert repr(unpack(data)) == repr(json_unpacker(data))


@pytest.mark.parametrize("username", ["ann", "b\u00e9n", "\udcff"])
def test_headers_say_what_jupyter_client_says(username: str) -> None:
    header = Session(username=username).msg_header("status")
    again = extract_dates(json_unpacker(pack(header)))
    for each in (header, again, {}):
        assert json_unpacker(pack(each)) == json_unpacker(json_packer(each))


def test_contents_are_packed_by_jupyter_client() -> None:
    content = {"data": {"a": (1, 2), "b": b"bytes", "c": {1: 2}}, "text": "\u2028"}
    assert pack(content) == json_packer(content)
    with pytest.warns(UserWarning, match="serialization"):
        assert b"nan" in pack({"value": float("nan")})


def wait_for(what: Callable[[], bool]) -> None:
    over = threading.Event()
    for _ in range(3000):
        if what():
            return
        over.wait(0.01)
    raise AssertionError("it did not happen")
