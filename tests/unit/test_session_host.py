"""A session's host and its clients' links, without a kernel."""

from __future__ import annotations

import asyncio
import errno
import functools
import itertools
import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from jupyter_gpuaas import model
from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.errors import JournalError
from jupyter_gpuaas.model import Channel, Handover, HostSpec, HostState, Lease
from jupyter_gpuaas.node import attachment as attachment_module
from jupyter_gpuaas.node import segment as segment_module
from jupyter_gpuaas.node.attachment import Attachment
from jupyter_gpuaas.node.door import Door, Inside
from jupyter_gpuaas.node.held import Held
from jupyter_gpuaas.node.host import Host
from jupyter_gpuaas.node.journal import Journal
from jupyter_gpuaas.node.kernel_process import Kernel
from jupyter_gpuaas.node.outflow import LARGE_BYTES
from jupyter_gpuaas.node.remains import handover_of
from jupyter_gpuaas.node.session_host import SessionHost
from jupyter_gpuaas.node.standstill import RETURNED, Stage
from jupyter_gpuaas.wire.jupyter import make_parts, read_header
from jupyter_gpuaas.wire.link import Link
from jupyter_gpuaas.wire.record import Buffer, Kind, Record, RecordReader, encode
from tests.service import eventually


def handshake() -> bytes:
    protocol = ClientProtocol(parse_uri("ws://node/v1/channel"))
    protocol.send_request(protocol.connect())
    return b"".join(protocol.data_to_send())


async def heard(end: socket.socket) -> bytes:
    """Everything that arrives until nothing more does."""
    data = b""
    try:
        while True:
            piece = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(end, 1 << 16), 0.3)
            if not piece:
                return data + b"<closed>"
            data += piece
    except asyncio.TimeoutError:
        return data


def make_host(folder: Path, settings: Settings | None = None, *, epoch: int = 1) -> SessionHost:
    lease = Lease(id="l", session_id="s", node_id="n", device_ids=("d",), epoch=epoch)
    spec = HostSpec(session_id="s", name="s", owner="me", lease=lease, secret="k")
    (folder / "journal").mkdir(parents=True)
    return SessionHost(spec, folder, settings or Settings(), start_kernel=lambda: None, changed=lambda report: None)


async def close(host: SessionHost, *pairs: tuple[socket.socket, socket.socket]) -> None:
    await host.close("the test is over")
    # Transports close their sockets in the loop's next turns.
    await eventually(lambda: all(far.fileno() < 0 for _, far in pairs))
    for near, _ in pairs:
        near.close()


async def test_two_handshakes_of_one_client_at_once_leave_one_link_and_it_is_fed(tmp_path: Path) -> None:
    """A stalled network that heals delivers the handshake of a link given up together with that of its successor."""
    host = make_host(tmp_path)
    pairs = [socket.socketpair() for _ in range(2)]
    for near, _ in pairs:
        near.setblocking(False)
    head = handshake()
    await asyncio.gather(*(host.attach(far, head, b"", "client", None) for _, far in pairs))
    host.notice("to whom it concerns")
    answers = [await heard(near) for near, _ in pairs]
    assert [b"<closed>" in answer for answer in answers].count(True) == 1
    (live,) = (answer for answer in answers if b"<closed>" not in answer)
    assert b"to whom it concerns" in live
    assert host.report().clients == 1
    await close(host, *pairs)


async def test_link_that_closed_before_it_was_adopted_counts_as_no_client(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    near, far = socket.socketpair()
    near.close()
    await host.attach(far, handshake(), b"", "client", None)
    await eventually(lambda: not host.report().clients)
    await close(host, (near, far))


async def test_client_whose_link_is_opened_while_all_are_told_to_go_is_not_let_in(tmp_path: Path) -> None:
    """Nobody would tell it again, and it would wait for a session that may be elsewhere."""
    host = make_host(tmp_path)
    near, far = socket.socketpair()
    near.setblocking(False)
    attaching = asyncio.create_task(host.attach(far, handshake(), b"", "client", None))
    await asyncio.sleep(0)
    host.cut_off = True
    host.let_clients_go({"op": "moved"}, "the node has lost contact with the service")
    await attaching
    assert host.report().clients == 0
    assert (await heard(near)).endswith(b"<closed>")
    await close(host, (near, far))


async def test_requests_of_a_client_that_is_attached_stay_counted_however_many_come_after_it(tmp_path: Path) -> None:
    host = make_host(tmp_path, Settings(clients_remembered=1))
    pairs = [socket.socketpair() for _ in range(3)]
    await host.attach(pairs[0][1], handshake(), b"", "first", None)
    host._clients._inboxes["first"].accept(1)
    await host.attach(pairs[1][1], handshake(), b"", "second", None)
    near, far = pairs[2]
    near.setblocking(False)
    await host.attach(far, handshake(), b"", "first", 0, host.journal.id)
    (welcome,) = re.findall(rb'\{"op":"welcome".*?\}', await heard(near))
    assert json.loads(welcome)["received"] == 1
    await close(host, *pairs)


async def test_interrupt_without_a_reply_goes_along_with_an_image_and_leaves_the_link_alone(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    near, far = socket.socketpair()
    await host.attach(far, handshake(), b"", "client", None)
    host.standstill.sealed = True
    host._clients._attached["client"].op_received(cast(Link, None), {"op": "interrupt"})
    assert [held.header.msg_type for held in host.held] == ["interrupt_request"]
    assert host.report().clients == 1
    await close(host, (near, far))


@pytest.mark.parametrize("image", [True, False])
async def test_successor_without_the_image_that_was_handed_over_is_given_what_the_journal_tells(
    tmp_path: Path, image: bool
) -> None:
    """It begins with a checkpoint: the cell that ran, it has not, and not what came of those after the checkpoint."""

    class Imaged(Outputs):
        halted = False

        async def ask(self, channel: Channel, msg_type: str, content: dict[str, object]) -> dict[str, object]:
            return {"busy": ""}

        def send(self, channel: Channel, parts: list[Buffer]) -> None: ...

        async def take(self, kernel: Kernel) -> model.Imaged:
            return model.Imaged(image="i", image_bytes=1, took_s=0.0)

    host, kernel = make_host(tmp_path), Imaged()
    host.kernel_ready(cast(Kernel, kernel))
    asker = cast(Attachment, None)
    cells = [make_parts(b"client", "execute_request", b"{}", {"code": code}) for code in ("ended", "runs")]
    host.requests_received(asker, [Record(Kind.SHELL, number, 0, tuple(parts)) for number, parts in enumerate(cells)])
    answer = make_parts(b"", "execute_reply", bytes(cells[0][1]), {"status": "ok", "execution_count": 7})[1:]
    host.kernel_said(Channel.SHELL, [(b"", list(answer))])
    await host.standstill.take_image(kernel.take)
    await host.standstill.hand_over()
    near, far = socket.socketpair()
    door = Door(cast(Inside, SimpleNamespace(settings=host.settings)))
    query = {"image": "1"} if image else {}
    await door._serve_transfer(far, host, {"method": "GET", "path": "handover", "query": query})
    given = msgspec.msgpack.decode(
        (await heard(near)).partition(b"\r\n\r\n")[2].removesuffix(b"<closed>"), type=Handover
    )
    assert (given.journal, given.last) == (host.journal.id, host.journal.last)
    if image:
        assert given == host.standstill.handover and [each.msg_type for each in given.asked] == ["execute_request"]
    else:
        assert (given.whole, given.imaged, given.asked, given.answered) == (False, False, (), (7,))
        assert [read_header(each.parts[1]).msg_id for each in given.broken] == [read_header(cells[1][1]).msg_id]
    host.kernel = None
    await close(host, (near, far))


async def test_reply_that_is_too_large_is_answered_all_the_same(tmp_path: Path) -> None:
    """Who asked would wait for ever for a reply that is larger than what may be kept."""
    host = make_host(tmp_path, Settings(message_bytes=2000))
    (address, header, *_) = make_parts(b"client", "execute_request", b"{}", {})
    reply = make_parts(address, "execute_reply", header, {"status": "ok", "data": "x" * 3000})
    host._outflow.append(Kind.SHELL, reply)
    host._outflow.flush()
    notice, answer = RecordReader(2000).feed(host.journal.reader(0).read())
    assert notice.kind is Kind.IOPUB and b"setting message_bytes" in bytes(notice.parts[4]).lower()
    assert (answer.kind, bytes(answer.parts[0])) == (Kind.SHELL, b"client")
    assert read_header(answer.parts[1]).msg_type == "execute_reply"
    assert read_header(answer.parts[2]).msg_id == read_header(header).msg_id
    content = json.loads(bytes(answer.parts[4]))
    assert content["status"] == "error" and "larger than" in content["evalue"]
    await close(host)


class Outputs:
    """A kernel of which outputs are taken, or not."""

    stopped = False
    taken = True

    def hold_outputs(self) -> None:
        self.taken = False

    def take_outputs(self) -> None:
        self.taken = True

    def kill(self) -> None: ...

    def close(self) -> None: ...

    def send(self, channel: Channel, parts: list[bytes]) -> None: ...

    async def ended(self, timeout_s: float | None = None) -> bool:
        return True


class Freezing(Outputs):
    """A kernel that stands still; while it freezes, something happens."""

    alive, halted = True, False

    def __init__(self) -> None:
        self.sent: list[tuple[Channel, list[bytes]]] = []
        self.meanwhile: list[Callable[[], None]] = []

    async def ask(
        self, channel: Channel, msg_type: str, content: dict[str, object], *, subshell: str = ""
    ) -> dict[str, object]:
        if content["op"] == "freeze":
            for act in self.meanwhile:
                act()
        return {"status": "ok", "done": True}

    async def pause(self) -> None:
        self.halted = True

    async def resume(self) -> None:
        self.halted = False

    def send(self, channel: Channel, parts: list[bytes]) -> None:
        self.sent.append((channel, parts))


@pytest.mark.parametrize("resumes", [True, False])
async def test_control_request_that_comes_while_the_session_is_handed_over_is_answered_where_it_goes_on(
    tmp_path: Path, resumes: bool
) -> None:
    host, kernel = make_host(tmp_path), Freezing()
    host.kernel_ready(cast(Kernel, kernel))
    host.standstill.stage = Stage.QUIET
    request = make_parts(b"client", "usage_request", b"{}", {})
    record = Record(Kind.CONTROL, 1, 0, tuple(request))
    kernel.meanwhile.append(lambda: host.requests_received(cast(Attachment, None), [record]))
    await host.standstill.hand_over()
    assert not kernel.sent, "nobody there would answer"
    hosts, goes_on, successor = [host], kernel, host
    if resumes:
        await host.standstill.resume()
    else:
        assert host.standstill.handover is not None
        successor, goes_on = make_host(tmp_path / "next", epoch=2), Freezing()
        successor.stands_by = True
        successor.kernel_ready(cast(Kernel, goes_on))
        successor.take_over(host.standstill.handover)
        hosts.append(successor)
    assert goes_on.sent == [(Channel.CONTROL, request[1:])]
    reply = make_parts(b"", "usage_reply", request[1], {"status": "ok"})[1:]
    assert successor.dialogue.answer(Channel.CONTROL, reply) == [b"client", *reply]
    for each in hosts:
        each.kernel = None
        await close(each)


@pytest.mark.parametrize("by", ["request", "op"])
async def test_interrupt_that_comes_while_the_session_is_handed_over_cancels_what_waits(
    tmp_path: Path, by: str
) -> None:
    host, kernel = make_host(tmp_path), Freezing()
    host.kernel_ready(cast(Kernel, kernel))
    host.standstill.stage = Stage.QUIET
    asker = cast(Attachment, None)
    cell = make_parts(b"client", "execute_request", b"{}", {"code": "1"})
    host.requests_received(asker, [Record(Kind.SHELL, 1, 0, tuple(cell))])
    interrupt = Record(Kind.CONTROL, 2, 0, tuple(make_parts(b"client", "interrupt_request", b"{}", {})))
    by_request = functools.partial(host.requests_received, asker, [interrupt])
    kernel.meanwhile.append(by_request if by == "request" else host.client_interrupts)
    await host.standstill.hand_over()
    assert host.standstill.handover is not None and not host.standstill.handover.held and not kernel.sent
    said = RecordReader(1 << 20).feed(host.journal.reader(0).read())
    replies = [read_header(each.parts[1]).msg_type for each in said if each.kind in (Kind.SHELL, Kind.CONTROL)]
    assert replies == ["execute_reply", *(["interrupt_reply"] if by == "request" else [])]
    host.kernel = None
    await close(host)


@pytest.mark.parametrize("trouble", [OSError(errno.EIO, "Input/output error"), JournalError("it is broken")])
async def test_outputs_are_taken_again_whatever_becomes_of_those_that_waited_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    def broken(time_us: int) -> Iterator[None]:
        host.journal._take_pending()
        yield
        raise trouble

    host, kernel = make_host(tmp_path, Settings(waiting_bytes=1000)), Outputs()
    host.kernel = cast(Kernel, kernel)
    monkeypatch.setattr(host.journal, "flush_slowly", broken)
    text = make_parts(b"", "stream", b"{}", {"name": "stdout", "text": "x" * (LARGE_BYTES + 1)})[1:]
    host.kernel_said(Channel.IOPUB, [(b"stream", list(text))])
    host.kernel_said(Channel.IOPUB, [(b"stream", list(text))])
    assert not kernel.taken, "the disk is behind"
    monkeypatch.undo()
    await host.settled()
    assert kernel.taken
    await close(host)


async def test_session_is_idle_when_its_last_cell_was_answered_in_its_kernels_place(tmp_path: Path) -> None:
    host = make_host(tmp_path, Settings(busy_report_s=0.01))
    host.kernel_ready(cast(Kernel, Outputs()))
    cell = make_parts(b"client", "execute_request", b"{}", {"code": "1"})
    host.requests_received(cast(Attachment, None), [Record(Kind.SHELL, 1, 0, tuple(cell))])
    await eventually(lambda: host.report().state is HostState.BUSY)
    (asked,) = host.dialogue.overdue(float("inf"))
    host.tell(host.dialogue.give_up(asked, "RequestLost", "it was lost"))
    await eventually(lambda: host.report().state is HostState.IDLE)
    host.kernel = None
    await close(host)


async def test_cell_that_was_answered_in_its_kernels_place_is_not_held_when_it_comes_back(tmp_path: Path) -> None:
    """It would run, unseen: whoever asked has been told that it was lost."""
    host = make_host(tmp_path)
    host.kernel_ready(cast(Kernel, Outputs()))
    cells = [make_parts(b"client", "execute_request", b"{}", {"code": code}) for code in ("lost", "kept")]
    records = [Record(Kind.SHELL, number, 0, tuple(parts)) for number, parts in enumerate(cells, 1)]
    host.requests_received(cast(Attachment, None), records)
    host.tell(host.dialogue.give_up(host.dialogue.overdue(float("inf"))[0], "RequestLost", "it was lost"))
    host.without_devices._suspended.holds = True
    for parts in cells:
        returned = make_parts(b"", RETURNED, parts[1], {})[1:]
        host.kernel_said(Channel.SHELL, [(b"", [*returned, *parts[1:]])])
    assert [held.parts for held in host.held] == [cells[1]]
    host.kernel = None
    await close(host)


async def test_next_host_says_that_cells_have_ended_of_which_the_lost_one_had_not_said_it(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    cut = [bytes(make_parts(b"client", "execute_request", b"{}", {})[1]) for _ in range(3)]
    handover = Handover(
        journal=host.journal.id,
        last=0,
        acknowledged=0,
        sent=0,
        inboxes={},
        seen=(),
        held=(),
        unended=tuple(cut),
        whole=False,
        kernel_starts=1,
    )
    host.take_over(handover)
    said = RecordReader(1 << 20).feed(host.journal.reader(0).read())
    ends = [each.parts for each in said if each.kind is Kind.IOPUB and bytes(each.parts[0]).endswith(b"status")]
    assert [bytes(parts[2]) for parts in ends] == cut
    assert all(read_header(parts[1]).msg_type == "status" for parts in ends)
    assert all(json.loads(bytes(parts[4])) == {"execution_state": "idle"} for parts in ends)
    await close(host)


class Acknowledged(list[int]):
    """What a client was told to forget."""

    def __init__(self, attachment: Attachment, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        monkeypatch.setattr(attachment, "send_op", self._take)

    def _take(self, op: dict[str, int]) -> None:
        if "number" in op:
            self.append(op["number"])


async def test_request_that_waits_for_a_slow_disk_is_not_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client would forget it, and nobody would know of it when the host dies."""
    monkeypatch.setattr(attachment_module, "ACK_DELAY_S", 0.001)
    host, real, disk_goes_on = make_host(tmp_path), Journal.flush_slowly, False
    host.kernel = cast(Kernel, Outputs())

    def slow(journal: Journal, time_us: int) -> Iterator[None]:
        for piece in real(journal, time_us):
            while not disk_goes_on:
                yield
            yield piece

    monkeypatch.setattr(Journal, "flush_slowly", slow)
    pairs = [socket.socketpair() for _ in range(2)]
    await host.attach(pairs[0][1], handshake(), b"", "client", None)
    attachment = host._clients._attached["client"]
    told = Acknowledged(attachment, monkeypatch)
    request = make_parts(b"client", "execute_request", b"{}", {"code": "1"})
    attachment.binary_received(cast(Link, None), b"".join(encode(Kind.SHELL, 1, 0, request)))
    await eventually(lambda: 1 in told)
    text = make_parts(b"", "stream", b"{}", {"name": "stdout", "text": "x" * (LARGE_BYTES + 1)})[1:]
    host.kernel_said(Channel.IOPUB, [(b"stream", list(text))])
    await eventually(lambda: host.journal.written > host.journal.whole)
    told.clear()
    request = make_parts(b"client", "execute_request", b"{}", {"code": "2"})
    attachment.binary_received(cast(Link, None), b"".join(encode(Kind.SHELL, 2, 0, request)))
    await eventually(lambda: len(told) > 2 or 2 in told)
    assert set(told) == {1}
    # Nor is a client that comes again told that it has arrived.
    near, far = pairs[1]
    near.setblocking(False)
    await host.attach(far, handshake(), b"", "client", 0, host.journal.id)
    (welcome,) = re.findall(rb'\{"op":"welcome".*?\}', await heard(near))
    assert json.loads(welcome)["received"] == 1
    attachment = host._clients._attached["client"]
    told = Acknowledged(attachment, monkeypatch)
    attachment.binary_received(cast(Link, None), b"".join(encode(Kind.SHELL, 2, 0, request)))
    request = make_parts(b"client", "complete_request", b"{}", {"code": "3"})
    attachment.binary_received(cast(Link, None), b"".join(encode(Kind.SHELL, 3, 0, request)))
    disk_goes_on = True
    await eventually(lambda: 3 in told)
    host.kernel = None
    for near, _ in pairs:  # nobody takes all that waits for them
        near.close()
    await close(host, *pairs)


async def test_request_is_acknowledged_while_the_journal_is_kept_in_memory_as_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(attachment_module, "ACK_DELAY_S", 0.001)
    host = make_host(tmp_path)
    host.kernel = cast(Kernel, Outputs())
    near, far = socket.socketpair()
    await host.attach(far, handshake(), b"", "client", None)
    attachment = host._clients._attached["client"]
    told = Acknowledged(attachment, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(segment_module.os, "pwritev", full)
        patch.setattr(segment_module.os, "posix_fallocate", full)
        text = make_parts(b"", "stream", b"{}", {"name": "stdout", "text": "x" * (LARGE_BYTES + 1)})[1:]
        host.kernel_said(Channel.IOPUB, [(b"stream", list(text))])
        request = make_parts(b"client", "execute_request", b"{}", {"code": "1"})
        attachment.binary_received(cast(Link, None), b"".join(encode(Kind.SHELL, 1, 0, request)))
        await eventually(lambda: 1 in told)
        assert host.journal.no_room
    host.kernel = None
    near.close()  # nobody takes all that waits for it
    await close(host, (near, far))


async def test_client_that_has_heard_more_than_its_host_knows_of_begins_anew_with_it(tmp_path: Path) -> None:
    """A host kept records in memory only, and died: its client has them, its successor has not."""
    host = make_host(tmp_path)
    host.notice("before")
    near, far = socket.socketpair()
    near.setblocking(False)
    await host.attach(far, handshake(), b"", "client", 9, host.journal.id)
    host.notice("after")
    answer = await heard(near)
    (welcome,) = re.findall(rb'\{"op":"welcome".*?\}', answer)
    told = json.loads(welcome)
    assert (told["behind"], told["after"], told["received"]) == (True, host.journal.last - 1, 0)
    assert b"after" in answer.partition(welcome)[2] and b"before" not in answer
    await close(host, (near, far))


async def test_client_that_does_not_say_what_it_has_read_is_told_of_a_loss_once(tmp_path: Path) -> None:
    """It is of an older version. Told again, it would count anew what has come."""
    host = make_host(tmp_path)
    host.notice("before")
    host.journal.note_loss(1)
    pairs = [socket.socketpair() for _ in range(2)]
    told = []
    for near, far in pairs:
        near.setblocking(False)
        await host.attach(far, handshake(), b"", "client", 1, host.journal.id)
        (welcome,) = re.findall(rb'\{"op":"welcome".*?\}', await heard(near))
        told.append(json.loads(welcome)["received"])
        host._clients._inboxes["client"].accept(1)
    assert told == [None, 1]
    await close(host, *pairs)


@pytest.mark.parametrize("behind", [False, True])
async def test_client_that_has_not_read_what_it_was_told_after_a_loss_is_told_it_again(
    tmp_path: Path, behind: bool
) -> None:
    """The link is cut before its welcome comes: it still counts its requests as the lost host did."""
    host = make_host(tmp_path)
    host.notice("before")
    host.journal.note_loss(1)
    pairs = [socket.socketpair() for _ in range(3)]
    told = []
    for (near, far), epoch in zip(pairs, (0, 0, 1), strict=True):
        near.setblocking(False)
        host.notice("that counts from there, too")
        after = 2 if behind and not epoch else 1
        await host.attach(far, handshake(), b"", "client", after, host.journal.id, epoch)
        (welcome,) = re.findall(rb'\{"op":"welcome".*?\}', await heard(near))
        told.append({key: json.loads(welcome)[key] for key in ("received", "behind", "after")})
    lost = {"received": 0, "behind": True, "after": 1} if behind else {"received": None, "behind": False, "after": 1}
    assert told == [lost, lost, {"received": 0, "behind": False, "after": 1}]
    await close(host, *pairs)


def left_by(host: SessionHost) -> Journal:
    """What is on disk when the host dies now."""
    bound = 1 << 24
    return Journal(
        host.folder / "journal", most_bytes=bound, segment_bytes=bound, message_bytes=bound, memory_bytes=bound
    )


async def follow(host: SessionHost, epoch: int, *, lost: bool = False) -> SessionHost:
    """The next host of a session, when this one has handed it over or was lost."""
    await host.settled()
    handover = host.handover(())
    if lost:
        handover = handover_of(left_by(host), host.settings.message_bytes)
    successor = make_host(host.folder / str(epoch), epoch=epoch)
    successor.journal.extend(b"".join(host.journal.copy(0).pieces()), 0)
    successor.journal.become(handover.journal, handover.losses)
    successor.take_over(handover)
    await successor.settled()
    return successor


class Links:
    """Links of a client, each of which ends as soon as its first message has come."""

    def __init__(self, client: str) -> None:
        self._client = client

    async def open(self, host: SessionHost, after: int, epoch: int | None) -> tuple[int | None, bool, int]:
        near, far = socket.socketpair()
        near.setblocking(False)
        await host.attach(far, handshake(), b"", self._client, after, host.journal.id, epoch)
        (welcome,) = re.findall(rb'\{"op":"welcome".*?\}', await heard(near))
        near.close()
        await eventually(lambda: far.fileno() < 0)
        told = json.loads(welcome)
        return told["received"], told["behind"], told["after"]


async def test_client_that_has_not_read_what_it_was_told_after_a_loss_is_told_it_where_the_session_has_moved(
    tmp_path: Path,
) -> None:
    first = make_host(tmp_path)
    for _ in range(3):
        first.notice("before")
    hosts = [first, await follow(first, 2, lost=True)]
    end = 3
    unread, ahead, reader = Links("unread"), Links("ahead"), Links("reader")
    assert await unread.open(hosts[1], end, 1) == (None, False, end)
    assert await ahead.open(hosts[1], end + 1, 1) == (0, True, end)
    assert await reader.open(hosts[1], end, 1) == (None, False, end)
    hosts += [await follow(hosts[1], 3)]
    hosts += [await follow(hosts[2], 4)]
    after = hosts[3].journal.last
    assert after > end
    assert await unread.open(hosts[3], end, 1) == (None, False, end)
    assert await unread.open(hosts[3], end, 4) == (0, False, end)
    assert await ahead.open(hosts[3], end + 1, 1) == (0, True, end), "its last record is another than that of this host"
    assert await reader.open(hosts[3], after, 2) == (0, False, after), "it has read it and asked nothing since"
    # After another loss nobody knows again.
    hosts += [await follow(hosts[3], 5, lost=True)]
    hosts += [await follow(hosts[4], 6)]
    assert await reader.open(hosts[5], after, 2) == (None, False, after)
    assert await reader.open(hosts[5], after, 6) == (0, False, after)
    for host in hosts:
        await close(host)


async def test_client_that_has_read_nothing_since_before_two_losses_in_a_row_gets_what_was_said_between(
    tmp_path: Path,
) -> None:
    """What it has up to its last record is another host's than what the second lost one had said by then."""
    first = make_host(tmp_path)
    first.notice("before")
    hosts = [first, await follow(first, 2, lost=True)]
    end = 1
    between = hosts[1].journal.last
    assert between > end
    hosts += [await follow(hosts[1], 3, lost=True)]
    hosts += [await follow(hosts[2], 4)]
    ahead, reader = Links("ahead"), Links("reader")
    for host in hosts[2:]:
        assert await ahead.open(host, between, 1) == (0, True, end)
        assert await reader.open(host, between, 2) == (None, False, between), "it has what was said between"
    for host in hosts:
        await close(host)


async def test_what_a_host_of_an_older_version_hands_over_is_counted_on(tmp_path: Path) -> None:
    first = make_host(tmp_path)
    first.notice("before")
    await first.settled()
    said = msgspec.msgpack.decode(msgspec.msgpack.encode(first.handover(())))
    del said["losses"]
    successor = make_host(tmp_path / "next", epoch=2)
    successor.journal.extend(b"".join(first.journal.copy(0).pieces()), 0)
    older = msgspec.msgpack.encode(said | {"inboxes": {"client": 7}})
    successor.take_over(msgspec.msgpack.decode(older, type=Handover))
    for epoch in (None, 1, 2):
        assert await Links("client").open(successor, 1, epoch) == (7, False, 1)
    await close(successor)
    await close(first)


async def test_client_that_was_forgotten_is_told_that_its_requests_are_not_counted(tmp_path: Path) -> None:
    host = make_host(tmp_path, Settings(clients_remembered=1))
    pairs = [socket.socketpair() for _ in range(3)]
    await host.attach(pairs[0][1], handshake(), b"", "first", None)
    host._clients._inboxes["first"].accept(1)
    pairs[0][0].close()
    await eventually(lambda: not host.report().clients)
    await host.attach(pairs[1][1], handshake(), b"", "second", None)
    near, far = pairs[2]
    near.setblocking(False)
    await host.attach(far, handshake(), b"", "first", 0, host.journal.id, 1)
    (welcome,) = re.findall(rb'\{"op":"welcome".*?\}', await heard(near))
    assert json.loads(welcome)["received"] is None
    await close(host, *pairs)


async def test_cell_that_waits_when_devices_come_before_the_next_kernel_is_given_to_that(tmp_path: Path) -> None:
    """A session that stands still is restarted, and its turn comes: the kernel was gone, and the cell with it."""
    host = make_host(tmp_path)
    host.without_devices._suspended.holds = True
    parts = make_parts(b"client", "execute_request", b"{}", {"code": "1"})
    host.held.add(Held(Channel.SHELL, read_header(parts[1]), list(parts)))
    await host.without_devices.go_on(("d",))
    assert len(list(host.held)) == 1
    sent: list[Channel] = []
    kernel = SimpleNamespace(send=lambda channel, parts: sent.append(channel), alive=False)
    host.kernel_ready(cast(Kernel, kernel))
    assert sent == [Channel.SHELL] and not list(host.held)
    host.kernel = None
    await close(host)


async def test_session_that_stands_still_takes_no_more_requests_than_may_wait_and_answers_the_rest(
    tmp_path: Path,
) -> None:
    host = make_host(tmp_path, Settings(outbox_bytes=10_000))
    host.kernel = cast(Kernel, SimpleNamespace(send=None))
    host.without_devices._suspended.holds = True
    cells = [make_parts(b"client", "execute_request", b"{}", {"code": "x" * 3000}) for _ in range(5)]
    records = [Record(Kind.SHELL, number, 0, tuple(parts)) for number, parts in enumerate(cells, 1)]
    host.requests_received(cast(Attachment, None), records)
    assert [held.parts for held in host.held] == [cells[0]]
    said = RecordReader(1 << 20).feed(host.journal.reader(0).read())
    replies = [record.parts for record in said if record.kind is Kind.SHELL]
    assert [read_header(parts[2]).msg_id for parts in replies] == [read_header(parts[1]).msg_id for parts in cells[1:]]
    assert all("outbox_bytes" in json.loads(bytes(parts[4]))["evalue"] for parts in replies)
    host.kernel = None
    await close(host)


async def test_user_is_told_once_of_dropped_messages_that_nobody_answers_and_again_after_what_waited_is_released(
    tmp_path: Path,
) -> None:
    host = make_host(tmp_path, Settings(outbox_bytes=10_000))
    sent: list[Channel] = []
    host.kernel = cast(Kernel, SimpleNamespace(send=lambda channel, parts: sent.append(channel), alive=False))
    numbers = itertools.count(1)
    for told in (1, 2):
        host.without_devices._suspended.holds = True
        for _ in range(4):
            message = make_parts(b"client", "comm_msg", b"{}", {"data": "x" * 6000})
            record = Record(Kind.SHELL, next(numbers), 0, tuple(message))
            host.requests_received(cast(Attachment, None), [record])
        said = RecordReader(1 << 20).feed(host.journal.reader(0).read())
        notices = [json.loads(bytes(record.parts[4]))["text"] for record in said]
        assert len(notices) == told and all("outbox_bytes" in text for text in notices)
        host.without_devices._suspended.holds = False
        host.release_held()
        assert len(sent) == told
    host.kernel = None
    await close(host)


async def test_host_answers_a_command_that_it_fails_at_whatever_it_raises(tmp_path: Path) -> None:
    def broken() -> None:
        raise RuntimeError("a bug")

    class Writer:
        def __init__(self) -> None:
            self.written: list[dict[str, object]] = []

        def write(self, data: bytes) -> None:
            self.written.append(json.loads(data))

        async def drain(self) -> None:
            pass

    host, writer = Host("r", tmp_path, "n", Settings(), tmp_path), Writer()
    host.session = cast(SessionHost, SimpleNamespace(interrupt=broken))
    await host.line.command({"id": 7, "op": "interrupt"}, cast(asyncio.StreamWriter, writer))
    assert writer.written == [{"id": 7, "error": "RuntimeError: a bug"}]
