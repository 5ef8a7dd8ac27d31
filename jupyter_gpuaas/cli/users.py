"""Commands about users, their tokens, what they have used and what they did."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import click

from jupyter_gpuaas.cli.asking import (
    SHORT_ID_CHARS,
    as_json,
    ask_service,
    plain,
    print_done,
    print_fact,
    print_facts,
    print_json,
    print_table,
    resolve,
    when,
)
from jupyter_gpuaas.errors import InvalidRequest

if TYPE_CHECKING:
    from jupyter_gpuaas.client.service import ServiceClient
    from jupyter_gpuaas.model import Account, AuditEntry, NewToken, Reservation, TokenView

SCOPES = ("read", "sessions", "metrics", "admin")
DAY_S = 86400.0
#: Fields of a user's limits -> what is said in place of a number to mean the settings' word.
_LIMITS = ("sessions", "devices", "device_hours", "checkpoint_bytes", "priority", "share")


def _number(value: str) -> float | str:
    """A number, or `default` for what the settings say."""
    if value == "default":
        return value
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise click.BadParameter(f"{value!r} is neither a number nor `default`.")
    return number


# -- users ---------------------------------------------------------------------------------------------------


@click.group()
def users() -> None:
    """Users of the service: what they may have, and whether they may come in."""


@users.command("list")
@as_json
@click.pass_obj
def users_list(given: dict[str, Any], as_json: bool) -> None:
    """List the users with what they hold and have used."""
    found = ask_service(given, lambda client: client.users())

    def row(each: Account) -> tuple[object, ...]:
        own = {name: getattr(each.limits, name) for name in _LIMITS}
        told = " ".join(f"{name}={value:g}" for name, value in own.items() if value is not None)
        hours = f"{each.device_seconds / 3600:.2f}"
        blocked = "blocked" if each.blocked else ""
        return each.user, blocked, each.tokens, each.sessions, f"{each.devices:g}", hours, told

    print_facts(found, as_json, ("USER", "", "TOKENS", "SESSIONS", "DEVICES", "DEVICE-HOURS", "LIMITS OF ITS OWN"), row)


@users.command("set")
@click.argument("user")
@click.option("--blocked/--not-blocked", default=None, help="Accept none of the user's tokens.")
@click.option("--sessions", type=_number, help="Live sessions.")
@click.option("--devices", type=_number, help="Devices held together.")
@click.option("--device-hours", type=_number, help="Device-hours within the window of the setting quota_window_s.")
@click.option("--checkpoint-bytes", type=_number, help="Bytes of checkpoints.")
@click.option("--priority", type=_number, help="Highest priority that the user may ask for.")
@click.option("--share", type=_number, help="Weight in the fair share; 1 is everybody's.")
@as_json
@click.pass_obj
def users_set(
    given: dict[str, Any], /, user: str, blocked: bool | None, as_json: bool, **limits: float | str | None
) -> None:
    """Make a user, or change what one may have; `default` for what the settings say."""
    changed: dict[str, Any] = {}
    for name, value in limits.items():
        if value == "default":
            changed[name] = None
        elif isinstance(value, float):
            whole = name not in ("device_hours", "share")
            if whole and value != int(value):
                raise InvalidRequest(f"--{name.replace('_', '-')}: {value:g} is not a whole number.")
            changed[name] = int(value) if whole else value
    account = ask_service(given, lambda client: client.put_user(user, blocked=blocked, limits=changed or None))
    print_fact(account, as_json, lambda one: f"User {one.user}{' is blocked' if one.blocked else ''}.")


@users.command("remove")
@click.argument("user")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def users_remove(given: dict[str, Any], user: str, yes: bool) -> None:
    """Revoke a user's tokens, and remove the user with all checkpoints, reservations and ended sessions.

    They cannot be brought back. One with live sessions stays. To keep what is there and shut the user out, block the
    user: `users set USER --blocked`.
    """
    if not yes:
        click.confirm(f"Remove {user} with all checkpoints, reservations and ended sessions?", abort=True, err=True)
    ask_service(given, lambda client: client.drop_user(user))
    click.echo(f"User {user} is forgotten.")


# -- tokens --------------------------------------------------------------------------------------------------


def _make(
    given: dict[str, Any], user: str, role: str, ttl: float, scope: tuple[str, ...], label: str, as_json: bool
) -> None:
    made: NewToken = ask_service(
        given,
        lambda client: client.create_token(user, role=role, ttl_s=ttl, scopes=list(scope) or None, label=label),
    )
    print_fact(made, as_json, lambda made: made.token)


def _options(command: Any) -> Any:
    for option in (
        as_json,
        click.option("--label", default="", help="A note, to know it by in the list."),
        click.option("--scope", multiple=True, type=click.Choice(SCOPES), help="Only for this; may be repeated."),
        click.option("--ttl", default=0.0, help="Seconds until it ends; 0 means that it does not."),
        click.option("--role", type=click.Choice(["user", "admin"]), default="user", show_default=True),
        click.option("--user", required=True, help="Whose token it is."),
    ):
        command = option(command)
    return command


@click.group()
def tokens() -> None:
    """Tokens of the service's users."""


@tokens.command("create")
@_options
@click.pass_obj
def tokens_create(given: dict[str, Any], /, **wanted: Any) -> None:
    """Make a token and print it; it cannot be shown again."""
    _make(given, **wanted)


@click.group()
def token() -> None:
    """See `tokens`."""


@token.command("create")
@_options
@click.pass_obj
def token_create(given: dict[str, Any], /, **wanted: Any) -> None:
    """See `tokens create`."""
    _make(given, **wanted)


@tokens.command("list")
@click.option("--user", default="", help="Only this user's.")
@as_json
@click.pass_obj
def tokens_list(given: dict[str, Any], user: str, as_json: bool) -> None:
    """List tokens that are valid; none can be read from the list."""
    found = ask_service(given, lambda client: client.tokens(user=user))

    def row(each: TokenView) -> tuple[object, ...]:
        ends = when(each.expires_s) if each.expires_s else "never"
        scopes = " ".join(each.scopes)
        return each.id, each.user, each.role, scopes, when(each.created_s), ends, each.made_by, each.label

    print_facts(found, as_json, ("ID", "USER", "ROLE", "SCOPES", "MADE", "ENDS", "BY", "LABEL"), row)


@tokens.command("revoke")
@click.argument("token", nargs=-1, required=True)
@as_json
@click.pass_obj
def tokens_revoke(given: dict[str, Any], token: tuple[str, ...], as_json: bool) -> None:
    """Make tokens invalid from now on, by their ids."""

    async def revoke(client: ServiceClient) -> list[Any]:
        return [await client.revoke_token(each) for each in token]

    gone = ask_service(given, revoke)
    print_done(gone, as_json, lambda each: f"Token {each.id} of {each.user} is not valid any more.")


# -- what was done, and used ---------------------------------------------------------------------------------


@click.command()
@click.option("--user", default="", help="Only what this user did.")
@click.option("--session", default="", help="Only what was done to this session, by id or name.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=200, show_default=True, help="So many of the newest.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_obj
def audit(given: dict[str, Any], user: str, session: str, limit: int, as_json: bool) -> None:
    """Print who did what, to what, from where, and what came of it."""

    async def ask(client: ServiceClient) -> list[AuditEntry]:
        target = await resolve(client, session, ended=True) if session else ""
        return await client.audit(user=user, target=target, limit=limit, last=True)

    found = ask_service(given, ask)
    if as_json:
        import msgspec

        for each in found:
            click.echo(msgspec.json.encode(each).decode())
        return
    rows = [
        (when(each.time_s), each.user or "-", each.address, each.status, each.action, each.target, each.note)
        for each in found
    ]
    print_table(("WHEN", "USER", "FROM", "ANSWER", "WHAT", "TO", "NOTE"), rows)


@click.command()
@click.option("--days", type=float, default=30.0, show_default=True, help="Of so many days.")
@as_json
@click.pass_obj
def usage(given: dict[str, Any], days: float, as_json: bool) -> None:
    """Print which devices were used how long, by user and session."""
    view = ask_service(given, lambda client: client.usage(from_s=max(0.0, time.time() - days * DAY_S)))
    if as_json:
        print_json(plain(view))
        return
    rows: list[tuple[object, ...]] = [
        (each.user, f"({each.sessions})", f"{each.devices:g}", f"{each.device_seconds / 3600:.2f}")
        for each in view.users
    ]
    rows += [
        (
            each.owner,
            each.name or each.session_id[:SHORT_ID_CHARS],
            f"{each.devices:g}",
            f"{each.device_seconds / 3600:.2f}",
        )
        for each in view.sessions
    ]
    print_table(("USER", "SESSION", "DEVICES NOW", "DEVICE-HOURS"), rows)


# -- reservations --------------------------------------------------------------------------------------------


@click.group()
def reservations() -> None:
    """Devices that are kept for a user from one time to another."""


@reservations.command("list")
@as_json
@click.pass_obj
def reservations_list(given: dict[str, Any], as_json: bool) -> None:
    """List those that run or are to come."""
    found = ask_service(given, lambda client: client.reservations())

    def row(each: Reservation) -> tuple[object, ...]:
        where = each.kind or "any", each.node or "any"
        return each.id, each.user, each.devices, *where, when(each.from_s), when(each.until_s)

    print_facts(found, as_json, ("ID", "USER", "DEVICES", "KIND", "NODE", "FROM", "UNTIL"), row)


@reservations.command("create")
@click.option("--user", required=True, help="For whose sessions.")
@click.option("--devices", type=click.IntRange(1), default=1, show_default=True, help="How many.")
@click.option("--hours", type=click.FloatRange(0, min_open=True), required=True, help="For how long.")
@click.option("--in-hours", type=click.FloatRange(0), default=0.0, help="When it begins; 0 is now.")
@click.option("--kind", help="`cuda` or `cpu`.")
@click.option("--node", help="Devices of this node only.")
@click.option("--label", default="", help="A note.")
@as_json
@click.pass_obj
def reservations_create(
    given: dict[str, Any],
    user: str,
    devices: int,
    hours: float,
    in_hours: float,
    kind: str | None,
    node: str | None,
    label: str,
    as_json: bool,
) -> None:
    """Keep devices for a user; while it runs, other sessions are parked for the user's if need be."""
    from_s = time.time() + 3600 * in_hours
    made = ask_service(
        given,
        lambda client: client.reserve(
            user, devices, from_s=from_s, until_s=from_s + 3600 * hours, kind=kind, node=node, label=label
        ),
    )
    print_fact(
        made, as_json, lambda made: f"Reservation {made.id}: {made.devices} for {made.user} until {when(made.until_s)}."
    )


@reservations.command("cancel")
@click.argument("reservation")
@click.pass_obj
def reservations_cancel(given: dict[str, Any], reservation: str) -> None:
    """Keep the devices no longer, by the id."""
    gone = ask_service(given, lambda client: client.cancel_reservation(reservation))
    click.echo(f"Reservation {gone.id} of {gone.user} is cancelled.")


COMMANDS = (users, tokens, token, audit, usage, reservations)
