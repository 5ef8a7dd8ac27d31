"""Commands about checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from jupyter_gpuaas.cli.asking import (
    as_json,
    ask_service,
    one_line,
    plain,
    print_done,
    print_json,
    print_table,
    resolve,
    say,
)
from jupyter_gpuaas.errors import InvalidRequest

if TYPE_CHECKING:
    from jupyter_gpuaas.client.service import ServiceClient

#: So that `-1`, the newest checkpoint, is not taken for an option.
_WITH_NUMBERS = {"ignore_unknown_options": True}


@click.command()
@click.argument("session")
@click.option("--name", default="", help="A name to find it by; named ones are kept.")
@click.option("--every", help="Take none now, but one after every so many cells by itself; `on` (1) or `off`.")
@as_json
@click.pass_obj
def checkpoint(given: dict[str, Any], session: str, name: str, every: str | None, as_json: bool) -> None:
    """Take a checkpoint of a session's variables, or say how often it takes them by itself.

    Waits until the cells that run have ended. Ctrl-C gives it up.
    """
    from jupyter_gpuaas.cell.checkpoint_commands import every_of
    from jupyter_gpuaas.client.checkpoints import follow
    from jupyter_gpuaas.model.words import lost_lines, status_lines, taken_line

    if every is not None:
        if name:
            raise InvalidRequest("--name and --every do not go together.")
        try:
            count = every_of(every)
        except ValueError:
            raise InvalidRequest(f"--every: {every!r} is neither a number of cells nor `on` or `off`.") from None

        async def set_pace(client: ServiceClient) -> Any:
            session_id = await resolve(client, session)
            return await follow(client, session_id, lambda _: client.checkpoint_every(session_id, count), say)

        told = ask_service(given, set_pace)
        lines = status_lines(told)
    else:

        async def take(client: ServiceClient) -> Any:
            session_id = await resolve(client, session)
            return await follow(
                client,
                session_id,
                lambda request: client.take_checkpoint(session_id, name=name, request=request),
                say,
            )

        told = ask_service(given, take)
        lines = [taken_line(told), *lost_lines(told.lost)]
    if as_json:
        print_json(plain(told))
        return
    click.echo("\n".join(one_line(line) for line in lines))


@click.command()
@click.argument("session")
@as_json
@click.pass_obj
def checkpoints(given: dict[str, Any], session: str, as_json: bool) -> None:
    """List a session's checkpoints, also of one that is busy or has ended."""
    from jupyter_gpuaas.model.words import HEAD, rows

    async def ask(client: ServiceClient) -> Any:
        return await client.checkpoints(await resolve(client, session, ended=True))

    found = ask_service(given, ask)
    if as_json:
        print_json([plain(each) for each in found])
        return
    print_table(HEAD, rows(found))


@click.command(context_settings=_WITH_NUMBERS)
@click.argument("session")
@click.argument("checkpoint")
@click.option(
    "--new", is_flag=False, flag_value="", metavar="[NAME]", help="Begin a new session with it instead, of this name."
)
@click.option(
    "--replay",
    type=click.Choice(["never", "safe", "all"]),
    default="safe",
    show_default=True,
    help="Which cells may run again for what could not be stored: those without visible side effects, or all.",
)
@as_json
@click.pass_obj
def restore(given: dict[str, Any], session: str, checkpoint: str, new: str | None, replay: Any, as_json: bool) -> None:
    """Make a session's variables those of CHECKPOINT: an id or the end of one, a name, or -1 for the newest.

    Waits until the cells that run have ended. Ctrl-C gives it up. A session that has ended can be begun anew.
    """
    from jupyter_gpuaas.client.checkpoints import follow, restore_into_new
    from jupyter_gpuaas.model.words import begun_lines, restored_lines

    async def ask(client: ServiceClient) -> Any:
        session_id = await resolve(client, session, ended=new is not None)
        if new is not None:
            report, begun = await restore_into_new(client, session_id, checkpoint, new)
            return report, begun_lines(report, begun)
        report = await follow(
            client,
            session_id,
            lambda request: client.restore(session_id, checkpoint, replay=replay, request=request),
            say,
        )
        return report, restored_lines(report)

    report, lines = ask_service(given, ask)
    if as_json:
        print_json(plain(report))
        return
    click.echo("\n".join(one_line(line) for line in lines))


@click.command(context_settings=_WITH_NUMBERS)
@click.argument("session")
@click.argument("one")
@click.argument("other")
@as_json
@click.pass_obj
def diff(given: dict[str, Any], session: str, one: str, other: str, as_json: bool) -> None:
    """Tell which names differ between two checkpoints of a session."""
    from jupyter_gpuaas.model.words import diff_lines

    async def ask(client: ServiceClient) -> Any:
        return await client.diff_checkpoints(await resolve(client, session, ended=True), one, other)

    found = ask_service(given, ask)
    if as_json:
        print_json(plain(found))
        return
    click.echo("\n".join(one_line(line) for line in diff_lines(found)))


@click.command(context_settings=_WITH_NUMBERS)
@click.argument("session")
@click.argument("checkpoint", nargs=-1, required=True)
@as_json
@click.pass_obj
def forget(given: dict[str, Any], session: str, checkpoint: Sequence[str], as_json: bool) -> None:
    """Remove checkpoints of a session. The newest one of a session that lives stays."""

    async def ask(client: ServiceClient) -> list[Any]:
        session_id = await resolve(client, session, ended=True)
        return [await client.forget_checkpoint(session_id, each) for each in checkpoint]

    print_done(ask_service(given, ask), as_json, lambda each: f"Checkpoint {each.short} removed.")


COMMANDS = (checkpoint, checkpoints, restore, diff, forget)
