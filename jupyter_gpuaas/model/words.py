"""Facts about checkpoints in words: what magics, command line and notices show. Pure."""

from __future__ import annotations

import itertools
import shlex
import time
from collections.abc import Callable, Sequence

from .checkpoint import CheckpointDiff, CheckpointStatus, CheckpointView, RestoreReport, short_id
from .event import Event
from .migration import MigrationPlan, MigrationView, Phase, StandbyView
from .session import GpuSession, Lease, SessionState

#: Names that are told one by one.
NAMES_TOLD = 20
HEAD = ("ID", "WHEN", "CELL", "NAME", "HOST", "DEVICE", "NEW", "STALL", "TOOK", "NOT RESTORABLE")


def amount(count: float) -> str:
    """A number of bytes as people say it."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def held(lease: Lease) -> str:
    """The devices of a lease."""
    devices = ", ".join(lease.device_ids) or "no device"
    return devices if lease.share == 1 or not lease.device_ids else f"{lease.share:g} of {devices}"


def in_use(part: float, word: str = "in use") -> str:
    """How much of a device is held."""
    return "free" if not part else word if part >= 1 else f"{part:g} {word}"


def rows(views: Sequence[CheckpointView]) -> list[tuple[str, ...]]:
    """The table of checkpoints under ``HEAD``."""
    return [
        (
            view.short,
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(view.created_s)),
            str(view.cell),
            view.label,
            amount(view.host_bytes),
            amount(view.device_bytes) if view.device_bytes else "-",
            amount(view.written_bytes),
            duration(view.stall_s),
            duration(view.capture_s),
            _few(list(view.lost)),
        )
        for view in views
    ]


def table(views: Sequence[CheckpointView]) -> str:
    """The table as text."""
    lines = [HEAD, *rows(views)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def taken_line(view: CheckpointView) -> str:
    """One line about a checkpoint that was just taken."""
    named = f" {view.label!r}" if view.label else ""
    return (
        f"checkpoint {view.short}{named} after cell {view.cell}: {amount(view.host_bytes + view.device_bytes)}, "
        f"{amount(view.written_bytes)} new, in {duration(view.capture_s)}"
    )


def _variables(count: int) -> str:
    return "1 variable" if count == 1 else f"{count} variables"


def lost_lines(lost: dict[str, str], what: str = "not restorable") -> list[str]:
    """One line for each name, but not for more than a screen of them."""
    told = [f"{what}: {name}: {note}" if note else f"{what}: {name}" for name, note in lost.items()]
    more = len(told) - NAMES_TOLD
    return told[:NAMES_TOLD] + ([f"{what}: {more} more"] if more > 0 else [])


def restored_lines(report: RestoreReport) -> list[str]:
    """What a restore gave."""
    view = report.checkpoint
    named = f" {view.label!r}" if view.label else ""
    return [
        f"{_variables(report.names)} restored from checkpoint {view.short}{named}, "
        f"taken after cell {view.cell}, in {duration(report.took_s)}",
        *lost_lines(report.lost, "not restored"),
        *lost_lines(report.rebuilt, "made anew"),
        *lost_lines(report.replayed, "replayed"),
        *report.remarks,
    ]


def begun_lines(report: RestoreReport, session: GpuSession) -> list[str]:
    """A new session that begins with a checkpoint: how it stands, and how to get to it."""
    how, checkpoint = str(session.state), f"checkpoint {report.checkpoint.short}"
    if session.state is SessionState.QUEUED:
        place = f", place {session.queue_place} in the queue" if session.queue_place else ""
        how, then = f"queued{place}", f"{checkpoint} is restored when it starts"
    else:
        then = f"it begins with {checkpoint}"
    return [
        f"session {session.name!r} is {how}; {then}",
        f"to open it, on your own machine: jupyter gpuaas attach {shlex.quote(session.name)}",
        *lost_lines(report.lost),
    ]


def diff_lines(diff: CheckpointDiff) -> list[str]:
    """What differs, a line for each kind of difference."""
    found = [(what, getattr(diff, what)) for what in ("added", "removed", "changed")]
    return [f"{what}: {', '.join(names)}" for what, names in found if names] or ["no name differs"]


def status_lines(status: CheckpointStatus | None) -> list[str]:
    """How a session's checkpoints stand and what they cost."""
    if status is None:
        return ["checkpoints: none yet"]
    often = {0: "only when asked for", 1: "after each cell"}.get(status.every, f"after every {status.every} cells")
    waiting = f", {status.waiting} being written" if status.waiting else ""
    lines = [f"checkpoints: {often}, {status.taken} taken{waiting}"]
    if status.taken:
        lines.append(
            f"    they cost: next cell held up {duration(status.stall_s / status.taken)} on average "
            f"({duration(status.stall_s)} in all), {amount(status.looked_bytes)} looked at, "
            f"{amount(status.copied_bytes)} copied, {amount(status.written_bytes)} written"
        )
    if status.last is not None:
        lines.append(f"    last: {taken_line(status.last)}")
        lines += [f"    {line}" for line in lost_lines(status.last.lost)]
    if status.remark:
        lines.append(f"    {status.remark}")
    if status.passed_over:
        lines.append(f"    put off because of their cost: {status.passed_over}")
    if status.problem:
        lines.append(f"    the newest one could not be taken: {status.problem}")
    if status.progress:
        lines.append(f"    under way: {status.progress}")
    return lines


_DOING = {
    Phase.RESERVE: "making room on {target}",
    Phase.PRE_COPY: "copying to {target} while it is used",
    Phase.QUIESCE: "letting the cell that runs come to its end",
    Phase.STOP_COPY: "copying the last changes",
    Phase.RESTORE: "making the variables on {target}",
    Phase.VERIFY: "handing over",
    Phase.CUTOVER: "beginning on {target}",
}


def standby_lines(view: StandbyView | None) -> list[str]:
    """How a session's standby stands; nothing where it wants none."""
    if view is None:
        return []
    if view.state == "waits":
        return [f"standby: none yet: {view.cause}" if view.cause else "standby: none yet"]
    where = f"on {view.node} with {', '.join(view.device_ids) or 'no device'}"
    if not view.checkpoint:
        return [f"standby: starts {where}"]
    return [
        f"standby: {where}, has checkpoint {short_id(view.checkpoint)} after cell {view.cell} "
        f"({amount(view.state_bytes)}, brought in {duration(view.took_s)})"
    ]


def phase_line(view: MigrationView) -> str:
    """What a migration is doing."""
    doing = _DOING.get(view.phase, str(view.phase)).format(target=view.target)
    return f"{doing} ({amount(view.bytes_sent)} sent)" if view.bytes_sent else doing


def plan_lines(plan: MigrationPlan) -> list[str]:
    """What a migration would do."""
    return [
        f"from {plan.source} to {plan.target}: {_variables(plan.moves)}, about {amount(plan.bytes_estimate)}, "
        f"about {duration(plan.total_s_estimate)}, of which it stands still for about "
        f"{duration(plan.downtime_s_estimate)} (estimates)",
        *lost_lines(plan.lost, "would be lost"),
        *lost_lines(plan.rebuilt, "made anew there"),
        *plan.remarks,
    ]


def story_lines(events: Sequence[Event], when: Callable[[float], str]) -> list[str]:
    """What happened to a session, one line for each event, with how long each state lasted.

    Parameters
    ----------
    when
        A time, in seconds since the epoch, in words.
    """
    lines = []
    changes = [event for event in events if event.kind == "transition"]
    until = {one.seq: other.time_s for one, other in itertools.pairwise(changes)}
    for event in events:
        if event.kind == "transition":
            lasted = f" ({duration(until[event.seq] - event.time_s)})" if event.seq in until else ""
            what = f"{event.target}{lasted}"
        elif event.kind == "migration":
            what = f"  {event.detail.get('phase', 'migration')}"
        else:
            what = f"  {event.kind.replace('_', ' ')}"
        lines.append(f"{when(event.time_s)}  {what:<24}  {event.cause}".rstrip())
    return lines


def _few(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
