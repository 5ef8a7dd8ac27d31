"""The host's end of its line to the agent: commands come as JSON lines, answers and reports go back."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec

from ..errors import GpuaasError, to_wire
from ..model import HostReport

#: A line may be as long as this.
LINE_BYTES = 1 << 26


class AgentLine:
    """Every connection of an agent: one that was started again simply connects again.

    Parameters
    ----------
    carry_out
        Does what a command says, and returns what is answered. What it raises is answered, too.
    report
        The session as it stands; None before there is one.
    run
        Lets a command go on beside the others.
    log
        Told of what went wrong, and is a bug.
    """

    def __init__(
        self,
        carry_out: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]],
        *,
        report: Callable[[], HostReport | None],
        run: Callable[[Coroutine[Any, Any, None]], object],
        log: Callable[[str], None],
    ) -> None:
        self._carry_out = carry_out
        self._now = report
        self._run = run
        self._log = log
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until it ends."""
        self._writers.add(writer)
        writer.write(msgspec.json.encode({"report": self._now()}) + b"\n")
        try:
            while line := await reader.readline():
                self._run(self.command(msgspec.json.decode(line), writer))
        except (ConnectionError, msgspec.DecodeError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def report(self, report: HostReport) -> None:
        """Tell the agent how the session stands now."""
        for writer in self._writers:
            writer.write(msgspec.json.encode({"report": report}) + b"\n")

    async def command(self, command: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        """Carry out one command, and answer it."""
        answer: dict[str, Any] = {"id": command.get("id")}
        try:
            answer |= await self._carry_out(command)
        except GpuaasError as error:
            answer["error"] = str(error)
            answer["failure"] = to_wire(error)
        except Exception as error:
            # A bug of ours, perhaps; whoever has asked must not wait for ever.
            self._log(f"op {command.get('op')!r}:\n{traceback.format_exc()}")
            answer["error"] = f"{type(error).__name__}: {error}"
        with contextlib.suppress(ConnectionError):
            writer.write(msgspec.json.encode(answer) + b"\n")
            await writer.drain()
