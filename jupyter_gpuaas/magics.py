"""``%remote_gpu`` and ``%%remote_gpu``.

In a local notebook they connect to a session and ship cells to it. In the kernel of a session the same line magics
tell about the session itself, and a ``%%remote_gpu`` cell simply runs where it is.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, magics_class

from jupyter_gpuaas.config import CHOICES, Settings, load
from jupyter_gpuaas.errors import CheckpointError, GpuaasError

if TYPE_CHECKING:
    from jupyter_gpuaas.cell.connection import Connection

#: Set by its host in the kernel of a session.
SESSION_ID = "GPUAAS_SESSION_ID"

HELP = """\
%%remote_gpu [--on NODE] [-i NAMES] [-o NAMES]   run this cell in the remote session
    variables, functions, classes and local modules that it reads go along; what it assigns comes back:
    small values by value, large ones as RemoteVariable handles (.get() brings them)
    -i NAMES   send these too, though the cell does not visibly read them (comma-separated)
    -o NAMES   bring these back by value, whatever their size
    --on NODE  run it in a session on this node

%remote_gpu connect [--session NAME] [--on NODE] [--devices N] [--kind cuda|cpu] [--memory GIB] [--standby 0|1]
%remote_gpu connect [--on-node-loss ask|rerun|restore_only]
    --devices 0.5 is a part of one device; others may have the rest
    --on-node-loss says what becomes of a cell that runs when its node is lost: an error that asks to run it again, it
    runs again by itself, or an error that asks for nothing
%remote_gpu status                     the session: node, devices, memory, checkpoints and their cost
%remote_gpu nodes                      the nodes of the pool
%remote_gpu sync [PATHS]               send files of this folder (all but those in .gpuaasignore) that have changed
%remote_gpu logs [--tail N] [--system] what the session printed; --system: its host's and kernel's own log
{checkpoints}{moves}%remote_gpu detach                     leave the session; it goes on
%remote_gpu release                    end the session and give its devices back
"""


NOT_CONNECTED = "not connected to a session; `%remote_gpu connect` or a %%remote_gpu cell connects"


class Interrupted(KeyboardInterrupt):
    """The user interrupted one of our commands."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: a word for the user, not our stack."""
        return ["KeyboardInterrupt: given up"]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"%remote_gpu: {message}. `%remote_gpu --help` tells what there is.")


def _devices(value: str) -> float:
    from jupyter_gpuaas.model.session import parts

    parts(float(value))
    return float(value)


def _line_parser() -> _Parser:
    parser = _Parser(prog="%remote_gpu", add_help=False)
    commands = parser.add_subparsers(dest="command", parser_class=_Parser)
    connect = commands.add_parser("connect", add_help=False)
    connect.add_argument("--session", default="")
    connect.add_argument("--on", default="")
    connect.add_argument("--devices", type=_devices)
    connect.add_argument("--kind", choices=("cuda", "cpu"))
    connect.add_argument("--memory", type=float, default=0.0)
    connect.add_argument("--standby", type=int, choices=(0, 1), nargs="?", const=1)
    connect.add_argument("--on-node-loss", choices=CHOICES["on_node_loss"])
    for name in ("status", "nodes", "release", "detach"):
        commands.add_parser(name, add_help=False)
    logs = commands.add_parser("logs", add_help=False)
    logs.add_argument("--tail", type=int, default=100)
    logs.add_argument("--system", action="store_true")
    commands.add_parser("sync", add_help=False).add_argument("paths", nargs="*")
    from jupyter_gpuaas.cell import checkpoint_commands, move_commands

    checkpoint_commands.add_parsers(commands)
    move_commands.add_parsers(commands)
    return parser


def _cell_parser() -> _Parser:
    parser = _Parser(prog="%%remote_gpu", add_help=False)
    parser.add_argument("--on", default="")
    parser.add_argument("-i", dest="inputs", action="append", default=[])
    parser.add_argument("-o", dest="outputs", action="append", default=[])
    return parser


def _help(command: Sequence[str]) -> str:
    """The lines about a command; about all if there is none of this name."""
    from jupyter_gpuaas.cell import checkpoint_commands, move_commands

    whole = HELP.format(checkpoints=checkpoint_commands.HELP, moves=move_commands.HELP)
    return "\n".join(line for line in whole.splitlines() if line.split()[:2] == ["%remote_gpu", *command]) or whole


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError as error:
        raise UsageError(f"%remote_gpu: {error}") from error


def _names(given: Sequence[str]) -> list[str]:
    names = [name for part in given for name in part.replace(",", " ").split()]
    for name in names:
        if not name.isidentifier():
            raise UsageError(f"%%remote_gpu: {name!r} is not a name")
    return names


def _say(text: str) -> None:
    print(f"[remote GPU] {text}", file=sys.stderr, flush=True)


@magics_class
class RemoteGpuMagics(Magics):
    """The magics, as a local notebook uses them."""

    shell: Any

    def __init__(self, shell: Any) -> None:
        super().__init__(shell)
        #: By node; the empty one is that of cells without ``--on``.
        self._connections: dict[str, Connection] = {}
        self._current = ""

    @line_cell_magic
    def remote_gpu(self, line: str, cell: str | None = None) -> None:
        """Use a remote GPU session; ``%remote_gpu --help`` tells how."""
        words = _words(line)
        if "--help" in words or "-h" in words or (cell is None and not words):
            print(_help(words[:1] if cell is None else []))
            return
        # Asked each time: a kernel that was started ahead learns only later whose it is.
        here = bool(os.environ.get(SESSION_ID))
        if here and cell is not None:
            _cell_in_session(self.shell, words, cell)
            return
        try:
            if here:
                _in_session(self.shell, words)
            elif cell is None:
                self._line(_line_parser().parse_args(words))
            else:
                self._cell(_cell_parser().parse_args(words), cell)
        except KeyboardInterrupt:
            raise Interrupted from None

    # -- cells -----------------------------------------------------------------------------------

    def _cell(self, arguments: argparse.Namespace, cell: str) -> None:
        inputs, outputs = _names(arguments.inputs), _names(arguments.outputs)
        connection = self._connection(arguments.on or self._current)
        try:
            for notice in connection.run_cell(cell, self.shell, inputs=inputs, outputs=outputs):
                _say(notice)
        except GpuaasError:
            if connection.ended:
                # The next cell gets a new session instead of the same error again.
                self._forget(connection)
            raise

    # -- line magics -----------------------------------------------------------------------------

    def _line(self, arguments: argparse.Namespace) -> None:
        from jupyter_gpuaas.cell import checkpoint_commands, move_commands
        from jupyter_gpuaas.widgets import can_show

        known = (*checkpoint_commands.OF_OLD, *move_commands.COMMANDS)
        without = arguments.command in ("detach", "release") and not self._connections
        if without or (arguments.command in known and self._current not in self._connections):
            print(NOT_CONNECTED)  # a new session would have none
        elif arguments.command == "checkpoints" and can_show(self.shell):
            self._show_checkpoints()
        elif arguments.command in checkpoint_commands.COMMANDS:
            checkpoint_commands.carry_out(arguments, self._connection(self._current).checkpoints, _say)
        elif arguments.command in move_commands.COMMANDS:
            move_commands.carry_out(arguments, self._connection(self._current).mover)
        else:
            getattr(self, f"_{arguments.command}")(arguments)

    def _connect(self, arguments: argparse.Namespace) -> None:
        from jupyter_gpuaas.model import ResourceRequest
        from jupyter_gpuaas.model.session import parts

        settings, standby = load(), arguments.standby
        devices, share = parts(arguments.devices or settings.want_devices)
        if standby is None and not arguments.on:
            standby = settings.standby
        request = ResourceRequest(
            devices=devices,
            share=share,
            kind=arguments.kind,
            memory_bytes=int(arguments.memory * 1024**3),
            node=arguments.on or None,
            standby=standby or 0,
            on_node_loss=arguments.on_node_loss or settings.asked_on_node_loss,
        )
        former = self._connections.get(arguments.on)
        if former is not None and former.is_ours:
            # It may hold what this one is to have.
            del self._connections[arguments.on]
            former.release()
            former = None
        self._open(arguments.on, settings, request, arguments.session)
        if former is not None:
            former.detach()
        self._current = arguments.on
        self._status(arguments)

    def _show_checkpoints(self) -> None:
        from jupyter_gpuaas.model.words import table
        from jupyter_gpuaas.widgets import show_checkpoints

        connection = self._connection(self._current)
        views = connection.checkpoints.listed()
        if views:
            show_checkpoints(connection.name, views, table(views))
        else:
            print("there are no checkpoints of this session yet")

    def _status(self, arguments: argparse.Namespace) -> None:
        from jupyter_gpuaas.model.words import held, standby_lines, status_lines
        from jupyter_gpuaas.widgets import can_show, show_allocation

        if not self._connections:
            print(NOT_CONNECTED)
            return
        for connection in self._connections.values():
            view = connection.view()
            session = view.session
            lease = session.lease
            where = f"on {lease.node_id} with {held(lease)}" if lease else "without a node"
            place = f", place {session.queue_place} in the queue" if session.queue_place else ""
            nodes = connection.nodes() if lease else []
            lines = [f"session {session.name!r}: {session.state}{place}, {where} ({session.id})"]
            if lease:
                lines += _device_lines(nodes, lease.node_id, lease.device_ids)
            lines += [f"    {line}" for line in [*standby_lines(view.standby), *status_lines(view.checkpoints)]]
            if can_show(self.shell):
                show_allocation(view, nodes, "\n".join(lines))
            else:
                print("\n".join(lines))

    def _nodes(self, arguments: argparse.Namespace) -> None:
        from jupyter_gpuaas.cell.connection import service_nodes

        connection = next(iter(self._connections.values()), None)
        nodes = connection.nodes() if connection else service_nodes(load())
        for node in nodes:
            lines = _device_lines([node], node.id, [device.id for device in node.devices])
            print("\n".join([f"{node.id}: {node.state}", *lines]))

    def _sync(self, arguments: argparse.Namespace) -> None:
        from jupyter_gpuaas.cell.remote_variable import size

        connection = self._connection(self._current)
        assert connection.shipper is not None
        plan, sent = connection.shipper.sync(arguments.paths)
        total = size(sum(file.size for file in sent))
        print(f"{len(sent)} of {len(plan.files)} files sent ({total}), the others are the same there")
        for path, reason in plan.refused.items():
            _say(f"not sent: {path}: {reason}")

    def _logs(self, arguments: argparse.Namespace) -> None:
        connection = self._connection(self._current)
        print(connection.log(kind="system" if arguments.system else "output", tail=arguments.tail))

    def _detach(self, arguments: argparse.Namespace) -> None:
        for connection in list(self._connections.values()):
            self._forget(connection)
            print(f"left session {connection.name!r}; it goes on")

    def _release(self, arguments: argparse.Namespace) -> None:
        for node, connection in list(self._connections.items()):
            del self._connections[node]
            connection.release()
            print(f"session {connection.name!r} has ended")

    # --------------------------------------------------------------------------------------------

    def _connection(self, node: str) -> Connection:
        from jupyter_gpuaas.model import ResourceRequest
        from jupyter_gpuaas.model.session import parts

        if node in self._connections:
            return self._connections[node]
        settings = load()
        devices, share = parts(settings.want_devices)
        standby = 0 if node else settings.standby
        policy = settings.asked_on_node_loss
        request = ResourceRequest(devices=devices, share=share, node=node or None, standby=standby, on_node_loss=policy)
        return self._open(node, settings, request)

    def _open(self, node: str, settings: Settings, request: Any, session: str = "") -> Connection:
        from jupyter_gpuaas.cell.connection import Connection, default_name

        name, ours = (session, False) if session else default_name(settings, node)
        connection = Connection(settings, _say, ours=ours)
        connection.connect(name, request)
        self._connections[node] = connection
        differences = connection.differences(self.shell.user_ns)
        if differences:
            _say("versions differ: " + "; ".join(differences))
        return connection

    def _forget(self, connection: Connection) -> None:
        for node in [node for node, known in self._connections.items() if known is connection]:
            del self._connections[node]
        connection.detach()


def _cell_in_session(shell: Any, words: list[str], cell: str) -> None:
    _cell_parser().parse_args(words)
    _say("this notebook runs in the session already; the cell runs here")
    shell.run_cell(cell).raise_error()


def _in_session(shell: Any, words: list[str]) -> None:
    """The line magics inside a session's own kernel.

    The kernel holds no token of the service's, so that a notebook cannot act for its owner: what it can tell is what
    its host told it.
    """
    from jupyter_gpuaas.cell import checkpoint_commands, move_commands

    arguments = _line_parser().parse_args(words)
    name = os.environ.get("GPUAAS_SESSION_NAME", "")
    if arguments.command in ("status", "connect", "nodes"):
        _session_status(name)
        _checkpoint_status(shell)
        if arguments.command == "nodes":
            print("that is the node of this session; all nodes, on your own machine: jupyter gpuaas nodes")
    elif arguments.command in checkpoint_commands.COMMANDS:
        desk = getattr(shell.kernel, "checkpoints", None)
        if desk is None:
            raise CheckpointError("this session takes no checkpoints.")
        checkpoint_commands.carry_out(arguments, desk, _say)
    elif arguments.command in move_commands.COMMANDS:
        move_commands.carry_out(arguments, move_commands.OwnMover(shell.kernel.wish, name))
    elif arguments.command == "sync":
        print("this notebook runs in the session already; there is nothing to send from another folder")
    elif arguments.command == "detach":
        print("close the notebook without shutting its kernel down; the session goes on")
    else:
        print(f"not from in here; on your own machine: jupyter gpuaas {arguments.command} {shlex.quote(name)}")


def _session_status(name: str) -> None:
    from jupyter_gpuaas.cell.remote_variable import size

    session = os.environ[SESSION_ID]
    print(f"this is session {name!r} on {os.environ.get('GPUAAS_NODE', 'an unknown node')} ({session})")
    for device in json.loads(os.environ.get("GPUAAS_DEVICES") or "[]"):
        print(f"    {device['id']}  {device['label']}, {size(device['memory_bytes'])}")


def _checkpoint_status(shell: Any) -> None:
    from jupyter_gpuaas.model.words import status_lines

    checkpoints = getattr(shell.kernel, "checkpoints", None)
    if checkpoints is not None:
        print("\n".join(status_lines(checkpoints.status())))


def _device_lines(nodes: Sequence[Any], node_id: str, device_ids: Sequence[str]) -> list[str]:
    from jupyter_gpuaas.cell.remote_variable import size
    from jupyter_gpuaas.model.words import in_use

    lines = []
    for node in nodes:
        if node.id != node_id:
            continue
        used = {sample.device_id: sample for sample in node.samples}
        for device in node.devices:
            if device.id in device_ids:
                sample = used.get(device.id)
                memory = f"{size(sample.used_bytes)} of " if sample else ""
                taken = f", {in_use(node.used.get(device.id, 0.0))}"
                lines.append(f"    {device.id}  {device.label}, {memory}{size(device.memory_bytes)}{taken}")
    return lines


def register(shell: Any) -> None:
    """Add the magics to a shell."""
    shell.register_magics(RemoteGpuMagics)
