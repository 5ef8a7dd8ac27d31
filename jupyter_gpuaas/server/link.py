"""The extension's link to the service: found, started if need be, listened to, and found again after it was away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping

import httpx
import msgspec
import psutil

from jupyter_gpuaas import __version__
from jupyter_gpuaas.client.embedded import Endpoint, find_running, read_service_file, start_service
from jupyter_gpuaas.client.rest import Answer
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.errors import GpuaasError, InvalidRequest, ServiceUnreachable
from jupyter_gpuaas.model._compat import StrEnum
from jupyter_gpuaas.server.news import Told, of_link, told

log = logging.getLogger(__name__)

#: Pauses between two looks for a service that is away, and for one that nobody has started yet.
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
LOOK_S = 2.0
#: A stream that lasted this long was a good one: the next pause is short again.
GOOD_S = 10.0


class LinkState(StrEnum):
    """How the service is seen from here."""

    READY = "ready"
    STARTING = "starting"
    UNREACHABLE = "unreachable"
    #: None is configured and none runs.
    OFF = "off"


class LinkView(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ``GET service``."""

    state: LinkState = LinkState.STARTING
    url: str = ""
    embedded: bool = True
    user: str = ""
    role: str = ""
    version: str = __version__
    problem: str = ""
    hint: str = ""
    nodes: int = 0
    may_start: bool = False


class ServiceLink:
    """Holds the token and the connections to the service; in one event loop.

    Parameters
    ----------
    may_start
        Whether the embedded service may be started from here.
    tell
        Called with each event for Jupyter's clients.
    """

    def __init__(self, settings: Settings, *, may_start: bool, tell: Callable[[Told], None]) -> None:
        self._settings = settings
        self._may_start = may_start and not settings.url
        self._tell = tell
        self.view = LinkView(embedded=not settings.url)
        self._client: ServiceClient | None = None
        self._after: int | None = None  # the last event that was passed on
        self._look = asyncio.Event()
        self._starting: asyncio.Task[Endpoint] | None = None
        self._following: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Future[None]] = set()
        self._counting: asyncio.Task[None] | None = None
        self._count_again = False

    def open(self) -> None:
        """Begin to look for the service, and to listen to it."""
        if self._following is None:
            self._following = asyncio.create_task(self._follow(), name="gpuaas events")

    async def close(self) -> None:
        """End the connections and all that runs here; the service goes on."""
        tasks = [task for task in (self._following, self._starting, self._counting) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._closing, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    # -- what handlers ask for -----------------------------------------------------------------------

    def start(self) -> None:
        """Begin to start the embedded service, if it does not run.

        Raises
        ------
        InvalidRequest
            It is not ours to start.
        """
        self._check_may_start()
        if self.view.state is not LinkState.READY:
            self._begin_to_start()

    def _begin_to_start(self) -> asyncio.Task[Endpoint]:
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._start(), name="start the gpuaas service")
            # The view tells what came of it, so nobody needs to wait for it.
            self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._starting

    def _check_may_start(self) -> None:
        if self._settings.url:
            raise InvalidRequest(f"the service at {self._settings.url} is configured; it is not started from here.")
        if not self._may_start:
            raise InvalidRequest(
                "this Jupyter server does not start a service (setting GpuaasApp.start_service).",
                hint="`jupyter gpuaas up --detach` in a terminal starts one.",
            )

    async def ask(
        self, method: str, path: str, *, query: Mapping[str, str], body: bytes = b"", wait_s: float = 0.0
    ) -> Answer:
        """Pass a request on; where the embedded service does not run, and may be started, it is.

        Raises
        ------
        ServiceUnreachable
        """
        client = self._client if self.view.state is LinkState.READY else None
        client = client or await self._find()
        try:
            return await client.forward(method, path, query=query, body=body, wait_s=wait_s)
        except ServiceUnreachable as error:
            # It may have been restarted, perhaps with another port. What may have arrived is not sent twice.
            if method != "GET" and not isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout):
                raise
            other = await self._find()
            # One that runs here has just answered, so it is there (again), unless it is merely slow with this request;
            # of one that is configured nothing is known.
            if other is client and (self._settings.url or isinstance(error.__cause__, httpx.ReadTimeout)):
                raise
            return await other.forward(method, path, query=query, body=body, wait_s=wait_s)

    # -- finding and starting ------------------------------------------------------------------------

    async def _find(self) -> ServiceClient:
        """A client of the service, which is started where that is allowed; raises ServiceUnreachable."""
        client = await self._connect()
        if client is None:
            if _runs(self._settings) and not self._is_starting:
                raise ServiceUnreachable(
                    f"the service for {self._settings.folder} does not answer.",
                    hint="`jupyter gpuaas status` tells more.",
                )
            try:
                self._check_may_start()
            except InvalidRequest as error:
                raise ServiceUnreachable(f"no service runs; {error.message}", hint=error.hint) from error
            client = self._use(await asyncio.shield(self._begin_to_start()))
        return client

    async def _connect(self) -> ServiceClient | None:
        """A client of the service that is configured or runs now."""
        if self._settings.url:
            return self._use(Endpoint(self._settings.url.rstrip("/"), self._settings.token, self._settings.ca))
        endpoint = await find_running(self._settings.folder)
        return None if endpoint is None else self._use(endpoint)

    def _use(self, endpoint: Endpoint) -> ServiceClient:
        client = self._client
        if client is None or (client.url, client.token, client.ca) != (endpoint.url, endpoint.token, endpoint.ca):
            self._client = ServiceClient(endpoint.url, endpoint.token, ca=endpoint.ca)
            if client is not None:
                # Not awaited: what still waits for the former service ends with it.
                task = asyncio.ensure_future(client.close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
            client = self._client
        return client

    @property
    def _is_starting(self) -> bool:
        return self._starting is not None and not self._starting.done()

    async def _start(self) -> Endpoint:
        self._change(state=LinkState.STARTING, problem="", hint="")
        try:
            return await start_service(self._settings)
        except (GpuaasError, OSError) as error:
            problem, hint = (error.message, error.hint) if isinstance(error, GpuaasError) else (str(error), "")
            self._change(state=LinkState.OFF, problem=problem, hint=hint)
            raise ServiceUnreachable(problem, hint=hint) from error
        finally:
            self._look.set()

    # -- listening -----------------------------------------------------------------------------------

    async def _follow(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            self._look.clear()
            began_s = time.monotonic()
            problem = hint = ""
            try:
                client = await self._connect()
                if client is not None:
                    await self._listen(client)
                    problem = "the service has ended the connection."
            except GpuaasError as error:
                problem, hint = error.message, error.hint
            except Exception as error:  # whatever a service may say: this task is not to end
                log.exception("events of the service")
                problem = f"{type(error).__name__}: {error}"
            self._away(problem, hint)
            is_off = self.view.state is LinkState.OFF
            good = time.monotonic() - began_s > GOOD_S
            pause_s = FIRST_PAUSE_S if good else min(2 * pause_s, LOOK_S if is_off else LONGEST_PAUSE_S)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._look.wait(), pause_s)

    async def _listen(self, client: ServiceClient) -> None:
        """Pass events on until the connection breaks."""
        last = await client.last_event()
        if self._after is None or self._after > last:  # the first time, or a service with another database
            self._after = last
        user, health = await client.me(), await client.health()
        self._change(
            state=LinkState.READY,
            url=client.url,
            user=user.user,
            role=user.role,
            version=health.get("version", ""),
            problem="",
            hint="",
        )
        self._count_nodes(client)
        async for event in client.stream_events(after=self._after):
            self._after = event.seq
            for each in told(event):
                self._tell(each)
            if event.kind == "node":
                self._count_nodes(client)

    def _count_nodes(self, client: ServiceClient) -> None:
        """Beside the stream: a node that does not answer holds this up, and many may come and go at a time."""
        self._count_again = True
        if self._counting is None or self._counting.done():
            self._counting = asyncio.create_task(self._keep_count(client), name="count gpuaas nodes")

    async def _keep_count(self, client: ServiceClient) -> None:
        while self._count_again:
            self._count_again = False
            try:
                nodes = await client.nodes()
            except GpuaasError:
                return  # whoever listens to events finds out why
            if client is self._client and self.view.state is LinkState.READY:
                self._change(nodes=len(nodes))

    def _away(self, problem: str, hint: str) -> None:
        """There is no service to be had at the moment."""
        if self._is_starting:
            return
        if not self._settings.url and not _runs(self._settings):
            # Nothing is wrong with one that is not there; why it could not be started stays said.
            kept = self.view.state is LinkState.OFF
            problem, hint = (self.view.problem, self.view.hint) if kept else ("", "")
            self._change(state=LinkState.OFF, problem=problem, hint=hint, url="", nodes=0)
            return
        self._change(state=LinkState.UNREACHABLE, problem=problem or "the service does not answer.", hint=hint)

    def _change(self, **fields: object) -> None:
        before = self.view
        view = msgspec.structs.replace(before, **fields)
        may_start = self._may_start and view.state is LinkState.OFF
        self.view = view = msgspec.structs.replace(view, may_start=may_start)
        if (before.state, before.problem, before.nodes) != (view.state, view.problem, view.nodes):
            self._tell(of_link(view.state.value, view.problem, view.nodes, time.time()))


def _runs(settings: Settings) -> bool:
    """Whether the process of the embedded service is there."""
    written = read_service_file(settings.folder)
    if written is None:
        return False
    try:
        # One that nobody has waited for is dead, too, although its number is taken.
        return psutil.Process(written.pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
