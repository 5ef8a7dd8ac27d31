"""What both halves say to each other around a shipped cell.

`Shipment` is ``metadata["gpuaas"]`` of the execute request, `Returned` is ``content["gpuaas"]`` of its reply.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Shipment(msgspec.Struct, kw_only=True):
    """What comes with a cell."""

    #: The bundle with variables and files, put before; empty if the session holds all that the cell needs.
    bundle: str = ""
    #: Names that the cell reads, those that the session held already included.
    inputs: list[str] = []
    #: Groups that need not be sent, as the session said that it holds them: names and version.
    held: list[tuple[list[str], str]] = []
    assigns: list[str] = []
    deletes: list[str] = []
    #: Names whose values are to come back whatever their size.
    force: list[str] = []
    small_value_bytes: int = 0
    #: Source files of local modules and their digests, what is imported first first.
    modules: list[tuple[str, str]] = []
    #: Folders below the working folder in which modules are found.
    paths: list[str] = []
    #: Handles that nobody holds any more.
    drop: list[str] = []


class Returned(msgspec.Struct, kw_only=True):
    """What the cell did to the notebook's names."""

    #: The bundle with values, to be fetched; empty if there are none.
    bundle: str = ""
    #: Descriptions of values that stay in the session.
    handles: list[dict[str, Any]] = []
    #: Assigned name -> input that it is the same object as.
    aliases: dict[str, str] = {}
    deleted: list[str] = []
    #: Names asked for with ``-o`` that the session does not have.
    missing: list[str] = []
    #: Inputs that the cell changed in place and did not assign.
    changed: list[str] = []
    #: Why nothing could be said; empty normally.
    failure: str = ""
