"""Watching the memory of a session's processes: what passes the cap of its device is ended, and that is said."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Protocol

from .processes import memory_bytes, tree
from .session_host import SessionHost

MEASURE_S = 2.0


class Watched(Protocol):
    """The host, as this needs it."""

    session: SessionHost | None

    @property
    def memory_cap(self) -> int:
        """What the session's processes may have together; 0 for no bound."""


async def watch_memory(host: Watched) -> None:
    """Look again and again; never returns."""
    while True:
        await asyncio.sleep(MEASURE_S)
        session = host.session
        if session is None or session.kernel is None:
            continue
        kernel = session.kernel.pid
        if not kernel:
            continue
        used = {pid: memory_bytes(pid) for pid in await asyncio.to_thread(tree, kernel)}
        session.used_bytes = sum(used.values())
        cap = host.memory_cap
        if cap and session.used_bytes > cap:
            biggest = max(used, key=lambda pid: used[pid])
            why = (
                f"memory: its processes used {session.used_bytes / 2**30:.2f} GiB, "
                f"more than the {cap / 2**30:.2f} GiB of its device"
            )
            try:
                os.kill(biggest, signal.SIGKILL)
            except ProcessLookupError:
                pass
            except PermissionError:
                continue  # another user's: it was told to bound itself
            if biggest == kernel:
                session.cause = why
            else:
                session.notice(f"\n[remote GPU] Process {biggest} of this session was ended: {why}.\n")
