"""Runs the controller in this process until it is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import uvicorn

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.app import make_app
from jupyter_gpuaas.controller.controller import Controller
from jupyter_gpuaas.engine.local import LocalEngine
from jupyter_gpuaas.errors import SettingError
from jupyter_gpuaas.model import ServiceFile

log = logging.getLogger(__name__)

#: Room for what a relayed frame carries beside its payload.
FRAME_SLACK_BYTES = 64 * 1024
GRACE_S = 2


class AlreadyRunning(Exception):
    """Another controller serves this home folder."""


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # Ours: what a signal means depends on which one it is.


def serve(settings: Settings, ready: Callable[[ServiceFile], None]) -> None:
    """Serve until a signal or ``POST /stop``.

    SIGINT (Ctrl-C) and ``/stop`` end the sessions too; SIGTERM leaves them running for the next controller.

    Raises
    ------
    AlreadyRunning
        A controller already serves this home folder.
    SettingError
        The address cannot be listened on.
    """
    with hold(settings.make_folder()):
        asyncio.run(_serve(settings, ready))


def end_leftovers(settings: Settings) -> None:
    """End the sessions and nodes that a killed controller has left.

    Raises
    ------
    AlreadyRunning
        The controller still runs.
    """
    with hold(settings.folder):
        asyncio.run(_end_leftovers(settings))


async def _end_leftovers(settings: Settings) -> None:
    controller = Controller(settings, LocalEngine(settings, nodes=0))
    try:
        await controller.open()
    finally:
        await controller.close(end_sessions=True)
        (settings.folder / "service.json").unlink(missing_ok=True)


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
    listener = listen(settings, _former_port(file))
    controller = Controller(settings, LocalEngine(settings))
    server = make_server(controller)
    end_sessions = False

    def stop(also_sessions: bool) -> None:
        nonlocal end_sessions
        # A second Ctrl-C does not wait for connections.
        server.force_exit = server.should_exit
        server.should_exit = True
        end_sessions = end_sessions or also_sessions
        controller.interrupt_waits()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop, False)
    loop.add_signal_handler(signal.SIGINT, stop, True)
    controller.on_stop = lambda: stop(True)
    try:
        await controller.open()
        port = listener.getsockname()[1]
        # For this user's own programs: "every address" is one to listen on, not one to connect to.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
        host = f"[{host}]" if ":" in host else host
        written = ServiceFile(f"http://{host}:{port}", os.getpid(), port, len(controller.engine.nodes()))
        _write(file, msgspec.json.encode(written))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        ready(written)
        await serving
    finally:
        listener.close()
        await controller.close(end_sessions=end_sessions)
        if end_sessions:
            file.unlink(missing_ok=True)


def make_server(controller: Controller) -> uvicorn.Server:
    """The HTTP server of a controller."""
    settings = controller.settings
    return _Server(
        uvicorn.Config(
            make_app(controller),
            # uvloop is not among our dependencies, and one that happens to be installed is not tested.
            loop="asyncio",
            http="h11",
            ws="websockets-sansio",
            ws_max_size=settings.frame_bytes + FRAME_SLACK_BYTES,
            ws_per_message_deflate=False,
            ws_ping_interval=settings.ping_s,
            ws_ping_timeout=settings.silence_s,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_S,
        )
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
