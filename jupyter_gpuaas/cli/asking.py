"""How commands ask the service, and how they print what it answers."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jupyter_gpuaas.errors import MigrationError, NamesLost, NoSuchSession, SessionEnded, SettingError

if TYPE_CHECKING:
    from jupyter_gpuaas.client.service import ServiceClient
    from jupyter_gpuaas.config import Settings

T = TypeVar("T")

SHORT_ID_CHARS = 12

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def settings_of(given: dict[str, Any], **more: Any) -> Settings:
    from jupyter_gpuaas.config import load

    return load(**given, **more)


def ask_service(given: dict[str, Any], work: Callable[[ServiceClient], Coroutine[Any, Any, T]]) -> T:
    """Run one command against the service, which must run already."""
    from jupyter_gpuaas.client.embedded import find_service
    from jupyter_gpuaas.client.service import ServiceClient

    async def run() -> T:
        endpoint = await find_service(settings_of(given), start=False)
        async with ServiceClient(endpoint.url, endpoint.token, ca=endpoint.ca) as client:
            return await work(client)

    return asyncio.run(run())


def with_consent(work: Callable[[bool], T], accept_loss: bool, as_json: bool, question: str) -> T:
    """Do what may lose names. Where it would, and somebody sits at the terminal, ask, and do it all the same on a yes.

    Parameters
    ----------
    work
        Does it; told whether names may be lost.
    """
    try:
        return work(accept_loss)
    except NamesLost as error:
        if as_json or sys.stdin is None or not sys.stdin.isatty():
            raise
        if not click.confirm(f"{one_line(error.message)} {question}", err=True):
            raise MigrationError("The session stays as it is.") from None
    return work(True)


async def resolve(client: ServiceClient, session: str, *, ended: bool = False) -> str:
    """The id that an id, a name, the beginning of an id or the file name of a notebook means."""
    if not session:
        raise SettingError("the name of a session is missing.", hint="`jupyter gpuaas sessions` lists them.")
    try:
        return (await client.session(session)).session.id
    except SessionEnded:
        if ended:
            return session
        raise
    except NoSuchSession:
        known = await client.sessions(all=ended)
        found = [
            each.id
            for each in known
            if each.id.startswith(session) or PurePath(each.name).name == session or (ended and each.name == session)
        ]
        if not found:
            raise
        if len(found) > 1 and not ended:
            raise SettingError(
                f"{session!r} means {len(found)} sessions; `jupyter gpuaas sessions` shows their ids."
            ) from None
        return found[-1]


def plain(fact: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(fact)


def print_json(content: Any) -> None:
    import json

    click.echo(json.dumps(content, indent=2))


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    table = [tuple(head), *(tuple(one_line(str(cell)) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def print_facts(facts: Sequence[T], as_json: bool, head: Sequence[str], row: Callable[[T], Sequence[object]]) -> None:
    """What a command lists: as JSON, or as a table with a row for each."""
    if as_json:
        print_json([plain(each) for each in facts])
    else:
        print_table(head, [row(each) for each in facts])


def print_done(facts: Sequence[T], as_json: bool, line: Callable[[T], str]) -> None:
    """What a command has done to several things: as JSON, or a line for each."""
    if as_json:
        print_json([plain(each) for each in facts])
    else:
        for each in facts:
            click.echo(line(each))


def print_fact(fact: T, as_json: bool, line: Callable[[T], str]) -> None:
    """What a command has made or changed: as JSON, or in a line."""
    if as_json:
        print_json(plain(fact))
    else:
        click.echo(line(fact))


def when(time_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_s))


def one_line(text: str) -> str:
    """The text in one line, without what could steer a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def count_of(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def gib(count: int) -> str:
    return f"{count / 1024**3:.1f} GiB"


def age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def say(text: str) -> None:
    click.echo(text, err=True)
