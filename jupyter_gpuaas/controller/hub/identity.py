"""Tokens of the Hub: asked about when they come for the first time, and again after `hub_cache_s`."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable, Collection
from typing import TypeVar

import msgspec

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.auth import ID_CHARS, User
from jupyter_gpuaas.controller.hub.api import HubApi
from jupyter_gpuaas.controller.hub.verdict import judge
from jupyter_gpuaas.errors import Forbidden, ServiceUnreachable, TransportError, Unauthorized

#: What the Hub has refused is refused without asking it again for this long.
REFUSED_S = 5.0
#: Tokens that are remembered, of each kind.
MOST = 10_000
#: Questions that may be open at a time: whoever knocks with invented tokens must not keep the Hub busy.
MOST_ASKED = 256
_T = TypeVar("_T")
#: No header is to be made of anything else.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{8,2048}")


class _Seen(msgspec.Struct):
    digest: str
    #: Kept, as the Hub has to be asked with it again.
    token: str
    user: User
    #: When the Hub said so.
    said_s: float
    #: When it is to be asked again.
    due_s: float


class HubIdentity:
    """Who shows a token of the Hub.

    Parameters
    ----------
    not_these
        Names that nobody of the Hub may have.
    clock
        Seconds that only rise.
    """

    def __init__(
        self, settings: Settings, not_these: Callable[[], Collection[str]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.api = HubApi(settings.hub_api_url)
        self._settings = settings
        self._not_these = not_these
        self._clock = clock
        self._accepted: dict[str, _Seen] = {}
        self._refused: dict[str, tuple[float, Unauthorized | Forbidden]] = {}
        self._asking: dict[str, asyncio.Task[User]] = {}

    async def close(self) -> None:
        """Ask nothing any more."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.api.close()

    async def check(self, token: str) -> User:
        """The user of a token of the Hub.

        Raises
        ------
        Unauthorized, Forbidden
            The Hub does not know it; its user is none of this service, or the token is not for it.
        ServiceUnreachable
            The Hub does not answer, and what it said last is older than ``hub_away_s``.
        """
        if not _TOKEN.fullmatch(token):
            raise Unauthorized("token: not known to this service.", hint="Check GPUAAS_TOKEN.")
        digest = hashlib.sha256(token.encode()).hexdigest()
        now_s = self._clock()
        seen = self._accepted.get(digest[:ID_CHARS])
        if seen is not None and seen.digest == digest and now_s < seen.due_s:
            return seen.user
        until_s, refusal = self._refused.get(digest, (0.0, None))
        if refusal is not None and now_s < until_s:
            raise type(refusal)(refusal.message, hint=refusal.hint)
        asking = self._asking.get(digest)
        if asking is None:
            if len(self._asking) >= MOST_ASKED:
                raise ServiceUnreachable("too many unknown tokens at a time.", hint="Try again in a moment.")
            asking = self._asking[digest] = asyncio.create_task(self._ask(token, digest), name="ask the hub")
            asking.add_done_callback(lambda task: self._asked(digest, task))
        # Several may wait for it, and one of them may go.
        return await asyncio.shield(asking)

    def left_s(self, user: User) -> float:
        """Seconds until the Hub is to be asked about this user's token again."""
        seen = self._accepted.get(user.token)
        return max(0.0, seen.due_s - self._clock()) if seen is not None else 0.0

    def token_of(self, user: User) -> str:
        """The token that this user has shown; empty where it has been forgotten."""
        seen = self._accepted.get(user.token)
        return seen.token if seen is not None else ""

    async def _ask(self, token: str, digest: str) -> User:
        key = digest[:ID_CHARS]
        seen = self._accepted.get(key)
        try:
            said = await self.api.whose(token)
            verdict = judge(
                said,
                service=self._settings.hub_service,
                admin_group=self._settings.hub_admin_group,
                not_these=self._not_these(),
            )
        except (Unauthorized, Forbidden) as error:
            self._accepted.pop(key, None)
            _keep(self._refused, digest, (self._clock() + REFUSED_S, error))
            raise
        except TransportError:
            now_s = self._clock()
            if seen is None or seen.digest != digest or now_s - seen.said_s > self._settings.hub_away_s:
                raise
            # A Hub that is being restarted throws nobody out.
            seen.due_s = now_s + min(REFUSED_S, self._settings.hub_cache_s)
            return seen.user
        now_s = self._clock()
        user = User(verdict.name, verdict.role, verdict.scopes, key)
        _keep(self._accepted, key, _Seen(digest, token, user, now_s, now_s + self._settings.hub_cache_s))
        self._refused.pop(digest, None)
        return user

    def _asked(self, digest: str, task: asyncio.Task[User]) -> None:
        self._asking.pop(digest, None)
        if not task.cancelled():
            task.exception()  # told to those who wait, if any still do


def _keep(known: dict[str, _T], key: str, value: _T) -> None:
    """Remember it as the newest, and forget the oldest where there are too many."""
    known.pop(key, None)
    known[key] = value
    while len(known) > MOST:
        del known[next(iter(known))]
