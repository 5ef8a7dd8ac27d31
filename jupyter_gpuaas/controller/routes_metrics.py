"""REST: figures for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter, Response

from jupyter_gpuaas.controller.callers import Caller, TheController
from jupyter_gpuaas.controller.sessions import LiveSession
from jupyter_gpuaas.model import LIVE_STATES

router = APIRouter(tags=["pool"])

#: Field of ``CheckpointStatus`` -> its metric, type and meaning. The counters begin with a session's kernel.
_OF_CHECKPOINTS = (
    ("taken", "checkpoints_taken_total", "counter", "Checkpoints that are durable."),
    ("failed", "checkpoints_failed_total", "counter", "Checkpoints that could not be taken."),
    ("passed_over", "checkpoints_put_off_total", "counter", "Checkpoints put off because of their cost."),
    ("stall_s", "checkpoint_stall_seconds_total", "counter", "Time for which captures held up the next cell."),
    ("capture_s", "checkpoint_capture_seconds_total", "counter", "Time from begin to commit."),
    ("looked_bytes", "checkpoint_looked_bytes_total", "counter", "Bytes that were compared."),
    ("copied_bytes", "checkpoint_copied_bytes_total", "counter", "Bytes that were copied."),
    ("written_bytes", "checkpoint_written_bytes_total", "counter", "Bytes that went to the store."),
    ("waiting", "checkpoints_waiting", "gauge", "Captures that are not written yet."),
)
_OF_LAST = (
    ("created_s", "checkpoint_last_timestamp_seconds", "When the newest checkpoint was taken."),
    ("host_bytes", "checkpoint_last_host_bytes", "Host memory that the newest checkpoint holds."),
    ("device_bytes", "checkpoint_last_device_bytes", "Device memory that the newest checkpoint holds."),
    ("stall_s", "checkpoint_last_stall_seconds", "How long the newest checkpoint held up the next cell."),
    ("capture_s", "checkpoint_last_capture_seconds", "How long the newest checkpoint took until it was durable."),
)


@router.get("/metrics", summary="Metrics", response_class=Response)
async def metrics(controller: TheController, user: Caller) -> Response:
    """Figures of the caller's live sessions (of all, for an admin) in Prometheus' text format; needs a token."""
    seen = [live for live in controller.sessions.all() if user.sees in (None, live.session.owner)]
    return Response("\n".join(_lines(seen)) + "\n", media_type="text/plain; version=0.0.4; charset=utf-8")


def _lines(sessions: list[LiveSession]) -> Iterator[str]:
    yield from _head("sessions", "gauge", "Live sessions by state.")
    states = [live.session.state for live in sessions]
    for state in sorted(LIVE_STATES):
        yield f'gpuaas_sessions{{state="{state}"}} {states.count(state)}'
    known = [(_labels(live), live.checkpoints) for live in sessions if live.checkpoints is not None]
    for field, name, kind, meaning in _OF_CHECKPOINTS:
        yield from _head(name, kind, meaning)
        for labels, status in known:
            yield f"gpuaas_{name}{labels} {getattr(status, field)}"
    for field, name, meaning in _OF_LAST:
        yield from _head(name, "gauge", meaning)
        for labels, status in known:
            if status.last is not None:
                yield f"gpuaas_{name}{labels} {getattr(status.last, field)}"


def _head(name: str, kind: str, meaning: str) -> Iterator[str]:
    yield f"# HELP gpuaas_{name} {meaning}"
    yield f"# TYPE gpuaas_{name} {kind}"


def _labels(live: LiveSession) -> str:
    session = live.session
    pairs = {"session": session.id, "name": session.name, "owner": session.owner}
    return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in pairs.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
