"""Events of the service as events of the Jupyter server. Pure.

Only fields that are named here reach a browser: whatever the service may add to the detail of an event stays behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jupyter_gpuaas.model import Event

PREFIX = "urn:jupyter-gpuaas"
SESSION, MIGRATION, CHECKPOINT = f"{PREFIX}:session:v1", f"{PREFIX}:migration:v1", f"{PREFIX}:checkpoint:v1"
ALLOCATION, NODE, SERVICE = f"{PREFIX}:allocation:v1", f"{PREFIX}:node:v1", f"{PREFIX}:service:v1"

Told = tuple[str, dict[str, Any]]

_MIGRATION: dict[str, Any] = {"migration": "", "phase": "", "source": "", "target": "", "bytes_sent": 0, "rounds": 0}
_MIGRATION |= {"downtime_s": 0.0, "total_s": 0.0}
_CHECKPOINT: dict[str, Any] = {"cell": 0, "name": "", "host_bytes": 0, "device_bytes": 0, "written_bytes": 0}
_CHECKPOINT |= {"stall_s": 0.0, "capture_s": 0.0, "lost": []}
_ALLOCATION: dict[str, Any] = {"node": "", "devices": []}
_NODE = {"node": "", "state": ""}


def told(event: Event) -> list[Told]:
    """What Jupyter's clients are told of an event: schema and data."""
    about = {"session": event.session_id, "epoch": event.epoch}
    if event.kind == "migration":
        return [_of(event, MIGRATION, **about, **_picked(event, _MIGRATION))]
    if event.kind.startswith("checkpoint_"):
        checkpoint = _picked(event, {"id": ""})["id"]
        more = _picked(event, _CHECKPOINT)
        return [_of(event, CHECKPOINT, kind=event.kind, **about, checkpoint=checkpoint, **more)]
    if event.kind == "service":
        return [_of(event, SERVICE, kind="service", state="", problem="", nodes=0)]
    if not event.session_id:
        return [_of(event, NODE, kind=event.kind, **_picked(event, _NODE))]
    places = _picked(event, {"queue_place": 0})
    states = {"source": event.source, "target": event.target}
    found = [_of(event, SESSION, kind=event.kind, **about, **states, **places)]
    if "devices" in event.detail:
        found.append(_of(event, ALLOCATION, **about, **_picked(event, _ALLOCATION)))
    return found


def of_link(state: str, problem: str, nodes: int, time_s: float) -> Told:
    """What they are told when the extension's own view of the service has changed."""
    more = {"kind": "state", "state": state, "problem": problem, "nodes": nodes}
    return SERVICE, {"seq": 0, "time_s": time_s, "cause": "", **more}


def _of(event: Event, schema: str, **fields: Any) -> Told:
    return schema, {"seq": event.seq, "time_s": event.time_s, "cause": event.cause, **fields}


def _picked(event: Event, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """These fields of its detail; what is missing, or of another kind than it should be, is as given."""
    return {name: _like(event.detail.get(name), default) for name, default in wanted.items()}


def _like(value: Any, default: Any) -> Any:
    if isinstance(default, float):
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else default
    if isinstance(default, int):
        return value if isinstance(value, int) and not isinstance(value, bool) else default
    if isinstance(default, list):
        return [each for each in value if isinstance(each, str)] if isinstance(value, list | tuple) else []
    return value if isinstance(value, str) else default
