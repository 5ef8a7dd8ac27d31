"""The command line: ``jupyter gpuaas``.

What is heavy is imported by the command that needs it, so that ``--help`` is there at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any

import click

from jupyter_gpuaas import __version__
from jupyter_gpuaas.cli import certs, checkpoints, doctor, moves, users
from jupyter_gpuaas.cli.asking import (
    SHORT_ID_CHARS,
    age,
    as_json,
    ask_service,
    count_of,
    gib,
    one_line,
    plain,
    print_done,
    print_facts,
    print_json,
    print_table,
    resolve,
    settings_of,
    when,
)
from jupyter_gpuaas.errors import GpuaasError, ServiceUnreachable, SettingError

if TYPE_CHECKING:
    from jupyter_gpuaas.client.embedded import Endpoint
    from jupyter_gpuaas.client.service import ServiceClient
    from jupyter_gpuaas.config import Settings
    from jupyter_gpuaas.model import Event, GpuSession

STOP_TIMEOUT_S = 60.0
STOP_POLL_S = 0.02


class _Commands(click.Group):
    """Shows our errors as a sentence and a hint; a traceback would tell a user nothing."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except GpuaasError as error:
            click.echo(f"Error: {error.message}", err=True)
            if error.hint:
                click.echo(error.hint, err=True)
            context.exit(1)
        except BrokenPipeError:
            # The reader of our output, `head` perhaps, has seen enough.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            context.exit(0)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--home", help="Folder of the embedded service [GPUAAS_HOME].", metavar="FOLDER")
@click.option("--url", help="Address of a service elsewhere [GPUAAS_URL].", metavar="URL")
@click.version_option(__version__, prog_name="jupyter_gpuaas")
@click.pass_context
def main(context: click.Context, home: str | None, url: str | None) -> None:
    """Notebook sessions on the GPU nodes of a pool, that outlive their client."""
    context.obj = {"home": home, "url": url}


# -- the service ---------------------------------------------------------------------------------------------


@main.command()
@click.option("--nodes", type=click.IntRange(1, 64), help="Local nodes to start.")
@click.option("--devices", help="Devices of a node: `auto`, or like `cpu:2`.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 picks a free one.")
@click.option("--detach", is_flag=True, help="Return when it is ready; it goes on in the background.")
@click.option("--engine", type=click.Choice(["local", "ray"]), help="Who owns the nodes [local].")
@click.option("--ray-address", metavar="HOST:PORT", help="Address of the Ray cluster; `auto` finds this machine's.")
@click.option("--standby", is_flag=True, help="Take over when the one that runs on the same database ends.")
@click.option("--again", is_flag=True, hidden=True, help="Only where one was killed, and not where it was shut down.")
@as_json
@click.pass_obj
def up(
    given: dict[str, Any],
    nodes: int | None,
    devices: str | None,
    port: int | None,
    detach: bool,
    engine: str | None,
    ray_address: str | None,
    standby: bool,
    again: bool,
    as_json: bool,
) -> None:
    """Start the service on this machine.

    In the foreground, Ctrl-C ends it and its sessions. Killed in any other way, it finds its sessions again when it is
    started again.
    """
    from jupyter_gpuaas.client.embedded import find_running, read_service_file, start_service

    settings = settings_of(given, nodes=nodes, devices=devices, port=port, engine=engine, ray_address=ray_address)
    if standby:
        _may_stand_by(settings, detach)
    running = None if standby else asyncio.run(find_running(settings.folder))
    news = "already runs" if running else "runs"
    if running is None and not detach:
        from jupyter_gpuaas.controller.server import AlreadyRunning, serve
        from jupyter_gpuaas.engine.ray.cluster import leave
        from jupyter_gpuaas.logs import log_to_stderr

        log_to_stderr(settings.log_format)
        try:
            serve(settings, ready=lambda _: _announce(settings, "runs", as_json, hint=True), again=again)
            leave()
            return
        except AlreadyRunning:
            news = "already runs or is starting"
    elif running is None:
        asyncio.run(start_service(settings))
    if read_service_file(settings.folder) is not None:
        _announce(settings, news, as_json)
    else:
        click.echo(f"A service for {settings.folder} {news}.")


def _may_stand_by(settings: Settings, detach: bool) -> None:
    from jupyter_gpuaas.controller.catalogue.opening import is_shared

    if detach:
        raise click.UsageError("--standby runs in the foreground only.")
    if not is_shared(settings.database):
        raise SettingError(
            "setting database_url: only on PostgreSQL can a controller stand by.", hint="See docs/database.md."
        )


def _announce(settings: Settings, news: str, as_json: bool, *, hint: bool = False) -> None:
    from jupyter_gpuaas.client.embedded import read_service_file

    written = read_service_file(settings.folder)
    assert written is not None
    if as_json:
        print_json({**plain(written), "home": str(settings.folder)})
        return
    count = count_of(written.nodes, "node")
    click.echo(f"The service {news} at {written.url} ({count}, home {settings.folder}).")
    if hint:
        click.echo("Ctrl-C ends it and its sessions.")


@main.command()
@as_json
@click.pass_obj
def down(given: dict[str, Any], as_json: bool) -> None:
    """End the service of this machine, with its sessions and nodes.

    Works as well when the service itself was killed and only its nodes are left.
    """
    from jupyter_gpuaas.client.embedded import find_running, read_service_file
    from jupyter_gpuaas.client.service import ServiceClient

    settings = settings_of(given)
    written = read_service_file(settings.folder)
    if written is not None and written.engine:
        # Its nodes are found with what it was started with, whatever this command is told.
        settings = settings_of(given, **written.engine)
    running = asyncio.run(find_running(settings.folder))
    if running is not None and written is not None:

        async def stop(endpoint: Endpoint) -> None:
            async with ServiceClient(endpoint.url, endpoint.token, ca=endpoint.ca) as client:
                await client.stop()

        asyncio.run(stop(running))
        _wait_for_end(written.pid)
    ended = _end_leftovers(settings) or running is not None
    if as_json:
        print_json({"ended": ended, "home": str(settings.folder)})
    elif ended:
        click.echo("The service has ended, with its sessions and nodes.")
    else:
        click.echo(f"No service runs for {settings.folder}.")


def _wait_for_end(pid: int) -> None:
    import psutil

    deadline = time.monotonic() + STOP_TIMEOUT_S
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        # Not Process.wait(): it also waits until init has reaped the process, which may take seconds.
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                raise ServiceUnreachable(
                    f"the service (process {pid}) has not ended in {STOP_TIMEOUT_S:g} s.",
                    hint=f"`kill -9 {pid}`, then `jupyter gpuaas down` again.",
                )
            time.sleep(STOP_POLL_S)


def _end_leftovers(settings: Settings) -> bool:
    """End what a killed service has left; whether there was anything."""
    folder = settings.folder
    if not (folder / "service.json").exists() and not any(folder.glob("nodes/*/agent.json")):
        return False
    from jupyter_gpuaas.controller.server import AlreadyRunning, end_leftovers

    try:
        end_leftovers(settings)
    except AlreadyRunning:
        raise ServiceUnreachable(
            f"a service for {folder} runs, but does not answer.",
            hint="It may be starting: try again in a moment, or kill its process.",
        ) from None
    return True


@main.command()
@as_json
@click.pass_obj
def status(given: dict[str, Any], as_json: bool) -> None:
    """Tell whether the service runs, and what it holds. Exits with 1 when it does not."""

    async def ask(client: ServiceClient) -> dict[str, Any]:
        health, nodes = await client.health(), await client.nodes()
        sessions = await client.sessions()
        return {
            "running": True,
            "url": client.url,
            "version": health["version"],
            "nodes": len(nodes),
            "devices": sum(len(node.devices) for node in nodes),
            "devices_leased": sum(part for node in nodes for part in node.used.values()),
            "sessions": len(sessions),
        }

    try:
        told = ask_service(given, ask)
    except ServiceUnreachable as error:
        if not as_json:
            raise
        print_json({"running": False, "reason": error.message})
        sys.exit(1)
    if as_json:
        print_json(told)
        return
    click.echo(f"The service runs at {told['url']} (version {told['version']}).")
    devices = f"{told['devices_leased']:g} of {count_of(told['devices'], 'device')}"
    click.echo(f"{count_of(told['nodes'], 'node')}, {devices} leased, {count_of(told['sessions'], 'live session')}.")


@main.command()
@as_json
@click.pass_obj
def nodes(given: dict[str, Any], as_json: bool) -> None:
    """List the nodes and what their devices do."""
    from jupyter_gpuaas.model.words import in_use

    found = ask_service(given, lambda client: client.nodes())
    if as_json:
        print_json([plain(node) for node in found])
        return
    rows = []
    for node in found:
        samples = {sample.device_id: sample for sample in node.samples}
        for device in node.devices:
            sample = samples.get(device.id)
            busy = sample is not None and sample.utilisation >= 0
            rows.append(
                (
                    node.id,
                    node.state,
                    device.id,
                    device.label,
                    gib(device.memory_bytes),
                    gib(sample.used_bytes) if sample else "?",
                    f"{sample.utilisation:.0%}" if sample and busy else "?",
                    in_use(node.used.get(device.id, 0.0), "leased"),
                )
            )
    print_table(("NODE", "STATE", "DEVICE", "LABEL", "MEMORY", "USED", "LOAD", "LEASE"), rows)


# -- sessions ------------------------------------------------------------------------------------------------


@main.command()
@click.option("--all", "all_", is_flag=True, help="Those that have ended, too.")
@as_json
@click.pass_obj
def sessions(given: dict[str, Any], all_: bool, as_json: bool) -> None:
    """List the sessions."""
    from jupyter_gpuaas.model.words import held

    found = ask_service(given, lambda client: client.sessions(all=all_))

    def row(session: GpuSession) -> tuple[object, ...]:
        lease, place = session.lease, session.queue_place
        return (
            session.id[:SHORT_ID_CHARS],
            session.name,
            f"{session.state} (place {place})" if place else session.state,
            f"{lease.node_id} {held(lease)}" if lease else "-",
            session.clients,
            age(time.time() - session.created_s),
            session.cause,
        )

    print_facts(found, as_json, ("ID", "NAME", "STATE", "ON", "CLIENTS", "AGE", "WHY"), row)


@main.command()
@click.argument("session")
@click.pass_obj
def attach(given: dict[str, Any], session: str) -> None:
    """Open a console on a session, by id or name.

    Leaving it with Ctrl-D leaves the session running. Typing `exit` ends the kernel, as it does in any notebook.
    """
    from importlib.util import find_spec

    from jupyter_gpuaas.config import PREFIX

    if find_spec("jupyter_console") is None:
        raise GpuaasError("jupyter_console is not installed.", hint="`pip install jupyter_console`")
    settings = settings_of(given)
    session_id = ask_service(given, lambda client: resolve(client, session))
    environ = os.environ | settings.environment()
    environ |= {PREFIX + "SESSION": session_id, PREFIX + "ON_SHUTDOWN": "detach"}
    command = [sys.executable, "-m", "jupyter_console", "--kernel", "remote_gpu"]
    sys.stdout.flush()
    os.execve(sys.executable, command, environ)


@main.command()
@click.argument("session", nargs=-1, required=True)
@as_json
@click.pass_obj
def release(given: dict[str, Any], session: Sequence[str], as_json: bool) -> None:
    """End sessions, by id or name; what their kernels hold is gone."""

    async def end(client: ServiceClient) -> list[Any]:
        return [(await client.release(await resolve(client, each))).session for each in session]

    ended = ask_service(given, end)
    print_done(ended, as_json, lambda each: f"Session {each.id[:SHORT_ID_CHARS]} ({each.name}) has ended.")


@main.command()
@click.argument("session")
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes.")
@click.option("--system", is_flag=True, help="What its host and kernel logged, not what it printed.")
@click.option("--tail", type=click.IntRange(0), default=0, help="Only so many of the last lines.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a piece of text.")
@click.pass_obj
def logs(given: dict[str, Any], session: str, follow: bool, system: bool, tail: int, as_json: bool) -> None:
    """Print what a session said."""

    async def show(client: ServiceClient) -> None:
        session_id = await resolve(client, session)
        kind = "system" if system else "output"
        pieces = client.follow_log(session_id, kind=kind, tail=tail, follow=follow)
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                if as_json:
                    click.echo(json.dumps({"session_id": session_id, "kind": kind, "text": piece}))
                else:
                    click.echo(piece, nl=False)

    ask_service(given, show)


@main.command()
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes.")
@click.option("--session", default="", help="Only of this session, by id or name.")
@click.option("--after", default=0, help="Only those above this number.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_obj
def events(given: dict[str, Any], follow: bool, session: str, after: int, as_json: bool) -> None:
    """Print the story of sessions, nodes and service."""

    async def show(client: ServiceClient) -> None:
        only = await resolve(client, session, ended=True) if session else ""
        stored = _stored_events(client, after, only)
        async with contextlib.aclosing(client.stream_events(after=after) if follow else stored) as source:
            async for event in source:
                if only in ("", event.session_id):
                    _print_event(event, as_json)

    ask_service(given, show)


async def _stored_events(client: ServiceClient, after: int, session: str) -> AsyncGenerator[Event, None]:
    while True:
        found = await client.events(after=after, session=session)
        for event in found:
            yield event
            after = event.seq
        if not found:
            return


def _print_event(event: Event, as_json: bool) -> None:
    if as_json:
        import msgspec

        click.echo(msgspec.json.encode(event).decode())
        return
    about = event.session_id[:SHORT_ID_CHARS] or event.kind
    what = f"{event.source or '-'} → {event.target}" if event.target else event.kind
    epoch = f"epoch {event.epoch}" if event.epoch else ""
    line = f"{event.seq:>6}  {when(event.time_s)}  {about:<{SHORT_ID_CHARS}}  {what:<22}  {epoch:<8}  "
    click.echo(f"{line}{one_line(event.cause)}".rstrip())


for _command in (*certs.COMMANDS, *checkpoints.COMMANDS, *doctor.COMMANDS, *moves.COMMANDS, *users.COMMANDS):
    main.add_command(_command)
