"""What a kernel publishes need not be UTF-8, nor a message."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.client.session import Message, RemoteSession
from jupyter_gpuaas.errors import TransportError
from jupyter_gpuaas.node.transcript import as_text
from jupyter_gpuaas.wire.record import Kind, Record
from tests.service import quick_settings

#: As jupyter_client packs ``print(os.fsdecode(b"caf\xe9"))``.
CONTENT = b'{"name":"stdout","text":"caf\xe9\\n"}'


def record(number: int, *parts: bytes, kind: Kind = Kind.IOPUB) -> Record:
    return Record(kind, number, 0, parts)


def stream(number: int, parent: bytes = b"{}") -> Record:
    return record(number, b"stream", b'{"msg_id":"1","msg_type":"stream"}', parent, b"{}", CONTENT)


def test_as_text_bytes_that_are_no_text_are_replaced() -> None:
    assert as_text(stream(1)) == "caf\N{REPLACEMENT CHARACTER}\n"


class Heard:
    def __init__(self) -> None:
        self.messages: list[Message] = []

    def output(self, message: Message) -> None:
        self.messages.append(message)

    def asked(self, message: Message) -> None:
        raise AssertionError("nothing was asked")


async def test_remote_session_goes_on_after_what_is_no_text_and_what_is_no_message(tmp_path: Path) -> None:
    session = RemoteSession(cast(ServiceClient, None), "s", quick_settings(tmp_path))
    session._channel.send = lambda *given: 1  # type: ignore[method-assign, assignment]
    heard = Heard()
    cell = asyncio.create_task(session.request("execute_request", {"code": "1"}, listener=heard))
    await asyncio.sleep(0)
    parent = b'{"msg_id":"%s"}' % next(iter(session._requests)).encode()
    session.record_received(stream(1, parent))
    for number, parts in enumerate(
        [
            (b"", b"{}", parent, b"{}", b"{}"),
            (b"",),
            (b"", b"{", parent, b"{}", b"{}"),
            (b"", b"[]", b"[]", b"1", b"[]"),
        ],
        start=2,
    ):
        session.record_received(record(number, *parts))
    status = b'{"execution_state":"idle"}'
    session.record_received(record(6, b"", b'{"msg_type":"status"}', parent, b"{}", status))
    reply = (b"", b'{"msg_type":"execute_reply"}', parent, b"{}", b'{"status":"ok"}')
    session.record_received(record(7, *reply, kind=Kind.SHELL))
    assert await asyncio.wait_for(cell, 5) == {"status": "ok"}
    assert [message.msg_type for message in heard.messages] == ["stream", "status"]
    assert heard.messages[0].content["text"] == "caf\N{REPLACEMENT CHARACTER}\n"


async def test_remote_session_whose_channel_breaks_tells_whoever_waits(tmp_path: Path) -> None:
    session = RemoteSession(cast(ServiceClient, None), "s", quick_settings(tmp_path))
    broken = asyncio.Event()

    async def run() -> str:
        await broken.wait()
        raise ZeroDivisionError("a bug")

    session._channel.run = run  # type: ignore[method-assign]
    session._linked.set()
    await session.open()
    asking = asyncio.create_task(session.request("execute_request", {"code": "1"}))
    await asyncio.sleep(0)
    broken.set()
    with pytest.raises(TransportError, match="ZeroDivisionError: a bug"):
        await asyncio.wait_for(asking, 5)
    assert session.ended
