"""Jupyter messages as they cross a Jupyter WebSocket: the protocol with a name, and the older one without.

``v1.kernel.websocket.jupyter.org`` is frames behind a table of offsets, so parts are passed on as they are. The older
protocol is one JSON text; a message with buffers is binary, with the JSON as the first of its parts. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise

import msgspec

from ..errors import RemoteProtocolError
from ..model import Channel
from .jupyter import read_header
from .record import Buffer
from .unreadable import UNREADABLE

V1 = "v1.kernel.websocket.jupyter.org"
#: Header, parent, metadata and content.
FIXED_PARTS = 4
MOST_PARTS = 65_535


class _Text(msgspec.Struct):
    header: msgspec.Raw
    channel: str = ""
    parent_header: msgspec.Raw = msgspec.Raw(b"{}")
    metadata: msgspec.Raw = msgspec.Raw(b"{}")
    content: msgspec.Raw = msgspec.Raw(b"{}")


def encode_v1(channel: Channel, parts: Sequence[Buffer]) -> bytes:
    """A message (header, parent, metadata, content, *buffers) in the named protocol."""
    pieces: list[Buffer] = [channel.value.encode(), *parts]
    offsets = [8 * (1 + len(pieces) + 1)]
    for piece in pieces:
        offsets.append(offsets[-1] + len(piece))
    return b"".join([struct.pack(f"<{len(offsets) + 1}Q", len(offsets), *offsets), *pieces])


def decode_v1(data: bytes) -> tuple[Channel, list[Buffer]]:
    """The opposite; raises RemoteProtocolError for what is none."""
    (count,) = struct.unpack_from("<Q", data) if len(data) >= 8 else (0,)
    if not FIXED_PARTS + 2 <= count <= MOST_PARTS or len(data) < 8 * (count + 1):
        raise RemoteProtocolError("a message whose table of offsets is not whole.")
    offsets = struct.unpack_from(f"<{count}Q", data, 8)
    channel, *parts = _cut(data, offsets, 8 * (count + 1))
    return _channel(bytes(channel).decode("utf-8", "replace")), parts


def encode_text(channel: Channel, parts: Sequence[Buffer]) -> str:
    """A message without its buffers in the older protocol."""
    return _json(channel, parts).decode("utf-8", "replace")


def encode_binary(channel: Channel, parts: Sequence[Buffer]) -> bytes:
    """A message with its buffers in the older protocol."""
    pieces: list[Buffer] = [_json(channel, parts), *parts[FIXED_PARTS:]]
    offsets = [4 * (len(pieces) + 1)]
    for piece in pieces[:-1]:
        offsets.append(offsets[-1] + len(piece))
    return b"".join([struct.pack(f"!{len(pieces) + 1}I", len(pieces), *offsets), *pieces])


def decode_text(data: str | bytes) -> tuple[Channel, list[Buffer]]:
    """The opposite of ``encode_text``; raises RemoteProtocolError for what is none."""
    try:
        message = msgspec.json.decode(data, type=_Text)
    except UNREADABLE as error:
        raise RemoteProtocolError(f"a message that is no JSON of a message: {error}.") from error
    parts = [message.header, message.parent_header, message.metadata, message.content]
    return _channel(message.channel or "shell"), [bytes(part) or b"{}" for part in parts]


def decode_binary(data: bytes) -> tuple[Channel, list[Buffer]]:
    """The opposite of ``encode_binary``; raises RemoteProtocolError for what is none."""
    (count,) = struct.unpack_from("!I", data) if len(data) >= 4 else (0,)
    if not 1 <= count <= MOST_PARTS or len(data) < 4 * (count + 1):
        raise RemoteProtocolError("a message whose table of offsets is not whole.")
    text, *buffers = _cut(data, (*struct.unpack_from(f"!{count}I", data, 4), len(data)), 4 * (count + 1))
    channel, parts = decode_text(bytes(text))
    return channel, [*parts, *buffers]


def _json(channel: Channel, parts: Sequence[Buffer]) -> bytes:
    header = read_header(parts[0])
    known = {"channel": channel.value, "msg_id": header.msg_id, "msg_type": header.msg_type}
    # The parts are JSON already: put together, not parsed.
    names = (b"header", b"parent_header", b"metadata", b"content")
    pieces = [b'"%s":%s' % (name, bytes(part)) for name, part in zip(names, parts, strict=False)]
    return msgspec.json.encode(known)[:-1] + b',"buffers":[],' + b",".join(pieces) + b"}"


def _cut(data: bytes, offsets: Sequence[int], least: int) -> list[Buffer]:
    if offsets[0] < least or offsets[-1] > len(data) or list(offsets) != sorted(offsets):
        raise RemoteProtocolError("a message whose offsets are not within it.")
    return [data[begin:end] for begin, end in pairwise(offsets)]


def _channel(name: str) -> Channel:
    if name not in (Channel.SHELL, Channel.CONTROL, Channel.STDIN):
        raise RemoteProtocolError(f"channel: {name[:40]!r} is none that a client may send on.")
    return Channel(name)
