"""Runs the controller in this process until it is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import msgspec
import uvicorn
from starlette.types import ASGIApp

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.acting import Acting, Face
from jupyter_gpuaas.controller.app import make_app
from jupyter_gpuaas.controller.catalogue.acting import ActingLease
from jupyter_gpuaas.controller.catalogue.database import Database
from jupyter_gpuaas.controller.catalogue.opening import is_shared
from jupyter_gpuaas.controller.controller import Controller
from jupyter_gpuaas.controller.passing import Front
from jupyter_gpuaas.controller.sockets import Socket
from jupyter_gpuaas.engine.choice import engine_settings, make_engine
from jupyter_gpuaas.errors import GpuaasError, ServiceUnreachable, SettingError
from jupyter_gpuaas.model import ServiceFile
from jupyter_gpuaas.wire.tls import Credentials, name_for, of_service, renewing_context, unusable

log = logging.getLogger(__name__)

#: Room for what a relayed frame carries beside its payload.
FRAME_SLACK_BYTES = 64 * 1024
GRACE_S = 2


class AlreadyRunning(Exception):
    """Another controller serves this home folder."""


class Superseded(GpuaasError):
    """Another controller on the same database acts now."""


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, tls: ssl.SSLContext | None) -> None:
        super().__init__(config)
        self._tls = tls

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # Not by uvicorn's own settings: with those it would never read a certificate again.
        self.config.ssl = self._tls
        await super().startup(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # Ours: what a signal means depends on which one it is.


def serve(settings: Settings, ready: Callable[[ServiceFile], None], *, again: bool = False) -> None:
    """Serve until a signal or ``POST /stop``.

    SIGINT (Ctrl-C) and ``/stop`` end the sessions too; SIGTERM leaves them running for the next controller. On a
    database that others have in common, wait until none of them acts.

    Parameters
    ----------
    again
        Only in the place of one that was killed. Who wants this has seen its file, which may be gone by now.

    Raises
    ------
    AlreadyRunning
        A controller already serves this home folder.
    Superseded
        Another controller has taken over.
    SettingError
        The address cannot be listened on.
    ServiceUnreachable
        It was shut down.
    """
    with _only_one(settings, settings.make_folder()):
        if again and not (settings.folder / "service.json").exists():
            raise ServiceUnreachable(f"the service for {settings.folder} was shut down.")
        asyncio.run(_serve(settings, ready))


def _only_one(settings: Settings, folder: Path) -> contextlib.AbstractContextManager[None]:
    # A controller that is frozen keeps its lock on the folder; a lease of the database runs out.
    return contextlib.nullcontext() if is_shared(settings.database) else hold(folder)


def end_leftovers(settings: Settings) -> None:
    """End the sessions and nodes that a killed controller has left.

    Raises
    ------
    AlreadyRunning
        The controller still runs.
    """
    with _only_one(settings, settings.folder):
        asyncio.run(_end_leftovers(settings))


async def _end_leftovers(settings: Settings) -> None:
    database = Database(settings.database, events_kept=settings.events_kept)
    acting = _acting(settings, database, "", lambda why: log.error("%s", why))
    controller: Controller | None = None
    try:
        if acting is not None:
            try:
                # Long enough to see that nobody acts, or that somebody does.
                await asyncio.wait_for(acting.acquire(), 2 * settings.acting_s)
            except (asyncio.TimeoutError, TimeoutError):
                raise AlreadyRunning(str(settings.folder)) from None
        controller = Controller(settings, make_engine(settings, leftovers=True), database)
        await controller.open()
    finally:
        await _close(controller, acting, database, over=True)
        (settings.folder / "service.json").unlink(missing_ok=True)


def _acting(settings: Settings, database: Database, url: str, lost: Callable[[str], None]) -> Acting | None:
    if not database.is_shared:
        return None
    holder = f"{socket.gethostname()} {os.getpid()} {settings.folder}"
    return Acting(ActingLease(database, holder=holder, url=url, ttl_s=settings.acting_s), settings.acting_s, lost)


async def _close(controller: Controller | None, acting: Acting | None, database: Database, *, over: bool) -> None:
    """Close a controller, and then let another one act; ``over`` when the sessions end as well."""
    try:
        if controller is not None:
            await controller.close(end_sessions=over, keep_database=True)
    finally:
        if acting is not None:
            await acting.close(over=over)
        database.close()


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Be the only controller of this folder; the lock ends with the process, however that ends."""
    fd = os.open(folder / "service.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(str(folder)) from None
        yield
    finally:
        os.close(fd)


async def _serve(settings: Settings, ready: Callable[[ServiceFile], None]) -> None:
    file = settings.folder / "service.json"
    with contextlib.closing(listen(settings, _former_port(file))) as listener:
        database = Database(settings.database, events_kept=settings.events_kept)
        serving = _Serving(settings, listener, database)
        try:
            await serving.run(file, ready)
        finally:
            await serving.close()
    if serving.lost:
        raise Superseded(f"{serving.lost}.")
    if serving.over:
        file.unlink(missing_ok=True)


class _Serving:
    """One run of a controller, from waiting for its turn to its end."""

    def __init__(self, settings: Settings, listener: socket.socket, database: Database) -> None:
        self._settings = settings
        self._listener = listener
        self._database = database
        self._face = Face()
        self._server = make_server(settings, self._face)
        self._http: asyncio.Task[None] | None = None
        self._written = _service_file(settings, listener)
        url = settings.acting_url or self._written.url
        self._acting = _acting(settings, database, url, self._superseded)
        if self._acting is not None:
            self._face.stand_by(self._acting, url, settings)
        self._controller: Controller | None = None
        self._stopping = asyncio.Event()
        #: Whether the sessions end with it.
        self.over = False
        #: Why it may not act any more.
        self.lost = ""

    async def run(self, file: Path, ready: Callable[[ServiceFile], None]) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop, False)
        loop.add_signal_handler(signal.SIGINT, self._stop, True)
        if self._acting is not None:
            self._listen()
            if not await _until(self._acting.acquire(), self._stopping):
                return
        controller = self._controller = Controller(self._settings, make_engine(self._settings), self._database)
        controller.on_stop = lambda: self._stop(True)
        await controller.open()
        self._written = msgspec.structs.replace(self._written, nodes=len(controller.engine.nodes()))
        _write(file, msgspec.json.encode(self._written))
        self._face.show(make_app(controller, self._acting.key if self._acting is not None else ""))
        http = self._listen()
        ready(self._written)
        await http

    async def close(self) -> None:
        self._server.should_exit = True
        if self._http is not None:
            await asyncio.gather(self._http, return_exceptions=True)
        # Without a right to act, what others have taken over is not given back.
        await _close(self._controller, None if self.lost else self._acting, self._database, over=self.over)

    def _listen(self) -> asyncio.Task[None]:
        if self._http is None:
            self._http = asyncio.create_task(self._server.serve(sockets=[self._listener]), name="http")
        return self._http

    def _stop(self, also_sessions: bool) -> None:
        # A second Ctrl-C does not wait for connections.
        self._server.force_exit = self._server.should_exit
        self._server.should_exit = True
        self.over = (self.over or also_sessions) and self._controller is not None and not self.lost
        self._stopping.set()
        if self._controller is not None:
            self._controller.interrupt_waits()

    def _superseded(self, why: str) -> None:
        log.error("%s; this controller ends", why)
        self.lost, self.over = why, False
        self._face.show(None)
        self._stop(False)


def _service_file(settings: Settings, listener: socket.socket) -> ServiceFile:
    port = listener.getsockname()[1]
    # For this user's own programs: "every address" is one to listen on, not one to connect to.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    host = f"[{host}]" if ":" in host else host
    engine, credentials = engine_settings(settings), of_service(settings)
    if not credentials.cert:
        return ServiceFile(f"http://{host}:{port}", os.getpid(), port, 0, engine)
    named = _certified_name(settings, credentials, host)
    return ServiceFile(f"https://{named}:{port}", os.getpid(), port, 0, engine, credentials.ca)


def _certified_name(settings: Settings, credentials: Credentials, host: str) -> str:
    """A name of this machine that the certificate is good for.

    Raises
    ------
    SettingError
        It cannot be used, or not any more.
    """
    if settings.host not in ("0.0.0.0", "::"):
        names = [host.strip("[]")]
    else:
        names = [host.strip("[]"), "localhost", socket.gethostname()]
    try:
        name = name_for(credentials, names)
        return f"[{name}]" if ":" in name else name
    except SettingError as error:
        # That of an ingress, perhaps, by which all clients come. One that nobody would trust is of no use, though.
        problem = unusable(credentials)
        if problem is not None:
            raise problem from error
        log.warning("%s Programs on this machine need another address (setting url).", error)
        return host


async def _until(acquiring: Coroutine[None, None, bool], stopping: asyncio.Event) -> bool:
    """What ``acquiring`` answers, or False when this process is told to end before."""
    tasks = [asyncio.create_task(acquiring), asyncio.create_task(stopping.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return not stopping.is_set() and tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def make_server(settings: Settings, app: ASGIApp) -> uvicorn.Server:
    """The HTTP server of a controller."""
    credentials = of_service(settings)
    return _Server(
        uvicorn.Config(
            app,
            # uvloop is not among our dependencies, and one that happens to be installed is not tested.
            loop="asyncio",
            http=Front,
            ws=Socket,
            ws_max_size=settings.frame_bytes + FRAME_SLACK_BYTES,
            ws_per_message_deflate=False,
            ws_ping_interval=settings.ping_s,
            ws_ping_timeout=settings.silence_s,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            # Whoever may say from where a request came could write what he likes into the audit log.
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=settings.trusted_proxies or None,
            timeout_graceful_shutdown=GRACE_S,
        ),
        renewing_context(credentials) if credentials.cert else None,
    )


def listen(settings: Settings, former_port: int) -> socket.socket:
    """A listening socket; without a configured port the former one, so that clients find the service again."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    candidates = [settings.port] if settings.port else [former_port, 0]
    for port in candidates:
        listener = socket.socket(family, socket.SOCK_STREAM)
        # Connections of the former controller may still be in TIME_WAIT.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # asyncio sets it on accepted sockets as well; inherited, it holds from the first byte.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            listener.bind((settings.host, port))
            listener.listen(2048)
        except OSError as error:
            listener.close()
            if port == candidates[-1]:
                raise SettingError(
                    f"setting host/port: cannot listen on {settings.host}:{port}: {error}.",
                    hint="Choose another with --port.",
                ) from error
            continue
        listener.setblocking(False)
        return listener
    raise AssertionError("unreachable")


def _former_port(file: Path) -> int:
    try:
        return msgspec.json.decode(file.read_bytes(), type=ServiceFile).port
    except (OSError, msgspec.MsgspecError):
        return 0


def _write(file: Path, content: bytes) -> None:
    draft = file.with_suffix(".new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as opened:
        opened.write(content)
    draft.replace(file)
