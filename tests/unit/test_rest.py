"""What the service says that is not as it should be."""

from __future__ import annotations

import pytest
from websockets.asyncio.server import ServerConnection, serve

from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.errors import RemoteProtocolError


async def test_stream_with_what_is_no_event_is_an_error_of_ours() -> None:
    async def say(socket: ServerConnection) -> None:
        await socket.send('{"seq": "of another version"}')
        await socket.wait_closed()

    async with serve(say, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with ServiceClient(f"http://127.0.0.1:{port}", "token") as client:
            with pytest.raises(RemoteProtocolError, match="not of this version"):
                await anext(client.stream_events())
