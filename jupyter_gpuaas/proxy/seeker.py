"""Finding the session of a kernel: by id or name, made where there is none, waited for where there is a queue."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from ..client.embedded import find_service
from ..client.service import ServiceClient
from ..config import Settings
from ..errors import NoSuchSession, ServiceUnreachable, SessionEnded
from ..model import LIVE_STATES, ChannelInfo, GpuSession, SessionState, SessionView
from ..wire.machine import machine_id

WAIT_S = 20.0
#: How long an end of the session waits for one that is being asked for.
KNOWN_TIMEOUT_S = 1.5
#: Variables of the client that a kernel would have had on the user's machine.
FORWARDED = ("JPY_SESSION_NAME", "MPLBACKEND")


class Seeker:
    """Gets tickets for the session of one proxy.

    Parameters
    ----------
    default_name
        Name of the session when neither ``GPUAAS_SESSION`` nor ``JPY_SESSION_NAME`` gives one.
    told, trying
        Called with how things stand, in words for the user; ``trying`` while nothing has been reached yet.
    """

    def __init__(
        self, settings: Settings, default_name: str, told: Callable[[str], None], trying: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._name = os.environ.get("JPY_SESSION_NAME") or default_name
        self._told = told
        self._trying = trying
        self._service: ServiceClient | None = None
        #: The session, once it is known.
        self.session: GpuSession | None = None
        self._known = asyncio.Event()
        #: Token of the user, once the service is known.
        self.token = settings.token

    async def ticket(self) -> ChannelInfo:
        """A ticket for the session's channel; waits as long as the session is queued or starting.

        Raises
        ------
        SessionEnded
            The session has failed, or was ended; the message says why.
        ServiceUnreachable
            No service answers.
        """
        service = await self._find()
        view = await self._view(service)
        while view.channel is None or view.session.state in (SessionState.QUEUED, SessionState.STARTING):
            self.session = view.session
            if view.session.state not in LIVE_STATES:
                raise SessionEnded(
                    f"session {view.session.name!r} has ended: {view.session.cause or view.session.state}.",
                    hint="Restart the kernel to get a new one.",
                )
            self._told(describe(view.session))
            if view.channel is not None:
                break
            view = await service.session(view.session.id, after=view.session.last_event, wait_s=WAIT_S)
        self.session = view.session
        self._known.set()
        return view.channel

    async def release(self) -> None:
        """End the session by the service, where the channel cannot be used."""
        if self._service is not None:
            await asyncio.wait_for(self._known.wait(), KNOWN_TIMEOUT_S)
        if self.session is not None:
            await (await self._find()).release(self.session.id)

    async def interrupt(self) -> None:
        """Interrupt what runs in the session, by the service."""
        if self.session is not None:
            await (await self._find()).interrupt(self.session.id)

    async def close(self) -> None:
        if self._service is not None:
            await self._service.close()

    async def _find(self) -> ServiceClient:
        if not self._settings.url and self.session is None:
            self._trying("looking for the service on this machine, or starting it")
        try:
            endpoint = await find_service(self._settings)
        except OSError as error:
            raise ServiceUnreachable(f"the service cannot be found or started: {error}.") from error
        if self._service is None or (self._service.url, self._service.token) != (endpoint.url, endpoint.token):
            await self.close()
            self._service = ServiceClient(endpoint.url, endpoint.token)
            self.token = endpoint.token
        return self._service

    async def _view(self, service: ServiceClient) -> SessionView:
        if self.session is not None:
            return await service.session(self.session.id)
        name = self._name
        if self._settings.session:
            try:
                return await service.session(self._settings.session)
            except NoSuchSession:
                name = self._settings.session
        env = {key: os.environ[key] for key in FORWARDED if key in os.environ}
        # Known before it is waited for, so that a client that changes its mind can end it.
        view = await service.create_session(name, cwd=os.getcwd(), machine=machine_id(), env=env)
        self.session = view.session
        self._known.set()
        return view


def describe(session: GpuSession) -> str:
    """State of a session that is not ready, for people."""
    if session.state is SessionState.QUEUED:
        place = f"place {session.queue_place}" if session.queue_place else "waiting for a place"
        return f"queued, {place}: every device that would do is in use"
    where = f" on {session.lease.node_id}" if session.lease else ""
    return f"starting{where}: {session.cause}" if session.cause else f"starting{where}"


def default_name(connection_file: Path) -> str:
    """Name of a session whose client gives it none: that of the kernel, which a restart keeps."""
    return connection_file.stem
