"""What a notebook's next kernel is to ask for: put down before it starts, read by its proxy.

Front ends start a kernel by the name of its kernelspec alone, so there is no other way from a dialog to the request.
One file a notebook in ``HOME/choices``.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from jupyter_gpuaas.errors import InvalidRequest
from jupyter_gpuaas.model import CPU, CUDA, ResourceRequest, check_name

FOLDER = "choices"
MOST_DEVICES = 1024
MOST_MEMORY_BYTES = 2**60
MOST_NODE_CHARS = 256


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a user has chosen for one notebook."""

    #: None: whatever there is.
    request: ResourceRequest | None = None
    #: Id or name of the session to attach to, instead of the notebook's own.
    session: str | None = None


class _Written(msgspec.Struct):
    name: str
    choice: Choice


def check_choice(choice: Choice) -> Choice:
    """The choice, or InvalidRequest with the field that no session could be asked for with."""
    request = choice.request or ResourceRequest()
    if not 1 <= request.devices <= MOST_DEVICES:
        raise InvalidRequest(f"request.devices: {request.devices} is not between 1 and {MOST_DEVICES}.")
    if request.kind not in (None, CPU, CUDA):
        raise InvalidRequest(f"request.kind: {request.kind!r} is none of {CPU}, {CUDA}, null.")
    if not 0 <= request.memory_bytes <= MOST_MEMORY_BYTES:
        raise InvalidRequest(f"request.memory_bytes: {request.memory_bytes} is not between 0 and {MOST_MEMORY_BYTES}.")
    if not 0 < request.share <= 1 or (request.share < 1 and request.devices != 1):
        raise InvalidRequest(f"request.share: {request.share:g} of {request.devices} is not a part of one device.")
    if request.node is not None and not 0 < len(request.node) <= MOST_NODE_CHARS:
        raise InvalidRequest("request.node: is no id of a node.")
    if request.standby not in (0, 1) or (request.standby and request.node is not None):
        raise InvalidRequest(f"request.standby: {request.standby} is neither 0, nor 1 without a node.")
    if choice.session is not None:
        try:
            check_name(choice.session)
        except ValueError as error:
            raise InvalidRequest(f"session: {str(error).removeprefix('name: ')}.") from None
    return choice


def write_choice(home: Path, name: str, choice: Choice) -> None:
    """Keep a choice for the session called ``name``; raises OSError."""
    path = _path(home, name)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    draft = path.with_suffix(".new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(msgspec.json.encode(_Written(name, choice)))
    draft.replace(path)


def read_choice(home: Path, name: str) -> Choice | None:
    """What was chosen for it; None where nothing was, or what is written cannot be read."""
    try:
        written = msgspec.json.decode(_path(home, name).read_bytes(), type=_Written)
        return check_choice(written.choice) if written.name == name else None
    except (OSError, msgspec.MsgspecError, InvalidRequest):
        return None


def drop_choice(home: Path, name: str) -> None:
    """Nothing is chosen any more; raises OSError."""
    _path(home, name).unlink(missing_ok=True)


def _path(home: Path, name: str) -> Path:
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    return home / FOLDER / f"{digest}.json"
