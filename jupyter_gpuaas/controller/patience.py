"""What a controller waits for a host no longer than: its node, its time, and that somebody wants the session."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from jupyter_gpuaas.controller.leases import NodeLeases
from jupyter_gpuaas.controller.sessions import LiveSession
from jupyter_gpuaas.errors import MigrationError, TransportError
from jupyter_gpuaas.model import SessionState

T = TypeVar("T")

S = SessionState
#: States in which a session has no host that it needs.
HOSTLESS = frozenset({S.LOST, S.PARKED, S.RESTORING, S.CLOSING, S.FAILED})


async def unless_lost(leases: NodeLeases, node_id: str, work: Coroutine[Any, Any, T]) -> T:
    """Wait for a node, but no longer than until it is lost.

    Raises
    ------
    TransportError
        It is lost.
    """
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            lost = asyncio.ensure_future(leases.losses.next().wait())
            try:
                if leases.lost(node_id):
                    raise TransportError(f"node {node_id} is lost.")
                await asyncio.wait({task, lost}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                lost.cancel()
        return await task
    finally:
        task.cancel()


async def in_time(live: LiveSession, work: Coroutine[Any, Any, T], most_s: float) -> T:
    """Wait for a host that is to become the session's, as long as it may take and is wanted.

    Raises
    ------
    MigrationError
        It takes longer, or is not wanted any more.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda _: live.bell.ring())
    try:
        if not await live.bell.until(lambda: task.done() or live.session.state in HOSTLESS, most_s):
            raise MigrationError(f"the session was not there after {most_s:.0f} s.")
        if not task.done():
            raise MigrationError(f"the session is {live.session.state}.")
        return await task
    finally:
        task.cancel()
