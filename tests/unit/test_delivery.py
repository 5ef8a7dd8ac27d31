"""The proxy's delivery, with a front whose clients stall, vanish and return at will."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec
import pytest

from jupyter_gpuaas.model import Channel
from jupyter_gpuaas.proxy import delivery as module
from jupyter_gpuaas.proxy.delivery import Delivery
from jupyter_gpuaas.wire.jupyter import make_parts
from jupyter_gpuaas.wire.record import Buffer, Kind, Record


class Front:
    """Notes what is sent; ``taking`` and ``there`` say what the clients allow."""

    def __init__(self) -> None:
        self.subscribers = 1
        self.taking = True
        self.there: set[bytes] = {b"a"}
        self.published: list[bytes] = []
        self.metadata: list[bytes] = []
        self.replied: list[tuple[Channel, bytes, bytes]] = []

    def publish(self, topic: Buffer, parts: list[Buffer]) -> bool:
        if self.taking:
            self.published.append(bytes(parts[3]))
            self.metadata.append(bytes(parts[2]))
        return self.taking

    def reply(self, channel: Channel, address: Buffer, parts: list[Buffer]) -> bool:
        if bytes(address) not in self.there:
            return False
        self.replied.append((channel, bytes(address), bytes(parts[3])))
        return True


class Flow:
    def __init__(self) -> None:
        self.rewound: list[int] = []
        self.acknowledged = 0

    def rewind(self, number: int) -> None:
        self.rewound.append(number)

    def acknowledge(self, number: int) -> None:
        self.acknowledged = number


@pytest.fixture(autouse=True)
def _limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    monkeypatch.setattr(module, "unsent_bytes", lambda: 0)
    yield


def output(number: int) -> Record:
    return Record(Kind.IOPUB, number, 0, tuple(make_parts(b"t", "stream", b"{}", {"n": number})))


def reply(number: int, address: bytes = b"a", kind: Kind = Kind.SHELL) -> Record:
    return Record(kind, number, 0, tuple(make_parts(address, "execute_reply", b"{}", {"n": number})))


def numbers(contents: list[bytes]) -> list[int]:
    return [msgspec.json.decode(content)["n"] for content in contents]


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_word_of_our_own_comes_behind_the_outputs_that_wait_and_before_what_is_passed_over() -> None:
    front, flow = Front(), Flow()
    front.taking = False
    delivery = Delivery(front, flow, 0.0, most_records=2, most_bytes=2**26)  # type: ignore[arg-type]
    assert [delivery.take(output(number)) for number in (1, 2, 3, 4)] == [True, True, False, False]
    delivery.begin_anew()  # the journal of which 3 and 4 were is lost
    delivery.say(b"t", make_parts(b"", "stream", b"{}", {"n": 0})[1:])
    assert delivery.take(output(1)) is False
    front.taking = True
    delivery.subscribed()
    assert numbers(front.published) == [1, 2, 0]
    assert flow.rewound == [0]
    delivery.close()


async def test_stalled_client_gets_its_reply_and_later_every_output_once() -> None:
    front, flow = Front(), Flow()
    delivery = Delivery(front, flow, 0.0, most_records=5, most_bytes=2**26)  # type: ignore[arg-type]
    stream = [*(output(n) for n in range(1, 20)), reply(20), output(21)]
    front.taking = False
    for record in stream:
        delivery.take(record)
    assert front.replied == [(Channel.SHELL, b"a", stream[19].parts[4])]
    assert delivery.acknowledgeable == 0
    front.taking = True
    position = 0
    while flow.rewound or position == 0:
        await turn()
        if not flow.rewound:
            break
        position = flow.rewound.pop()
        for record in stream[position:]:
            delivery.take(record)
    assert numbers(front.published) == [*range(1, 20), 21]
    assert len(front.replied) == 1
    assert delivery.acknowledgeable == 21


async def test_outputs_wait_for_the_first_subscriber() -> None:
    front, flow = Front(), Flow()
    front.subscribers = 0
    delivery = Delivery(front, flow, 0.0, most_records=5, most_bytes=2**26)  # type: ignore[arg-type]
    for number in (1, 2, 3):
        delivery.take(output(number))
    assert front.published == [] and delivery.acknowledgeable == 0
    front.subscribers = 1
    delivery.subscribed()
    assert numbers(front.published) == [1, 2, 3] and delivery.acknowledgeable == 3


async def test_reply_waits_for_a_client_that_is_not_connected_yet() -> None:
    front, flow = Front(), Flow()
    delivery = Delivery(front, flow, 0.0, most_records=5, most_bytes=2**26)  # type: ignore[arg-type]
    delivery.take(output(1))
    delivery.take(reply(2, b"late"))
    delivery.take(output(3))
    assert delivery.acknowledgeable == 1
    front.there.add(b"late")
    while not front.replied:
        await turn()
    assert numbers([content for _, _, content in front.replied]) == [2]
    assert delivery.acknowledgeable == 3


async def test_prompt_goes_to_one_who_is_there_and_again_to_one_who_comes() -> None:
    front, flow = Front(), Flow()
    delivery = Delivery(front, flow, 0.0, most_records=5, most_bytes=2**26)  # type: ignore[arg-type]
    delivery.client_spoke(b"a")
    delivery.take(reply(1, b"gone", Kind.STDIN))
    assert [address for _, address, _ in front.replied] == [b"a"]
    front.there.add(b"b")
    delivery.client_spoke(b"b")
    delivery.client_spoke(b"b")
    assert [address for _, address, _ in front.replied] == [b"a", b"b"]
    delivery.prompt_answered()
    front.there.add(b"c")
    delivery.client_spoke(b"c")
    assert len(front.replied) == 2


async def test_prompt_waits_for_the_socket_of_the_one_who_is_to_be_asked() -> None:
    front, flow = Front(), Flow()
    front.there = set()
    delivery = Delivery(front, flow, 0.0, most_records=5, most_bytes=2**26)  # type: ignore[arg-type]
    delivery.client_spoke(b"late")
    delivery.take(reply(1, b"gone", Kind.STDIN))
    await turn()
    assert front.replied == []
    front.there.add(b"late")
    while not front.replied:
        await turn()
    assert [address for _, address, _ in front.replied] == [b"late"]
    await turn()
    assert len(front.replied) == 1


async def test_what_may_have_been_delivered_is_marked_and_nothing_else() -> None:
    front, flow = Front(), Flow()
    delivery = Delivery(front, flow, 0.0, most_records=5, most_bytes=2**26)  # type: ignore[arg-type]
    delivery.maybe_delivered = 2
    for number in (1, 2, 3):
        delivery.take(output(number))
    marked = ["gpuaas_delivery" in msgspec.json.decode(metadata) for metadata in front.metadata]
    assert marked == [True, True, False]


async def test_gap_is_shown_in_its_place() -> None:
    front, flow = Front(), Flow()
    delivery = Delivery(front, flow, 0.0, most_records=5, most_bytes=2**26)  # type: ignore[arg-type]
    delivery.take(Record(Kind.NOTICE, 9, 0, (b'{"gap":true,"first":1,"last":9}',)))
    delivery.take(output(10))
    assert "9 messages were dropped" in msgspec.json.decode(front.published[0])["text"]
    assert msgspec.json.decode(front.published[1]) == {"n": 10}


async def test_acknowledged_only_when_no_socket_holds_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    front, flow = Front(), Flow()
    held = 5
    monkeypatch.setattr(module, "unsent_bytes", lambda: held)
    delivery = Delivery(front, flow, 0.0, most_records=5, most_bytes=2**26)  # type: ignore[arg-type]
    delivery.take(output(1))
    for _ in range(50):
        await turn()
    assert flow.acknowledged == 0
    held = 0
    while not flow.acknowledged:
        await turn()
    assert flow.acknowledged == 1
