"""Who calls: somebody with a token of ours, or with one that the Hub vouches for."""

from __future__ import annotations

from jupyter_gpuaas.config import Settings
from jupyter_gpuaas.controller.auth import Tokens, User, shown
from jupyter_gpuaas.controller.hub.identity import HubIdentity
from jupyter_gpuaas.errors import Forbidden, ServiceUnreachable, Unauthorized


class Identity:
    """The users of tokens."""

    def __init__(self, tokens: Tokens, settings: Settings) -> None:
        self._tokens = tokens
        self.hub = HubIdentity(settings, tokens.whom_it_runs_as) if settings.hub_api_url else None

    async def close(self) -> None:
        """End what goes on with the Hub."""
        if self.hub is not None:
            await self.hub.close()

    async def check(self, authorization: str) -> User:
        """The user of an ``Authorization`` header.

        Raises
        ------
        Unauthorized, Forbidden
            As `Tokens.check`, and what the Hub refuses.
        ServiceUnreachable
            It is no token of ours, and the Hub does not answer.
        """
        token = shown(authorization)
        if self.hub is None or self._tokens.knows(token):
            return self._tokens.check(authorization)
        return await self.of_hub(token)

    async def of_hub(self, token: str) -> User:
        """The user of a token of the Hub, made on first sight."""
        assert self.hub is not None
        user = await self.hub.check(token)
        self._tokens.admit(user.name)
        return user

    async def void(self, user: User) -> None:
        """Return when the token that this user has shown is not valid any more."""
        hub = self.hub
        token = "" if hub is None or self._tokens.has(user) else hub.token_of(user)
        if hub is None or not token:
            await self._tokens.void(user)
            return
        while not await self._tokens.blocks(user.name, hub.left_s(user)):
            try:
                again = await self.of_hub(token)
            except (Unauthorized, Forbidden, ServiceUnreachable):
                return
            if again.name != user.name or not user.scopes <= again.scopes:
                return
