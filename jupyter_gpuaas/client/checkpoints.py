"""A session's checkpoints through the service: what takes long is followed, and can be given up."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.errors import GpuaasError
from jupyter_gpuaas.model import (
    CheckpointDiff,
    CheckpointStatus,
    CheckpointView,
    GpuSession,
    Replay,
    RestoreReport,
    SessionState,
)

T = TypeVar("T")

#: From then on the user is told what is waited for.
QUIET_S = 1.0
POLL_S = 0.5


async def follow(
    service: ServiceClient,
    session: str,
    ask: Callable[[str], Coroutine[Any, Any, T]],
    say: Callable[[str], None],
) -> T:
    """Wait for what ``ask`` gives under a request's name, saying how far it is; cancelled, it is given up there."""
    request = uuid.uuid4().hex
    asking = asyncio.ensure_future(ask(request))
    told = ""
    try:
        await asyncio.wait({asking}, timeout=QUIET_S)
        while not asking.done():
            with contextlib.suppress(GpuaasError):
                view = await service.session(session)
                progress = view.checkpoints.progress if view.checkpoints is not None else ""
                busy = view.session.state is SessionState.BUSY
                news = progress or ("waiting for the end of the cells that run" if busy else "")
                if news and news != told:
                    say(told := news)
            await asyncio.wait({asking}, timeout=POLL_S)
        return asking.result()
    except asyncio.CancelledError:
        asking.cancel()
        with contextlib.suppress(GpuaasError):
            await service.give_up(session, request)
        raise


class RemoteDesk:
    """The checkpoint commands of one session, carried out by the service; what `kernel` offers in the session itself.

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

    def take(self, label: str = "", told: object = None) -> CheckpointView:
        """Take one."""

        def ask(request: str) -> Coroutine[Any, Any, CheckpointView]:
            return self._service.take_checkpoint(self._session, name=label, request=request)

        found: CheckpointView = self._wait(follow(self._service, self._session, ask, self._say))
        return found

    def set_every(self, every: int) -> CheckpointStatus:
        """Take one after so many cells."""

        def ask(request: str) -> Coroutine[Any, Any, CheckpointStatus]:
            return self._service.checkpoint_every(self._session, every)

        found: CheckpointStatus = self._wait(follow(self._service, self._session, ask, self._say))
        return found

    def listed(self) -> list[CheckpointView]:
        """All of them, oldest first."""
        found: list[CheckpointView] = self._wait(self._service.checkpoints(self._session))
        return found

    def restore(self, name: str, told: object = None, replay: Replay = "safe") -> RestoreReport:
        """Make the session's variables those of a checkpoint."""

        def ask(request: str) -> Coroutine[Any, Any, RestoreReport]:
            return self._service.restore(self._session, name, replay=replay, request=request)

        found: RestoreReport = self._wait(follow(self._service, self._session, ask, self._say))
        return found

    def restore_new(self, name: str, session: str) -> tuple[RestoreReport, GpuSession]:
        """Begin a new session with a checkpoint."""
        found: tuple[RestoreReport, GpuSession] = self._wait(
            restore_into_new(self._service, self._session, name, session)
        )
        return found

    def diff(self, one: str, other: str) -> CheckpointDiff:
        """Compare two of them."""
        found: CheckpointDiff = self._wait(self._service.diff_checkpoints(self._session, one, other))
        return found

    def forget(self, names: Sequence[str]) -> list[str]:
        """Remove some."""
        return [self._wait(self._service.forget_checkpoint(self._session, name)).id for name in names]


async def restore_into_new(
    service: ServiceClient, session: str, checkpoint: str, name: str
) -> tuple[RestoreReport, GpuSession]:
    """Begin a new session with a checkpoint; without a name it gets one of the old session's.

    The session is as it stands a moment later: it may have to wait for a device, and is restored when it starts.
    """
    if not name:
        known = {each.id: each.name for each in await service.sessions(all=True)}
        taken = {each.name for each in await service.sessions()}
        old = known.get(session, session)
        name = next(new for n in range(1, len(taken) + 2) if (new := f"{old} (restored {n})") not in taken)
    report = await service.restore(session, checkpoint, new=name)
    begun = (await service.session(report.session)).session
    if begun.state is SessionState.QUEUED:  # for no longer than it takes to give it a device, perhaps
        begun = (await service.session(begun.id, after=begun.last_event, wait_s=QUIET_S)).session
    return report, begun
