"""REST: figures for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import APIRouter, Request, Response

from jupyter_gpuaas.controller.answers import text
from jupyter_gpuaas.controller.callers import Caller, TheController
from jupyter_gpuaas.controller.pool_figures import head, labels, pool_lines
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


#: Sessions that have lines of their own, newest first; of the others only sums are told.
MOST_SESSIONS = 1000
#: Longest label, which users choose.
LABEL_CHARS = 128


@router.get("/metrics", summary="Metrics", response_class=Response, responses=text())
async def metrics(request: Request, controller: TheController, user: Caller) -> Response:
    """Figures in Prometheus' text format (docs/metrics.md): of the caller's live sessions; for an admin of all, and of
    the service. Needs a token.
    """
    seen = [live for live in controller.sessions.all() if user.sees in (None, live.session.owner)]
    lines = list(_lines(seen))
    if user.sees is None:
        lines += pool_lines(controller, request.app.state.figures, request.app.state.kernels.connections())
    return Response("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4; charset=utf-8")


def _lines(sessions: list[LiveSession]) -> Iterator[str]:
    yield from head("sessions", "gauge", "Live sessions by state.")
    states = [live.session.state for live in sessions]
    for state in sorted(LIVE_STATES):
        yield f'gpuaas_sessions{{state="{state}"}} {states.count(state)}'
    known = [(_labels(live), live.checkpoints) for live in sessions[-MOST_SESSIONS:] if live.checkpoints is not None]
    for field, name, kind, meaning in _OF_CHECKPOINTS:
        yield from head(name, kind, meaning)
        for of, status in known:
            yield f"gpuaas_{name}{of} {getattr(status, field)}"
    for field, name, meaning in _OF_LAST:
        yield from head(name, "gauge", meaning)
        for of, status in known:
            if status.last is not None:
                yield f"gpuaas_{name}{of} {getattr(status.last, field)}"


def _labels(live: LiveSession) -> str:
    session = live.session
    return labels(session=session.id, name=session.name[:LABEL_CHARS], owner=session.owner[:LABEL_CHARS])
