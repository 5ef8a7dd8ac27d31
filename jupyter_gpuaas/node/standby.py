"""A host that takes a session over from another one: the target's part of a move.

``preload`` (any number of times) and ``load`` bring the variables, ``succeed`` the rest of the journal and who has
asked what; ``live`` makes this the session's host. Before that nothing of the session happens here. One that follows a
session for long may be told of another way to its source with each of them; and where the source is gone with its node,
``load`` with ``alone`` takes what is here and in the checkpoint store, and begins another journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import msgspec

from ..errors import MigrationError, TransportError, from_wire
from ..model import Channel, Handover, HostState, Loaded, Part, Peer
from .journal import Journal
from .kernel_process import Kernel
from .succession import Source, fetch_handover, fetch_journal, fetch_source
from .threads import in_thread

GO_ON_S = 5.0


class StandbySession(Protocol):
    """The session's host, as its standby needs it."""

    journal: Journal
    kernel: Kernel | None
    state: HostState
    cause: str

    def take_over(self, handover: Handover, *, cell: int | None = None) -> None: ...

    def halted(self, kernel: Kernel, why: str = "") -> None:
        """As of ``StillSession``."""


class Standby:
    """The way of one session to this host, from a checkpoint.

    Parameters
    ----------
    ready
        Awaited before the kernel is asked for anything.
    fetch_files
        Brings the files of the session's own working folder from a host, and answers with their bytes; blocks.
    way_of
        The way of the kernel to the peer, where it is not this one's.
    """

    by_image = False

    def __init__(
        self,
        session: StandbySession,
        peer: Peer,
        most_bytes: int,
        *,
        ready: Callable[[], Awaitable[object]],
        fetch_files: Callable[[Peer], int],
        way_of: Callable[[Kernel, Peer], Awaitable[Peer]] | None = None,
    ) -> None:
        self._session = session
        self._peer = peer
        self._way_of = way_of
        self._most_bytes = most_bytes
        self._ready = ready
        self._fetch_files = fetch_files
        self._source: Source | None = None
        self._loaded = False
        self._handover: Handover | None = None
        self._alone = False
        self._live = False
        self._turn = asyncio.Lock()

    async def preload(
        self,
        checkpoint: str,
        *,
        peer: Peer | None = None,
        from_store: bool = False,
        alone: bool = False,
        most_bytes: int = 0,
        without: Sequence[Part] = (),
    ) -> Loaded:
        """Bring over what is lacking of a checkpoint, and the journal so far; no object is made.

        Parameters
        ----------
        peer
            The way to the source from now on; None where it is the same as before.
        from_store
            The variables come from the checkpoint store, so that the source is not held up by it.
        alone
            The source does not answer now: nothing but the variables comes.
        most_bytes
            Memory that may be filled with them; 0 for as much as there is. The rest comes with ``load``.
        without
            Large memory whose content is not wanted, as it is another by now.

        Raises
        ------
        GpuaasError
            It cannot be had; what came is kept.
        """
        async with self._turn:
            began = time.monotonic()
            self._change(peer)
            if alone:
                beside, loaded = 0, await self._ask("preload", checkpoint, from_store=True, most_bytes=most_bytes)
            else:
                more = {"from_store": from_store, "most_bytes": most_bytes, "without": without}
                beside, loaded = await self._bring("preload", checkpoint, **more)
            return msgspec.structs.replace(
                loaded, sent_bytes=loaded.sent_bytes + beside, took_s=time.monotonic() - began
            )

    async def load(self, checkpoint: str, *, peer: Peer | None = None, alone: bool = False) -> Loaded:
        """Make the variables those of a checkpoint. After a failure this host cannot take the session over.

        Parameters
        ----------
        peer
            As of ``preload``.
        alone
            There is no source any more.

        Raises
        ------
        GpuaasError
            They cannot be made.
        """
        async with self._turn:
            began = time.monotonic()
            self._change(peer)
            if alone:
                beside, loaded = 0, await self._ask("load", checkpoint, from_store=True)
                self._begin_anew()
            else:
                beside, loaded = await self._bring("load", checkpoint)
            self._loaded = True
            return msgspec.structs.replace(
                loaded, sent_bytes=loaded.sent_bytes + beside, took_s=time.monotonic() - began
            )

    async def succeed(self) -> int:
        """Fetch the rest of the journal and what the source has to hand over; answers with the bytes that came.

        Raises
        ------
        GpuaasError
            The source has not handed over yet, or does not answer.
        MigrationError
            What came is not what the source had.
        """
        async with self._turn:
            if self._live or self._alone:
                return 0
            handover, received = await in_thread(self._bring_rest, name="fetch-handover")
            self._handover = handover
            return received

    async def live(self) -> None:
        """Be the session's host from now on.

        Raises
        ------
        MigrationError
            ``load`` or ``succeed`` has not been done.
        TransportError
            The kernel does not answer. It can be asked again.
        """
        async with self._turn:
            if self._live:
                return
            if not self._loaded or self._handover is None:
                raise MigrationError("the session has not arrived here yet.")
            kernel = self._kernel()
            subshells = list(self._handover.subshells)
            asking = kernel.ask(Channel.CONTROL, "gpuaas_stand_request", {"op": "go_on", "subshells": subshells})
            try:
                await asyncio.wait_for(asking, GO_ON_S)
            except (asyncio.TimeoutError, RuntimeError) as error:
                # Asked again it may: what it does for this can be done twice.
                reason = str(error) or f"not within {GO_ON_S:g} s"
                raise TransportError(
                    f"the kernel that was to take the session over does not answer: {reason}."
                ) from error
            cell = None
            if self._alone or not self._handover.whole:
                await claim(kernel)
                cell = await _cell(kernel)
            self._live = True
            self._session.take_over(self._handover, cell=cell)

    async def bring_files_and_journal(self) -> int:
        """What comes beside the kernel; gives the bytes."""
        files = await in_thread(self._fetch_files, self._peer, name="fetch-files")
        return files + await in_thread(fetch_journal, self._peer, self._session.journal, name="fetch-journal")

    def _change(self, peer: Peer | None) -> None:
        """What is known of the source is asked for again where the way to it has changed."""
        if peer is not None and peer != self._peer:
            self._peer, self._source = peer, None

    def _begin_anew(self) -> None:
        """What was said and asked before is not known here, or not up to its end."""
        journal = self._session.journal
        if self._handover is None or not self._alone:
            journal.begin_anew()
        self._alone = True
        self._handover = Handover(
            journal=journal.id, last=0, acknowledged=0, sent=0, inboxes={}, seen=(), held=(), kernel_starts=1
        )

    async def _bring(self, op: str, checkpoint: str, **more: Any) -> tuple[int, Loaded]:
        """Files first, as variables may refer to them; then the journal beside the variables."""
        files = await in_thread(self._fetch_files, self._peer, name="fetch-files")
        fetching = in_thread(fetch_journal, self._peer, self._session.journal, name="fetch-journal")
        journal, loaded = await _both(fetching, self._ask(op, checkpoint, **more))
        return files + journal, loaded

    def _bring_rest(self) -> tuple[Handover, int]:
        journal = self._session.journal
        handover = fetch_handover(self._peer, self._most_bytes, image=self.by_image)
        received = fetch_journal(self._peer, journal, identity=handover.journal, last=handover.last)
        journal.become(handover.journal, handover.losses)
        return handover, received + sum(len(part) for held in handover.held for part in held.parts)

    def _kernel(self) -> Kernel:
        kernel = self._session.kernel
        if kernel is None:
            raise MigrationError(f"the kernel that was to take the session over is gone: {self._session.cause}.")
        return kernel

    async def _ask(
        self,
        op: str,
        checkpoint: str,
        *,
        from_store: bool = False,
        most_bytes: int = 0,
        without: Sequence[Part] = (),
    ) -> Loaded:
        await self._ready()
        kernel = self._kernel()
        peer = None
        if not from_store:
            if self._source is None or op == "load":  # it may have died since
                self._source = await in_thread(fetch_source, self._peer, name="fetch-source")
            if not self._source.remains:  # of a host that is gone, only the checkpoint store has the variables
                way = self._peer if self._way_of is None else await self._way_of(kernel, self._peer)
                peer = {"url": way.url, "ticket": way.ticket}
        content: dict[str, Any] = {"op": op, "checkpoint": checkpoint, "peer": peer, "most_bytes": most_bytes}
        content["without"] = msgspec.to_builtins(without)
        try:
            reply = await kernel.ask(Channel.SHELL, "gpuaas_standby_request", content)
        except RuntimeError as error:
            raise TransportError(f"{error}.") from error
        if reply["status"] != "ok":
            raise from_wire(reply, status=500)
        return msgspec.convert(reply["result"], Loaded)


async def claim(kernel: Kernel) -> None:
    """Make what the kernel begins with the session's own checkpoint; see ``Checkpoints.claim``."""
    with contextlib.suppress(RuntimeError):  # who needs the kernel next finds that it has ended
        await kernel.ask(Channel.SHELL, "gpuaas_checkpoint_request", {"op": "claim"})


async def _cell(kernel: Kernel) -> int | None:
    """The cell that the kernel's variables are those after; None when it does not say."""
    content = {"code": "", "silent": True, "user_expressions": {}, "allow_stdin": False}
    try:
        reply = await kernel.ask(Channel.SHELL, "execute_request", content)
    except RuntimeError:
        return None
    count = reply.get("execution_count")
    return count if isinstance(count, int) else None


async def _both(one: Awaitable[int], other: Awaitable[Loaded]) -> tuple[int, Loaded]:
    """Both to their ends, also where one fails: what they write to must not be used by a next call meanwhile."""
    first, second = await asyncio.gather(one, other, return_exceptions=True)
    for result in (first, second):
        if isinstance(result, BaseException):
            raise result
    assert isinstance(first, int) and isinstance(second, Loaded)
    return first, second
