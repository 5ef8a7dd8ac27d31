"""The commands of ``%remote_gpu`` that move a session, park it and tell its story."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NoReturn, Protocol, TypeVar

from ..client.migrations import follow_migration
from ..client.service import ServiceClient
from ..errors import MigrationError, NamesLost
from ..model import Event, MigrationPlan, MigrationView, Phase, SessionView
from ..model.words import plan_lines, story_lines

T = TypeVar("T")

COMMANDS = ("migrate", "park", "story")

HELP = """\
%remote_gpu migrate [NODE] [--dry-run] [--accept-loss]  move the session to another node; --dry-run only tells
%remote_gpu park [--accept-loss]       give its devices back until the next cell
%remote_gpu story                      what happened to the session, and why
"""


class Mover(Protocol):
    """Who carries the commands out."""

    def plan(self, target: str | None) -> MigrationPlan: ...

    def migrate(self, target: str | None, *, accept_loss: bool) -> MigrationView | None:
        """Move; None where that begins only when the cell that asks has ended."""

    def park(self, *, accept_loss: bool) -> SessionView | None:
        """Park; None as above."""

    def events(self) -> Sequence[Event]: ...


def add_parsers(commands: Any) -> None:
    """Add the commands to a line magic's subparsers."""
    migrate = commands.add_parser("migrate", add_help=False)
    migrate.add_argument("node", nargs="?")
    migrate.add_argument("--dry-run", action="store_true")
    migrate.add_argument("--accept-loss", action="store_true")
    commands.add_parser("park", add_help=False).add_argument("--accept-loss", action="store_true")
    commands.add_parser("story", add_help=False)


def carry_out(arguments: argparse.Namespace, mover: Mover) -> None:
    """Carry out one command and print what it gives."""
    match arguments.command:
        case "migrate" if arguments.dry_run:
            print("\n".join(plan_lines(mover.plan(arguments.node))))
        case "migrate":
            view = _with_consent(
                lambda accepted: mover.migrate(arguments.node, accept_loss=accepted), arguments, "Move it all the same?"
            )
            if view is None:
                print("the session moves when this cell has ended; what came of it is told here and in its story")
            elif view.phase is not Phase.DONE:
                raise MigrationError(f"{view.phase}: {view.cause}.", hint="The session goes on where it was.")
            else:
                print(view.cause)
        case "park":
            parked = _with_consent(
                lambda accepted: mover.park(accept_loss=accepted), arguments, "Park it all the same?"
            )
            if parked is None:
                print("the session is parked when this cell has ended; the next cell brings it back")
            else:
                print(f"session {parked.session.name!r} is {parked.session.state}; the next cell brings it back")
        case "story":
            print("\n".join(story_lines(mover.events(), _clock)))


def _with_consent(work: Callable[[bool], T], arguments: argparse.Namespace, question: str) -> T:
    """Do what may lose names. Where it would, ask in the cell, and do it all the same on a yes."""
    try:
        return work(arguments.accept_loss)
    except NamesLost as error:
        try:
            answer = input(f"{error.message} {question} [y/N] ")
        except (EOFError, OSError, NotImplementedError):  # nobody is there to be asked, as in nbconvert
            raise error from None
        if answer.strip().lower() not in ("y", "yes"):
            raise MigrationError("The session stays as it is.") from None
    return work(True)


def _clock(when_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when_s))


class RemoteMover:
    """The commands for one session, carried out by the service.

    Parameters
    ----------
    wait
        Runs a coroutine to its end; a KeyboardInterrupt cancels it.
    """

    def __init__(
        self,
        service: ServiceClient,
        session: str,
        wait: Callable[[Coroutine[Any, Any, Any]], Any],
        say: Callable[[str], None],
    ) -> None:
        self._service = service
        self._session = session
        self._wait = wait
        self._say = say
        self._plan_told = False

    def plan(self, target: str | None) -> MigrationPlan:
        found: MigrationPlan = self._wait(self._service.plan_migration(self._session, target))
        return found

    def migrate(self, target: str | None, *, accept_loss: bool) -> MigrationView:
        async def move() -> MigrationView:
            if not self._plan_told:  # else its user has been asked, after that
                self._plan_told = True
                for line in plan_lines(await self._service.plan_migration(self._session, target)):
                    self._say(line)
            view = await self._service.migrate(self._session, target, accept_loss=accept_loss)
            return await follow_migration(self._service, view, self._say)

        done: MigrationView = self._wait(move())
        return done

    def park(self, *, accept_loss: bool) -> SessionView:
        found: SessionView = self._wait(self._service.park(self._session, accept_loss=accept_loss))
        return found

    def events(self) -> list[Event]:
        async def read() -> list[Event]:
            found: list[Event] = []
            while page := await self._service.events(after=found[-1].seq if found else 0, session=self._session):
                found += page
            return found

        events: list[Event] = self._wait(read())
        return events


class OwnMover:
    """The commands in the session's own kernel, which holds no token: what it can, it asks for by way of its host.

    Parameters
    ----------
    wish
        See ``GpuKernel.wish``.
    name
        Of the session.
    """

    def __init__(self, wish: Callable[..., None], name: str) -> None:
        self._wish = wish
        self._name = name

    def plan(self, target: str | None) -> NoReturn:
        raise self._not_here("migrate --dry-run")

    def migrate(self, target: str | None, *, accept_loss: bool) -> None:
        self._wish("migrate", target=target, accept_loss=accept_loss)

    def park(self, *, accept_loss: bool) -> None:
        self._wish("park", accept_loss=accept_loss)

    def events(self) -> NoReturn:
        raise self._not_here("story")

    def _not_here(self, command: str) -> MigrationError:
        return MigrationError(
            "a session's own kernel holds no token of the service's, so it cannot ask for this.",
            hint=f"On your own machine: jupyter gpuaas {command} {shlex.quote(self._name)}",
        )
