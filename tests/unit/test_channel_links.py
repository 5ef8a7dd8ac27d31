"""Links of a channel that end while another one is opened."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import msgspec
import pytest

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.errors import TransportError
from jupyter_gpuaas.model import ChannelInfo
from jupyter_gpuaas.wire import channel as module
from jupyter_gpuaas.wire.channel import Channel, ChannelHandler
from jupyter_gpuaas.wire.link import Link
from tests.service import eventually


class FakeLink:
    """A link that stands until it is closed."""

    closed = False

    def __init__(self, channel: Channel, *, silent: bool = False) -> None:
        self._channel = channel
        self.silent = silent

    def close(self, reason: str, code: int = 1000) -> None:
        self.closed = True
        asyncio.get_running_loop().call_soon(self._channel.link_closed, cast(Link, self), reason)


class Told:
    """Counts what the channel says of its links."""

    lost = 0

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def channel_unlinked(self, reason: str, retry_s: float) -> None:
        self.lost += 1
        self.pauses.append(retry_s)


async def test_end_of_a_link_that_was_given_up_does_not_count_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0

    async def connect(url: str, token: str, handler: Channel, **more: Any) -> Link:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise TransportError("no answer in time.")
        handler.link_closed(cast(Link, FakeLink(handler)), "given up long ago")
        return cast(Link, FakeLink(handler))

    monkeypatch.setattr(module, "connect", connect)
    told = Told()
    settings = Settings(retry_first_s=0.001, retry_most_s=0.001, relay="never")
    channel = Channel(_ticket, cast(ChannelHandler, told), settings, token=lambda: "")
    running = asyncio.create_task(channel.run())
    await eventually(lambda: tries == 2 and channel._link is not None)
    channel.close()
    await running
    assert (tries, told.lost) == (2, 1)


async def test_links_that_open_and_bring_nothing_are_tried_ever_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    async def connect(url: str, token: str, handler: Channel, **more: Any) -> Link:
        link = FakeLink(handler)
        asyncio.get_running_loop().call_soon(link.close, "refused what it was sent")
        return cast(Link, link)

    monkeypatch.setattr(module, "connect", connect)
    told = Told()
    channel = Channel(
        _ticket, cast(ChannelHandler, told), Settings(retry_first_s=0.001, relay="never"), token=lambda: ""
    )
    running = asyncio.create_task(channel.run())
    await eventually(lambda: told.lost >= 6)
    channel.close()
    await running
    assert told.pauses[:6] == pytest.approx([0.001 * module.PAUSE_GROWS**tries for tries in range(6)])


@pytest.mark.parametrize("silent", [False, True])
async def test_after_a_silent_link_the_service_is_asked_where_the_session_is(
    monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    nodes: list[str] = []

    async def connect(url: str, token: str, handler: Channel, **more: Any) -> Link:
        nodes.append(url.partition("?")[0])
        link = FakeLink(handler, silent=silent)
        if len(nodes) == 1:
            asyncio.get_running_loop().call_soon(link.close, "nothing heard")
        return cast(Link, link)

    async def ticket() -> ChannelInfo:
        return msgspec.structs.replace(await _ticket(), direct_url=f"ws://node-{len(nodes)}")

    monkeypatch.setattr(module, "connect", connect)
    settings = Settings(retry_first_s=0.001, relay="never")
    channel = Channel(ticket, cast(ChannelHandler, Told()), settings, token=lambda: "")
    running = asyncio.create_task(channel.run())
    await eventually(lambda: len(nodes) == 2)
    channel.close()
    await running
    assert nodes == ["ws://node-0", "ws://node-1" if silent else "ws://node-0"]


async def _ticket() -> ChannelInfo:
    ways = {"relay_url": "", "bundle_url": "", "relay_bundle_url": ""}
    return ChannelInfo(direct_url="ws://node", ticket="t", epoch=1, expires_s=1e12, **ways)
