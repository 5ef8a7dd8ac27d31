"""Messages to JSON and back, quicker where the result is the same as jupyter_client's."""

from __future__ import annotations

from typing import Any

import msgspec
from jupyter_client.session import json_packer, json_unpacker

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def pack(value: Any) -> bytes:
    """Headers and what is empty the quick way; contents are the user's, of whom json and msgspec think differently."""
    if not value and type(value) is dict:
        return b"{}"
    if type(value) is dict and "msg_id" in value and "msg_type" in value:
        try:
            return _encode(value)
        except (TypeError, ValueError):  # a lone surrogate in a name, for instance
            pass
    packed: bytes = json_packer(value)
    return packed


def unpack(data: bytes) -> Any:
    """What is JSON by the book the quick way."""
    try:
        return _decode(data)
    except ValueError:  # UnicodeDecodeError and msgspec's DecodeError, too
        return json_unpacker(data)
