"""A service in this process, over real node agents, for tests that want to look inside or to be quick."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.app import make_app
from jupyter_gpuaas.controller.catalogue.records import Role
from jupyter_gpuaas.controller.controller import Controller
from jupyter_gpuaas.controller.server import listen, make_server
from jupyter_gpuaas.engine.local import LocalEngine
from jupyter_gpuaas.wire.tls import of_service
from tests import postgres

DEADLINE_S = 30.0


@dataclass
class Service:
    """A running service and a client of its admin."""

    url: str
    token: str
    controller: Controller
    engine: LocalEngine
    admin: ServiceClient

    def client(self, user: str, *, ttl_s: float = 0.0) -> ServiceClient:
        """A client of another user, to be closed by its caller."""
        made = self.controller.tokens.create(user, Role.USER, ttl_s=ttl_s)
        return ServiceClient(self.url, made.token, ca=self.admin.ca)


def quick_settings(home: Path, **changes: Any) -> Settings:
    """Settings that start fast: no kernels ahead, one small device a node."""
    given = {"devices": "cpu:1", "spare_kernels": 0, "stop_timeout_s": 2.0} | changes
    if postgres.for_services is not None:
        given["database_url"] = postgres.for_services.database_of(str(home))
    return Settings(home=str(home), **given)


@contextlib.asynccontextmanager
async def running_service(
    home: Path, *, end_sessions: bool = True, key: str = "", **changes: Any
) -> AsyncIterator[Service]:
    """Serve on loopback until the end of the block; then sessions and nodes end, unless told otherwise.

    With ``tls="on"``, by the certificates that ``certificates.own_ca`` has made; with a ``key``, for others that stand
    by.
    """
    settings = quick_settings(home, **changes)
    engine = LocalEngine(settings)
    controller = Controller(settings, engine)
    await controller.open()
    listener = listen(settings, 0)
    server = make_server(settings, make_app(controller, key))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    credentials = of_service(settings)
    url = f"{'https' if credentials.cert else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
    token = (home / "token").read_text().strip()
    try:
        async with ServiceClient(url, token, ca=credentials.ca) as admin:
            yield Service(url, token, controller, engine, admin)
    finally:
        controller.interrupt_waits()
        server.should_exit = True
        await serving
        listener.close()
        await controller.close(end_sessions=end_sessions)


async def eventually(look: Callable[[], Awaitable[Any] | Any], deadline_s: float = DEADLINE_S) -> Any:
    """What ``look`` answers, as soon as that is true."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_s
    while True:
        found = look()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        assert loop.time() < end, f"did not come true in {deadline_s:g} s"
        await asyncio.sleep(0.02)
