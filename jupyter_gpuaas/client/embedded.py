"""Find the service: the one that is configured, else the user's own on this machine, started if need be."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import msgspec

from jupyter_gpuaas.config import PREFIX, Settings, inherited
from jupyter_gpuaas.errors import ServiceUnreachable
from jupyter_gpuaas.model import ServiceFile
from jupyter_gpuaas.wire.tls import Credentials, client_context, explain

START_TIMEOUT_S = 60.0
#: For a controller that somebody else has started.
OTHER_TIMEOUT_S = 20.0
#: A log larger than this is put aside when the service starts.
LOG_BYTES = 8 * 1024**2
LOG_TAIL_LINES = 15

#: Settings of a client; a service must not inherit those of whoever happened to start it.
_OF_A_CLIENT = frozenset({"url", "token", "token_variable", "session", "on_shutdown", "relay", "nodes"})


class Endpoint(msgspec.Struct, frozen=True):
    """Where a service is, and the token to use there."""

    url: str
    token: str
    #: File with the authorities by which it is verified; empty means those of this machine.
    ca: str = ""


async def find_service(settings: Settings, *, start: bool = True, again: bool = False) -> Endpoint:
    """The service to use.

    Parameters
    ----------
    again
        The caller has a session of the service: one that was killed is started again, one that was shut down is not.

    Raises
    ------
    ServiceUnreachable
        None runs and ``start`` is False, or it cannot be started; the message ends with the last lines of its log.
    """
    if settings.url:
        return Endpoint(settings.url.rstrip("/"), settings.token, settings.ca)
    running = await find_running(settings.folder)
    if running is not None:
        return running
    if not start:
        raise ServiceUnreachable(f"no service runs for {settings.folder}.", hint="Start one with `jupyter gpuaas up`.")
    return await start_service(settings, again=again)


async def find_running(folder: Path) -> Endpoint | None:
    """The embedded service of this folder, if it answers.

    Raises
    ------
    ServiceUnreachable
        It runs, and its certificate cannot be trusted.
    """
    written = read_service_file(folder)
    if written is None:
        return None
    try:
        # Mostly it speaks plain HTTP on loopback; making a TLS context for that takes tens of milliseconds.
        verify = client_context(Credentials(ca=written.ca)) if written.url.startswith("https:") else False
        async with httpx.AsyncClient(trust_env=False, verify=verify, timeout=5.0) as http:
            answer = await http.get(f"{written.url}/health")
        if answer.status_code != 200 or answer.json().get("status") != "ok":
            return None
        return Endpoint(written.url, (folder / "token").read_text("utf-8").strip(), written.ca)
    except httpx.ConnectError as error:
        trouble = explain(error, urlsplit(written.url).netloc, written.ca)
        if trouble is None or not _lives(written.pid):
            return None
        raise ServiceUnreachable(f"the service for {folder}: {trouble.says}.", hint=trouble.do) from error
    except (httpx.HTTPError, OSError, ValueError, AttributeError):
        return None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def read_service_file(folder: Path) -> ServiceFile | None:
    """What the newest controller of this folder wrote down; it may be gone."""
    try:
        return msgspec.json.decode((folder / "service.json").read_bytes(), type=ServiceFile)
    except (OSError, msgspec.MsgspecError):
        return None


async def start_service(settings: Settings, *, timeout_s: float = START_TIMEOUT_S, again: bool = False) -> Endpoint:
    """Start the embedded service in the background, or find that somebody else has just done so.

    For ``again`` see ``find_service``.
    """
    folder = settings.make_folder()
    with _Lock(folder / "start.lock") as lock:
        # Ten kernels that start at once all come here; the first starts the service, the others find it.
        await asyncio.to_thread(lock.acquire)
        running = await find_running(folder)
        if running is not None:
            return running
        if again:
            _not_shut_down(folder)
        log = folder / "service.log"
        begin = _begin(log)
        process = _spawn(settings, log, again)
        # Reaps the service if it ends before its starter does.
        threading.Thread(target=process.wait, daemon=True).start()
        started = time.monotonic()
        deadline = started + timeout_s
        while time.monotonic() < deadline:
            running = await find_running(folder)
            if running is not None:
                return running
            if again:
                _not_shut_down(folder)
            if process.poll() not in (None, 0):
                break
            if process.poll() == 0:
                # Another controller holds the folder: it is starting, or it hangs.
                deadline = min(deadline, started + OTHER_TIMEOUT_S)
            await asyncio.sleep(0.05)
        status = process.poll()
        if status is None:
            process.terminate()
        why = f"ended with status {status}" if status else "does not answer"
        raise ServiceUnreachable(
            f"the service for {folder} {why}. End of {log}:\n{_tail(log, begin)}\n",
            hint="`jupyter gpuaas up` in a terminal shows more.",
        )


def _spawn(settings: Settings, log: Path, again: bool) -> subprocess.Popen[bytes]:
    environ = inherited(os.environ) | {
        key: value
        for key, value in settings.environment().items()
        if key.removeprefix(PREFIX).lower() not in _OF_A_CLIENT
    }
    environ[PREFIX + "HOME"] = str(settings.folder)
    with open(log, "ab", opener=_private) as output:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyter_gpuaas", "up", "--nodes", str(settings.nodes)),
                *("--devices", settings.devices, "--port", str(settings.port)),
                *(["--again"] if again else []),
            ],
            env=environ,
            # Not the caller's folder: its modules would shadow ours, and it could not be unmounted.
            cwd=settings.folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _not_shut_down(folder: Path) -> None:
    if read_service_file(folder) is None:
        raise ServiceUnreachable(
            f"the service for {folder} was shut down.", hint="Start it again with `jupyter gpuaas up`."
        )


def _begin(log: Path) -> int:
    """Where the next service's words begin; one former log is kept beside it."""
    try:
        size = log.stat().st_size
        if size > LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
            return 0
        return size
    except FileNotFoundError:
        return 0


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _tail(log: Path, begin: int) -> str:
    try:
        with open(log, "rb") as file:
            file.seek(begin)
            text = file.read().decode("utf-8", "replace")
    except OSError as error:
        return f"({error})"
    return "\n".join(text.splitlines()[-LOG_TAIL_LINES:]) or "(empty)"


class _Lock:
    """A lock between processes that ends with the process that holds it."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def acquire(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def __enter__(self) -> _Lock:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
