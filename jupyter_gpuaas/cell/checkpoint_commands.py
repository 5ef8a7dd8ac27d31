"""The checkpoint commands of ``%remote_gpu``: parsed here, carried out by the kernel itself or by the service."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..errors import InvalidRequest
from ..model import (
    REPLAYS,
    CheckpointDiff,
    CheckpointStatus,
    CheckpointView,
    GpuSession,
    Replay,
    RestoreReport,
    check_label,
    short_id,
)
from ..model.words import amount, begun_lines, diff_lines, lost_lines, restored_lines, table, taken_line

COMMANDS = ("checkpoint", "checkpoints", "restore", "diff", "forget")
#: Those that are about checkpoints that there are, and need no session to go on with.
OF_OLD = ("checkpoints", "diff", "forget")

HELP = """\
%remote_gpu checkpoint [--name NAME]   take a checkpoint of all variables now
%remote_gpu checkpoint --every N|on|off  take one after every N cells by itself
%remote_gpu checkpoints                what checkpoints there are, what they hold and what they cost
%remote_gpu restore ID|NAME|-1         make the variables those of a checkpoint; -1 is the newest
%remote_gpu restore ID --replay never|safe|all   which cells may run again for what could not be stored
%remote_gpu restore ID --new [NAME]    begin a new session with a checkpoint
%remote_gpu diff A B                   names that differ between two checkpoints
%remote_gpu forget ID...               remove checkpoints
"""

#: Told how many of how many bytes are done.
Told = Callable[[int, int], None]


class Desk(Protocol):
    """Who carries the commands out: the kernel of the session, or the service for it."""

    def take(self, label: str = "", told: Told = ...) -> CheckpointView: ...

    def set_every(self, every: int) -> CheckpointStatus: ...

    def listed(self) -> list[CheckpointView]: ...

    def restore(self, name: str, told: Told = ..., replay: Replay = ...) -> RestoreReport: ...

    def restore_new(self, name: str, session: str) -> tuple[RestoreReport, GpuSession]:
        """Raises CheckpointError where that cannot be done from here."""

    def diff(self, one: str, other: str) -> CheckpointDiff: ...

    def forget(self, names: Sequence[str]) -> list[str]: ...


def every_of(text: str) -> int:
    """``on``, ``off`` or a number of cells; raises ValueError."""
    if text in ("on", "off"):
        return int(text == "on")
    every = int(text)
    if every < 1:
        raise ValueError(text)
    return every


def add_parsers(commands: Any) -> None:
    """Add the commands to a line magic's subparsers."""
    checkpoint = commands.add_parser("checkpoint", add_help=False)
    checkpoint.add_argument("--name", default="", type=_label)
    checkpoint.add_argument("--every", type=_cells)
    commands.add_parser("checkpoints", add_help=False)
    restore = commands.add_parser("restore", add_help=False)
    restore.add_argument("checkpoint")
    restore.add_argument("--replay", choices=REPLAYS, default="safe")
    restore.add_argument("--new", nargs="?", const="", default=None)
    diff = commands.add_parser("diff", add_help=False)
    diff.add_argument("one")
    diff.add_argument("other")
    commands.add_parser("forget", add_help=False).add_argument("checkpoints", nargs="+")


def _cells(text: str) -> int:
    try:
        return every_of(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of cells nor `on` or `off`") from None


def _label(text: str) -> str:
    try:
        return check_label(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def carry_out(arguments: argparse.Namespace, desk: Desk, say: Callable[[str], None]) -> None:
    """Carry out one command and print what it gives.

    Parameters
    ----------
    say
        Told how far it is, from one second on.
    """
    told = _progress(say)
    match arguments.command:
        case "checkpoint" if arguments.every is not None:
            if arguments.name:
                raise InvalidRequest("--name and --every do not go together.")
            every = desk.set_every(arguments.every).every
            print({0: "no more checkpoints by itself", 1: "a checkpoint after each cell"}.get(every) or _every(every))
        case "checkpoint":
            view = desk.take(arguments.name, told)
            print("\n".join([taken_line(view), *lost_lines(view.lost)]))
        case "checkpoints":
            views = desk.listed()
            print(table(views) if views else "there are no checkpoints of this session yet")
        case "restore" if arguments.new is not None:
            print("\n".join(begun_lines(*desk.restore_new(arguments.checkpoint, arguments.new))))
        case "restore":
            print("\n".join(restored_lines(desk.restore(arguments.checkpoint, told, arguments.replay))))
        case "diff":
            print("\n".join(diff_lines(desk.diff(arguments.one, arguments.other))))
        case "forget":
            for checkpoint in desk.forget(arguments.checkpoints):
                print(f"checkpoint {short_id(checkpoint)} removed")


def _every(every: int) -> str:
    return f"a checkpoint after every {every} cells"


def _progress(say: Callable[[str], None]) -> Told:
    began = last = time.monotonic()

    def told(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - began > 1 and now - last > 1:
            last = now
            say(f"{amount(done)} of {amount(total)}")

    return told
