"""Waiting for a session's channel, whatever keeps it from one; a parked session is woken when it is wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.errors import SessionEnded
from jupyter_gpuaas.lifecycle.describe import NOT_READY, describe
from jupyter_gpuaas.model import LIVE_STATES, ChannelInfo, GpuSession, SessionState, SessionView

WAIT_S = 20.0


class Wanted:
    """Whether there is something for the session to do."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def want(self) -> None:
        """Something waits for it."""
        self._event.set()

    def settle(self) -> None:
        """What waited has been passed on."""
        self._event.clear()

    def __bool__(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
        await self._event.wait()


async def channel_of(
    service: ServiceClient,
    view: SessionView,
    wanted: Wanted,
    *,
    seen: Callable[[GpuSession], None],
    told: Callable[[str], None],
) -> tuple[SessionView, ChannelInfo]:
    """Wait until the session has a channel.

    Parameters
    ----------
    seen, told
        Called with each state on the way, as it is and in words for the user.

    Raises
    ------
    SessionEnded
        It has failed, or was ended; the message says why.
    ServiceUnreachable
        No service answers.
    """
    while view.channel is None or view.session.state in NOT_READY:
        session = view.session
        seen(session)
        if session.state not in LIVE_STATES:
            raise SessionEnded(
                f"session {session.name!r} has ended: {session.cause or session.state}.",
                hint="Restart the kernel to get a new one.",
            )
        told(describe(session))
        if view.channel is not None:
            break
        if session.state is SessionState.PARKED and wanted:
            view = await service.wake(session.id)
            continue
        view = await _next(service, session, wanted)
    return view, view.channel


async def _next(service: ServiceClient, session: GpuSession, wanted: Wanted) -> SessionView:
    """The session when something has happened to it; a parked one, when something wants it."""
    looking = asyncio.ensure_future(service.session(session.id, after=session.last_event, wait_s=WAIT_S))
    if session.state is not SessionState.PARKED:
        return await looking
    wish = asyncio.ensure_future(wanted.wait())
    try:
        await asyncio.wait({looking, wish}, return_when=asyncio.FIRST_COMPLETED)
        return looking.result() if looking.done() else await service.wake(session.id)
    finally:
        wish.cancel()
        looking.cancel()
        await asyncio.gather(wish, looking, return_exceptions=True)
