"""A session in words for its user. Pure."""

from __future__ import annotations

from jupyter_gpuaas.model import GpuSession, SessionState

#: States in which there may be an address, and yet cells have to wait.
NOT_READY = (SessionState.QUEUED, SessionState.STARTING)


def describe(session: GpuSession) -> str:
    """State of a session that is not ready, for people."""
    state, where = session.state, f" on {session.lease.node_id}" if session.lease else ""
    if state in (SessionState.QUEUED, SessionState.RESTORING):
        place = f"place {session.queue_place}" if session.queue_place else "waiting for a place"
        waits = f"queued, {place}: every device that would do is in use"
        return waits if state is SessionState.QUEUED else f"to be restored; {waits}"
    if state is SessionState.PARKED:
        return "parked: its devices were given back; the next cell brings it back"
    if state is SessionState.MIGRATING:
        return f"between two nodes: {session.cause}" if session.cause else "between two nodes"
    if state is SessionState.LOST:
        return f"lost: {session.cause}"
    return f"starting{where}: {session.cause}" if session.cause else f"starting{where}"
