"""Following a migration to its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.errors import GpuaasError
from jupyter_gpuaas.model import MigrationView, Phase
from jupyter_gpuaas.model.words import phase_line

ENDED = (Phase.DONE, Phase.FAILED, Phase.CANCELLED)
WAIT_S = 10.0


async def follow_migration(service: ServiceClient, view: MigrationView, say: Callable[[str], None]) -> MigrationView:
    """Wait until a migration has ended, saying how far it is; cancelled, it is given up there, if it still can be."""
    try:
        while view.phase not in ENDED:
            say(phase_line(view))
            view = await service.migration(
                view.session_id, view.id, phase=view.phase, rounds=len(view.rounds), wait_s=WAIT_S
            )
        return view
    except asyncio.CancelledError:
        with contextlib.suppress(GpuaasError):
            await service.cancel_migration(view.session_id, view.id)
        raise
