"""Facts as HTTP answers, and their schemas for the OpenAPI page."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import Response

from jupyter_gpuaas.errors import GpuaasError, to_wire
from jupyter_gpuaas.model import (
    Account,
    AuditEntry,
    CellRuns,
    ChannelInfo,
    CheckpointDiff,
    CheckpointStatus,
    CheckpointView,
    DrainView,
    Event,
    GpuSession,
    Lease,
    MigrationPlan,
    MigrationView,
    NewToken,
    NodeView,
    Proposal,
    Reservation,
    RestoreReport,
    SessionView,
    TokenView,
    UsageView,
    UserView,
)

_REF = "#/components/schemas/{name}"
_FACTS = (
    Account,
    AuditEntry,
    Reservation,
    TokenView,
    SessionView,
    GpuSession,
    ChannelInfo,
    CellRuns,
    UserView,
    NodeView,
    Lease,
    Event,
    NewToken,
    CheckpointView,
    CheckpointStatus,
    CheckpointDiff,
    RestoreReport,
    MigrationView,
    MigrationPlan,
    DrainView,
    Proposal,
    UsageView,
)


class Failure(msgspec.Struct, frozen=True):
    """Body of every answer that is not a success."""

    #: Name of the error's class.
    error: str
    message: str
    #: What the user can do.
    hint: str = ""


class Facts(Response):
    """Any fact as JSON; msgspec writes it, an order of magnitude faster than the framework's own way."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


def failure(error: GpuaasError) -> Facts:
    """The answer to a request that failed."""
    return Facts(to_wire(error), status_code=error.status)


def schemas() -> dict[str, Any]:
    """JSON schemas of all facts that are answered with, by name."""
    _, components = msgspec.json.schema_components((*_FACTS, Failure), ref_template=_REF)
    return components


def responses(
    kind: type[msgspec.Struct] | None, *, many: bool = False, status: int = 200
) -> dict[int | str, dict[str, Any]]:
    """The successes of a route for the OpenAPI page; what it may refuse is in ``openapi.py``."""
    if status == 204:
        return {status: {"description": "Done"}}
    schema: dict[str, Any] = {"type": "object"}
    if kind is not None:
        schema = {"$ref": _REF.format(name=kind.__name__)}
    if many:
        schema = {"type": "array", "items": schema}
    return {status: {"description": "Done", "content": {"application/json": {"schema": schema}}}}


def text(kind: str = "text/plain") -> dict[int | str, dict[str, Any]]:
    """The same of a route that answers with text, or bytes, of this media type."""
    return {200: {"description": "Done", "content": {kind: {"schema": {"type": "string"}}}}}
