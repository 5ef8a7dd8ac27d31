"""Two questions to the Hub over HTTP: whose a token is, and the token of a visitor who has logged in."""

from __future__ import annotations

import httpx
import msgspec

from jupyter_gpuaas.controller.hub.verdict import HubUser
from jupyter_gpuaas.errors import Forbidden, ServiceUnreachable, Unauthorized

TIMEOUT_S = 5.0
CONNECTIONS = 16
#: What is read of an answer: the Hub tells of a user with many servers and scopes in less.
ANSWER_BYTES = 4 * 1024**2


class HubApi:
    """A client of the Hub at ``url`` (which ends in ``/hub/api``)."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._http = httpx.AsyncClient(
            trust_env=False, timeout=TIMEOUT_S, limits=httpx.Limits(max_connections=CONNECTIONS)
        )

    async def close(self) -> None:
        """End the connections."""
        await self._http.aclose()

    async def whose(self, token: str) -> HubUser:
        """The user of a token.

        Raises
        ------
        Unauthorized
            The Hub does not know it, or not any more.
        ServiceUnreachable
            The Hub cannot say.
        """
        status, body = await self._ask("GET", "/user", headers={"Authorization": f"token {token}"})
        if status in (401, 403, 404):
            raise Unauthorized("token: neither this service nor its Hub knows it.", hint="Check GPUAAS_TOKEN.")
        if status != 200:
            raise _silent(f"answers with status {status}")
        try:
            return msgspec.json.decode(body, type=HubUser)
        except msgspec.MsgspecError as error:
            raise _silent("answers with something else") from error

    async def token_of(self, code: str, *, client_id: str, secret: str, redirect: str) -> str:
        """The token for which the Hub has given a visitor this code.

        Raises
        ------
        Forbidden
            The code is not valid, or was for somebody else.
        ServiceUnreachable
        """
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "client_id": client_id,
            "client_secret": secret,
            "redirect_uri": redirect,
        }
        status, body = await self._ask("POST", "/oauth2/token", data=form)
        if status >= 500:
            raise _silent(f"answers with status {status}")
        try:
            answer = msgspec.json.decode(body, type=_Granted)
        except msgspec.MsgspecError:
            answer = _Granted("")
        if status != 200 or not answer.access_token:
            raise Forbidden("the Hub did not accept this login.", hint="Try again; else ask an admin of the Hub.")
        return answer.access_token

    async def _ask(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, data: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        try:
            async with self._http.stream(method, self._url + path, headers=headers, data=data) as answer:
                body = b""
                async for piece in answer.aiter_bytes():
                    body += piece
                    if len(body) > ANSWER_BYTES:
                        raise _silent("answers with too much")
                return answer.status_code, body
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _silent(f"cannot be asked: {type(error).__name__}") from error


class _Granted(msgspec.Struct):
    access_token: str


def _silent(what: str) -> ServiceUnreachable:
    return ServiceUnreachable(f"the Hub {what}, so nobody can tell whose the token is.", hint="Try again in a moment.")
