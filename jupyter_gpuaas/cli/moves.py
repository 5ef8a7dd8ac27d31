"""Commands that move sessions, park them and empty nodes, and that tell their story."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Any

import click

from jupyter_gpuaas.cli.asking import (
    SHORT_ID_CHARS,
    as_json,
    ask_service,
    count_of,
    one_line,
    plain,
    print_fact,
    print_json,
    print_table,
    resolve,
    say,
    when,
    with_consent,
)
from jupyter_gpuaas.errors import GpuaasError, MigrationError, SettingError, TransportError

if TYPE_CHECKING:
    from jupyter_gpuaas.client.service import ServiceClient

POLL_S = 1.0
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}

accept_loss = click.option("--accept-loss", is_flag=True, help="Go on although some names do not survive it.")


@click.command()
@click.argument("session")
@click.argument("node", required=False)
@click.option("--dry-run", is_flag=True, help="Only tell what would move, what would not, and how long it would take.")
@click.option(
    "--via",
    type=click.Choice(["auto", "portable", "image"]),
    default="auto",
    show_default=True,
    help="Move the variables, when the cell that runs has ended (portable); or the process, in its middle (image).",
)
@click.option("--no-wait", is_flag=True, help="Do not wait for the end of a cell that runs: rather stay.")
@accept_loss
@as_json
@click.pass_obj
def migrate(
    given: dict[str, Any],
    session: str,
    node: str | None,
    dry_run: bool,
    via: Any,
    no_wait: bool,
    accept_loss: bool,
    as_json: bool,
) -> None:
    """Move a session to NODE, or to the best other node with room, while it is used.

    Waits until it is done; Ctrl-C gives the move up as long as the session is not on its new node. Where names would be
    lost it asks, at a terminal; else it needs --accept-loss.
    """
    from jupyter_gpuaas.client.migrations import follow_migration
    from jupyter_gpuaas.model import Phase
    from jupyter_gpuaas.model.words import plan_lines

    async def ask(client: ServiceClient, accepted: bool) -> Any:
        session_id = await resolve(client, session)
        if accepted == accept_loss:  # else it has been asked, after the plan had been told
            plan = await client.plan_migration(session_id, node)
            if dry_run:
                return plan
            if not as_json:
                for line in plan_lines(plan):
                    say(one_line(line))
        view = await client.migrate(session_id, node, via=via, accept_loss=accepted, wait=not no_wait)
        return await follow_migration(client, view, (lambda text: None) if as_json else say)

    def move(accepted: bool) -> Any:
        return ask_service(given, lambda client: ask(client, accepted))

    found = with_consent(move, accept_loss, as_json, "Move it all the same?")
    if as_json:
        print_json(plain(found))
    elif dry_run:
        click.echo("\n".join(one_line(line) for line in plan_lines(found)))
    if not dry_run:
        if found.phase is not Phase.DONE:
            raise MigrationError(f"{found.phase}: {found.cause}.", hint="The session goes on where it was.")
        if not as_json:
            click.echo(one_line(found.cause))


@click.command()
@click.argument("session")
@accept_loss
@as_json
@click.pass_obj
def park(given: dict[str, Any], session: str, accept_loss: bool, as_json: bool) -> None:
    """Give a session's devices back and keep what it has; its next cell brings it back.

    Where names would be lost it asks, at a terminal; else it needs --accept-loss.
    """

    async def ask(client: ServiceClient, accepted: bool) -> Any:
        return (await client.park(await resolve(client, session), accept_loss=accepted)).session

    def put_away(accepted: bool) -> Any:
        return ask_service(given, lambda client: ask(client, accepted))

    print_fact(
        with_consent(put_away, accept_loss, as_json, "Park it all the same?"),
        as_json,
        lambda each: f"Session {each.id[:SHORT_ID_CHARS]} ({each.name}) is {each.state}: {one_line(each.cause)}",
    )


@click.command()
@click.argument("session")
@as_json
@click.pass_obj
def wake(given: dict[str, Any], session: str, as_json: bool) -> None:
    """Bring a parked session back without waiting for its next cell."""

    async def ask(client: ServiceClient) -> Any:
        return (await client.wake(await resolve(client, session))).session

    found = ask_service(given, ask)
    print_fact(found, as_json, lambda each: f"Session {each.id[:SHORT_ID_CHARS]} ({each.name}) is {each.state}.")


@click.command()
@click.argument("session")
@click.option("--on/--off", "on", default=None, help="Give the session a standby, or take it away.")
@as_json
@click.pass_obj
def standby(given: dict[str, Any], session: str, on: bool | None, as_json: bool) -> None:
    """Show the standby of a session, on a second node, or whether it has one.

    A standby follows the checkpoints, so that the session goes on at once when its node is lost. It holds devices only
    as long as nobody else wants them.
    """
    from jupyter_gpuaas.model.words import standby_lines

    async def ask(client: ServiceClient) -> Any:
        session_id = await resolve(client, session)
        if on is not None:
            return (await client.want_standby(session_id, int(on))).standby
        return (await client.session(session_id)).standby

    found = ask_service(given, ask)
    if as_json:
        print_json(plain(found) if found is not None else None)
    else:
        click.echo("\n".join(map(one_line, standby_lines(found))) or "standby: none is wanted")


@click.command()
@click.argument("node")
@click.pass_obj
def cordon(given: dict[str, Any], node: str) -> None:
    """Take no new sessions on NODE; those that it has stay."""
    ask_service(given, lambda client: client.cordon(node, cordoned=True))
    click.echo(f"{node} takes no new sessions. `jupyter gpuaas uncordon {node}` undoes it.")


@click.command()
@click.argument("node")
@click.pass_obj
def uncordon(given: dict[str, Any], node: str) -> None:
    """Take sessions on NODE again; ends a drain."""
    ask_service(given, lambda client: client.cordon(node, cordoned=False))
    click.echo(f"{node} takes sessions.")


@click.command()
@click.argument("node")
@click.option("--deadline", default="10m", show_default=True, help="Time that it may take: 90s, 10m, 2h.")
@accept_loss
@as_json
@click.pass_obj
def drain(given: dict[str, Any], node: str, deadline: str, accept_loss: bool, as_json: bool) -> None:
    """Take no new sessions on NODE, and move those that it has to others.

    Waits until the node is empty or the time is up; exits with 1 when sessions are left. Ctrl-C stops it: no further
    session is moved, and the node stays cordoned.
    """
    seconds = _seconds(deadline)

    async def ask(client: ServiceClient) -> Any:
        view = await client.drain(node, deadline_s=seconds, accept_loss=accept_loss)
        told, silent = -1, False
        try:
            while not view.done:
                if not as_json and len(view.left) != told:
                    told = len(view.left)
                    say(f"{count_of(told, 'session')} on {node}")
                await asyncio.sleep(POLL_S)
                try:
                    view, silent = await client.drain_view(node), False
                except TransportError:
                    # The drain goes on when the service is started again.
                    if time.time() > view.deadline_s:
                        raise
                    if not (silent or as_json):
                        say("the service does not answer; it is asked again")
                    silent = True
        except asyncio.CancelledError:
            await client.stop_drain(node)
            raise
        return view

    found = ask_service(given, ask)
    if as_json:
        print_json(plain(found))
    else:
        click.echo(f"{node}: {one_line(found.cause)}")
        for session, why in found.refused.items():
            click.echo(f"  {session[:SHORT_ID_CHARS]}: {one_line(why)}")
    if found.left:
        raise GpuaasError(f"{count_of(len(found.left), 'session')} still on {node}.")


@click.command()
@click.option("--dry-run", is_flag=True, help="Only propose.")
@as_json
@click.pass_obj
def rebalance(given: dict[str, Any], dry_run: bool, as_json: bool) -> None:
    """Make room for the first session in the queue whom moves help, by moving as few others as that takes."""
    from jupyter_gpuaas.client.migrations import follow_migration
    from jupyter_gpuaas.model import Phase

    async def ask(client: ServiceClient) -> list[Any]:
        proposed = await client.proposals()
        for each in [] if dry_run else proposed:
            view = await client.migrate(each.session_id, each.target)
            done = await follow_migration(client, view, (lambda text: None) if as_json else say)
            if done.phase is not Phase.DONE:
                raise MigrationError(f"session {each.session_name!r}: {done.phase}: {done.cause}.")
        return proposed

    found = ask_service(given, ask)
    if as_json:
        print_json([plain(each) for each in found])
        return
    if not found:
        click.echo("No move would make room for a session that waits, or none waits.")
        return
    rows = [(each.session_id[:SHORT_ID_CHARS], each.session_name, each.source, each.target, each.why) for each in found]
    print_table(("ID", "NAME", "FROM", "TO", "WHY"), rows)


@click.command()
@click.argument("session")
@as_json
@click.pass_obj
def story(given: dict[str, Any], session: str, as_json: bool) -> None:
    """Tell what happened to a session, and why."""
    from jupyter_gpuaas.model.words import story_lines

    async def ask(client: ServiceClient) -> list[Any]:
        session_id = await resolve(client, session, ended=True)
        found: list[Any] = []
        while page := await client.events(after=found[-1].seq if found else 0, session=session_id):
            found += page
        return found

    events = ask_service(given, ask)
    if as_json:
        print_json([plain(each) for each in events])
        return
    for line in story_lines(events, when):
        click.echo(one_line(line))


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if found is None or found.group(2) not in _UNITS or not float(found.group(1)):
        raise SettingError(f"--deadline: {text!r} is no time.", hint="Like 90s, 10m or 2h.")
    return float(found.group(1)) * _UNITS[found.group(2)]


COMMANDS = (migrate, park, wake, standby, cordon, uncordon, drain, rebalance, story)
