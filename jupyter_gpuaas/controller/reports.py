"""What an agent's report means for a session. Pure."""

from __future__ import annotations

from typing import Any

from jupyter_gpuaas.lifecycle.session import SessionEvent
from jupyter_gpuaas.model import CheckpointStatus, HostReport, HostState, SessionState, short_id

#: States in which a session may have one whose end alone counts: it is parked with its process.
KEPT_STATES = frozenset({SessionState.PARKED, SessionState.RESTORING})

Happened = tuple[SessionEvent, str]

#: States in which a session has a host whose reports count.
HOSTED_STATES = frozenset({SessionState.STARTING, SessionState.IDLE, SessionState.BUSY, SessionState.SUSPENDED})


def happened(state: SessionState, kernel_starts: int, report: HostReport) -> list[Happened]:
    """Events that lead from what is known to what is reported, in order, each with its cause.

    Reports are snapshots, not a log: a kernel that was idle, died and is idle again may show only as a higher
    ``kernel_starts``.
    """
    if state not in HOSTED_STATES | KEPT_STATES:
        return []
    if report.state is HostState.DEAD:
        return [(SessionEvent.HOST_DIED, report.cause or "its host is gone")]
    if report.state is HostState.ENDING:
        return [(SessionEvent.RELEASE, report.cause or "its client shut it down")]
    if state in KEPT_STATES:
        return []
    if state is SessionState.SUSPENDED:
        # Whatever else has become of its kernel shows when its turn has come.
        failed = report.state is HostState.FAILED
        return [(SessionEvent.START_FAILED, report.cause or "its kernel did not start")] if failed else []
    events: list[Happened] = []
    failed = report.state is HostState.FAILED
    if state is not SessionState.STARTING and (
        failed or report.state is HostState.STARTING or report.kernel_starts > kernel_starts
    ):
        by_user = "restarted" in report.cause
        events.append(
            (SessionEvent.RESTARTED, report.cause)
            if by_user
            else (SessionEvent.KERNEL_DIED, report.cause or "its kernel died")
        )
        state = SessionState.STARTING
    if failed:
        events.append((SessionEvent.START_FAILED, report.cause or "its kernel did not start"))
        return events
    if state is SessionState.STARTING and report.state in (HostState.IDLE, HostState.BUSY):
        events.append((SessionEvent.READY, ""))
        state = SessionState.IDLE
    if state is SessionState.IDLE and report.state is HostState.BUSY:
        events.append((SessionEvent.CELL_STARTED, ""))
    if state is SessionState.BUSY and report.state is HostState.IDLE:
        events.append((SessionEvent.CELL_ENDED, ""))
    return events


News = tuple[str, str, dict[str, Any]]


def checkpoint_news(before: CheckpointStatus | None, now: CheckpointStatus) -> list[News]:
    """Events that lead from one status of a session's checkpoints to the next: kind, cause and detail."""
    if before is None or now.taken < before.taken or now.failed < before.failed:
        before = CheckpointStatus(every=now.every)  # of a fresh kernel
    news: list[News] = []
    if now.taken > before.taken and now.last is not None:
        last, more = now.last, now.taken - before.taken - 1
        detail = {
            "id": last.id,
            "cell": last.cell,
            "name": last.label,
            "host_bytes": last.host_bytes,
            "device_bytes": last.device_bytes,
            "written_bytes": last.written_bytes,
            "stall_s": last.stall_s,
            "capture_s": last.capture_s,
            "lost": list(last.lost),
        }
        others = f", and {more} before it" if more else ""
        news.append(("checkpoint_taken", f"checkpoint {last.short} after cell {last.cell}{others}", detail))
    if now.failed > before.failed:
        news.append(("checkpoint_failed", now.last_problem, {"failed": now.failed - before.failed}))
    if now.remark and now.remark != before.remark:
        news.append(("checkpoint_rarer", now.remark, {}))
    if now.every != before.every:
        cause = f"a checkpoint after every {now.every} cells" if now.every else "no checkpoints by itself"
        news.append(("checkpoint_every", cause, {"every": now.every}))
    if now.forgotten > before.forgotten:
        news.append(("checkpoint_forgotten", f"{now.forgotten - before.forgotten} removed by the user", {}))
    if now.restores > before.restores:
        cause = f"the variables are those of checkpoint {short_id(now.restored)}"
        news.append(("checkpoint_restored", cause, {"id": now.restored}))
    return news
