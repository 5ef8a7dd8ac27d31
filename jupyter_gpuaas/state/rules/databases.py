"""sqlite: connections to a file are opened again, databases in memory are kept whole."""

from __future__ import annotations

import os
import sys
from typing import Any
from urllib.parse import quote

from .filecontent import WHOLE_BYTES, kept, look, write_new
from .iterators import referents
from .registry import Context, NotRestorable, restoring, rule

_PRAGMAS = ("foreign_keys", "busy_timeout", "recursive_triggers", "synchronous", "cache_size", "query_only")


@rule("sqlite3.Connection")
def reduce_connection(connection: Any, context: Context) -> Any:
    sqlite3 = sys.modules["sqlite3"]
    own = getattr(connection, "__dict__", None) or None
    try:
        attached = _ask(connection, "PRAGMA database_list", 3)
    except sqlite3.ProgrammingError as error:
        if "closed" not in str(error):
            raise
        return closed_connection, (type(connection),), own
    if connection.in_transaction:
        raise NotRestorable("is a database connection in the midst of a transaction; commit it")
    if _ask(connection, "SELECT name FROM sqlite_temp_master", 1):
        raise NotRestorable("is a database connection with temporary tables")
    unknown = _extras(connection, sqlite3)
    if unknown:
        context.rebuilt(f"a connection without what was registered in it: {', '.join(unknown)}")
    settings = {name: _ask(connection, f"PRAGMA {name}", 1)[0][0] for name in _PRAGMAS}
    # A callable or Row; asking above must not have gone through it.
    state = (connection.isolation_level, connection.row_factory, connection.text_factory, settings)
    databases = []
    for _, name, path in attached:
        if name == "temp":
            continue
        if not path and not hasattr(connection, "serialize"):
            raise NotRestorable("is a database in memory, which Python keeps from 3.11 on")
        databases.append((name, path, *_content(connection, name, path)))
        if path:
            context.escaped("files")
            context.rebuilt("a connection opened again to the same file")
    return open_connection, (type(connection), databases), (state, own), None, None, fill_connection


def _ask(connection: Any, query: str, width: int) -> list[tuple[Any, ...]]:
    """Rows as plain tuples, whatever the connection makes of rows and text."""
    factories = connection.row_factory, connection.text_factory
    connection.row_factory, connection.text_factory = None, str
    try:
        return [row[:width] for row in connection.execute(query).fetchall()]
    finally:
        connection.row_factory, connection.text_factory = factories


def _extras(connection: Any, sqlite3: Any) -> list[str]:
    """Functions and collations that a new connection does not have."""
    plain = sqlite3.connect(":memory:")
    try:
        found: list[str] = []
        for query in ("SELECT DISTINCT name FROM pragma_function_list", "SELECT name FROM pragma_collation_list"):
            usual = {name for (name,) in plain.execute(query)}
            found += sorted(name for (name,) in _ask(connection, query, 1) if name not in usual)
        return found
    finally:
        plain.close()


def _content(connection: Any, name: str, path: str) -> tuple[Any, Any]:
    """What is in a database: whole if it has no file or is small, and what its file looks like."""
    size = (
        _ask(connection, f'PRAGMA "{name}".page_count', 1)[0][0]
        * _ask(connection, f'PRAGMA "{name}".page_size', 1)[0][0]
    )
    whole = None
    if not path or (size <= WHOLE_BYTES and hasattr(connection, "serialize")):
        whole = kept(connection.serialize(name=name)) if size else b""
    return whole, look(path) if path else None


def closed_connection(kind: Any) -> Any:
    import sqlite3

    connection = kind.__new__(kind)
    sqlite3.Connection.__init__(connection, ":memory:")
    connection.close()
    return connection


def open_connection(kind: Any, databases: list[tuple[Any, ...]]) -> Any:
    import sqlite3

    connection = kind.__new__(kind)
    for name, path, content, was in databases:
        path = path and restoring().here(path)
        source = f"file:{quote(path)}?mode=rw" if path else ":memory:"
        if path:
            _check(path, content, was)
        if name == "main":
            # The thread that restores need not be the one that runs cells.
            sqlite3.Connection.__init__(connection, source, uri=True, check_same_thread=False)
        else:
            connection.execute(f'ATTACH ? AS "{name}"', (source,))
        if not path and content:
            connection.deserialize(bytes(content), name=name)
    return connection


def _check(path: str, content: Any, was: Any) -> None:
    if not os.path.exists(path):
        if content is None:
            raise NotRestorable(f"is a database connection, and {path} does not exist here")
        write_new(path, content, was.mode)
        restoring().remark(f"{path} did not exist and was made again as it was at the checkpoint")
        return
    now = look(path)
    if (now.size, now.digest) != (was.size, was.digest):
        restoring().remark(f"the database {path} has changed since the checkpoint, and was left as it is")


def fill_connection(connection: Any, state: tuple[Any, Any]) -> None:
    (isolation, rows, text, settings), own = state
    for name, value in settings.items():
        connection.execute(f"PRAGMA {name} = {value}")
    connection.isolation_level, connection.row_factory, connection.text_factory = isolation, rows, text
    if own:
        connection.__dict__.update(own)


@rule("sqlite3.Cursor")
def reduce_cursor(cursor: Any, context: Context) -> Any:
    if any(type(held).__name__ == "Statement" for held in referents(cursor)):
        raise NotRestorable("is a database cursor with rows that have not been fetched")
    context.rebuilt("a new database cursor on its connection")
    return (
        make_cursor,
        (type(cursor), cursor.connection),
        (cursor.arraysize, cursor.row_factory),
        None,
        None,
        fill_cursor,
    )


def make_cursor(kind: Any, connection: Any) -> Any:
    return kind(connection)


def fill_cursor(cursor: Any, state: tuple[int, Any]) -> None:
    cursor.arraysize, cursor.row_factory = state


@rule("sqlite3.Row", exact=True)
def reduce_row(row: Any, context: Context) -> Any:
    return make_row, (row.keys(), tuple(row))


def make_row(names: list[str], values: tuple[Any, ...]) -> Any:
    import sqlite3

    connection = sqlite3.connect(":memory:")
    try:
        columns = ", ".join('0 AS "{}"'.format(name.replace('"', '""')) for name in names)
        return sqlite3.Row(connection.execute(f"SELECT {columns}"), values)
    finally:
        connection.close()


@rule("sqlite3.Blob", exact=True)
def reduce_blob(blob: Any, context: Context) -> Any:
    raise NotRestorable("is an open blob of a database")
