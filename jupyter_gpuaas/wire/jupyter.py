"""Jupyter messages as they pass: headers read only as far as needed, a few messages of our own made."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from typing import Any, TypeVar

import msgspec

from .record import Buffer
from .unreadable import UNREADABLE

DELIMITER = b"<IDS|MSG>"
PROTOCOL_VERSION = "5.4"
#: Session in the headers of messages that we say ourselves, and beginning of their ids.
OWN_SESSION = "gpuaas"


class Header(msgspec.Struct):
    """What we look at in a message header; everything else passes through unseen."""

    msg_id: str = ""
    msg_type: str = ""
    session: str = ""


class _Route(msgspec.Struct):
    msg_type: str = ""
    subshell_id: str | None = None


class _Counted(msgspec.Struct):
    execution_count: int | None = 0


_Struct = TypeVar("_Struct", bound=msgspec.Struct)
_decoder = msgspec.json.Decoder(Header)
_route_decoder = msgspec.json.Decoder(_Route)


def read_header(data: Buffer) -> Header:
    """Decode a header or parent header; raises ``msgspec.DecodeError`` when it is none."""
    return _decoded(_decoder, data)


def read_subshell(data: Buffer) -> str | None:
    """The shell of the kernel that the request with this header is for; None for the main one."""
    return read_route(data)[1]


def read_route(data: Buffer) -> tuple[str, str | None]:
    """Type of the request with this header, and the shell of the kernel that it is for; None for the main one.

    Raises ``msgspec.DecodeError`` when it is none.
    """
    route = _decoded(_route_decoder, data)
    return route.msg_type, route.subshell_id


def read_count(content: Buffer) -> int:
    """Number of the cell that a reply with this content is of; 0 when it has none, as of one that did not run."""
    try:
        return msgspec.json.decode(content, type=_Counted).execution_count or 0
    except UNREADABLE:
        return 0


def read_json(data: Buffer) -> Any:
    """Decode a part of a message; raises ``msgspec.DecodeError`` when it is no JSON.

    A kernel may print what is no text, so bytes that are no UTF-8 are replaced.
    """
    try:
        try:
            return msgspec.json.decode(data)
        except (UnicodeDecodeError, msgspec.DecodeError):  # which of them says "no UTF-8" is up to msgspec's version
            return msgspec.json.decode(str(data, "utf-8", "replace"))
    except RecursionError as error:
        raise msgspec.DecodeError(str(error)) from error


def _decoded(decoder: msgspec.json.Decoder[_Struct], data: Buffer) -> _Struct:
    # The decoder lets two more through, of which whoever sends them must not be able to make our crash.
    try:
        return decoder.decode(data)
    except (UnicodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error


def make_parts(
    address: Buffer,
    msg_type: str,
    parent: Buffer,
    content: dict[str, Any],
    metadata: dict[str, Any] | None = None,
    *,
    subshell: str = "",
) -> list[Buffer]:
    """Parts of a message that we have to say ourselves, as an answer to the message with header ``parent``."""
    header = {
        "msg_id": f"{OWN_SESSION}-{os.urandom(12).hex()}",
        "msg_type": msg_type,
        "username": "gpuaas",
        "session": OWN_SESSION,
        "date": datetime.now(timezone.utc).isoformat(),
        "version": PROTOCOL_VERSION,
    }
    if subshell:
        header["subshell_id"] = subshell
    encode = msgspec.json.encode
    return [address, encode(header), parent, encode(metadata or {}), encode(content)]


def split_frames(frames: list[Buffer]) -> tuple[list[Buffer], Buffer, list[Buffer]]:
    """Identities, signature, and (header, parent, metadata, content, *buffers) of a message.

    Raises ValueError when it is not a Jupyter message.
    """
    for index, frame in enumerate(frames[:8]):
        if len(frame) == len(DELIMITER) and bytes(frame) == DELIMITER:
            rest = frames[index + 1 :]
            if len(rest) < 5:
                raise ValueError(f"message: has {len(rest)} frames behind the delimiter, at least 5 are needed")
            return frames[:index], rest[0], rest[1:]
    raise ValueError("message: has no delimiter <IDS|MSG>")
