"""`jupyter gpuaas certs`: the own CA, and certificates for the service and its nodes."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jupyter_gpuaas.cli.asking import as_json, plain, print_json, print_table, settings_of

if TYPE_CHECKING:
    from jupyter_gpuaas.cli.authority import Authority, Certificate

_hosts = click.option("--host", "hosts", multiple=True, help="A name or an address that it is good for; any number.")
_days = click.option("--days", type=click.IntRange(1, 3650), help="How long it is valid [365].")


@click.group()
@click.option("--folder", type=click.Path(path_type=Path), help="Folder of the CA [certs in the home folder].")
@click.pass_context
def certs(context: click.Context, folder: Path | None) -> None:
    """Certificates for TLS: a CA of your own, and what it issues (docs/tls.md)."""
    context.obj = {**context.obj, "folder": folder}


def _authority(given: dict[str, Any]) -> Authority:
    from jupyter_gpuaas.cli.authority import Authority
    from jupyter_gpuaas.wire.tls import FOLDER

    given = dict(given)
    folder = given.pop("folder")
    return Authority(folder or settings_of(given).make_folder() / FOLDER)


@certs.command()
@_hosts
@_days
@as_json
@click.pass_obj
def init(given: dict[str, Any], hosts: Sequence[str], days: int | None, as_json: bool) -> None:
    """Make a CA, and a certificate for the service on this machine and its nodes."""
    from jupyter_gpuaas.wire.tls import AUTHORITY, SERVICE

    authority = _authority(given)
    authority.init()
    made = authority.issue(SERVICE, ["localhost", "127.0.0.1", "::1", *_own_name(), *hosts], **_lasting(days))
    if as_json:
        print_json([plain(each) for each in authority.all()])
        return
    click.echo(f"A CA, and a certificate for {', '.join(made.hosts)}, are in {authority.folder}.")
    click.echo("GPUAAS_TLS=on makes the service and its nodes use it.")
    file = authority.folder / AUTHORITY
    click.echo(f"Clients on other machines need a copy of {file}.pem, and GPUAAS_CA with its path.")
    click.echo(f"Keep {file}.key to yourself: whoever has it can pass for the service.")


@certs.command()
@click.argument("name")
@_hosts
@_days
@as_json
@click.pass_obj
def issue(given: dict[str, Any], name: str, hosts: Sequence[str], days: int | None, as_json: bool) -> None:
    """Issue a certificate for a node, or for a service elsewhere, called NAME; without --host good for that name."""
    _show([_authority(given).issue(name, hosts or [name], **_lasting(days))], as_json)


@certs.command()
@click.argument("names", nargs=-1)
@_days
@as_json
@click.pass_obj
def renew(given: dict[str, Any], names: Sequence[str], days: int | None, as_json: bool) -> None:
    """Issue certificates anew, all or those named. What runs on this machine takes them by itself."""
    _show(_authority(given).renew(names, **_lasting(days)), as_json)


@certs.command()
@click.option("--finish", is_flag=True, help="Trust the former CA no longer.")
@as_json
@click.pass_obj
def rotate(given: dict[str, Any], finish: bool, as_json: bool) -> None:
    """Make a new CA, in three steps.

    `rotate` makes it; certificates of both are trusted. When all have a copy of the new ca.pem, `renew` lets the new
    one issue all certificates. When all use these, `rotate --finish` drops the former one.
    """
    authority = _authority(given)
    if finish:
        authority.finish()
    else:
        authority.rotate()
    _show(authority.all(), as_json)


@certs.command()
@as_json
@click.pass_obj
def show(given: dict[str, Any], as_json: bool) -> None:
    """List the CA and its certificates, and how long they are valid."""
    _show(_authority(given).all(), as_json)


def _own_name() -> list[str]:
    """The name of this machine, if it is one that can be in a certificate."""
    from jupyter_gpuaas.cli.authority import is_host

    name = socket.gethostname()
    return [name] if is_host(name) else []


def _lasting(days: int | None) -> dict[str, int]:
    return {} if days is None else {"days": days}


def _show(found: Sequence[Certificate], as_json: bool) -> None:
    if as_json:
        print_json([plain(each) for each in found])
        return
    rows = [
        (each.name, _ends(each.until_s - time.time()), each.issuer, " ".join(each.hosts) or "-", each.file)
        for each in found
    ]
    print_table(("NAME", "ENDS", "ISSUED BY", "FOR", "FILE"), rows)


def _ends(left_s: float) -> str:
    days = left_s / 86400
    return f"in {days:.0f} days" if days >= 1 else f"in {left_s / 3600:.0f} h" if left_s > 0 else "HAS ENDED"


COMMANDS = (certs,)
