"""A PostgreSQL server of the tests' own: on a unix socket, in a folder of its own, ended by its id."""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

#: Where Debian's package puts the programs, which are not on the PATH.
USUAL = "/usr/lib/postgresql"
START_S = 30.0
#: What a test database may lose when the machine goes down.
_CAREFREE = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=60", "shared_buffers=16MB")


@functools.cache
def programs() -> Path | None:
    """The folder with initdb and postgres, of the newest version that is installed."""
    found = [path.parent for path in Path(USUAL).glob("*/bin/initdb") if (path.parent / "postgres").exists()]
    on_path = shutil.which("initdb")
    found += [Path(on_path).resolve().parent] if on_path else []
    return max(found, key=lambda path: (len(path.parent.name), path.parent.name), default=None)


@functools.cache
def why_not() -> str:
    """Why there can be no server here; empty when there can."""
    if programs() is None:
        return f"PostgreSQL is not installed (looked in {USUAL} and PATH): `apt-get install postgresql`"
    if os.getuid() == 0 and _other_user() is None:
        return "PostgreSQL does not run as root, and there is no user `postgres` or `nobody`"
    return ""


def _other_user() -> str | None:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return None


class Server:
    """A running server, as which its tests make databases."""

    def __init__(self, folder: Path, user: str) -> None:
        self._folder = folder
        self._user = user
        self._made = 0
        self._of_homes: dict[str, str] = {}

    def url(self, name: str) -> str:
        """The address of a database."""
        return f"postgresql://{self._user}@/{name}?host={self._folder}"

    def new_database(self) -> str:
        """Make an empty database; its address."""
        import psycopg

        self._made += 1
        name = f"gpuaas_{os.getpid()}_{self._made}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return self.url(name)

    def database_of(self, home: str) -> str:
        """The database of a service's folder, made when it is asked for first."""
        if home not in self._of_homes:
            self._of_homes[home] = self.new_database()
        return self._of_homes[home]


#: Set where every service of the tests is to keep what it remembers in PostgreSQL: `make test-postgres`.
VARIABLE = "GPUAAS_TEST_DATABASE"
for_services: Server | None = None


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    """A server until the end of the block.

    Raises
    ------
    RuntimeError
        It does not start; the message ends with what it said.
    """
    found = programs()
    assert found is not None, why_not()
    user = _other_user() if os.getuid() == 0 else None
    # Not pytest's: below it another user cannot look, and a socket's path may have 107 bytes only.
    folder = Path(tempfile.mkdtemp(prefix="gpuaas-pg-"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        arguments: dict[str, object] = {"cwd": folder, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}}
        if user is not None:
            entry = pwd.getpwnam(user)
            arguments |= {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        data, log = folder / "data", folder / "log"
        made = subprocess.run(
            [found / "initdb", "-D", data, "-U", "tests", "-A", "trust", "-N", "-E", "UTF8"],
            capture_output=True,
            text=True,
            **arguments,  # type: ignore[call-overload]
        )
        if made.returncode:
            raise RuntimeError(f"initdb failed: {made.stdout}{made.stderr}")
        options = [word for option in _CAREFREE for word in ("-c", option)]
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [found / "postgres", "-D", data, "-k", folder, "-h", "", *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                **arguments,  # type: ignore[call-overload]
            )
        server = Server(folder, "tests")
        try:
            _wait(server, process, log)
            yield server
        finally:
            process.send_signal(signal.SIGINT)  # its "fast" end: connections are cut
            try:
                process.wait(START_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    import psycopg

    deadline = time.monotonic() + START_S
    while True:
        try:
            psycopg.connect(server.url("postgres"), connect_timeout=5).close()
            return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL does not start: {log.read_text()}") from None
            time.sleep(0.05)


def need_postgres() -> None:
    """Skip the test where there can be no server, and say why."""
    if why_not():
        pytest.skip(f"*** NOT TESTED: {why_not()} ***")
