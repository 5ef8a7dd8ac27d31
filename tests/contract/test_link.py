"""A link against the WebSocket library at its other end, and against servers that break the protocol."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import connect as library_connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.frames import Frame, Opcode
from websockets.protocol import Event
from websockets.server import ServerProtocol

from jupyter_gpuaas.errors import TransportError
from jupyter_gpuaas.wire.link import Link, adopt, connect
from jupyter_gpuaas.wire.record import Buffer, Kind, Record, RecordReader, encode

TIMEOUT_S = 20.0
FRAME_BYTES = 1 << 20


class Client:
    """Takes records as a channel does."""

    def __init__(self) -> None:
        self.reader = RecordReader(1 << 30)
        self.records: list[Record] = []
        self.ops: list[dict[str, Any]] = []
        self.in_room = 0
        self.closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def binary_received(self, link: Link, data: Buffer) -> None:
        self.records += self.reader.feed(data)

    def room(self, link: Link) -> memoryview | None:
        return self.reader.room

    def room_filled(self, link: Link, count: int) -> None:
        self.in_room += count
        self.records += self.reader.filled(count)

    def op_received(self, link: Link, op: dict[str, Any]) -> None:
        self.ops.append(op)

    def link_drained(self, link: Link) -> None: ...

    def link_closed(self, link: Link, reason: str) -> None:
        self.closed.set_result(reason)


async def open_link(port: int) -> tuple[Link, Client]:
    client = Client()
    link = await connect(
        f"ws://127.0.0.1:{port}/", "token", client, frame_bytes=FRAME_BYTES, ping_s=5, silence_s=TIMEOUT_S
    )
    return link, client


async def test_records_of_a_library_server_arrive_between_ops_and_pings() -> None:
    sizes = [0, 10, 3 << 20, 200, 5 << 20]
    bodies = [os.urandom(size) for size in sizes]
    stream = b"".join(b"".join(encode(Kind.IOPUB, number, 0, [body])) for number, body in enumerate(bodies, 1))

    async def talk(server: ServerConnection) -> None:
        for start in range(0, len(stream), 300_000):
            await server.send(stream[start : start + 300_000])
            await server.send('{"op": "state"}')
            await server.ping()
        await server.send([stream[:0], b""])  # fragments of nothing

    async with serve(talk, "127.0.0.1", 0, compression=None) as server:
        _, client = await open_link(next(iter(server.sockets)).getsockname()[1])
        await asyncio.wait_for(client.closed, TIMEOUT_S)
    assert [bytes(record.parts[0]) for record in client.records] == bodies
    assert len(client.ops) == -(-len(stream) // 300_000)
    assert client.in_room > 6 << 20


@asynccontextmanager
async def raw_server(data: bytes, *, slowly: bool = False) -> AsyncIterator[tuple[int, asyncio.Future[bytes]]]:
    """A server that sends ``data`` right behind its answer to the handshake; what it gets goes to the future."""
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        protocol = ServerProtocol()
        protocol.receive_data(await reader.readuntil(b"\r\n\r\n"))
        (request,) = protocol.events_received()
        protocol.send_response(protocol.accept(request))  # type: ignore[arg-type]
        answer = b"".join(protocol.data_to_send()) + data
        for start in range(0, len(answer), 1 if slowly else len(answer)):
            writer.write(answer[start : start + 1] if slowly else answer)
            await writer.drain()
            await asyncio.sleep(0)
        heard.set_result(await reader.read())
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], heard


def close_code(heard: bytes) -> int:
    """The code of the close frame that a client has sent."""
    protocol = ServerProtocol(state=ServerProtocol().state.OPEN)
    protocol.receive_data(heard)
    events: list[Event] = protocol.events_received()
    assert [event.opcode for event in events if isinstance(event, Frame)][-1:] == [Opcode.CLOSE]
    assert protocol.close_rcvd is not None
    return protocol.close_rcvd.code


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (Frame(Opcode.BINARY, b"x" * 9).serialize(mask=True), 1002),
        (b"\xc2\x01x", 1002),
        (b"\x83\x01x", 1002),
        (b"\x02\x01a\x82\x01b", 1002),
        (b"\x82\x7f" + struct.pack(">Q", FRAME_BYTES + 1), 1009),
    ],
    ids=["masked", "reserved bit", "reserved opcode", "whole frame between fragments", "too large"],
)
async def test_malformed_frame_of_a_server_ends_the_link_with_the_code_of_the_rfc(frame: bytes, code: int) -> None:
    record = b"".join(encode(Kind.IOPUB, 1, 0, [b"before"]))
    behind = Frame(Opcode.BINARY, b"".join(encode(Kind.IOPUB, 2, 0, [b"behind"]))).serialize(mask=False)
    async with raw_server(Frame(Opcode.BINARY, record).serialize(mask=False) + frame + behind) as (port, heard):
        _, client = await open_link(port)
        await asyncio.wait_for(client.closed, TIMEOUT_S)
        assert close_code(await asyncio.wait_for(heard, TIMEOUT_S)) == code
    assert [bytes(record.parts[0]) for record in client.records] == [b"before"]


async def test_stream_that_comes_byte_by_byte_is_read() -> None:
    record = b"".join(encode(Kind.IOPUB, 1, 0, [b"x" * 300]))
    frames = [Frame(Opcode.TEXT, b'{"op": "welcome"}'), Frame(Opcode.BINARY, record), Frame(Opcode.CLOSE, b"\x03\xe8")]
    async with raw_server(b"".join(frame.serialize(mask=False) for frame in frames), slowly=True) as (port, heard):
        _, client = await open_link(port)
        await asyncio.wait_for(client.closed, TIMEOUT_S)
        assert close_code(await asyncio.wait_for(heard, TIMEOUT_S)) == 1000
    assert client.ops == [{"op": "welcome"}] and len(client.records) == 1


async def test_library_client_reads_what_an_adopted_link_sends() -> None:
    loop = asyncio.get_running_loop()
    sizes = [0, 1, 125, 126, 40_000, 65_535, 65_536, FRAME_BYTES]
    bodies = [os.urandom(size) for size in sizes]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)

        async def host() -> Link:
            connection, _ = await loop.sock_accept(listener)
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += await loop.sock_recv(connection, 1)
            link = await adopt(connection, head, b"", Client(), frame_bytes=FRAME_BYTES, ping_s=5, silence_s=TIMEOUT_S)
            for body in bodies:
                link.send_binary(memoryview(body))
            link.send_op({"op": "ended"})
            return link

        hosting = loop.create_task(host())
        url = f"ws://127.0.0.1:{listener.getsockname()[1]}/"
        async with library_connect(url, compression=None, proxy=None) as client:
            got = [await asyncio.wait_for(client.recv(), TIMEOUT_S) for _ in range(len(bodies) + 1)]
        (await hosting).close()
    assert got == [*bodies, '{"op":"ended"}']


@pytest.mark.parametrize("url", ["nonsense", "http://127.0.0.1/", "ws://[::1", "ws://127.0.0.1:99999999/"])
async def test_address_that_is_none_is_an_error_like_one_where_nobody_is(url: str) -> None:
    """So that a client tries the other way."""
    with pytest.raises(TransportError, match=re.escape(repr(url))):
        await connect(url, "token", Client(), frame_bytes=FRAME_BYTES, ping_s=5, silence_s=TIMEOUT_S)
