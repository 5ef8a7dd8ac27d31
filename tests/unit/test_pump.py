"""Two connections joined: every byte arrives, in order, and their ends as well."""

from __future__ import annotations

import asyncio
import socket

import pytest

from jupyter_gpuaas.node.pump import HIGH_BYTES, End

BIG = 8 * 1024**2


class Joined:
    """Two joined ends, and the far side of each."""

    def __init__(self, one: socket.socket, other: socket.socket, ended: asyncio.Event) -> None:
        self.one, self.other, self.ended = one, other, ended


@pytest.fixture
async def joined() -> Joined:
    loop, ended, left = asyncio.get_running_loop(), asyncio.Event(), 2

    def over() -> None:
        nonlocal left
        left -= 1
        if not left:
            ended.set()

    far, ends = [], []
    for _ in range(2):
        ours, theirs = socket.socketpair()
        for each in (ours, theirs):
            each.setblocking(False)
        end = End(over)
        await loop.connect_accepted_socket(lambda end=end: end, ours)  # type: ignore[misc]
        far.append(theirs)
        ends.append(end)
    # What comes before is kept.
    await loop.sock_sendall(far[0], b"early ")
    ends[0].join(ends[1])
    return Joined(far[0], far[1], ended)


async def read(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count and (piece := await asyncio.get_running_loop().sock_recv(sock, 1 << 18)):
        data += piece
    return bytes(data)


async def test_bytes_arrive_both_ways_however_slowly_they_are_taken(joined: Joined) -> None:
    loop = asyncio.get_running_loop()
    there = bytes(range(256)) * (BIG // 256)
    sending = [asyncio.ensure_future(loop.sock_sendall(joined.one, there))]
    sending.append(asyncio.ensure_future(loop.sock_sendall(joined.other, there[::-1])))
    # Neither end is read from: what is on its way is bounded, so both senders wait.
    done, waiting = await asyncio.wait(sending, timeout=0.2)
    assert not done and BIG > 3 * HIGH_BYTES
    assert await read(joined.other, 6 + BIG) == b"early " + there
    assert await read(joined.one, BIG) == there[::-1]
    await asyncio.gather(*waiting)
    joined.one.close()
    assert await read(joined.other, 1) == b""
    joined.other.close()
    await asyncio.wait_for(joined.ended.wait(), 10)


async def test_end_of_one_direction_leaves_the_other_open(joined: Joined) -> None:
    loop = asyncio.get_running_loop()
    joined.one.shutdown(socket.SHUT_WR)
    assert await read(joined.other, 100) == b"early "
    await loop.sock_sendall(joined.other, b"an answer")
    joined.other.close()
    assert await read(joined.one, 100) == b"an answer"
    joined.one.close()
    await asyncio.wait_for(joined.ended.wait(), 10)


async def test_end_that_breaks_ends_the_other(joined: Joined) -> None:
    assert await read(joined.other, 6) == b"early "
    joined.one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    joined.one.close()
    assert await read(joined.other, 1) == b""
    joined.other.close()
    await asyncio.wait_for(joined.ended.wait(), 10)
