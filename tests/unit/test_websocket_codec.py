"""Jupyter messages on WebSockets, compared with Jupyter's own code."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_server.services.kernels.connection.base import (
    deserialize_binary_message,
    deserialize_msg_from_ws_v1,
    serialize_binary_message,
    serialize_msg_to_ws_v1,
)

from jupyter_gpuaas.errors import RemoteProtocolError
from jupyter_gpuaas.model import Channel
from jupyter_gpuaas.wire import websocket as codec

HEADER = {"msg_id": "a-1", "msg_type": "comm_msg", "session": "s", "username": "u", "date": "2026-01-01T00:00:00Z"}
MESSAGE: dict[str, Any] = {"header": HEADER, "parent_header": {"msg_id": "p"}, "metadata": {}, "content": {"ü": [1]}}
FIXED = [json.dumps(MESSAGE[name]).encode() for name in ("header", "parent_header", "metadata", "content")]
buffers = st.lists(st.binary(max_size=40), max_size=4)


@given(buffers)
def test_v1_is_what_jupyter_reads_and_writes(extra: list[bytes]) -> None:
    sent = codec.encode_v1(Channel.IOPUB, [*FIXED, *extra])
    assert sent == serialize_msg_to_ws_v1([*FIXED, *extra], "iopub")
    assert deserialize_msg_from_ws_v1(sent) == ("iopub", [*FIXED, *extra])
    channel, parts = codec.decode_v1(serialize_msg_to_ws_v1([*FIXED, *extra], "control"))
    assert (channel, parts) == (Channel.CONTROL, [*FIXED, *extra])


def test_text_is_what_jupyter_writes() -> None:
    message = json.loads(codec.encode_text(Channel.IOPUB, FIXED))
    known = {"channel": "iopub", "msg_id": "a-1", "msg_type": "comm_msg", "buffers": []}
    assert message == MESSAGE | known
    channel, parts = codec.decode_text(json.dumps(MESSAGE | {"channel": "stdin", "buffers": []}))
    assert channel is Channel.STDIN
    assert [json.loads(bytes(part)) for part in parts] == list(MESSAGE.values())


@given(buffers)
def test_binary_is_what_jupyter_reads_and_writes(extra: list[bytes]) -> None:
    read = deserialize_binary_message(codec.encode_binary(Channel.IOPUB, [*FIXED, *extra]))
    assert [bytes(buffer) for buffer in read["buffers"]] == extra
    assert read["content"] == MESSAGE["content"]
    sent = serialize_binary_message(json.loads(json.dumps(MESSAGE)) | {"channel": "shell", "buffers": extra})
    channel, parts = codec.decode_binary(sent)
    assert channel is Channel.SHELL
    assert parts[codec.FIXED_PARTS :] == extra


def test_text_that_a_kernel_wrote_badly_is_still_text() -> None:
    content = b'{"text": "\xff"}'
    assert json.loads(codec.encode_text(Channel.IOPUB, [*FIXED[:3], content]))["content"] == {"text": "\ufffd"}


@given(st.binary(max_size=200), st.integers(0, 2))
def test_whatever_a_client_sends_is_read_or_refused(data: bytes, how: int) -> None:
    read = (codec.decode_v1, codec.decode_binary, codec.decode_text)[how]
    try:
        channel, parts = read(data)
    except RemoteProtocolError:
        return
    assert channel is not Channel.IOPUB
    assert len(parts) >= codec.FIXED_PARTS


@pytest.mark.parametrize("cut", [0, 7, 8, 30, -1])
def test_v1_cut_short_is_refused(cut: int) -> None:
    whole = codec.encode_v1(Channel.SHELL, FIXED)
    with pytest.raises(RemoteProtocolError):
        codec.decode_v1(whole[:cut])
    with pytest.raises(RemoteProtocolError):
        codec.decode_v1(codec.encode_v1(Channel.IOPUB, FIXED))
