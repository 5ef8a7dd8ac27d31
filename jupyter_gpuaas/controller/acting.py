"""Of several controllers on one database, the one that acts, and what the others answer meanwhile."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from jupyter_gpuaas import __version__
from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.answers import Facts, failure
from jupyter_gpuaas.controller.catalogue.acting import ActingLease
from jupyter_gpuaas.controller.passing import Front
from jupyter_gpuaas.controller.sharing import Sharing, carries
from jupyter_gpuaas.errors import GpuaasError, ServiceUnreachable
from jupyter_gpuaas.lifecycle.acting import Seen, is_over, look, may_take, must_stop, pause_s
from jupyter_gpuaas.wire.tls import Credentials, of_service

log = logging.getLogger(__name__)

#: Longest pause of one that waits: who gave the lease back need not be noticed in milliseconds.
LOOK_S = 1.0
#: Of those that connect to it a standby answers these itself.
OWN_PATHS = frozenset({b"/healthz", b"/readyz"})


class Acting:
    """Waits for the lease, keeps it, and tells when it is lost.

    Parameters
    ----------
    lost
        Called once, with the reason, when this controller may not act any more.
    """

    def __init__(self, lease: ActingLease, ttl_s: float, lost: Callable[[str], None]) -> None:
        self._lease = lease
        self._ttl_s = ttl_s
        self._lost = lost
        self._renewed_s = 0.0
        self._keeping: asyncio.Task[None] | None = None
        #: Where the one is that acts, as far as it is known.
        self.elsewhere = ""
        #: Called when that changes.
        self.moved: Callable[[], None] = lambda: None
        #: What controllers show to the one that acts; empty when that does not know of it.
        self.key = ""

    async def acquire(self) -> bool:
        """Wait for the lease; False when the service was ended meanwhile."""
        seen: Seen | None = None
        while True:
            try:
                row = await asyncio.to_thread(self._lease.look)
                if is_over(seen, row):
                    return False
                if seen is None and row.holder:
                    log.info("%s acts; this controller waits for its end", row.holder)
                seen = look(seen, row, time.monotonic())
                self.key = row.key
                self._is_at(row.url if row.holder else "")
                if may_take(seen, time.monotonic()):
                    asked_s = time.monotonic()
                    if await asyncio.to_thread(self._lease.take, row):
                        self._renewed_s = asked_s
                        self.key = self._lease.key
                        self._is_at("")
                        log.info("this controller acts from now on (term %d)", self._lease.term)
                        self._keeping = asyncio.create_task(self._keep(), name="keep acting")
                        return True
            except GpuaasError as error:
                log.warning("cannot tell who acts: %s", error)
            await asyncio.sleep(min(LOOK_S, pause_s(self._ttl_s)))

    def _is_at(self, url: str) -> None:
        if url != self.elsewhere:
            self.elsewhere = url
            self.moved()

    async def close(self, *, over: bool) -> None:
        """Give the lease back, if it is held; ``over`` when the service was ended with its sessions."""
        if self._keeping is None:
            return
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)
        try:
            await asyncio.to_thread(self._lease.give_back, over=over)
        except GpuaasError as error:
            log.warning("others have to wait until the lease has run out: %s", error)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(pause_s(self._ttl_s))
            asked_s = time.monotonic()
            try:
                if not await asyncio.to_thread(self._lease.renew):
                    self._lost("another controller has taken over")
                    return
                self._renewed_s = asked_s
            except GpuaasError as error:
                log.warning("cannot say that this controller lives: %s", error)
                if must_stop(self._renewed_s, self._ttl_s, time.monotonic()):
                    self._lost("the database has not answered for too long, and another controller may take over")
                    return


class Face:
    """The service as HTTP: the controller's application, once there is one.

    Until then connections are passed on to the controller that acts (see ``passing``), but for what this one carries
    itself (see ``sharing``); what else comes here is refused.
    """

    def __init__(self) -> None:
        self.app: ASGIApp | None = None
        self._acting: Acting | None = None
        self._own = ""
        self._passed: set[Front] = set()
        self._sharing: Sharing | None = None
        self.credentials = Credentials()

    def stand_by(self, acting: Acting, own: str, settings: Settings) -> None:
        """Pass on what comes, or carry it.

        Parameters
        ----------
        own
            The address of this one, at which it is not to be looked for.
        """
        self._acting, self._own, self.credentials = acting, own, of_service(settings)
        self._sharing = Sharing(settings, self, self._refusal)
        acting.moved = self._cut

    @property
    def passes_to(self) -> str:
        """See ``Passes``."""
        if self.app is not None or self._acting is None or self._acting.elsewhere == self._own:
            return ""
        return self._acting.elsewhere

    @property
    def key(self) -> str:
        """See ``WhoActs``."""
        return self._acting.key if self._acting is not None else ""

    def answers(self, method: bytes, path: bytes) -> bool:
        """See ``Passes``."""
        return path in OWN_PATHS or (bool(self.key) and carries(method, path))

    def began(self, connection: Front) -> None:
        """See ``Passes``."""
        self._passed.add(connection)

    def ended(self, connection: Front) -> None:
        """See ``Passes``."""
        self._passed.discard(connection)

    def _cut(self) -> None:
        """Who acted does so no more: clients are to come again, and find who does."""
        for connection in list(self._passed):
            connection.cut()
        if self._sharing is not None:
            self._sharing.cut()

    def show(self, app: ASGIApp | None) -> None:
        """Answer with this application from now on."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.app is not None:
            await self.app(scope, receive, send)
        elif self._sharing is not None and self._sharing.takes(scope):
            await self._sharing(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(self._refusal())
        elif scope["type"] == "http":
            alive = scope["path"] == "/healthz"
            answer = Facts({"status": "standby", "version": __version__}) if alive else self._refusal()
            await answer(scope, receive, send)

    def _refusal(self) -> Facts:
        where = self._acting.elsewhere if self._acting is not None else ""
        answer = failure(
            ServiceUnreachable(
                "another controller acts for this service, or none yet; this one stands by.",
                hint=f"It is at {where}." if where else "Try again in a moment.",
            )
        )
        answer.headers["Retry-After"] = "1"
        return answer
