"""From the address of a database to an engine for it: a file of SQLite, or PostgreSQL."""

from __future__ import annotations

import os
import sqlite3
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import QueuePool

from jupyter_gpuaas.errors import SettingError

#: What a server may take before it is taken for gone.
CONNECT_S = 5
#: A statement that takes longer fails, and is tried again like any write to a database that is full.
STATEMENT_S = 20
#: A controller that is frozen inside a transaction must not keep its locks; another one may wait to take over.
IDLE_S = 5
_DRIVER = "postgresql+psycopg"


def address(where: str | Path) -> URL:
    """The address of a database; a path is a file of SQLite.

    Raises
    ------
    SettingError
        It is none, or the driver for it is not installed. The message does not repeat it: it may hold a password.
    """
    if isinstance(where, Path):
        return URL.create("sqlite", database=str(where))
    try:
        url = make_url(where)
    except ArgumentError:
        raise SettingError(
            "setting database_url: is no address of a database.", hint="Like postgresql://user@host/name."
        ) from None
    if url.drivername in ("postgresql", "postgres", _DRIVER):
        if find_spec("psycopg") is None:
            raise SettingError(
                "setting database_url: PostgreSQL needs the package psycopg.",
                hint="`pip install 'jupyter_gpuaas[postgres]'`",
            )
        return url.set(drivername=_DRIVER)
    if url.drivername == "sqlite" and url.database and url.database != ":memory:":
        return url
    raise SettingError(
        f"setting database_url: {url.drivername!r} is neither a file of SQLite nor PostgreSQL.",
        hint="Like postgresql://user@host/name, or sqlite:////folder/file.db.",
    )


def is_shared(where: str | Path) -> bool:
    """Whether controllers on other machines can use this database as well."""
    return address(where).drivername == _DRIVER


def make_engine(url: URL) -> Engine:
    """An engine for an address of ``address``; a file is made, for its user only."""
    return _of_file(url) if url.drivername == "sqlite" else _of_server(url)


def _of_file(url: URL) -> Engine:
    path = Path(str(url.database))
    try:
        # Before SQLite does, which would take the umask's word; its -wal and -shm files copy the mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        os.chmod(path, 0o600)
    except OSError as error:
        raise SettingError(f"setting database_url: {path} cannot be opened: {error.strerror}.") from error
    engine = create_engine(url, poolclass=QueuePool, connect_args={"check_same_thread": False, "timeout": 10.0})
    event.listen(engine, "connect", _configure)
    return engine


def _configure(connection: sqlite3.Connection, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _of_server(url: URL) -> Engine:
    bounds = {
        "statement_timeout": STATEMENT_S * 1000,
        "lock_timeout": STATEMENT_S * 1000,
        "idle_in_transaction_session_timeout": IDLE_S * 1000,
    }
    arguments: dict[str, Any] = {
        "connect_timeout": CONNECT_S,
        "application_name": "jupyter_gpuaas",
        # A server that is gone without a word is noticed within half a minute, not within hours.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
        "options": " ".join(f"-c {name}={value}" for name, value in bounds.items()),
    }
    own = {name: value for name, value in arguments.items() if name not in url.query}
    # Asked before use: the server may have been restarted since.
    return create_engine(url, pool_pre_ping=True, connect_args=own)
