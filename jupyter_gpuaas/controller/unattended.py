"""Ends sessions that have had no client for too long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from jupyter_gpuaas.controller.sessions import LiveSession, Sessions
from jupyter_gpuaas.model import SessionState

#: It is on its way to a host, where somebody may wait for it.
_COMES_BACK = (SessionState.LOST, SessionState.RESTORING)


class Unattended:
    """One timer for each session that nobody is attached to."""

    def __init__(self, sessions: Sessions, limit_s: float, release: Callable[[LiveSession, str], None]) -> None:
        self._sessions = sessions
        self._limit_s = limit_s
        self._release = release
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def open(self) -> None:
        """Begin with the sessions that no host reports on: those that are parked as checkpoints."""
        for live in self._sessions.all():
            if live.session.state is SessionState.PARKED and live.kept is None:
                self.look(live)

    def look(self, live: LiveSession) -> None:
        """Set, keep or cancel the timer of a session, by what its host said last."""
        session = live.session
        timer = self._timers.pop(session.id, None)
        if timer is not None:
            timer.cancel()
        there = live.hosted or session.state is SessionState.PARKED
        if session.clients or not session.unattended_since_s or not there or live.ended():
            return
        left_s = session.unattended_since_s + self._limit_s - time.time()
        loop = asyncio.get_running_loop()
        self._timers[session.id] = loop.call_later(max(0.0, left_s), self._end, session.id)

    def _end(self, session_id: str) -> None:
        self._timers.pop(session_id, None)
        live = self._sessions.get(session_id)
        if live is not None and live.session.state not in _COMES_BACK:
            self._release(
                live,
                f"no client was attached for {self._limit_s:g} s (setting unattended_s)",
            )

    def close(self) -> None:
        """Cancel all timers."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers = {}
