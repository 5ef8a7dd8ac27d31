"""A ZMQ socket in the loop: read in batches, or not at all for a while."""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterator

import pytest
import zmq

from jupyter_gpuaas.wire.zmqport import BATCH, Message, ZmqPort
from tests.service import eventually

#: More than one batch.
MANY = 2 * BATCH + 10
TURNS = 50


class Port(ZmqPort):
    """Counts how often it looks for messages."""

    looks = 0

    def _ready(self) -> None:
        self.looks += 1
        super()._ready()


class Pair:
    """A port, what it has taken, and who sends to it."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self.far = context.socket(zmq.PAIR)
        self.far.bind(address)
        near = context.socket(zmq.PAIR)
        near.connect(address)
        self.taken: list[int] = []
        self.port = Port(near, self._take)

    def _take(self, batch: list[Message]) -> None:
        self.taken += (int(bytes(parts[0])) for parts in batch)

    def send(self, count: int) -> None:
        for number in range(count):
            self.far.send(str(number).encode())

    async def arrived(self) -> None:
        """Return when its descriptor tells of messages, which nobody has read."""
        await eventually(lambda: select.select([self.port._descriptor], [], [], 0)[0])


async def turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    context = zmq.Context()
    made = Pair(context, "inproc://port")
    await turns()
    yield made
    made.port.close()
    made.far.close(0)
    context.term()


async def test_paused_port_is_not_called_while_messages_wait_and_then_takes_them_all(pair: Pair) -> None:
    pair.port.pause()
    pair.port.pause()
    pair.send(MANY)
    await pair.arrived()
    pair.port.looks = 0
    await turns()
    assert (pair.port.looks, pair.taken) == (0, [])
    pair.port.resume()
    await eventually(lambda: len(pair.taken) == MANY)
    assert pair.taken == list(range(MANY))
    pair.send(1)
    await eventually(lambda: len(pair.taken) > MANY)


async def test_port_that_is_paused_by_a_batch_takes_the_rest_when_it_goes_on(pair: Pair) -> None:
    take = pair._take

    def take_and_pause(batch: list[Message]) -> None:
        take(batch)
        pair.port.pause()

    pair.port._on_batch = take_and_pause
    pair.send(MANY)
    await eventually(lambda: pair.taken)
    await turns()
    pair.port.looks = 0
    await turns()
    assert (pair.port.looks, pair.taken) == (0, list(range(BATCH)))
    pair.port._on_batch = take
    pair.port.resume()
    await eventually(lambda: len(pair.taken) == MANY)
    assert pair.taken == list(range(MANY))


async def test_what_is_sent_while_it_is_paused_costs_it_no_message(pair: Pair) -> None:
    """Sending may consume the edge that told of one."""
    pair.port.pause()
    pair.send(1)
    await pair.arrived()
    pair.port.send([b"1"])
    await turns()
    assert pair.taken == [] and pair.far.recv() == b"1"
    pair.port.resume()
    await eventually(lambda: pair.taken == [0])


async def test_port_that_is_closed_while_it_is_paused_stays_closed(pair: Pair) -> None:
    pair.port.pause()
    descriptor = pair.port._descriptor
    pair.port.close()
    pair.port.resume()
    pair.port.pause()
    await turns()
    assert not asyncio.get_running_loop().remove_reader(descriptor)
