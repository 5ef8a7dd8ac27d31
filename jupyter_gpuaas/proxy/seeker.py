"""Finding the session of a kernel: by id or name, made where there is none, waited for where there is a queue."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from ..client.choices import Choice, read_choice
from ..client.coming import Wanted, channel_of
from ..client.embedded import find_service
from ..client.service import ServiceClient
from ..config import Settings
from ..errors import NoSuchSession, ServiceUnreachable, SessionEnded
from ..model import ChannelInfo, GpuSession, ResourceRequest, SessionView
from ..model.session import parts
from ..wire.machine import machine_id

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
    found
        Called with the service's address and the session, when it is known or another one than before.
    """

    def __init__(
        self,
        settings: Settings,
        default_name: str,
        told: Callable[[str], None],
        trying: Callable[[str], None],
        found: Callable[[str, GpuSession], None],
    ) -> None:
        self._settings = settings
        self._name = os.environ.get("JPY_SESSION_NAME") or default_name
        self._told = told
        self._trying = trying
        self._found = found
        self._service: ServiceClient | None = None
        #: The session, once it is known.
        self.session: GpuSession | None = None
        #: Whether a request waits for the session: a parked one is woken then.
        self.wanted = Wanted()
        self._known = asyncio.Event()
        #: Token of the user, once the service is known.
        self.token = settings.token
        #: File with the authorities by which service and nodes are verified.
        self.ca = settings.ca

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
        view, channel = await channel_of(service, view, self.wanted, seen=self._seen, told=self._told)
        self._seen(view.session)
        self._known.set()
        return channel

    def _seen(self, session: GpuSession) -> None:
        before, self.session = self.session, session
        if self._service is not None and (before is None or before.id != session.id):
            self._found(self._service.url, session)

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
            endpoint = await find_service(self._settings, again=self.session is not None)
        except OSError as error:
            raise ServiceUnreachable(f"the service cannot be found or started: {error}.") from error
        if self._service is None or (self._service.url, self._service.token) != (endpoint.url, endpoint.token):
            await self.close()
            self._service = ServiceClient(endpoint.url, endpoint.token, ca=endpoint.ca)
            self.token, self.ca = endpoint.token, endpoint.ca
        return self._service

    async def _view(self, service: ServiceClient) -> SessionView:
        if self.session is not None:
            return await service.session(self.session.id)
        name = self._name
        choice = read_choice(self._settings.folder, name) or Choice()
        if self._settings.session:
            try:
                return await service.session(self._settings.session)
            except NoSuchSession:
                name = self._settings.session
        elif choice.session:
            try:
                return await service.session(choice.session)
            except (NoSuchSession, SessionEnded):
                pass  # then the notebook's own
        env = {key: os.environ[key] for key in FORWARDED if key in os.environ}
        # Known before it is waited for, so that a client that changes its mind can end it.
        devices, share = parts(self._settings.want_devices)
        request = choice.request or ResourceRequest(devices=devices, share=share)
        if not request.standby and request.node is None:
            request = msgspec.structs.replace(request, standby=self._settings.standby)
        if not request.on_node_loss:
            request = msgspec.structs.replace(request, on_node_loss=self._settings.asked_on_node_loss)
        if not request.priority:
            request = msgspec.structs.replace(request, priority=self._settings.priority)
        view = await service.create_session(name, request=request, cwd=os.getcwd(), machine=machine_id(), env=env)
        self._seen(view.session)
        self._known.set()
        return view


def default_name(connection_file: Path) -> str:
    """Name of a session whose client gives it none: that of the kernel, which a restart keeps."""
    return connection_file.stem
