"""Asking one service over HTTP: its answers as facts, its refusals and its silence as the errors of ``errors.py``."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import ssl
from collections.abc import AsyncGenerator, Mapping
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import httpx
import msgspec

from jupyter_gpuaas.errors import GpuaasError, InvalidRequest, RemoteProtocolError, ServiceUnreachable, from_wire
from jupyter_gpuaas.wire.tls import PLAIN_HINT, Credentials, client_context, explain

T = TypeVar("T")
S = TypeVar("S", bound="RestClient")

CONNECT_TIMEOUT_S = 3.0


class Answer(msgspec.Struct, frozen=True):
    """What the service has said, as it said it."""

    status: int
    content_type: str
    content: bytes


class RestClient:
    """The connections to one service, as one user of it. Use it in ``async with``, in one event loop.

    Parameters
    ----------
    timeout
        Seconds that an answer may take, beyond the time that a call itself asks the service to wait.
    ca
        File with the authorities by which the service is verified; empty means those of this machine.

    Raises
    ------
    ServiceUnreachable, SettingError
        The address, or the file, cannot be used.
    """

    def __init__(self, url: str, token: str, *, ca: str = "", timeout: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self.token = token
        self.ca = ca
        self._timeout = timeout
        try:
            self._http = httpx.AsyncClient(
                base_url=self.url,
                # Without TLS there is nothing to verify, and making its context takes tens of milliseconds.
                verify=self._tls or False,
                # Without one, the service says what it wants.
                headers={"Authorization": f"Bearer {token}"} if token else {},
                timeout=httpx.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT_S)),
                # A proxy that the environment names is for other machines, never for this one.
                trust_env=not is_loopback(self.url),
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise ServiceUnreachable(f"the address {url!r} of the service is not usable: {error}.") from error

    @property
    def _tls(self) -> ssl.SSLContext | None:
        return client_context(Credentials(ca=self.ca)) if urlsplit(self.url).scheme == "https" else None

    async def __aenter__(self: S) -> S:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; the client cannot be used again."""
        await self._http.aclose()

    async def forward(
        self, method: str, path: str, *, query: Mapping[str, str], body: bytes, wait_s: float = 0.0
    ) -> Answer:
        """Ask the service and answer with what it says, a refusal too.

        Parameters
        ----------
        path
            As it goes over the wire: its segments are quoted.

        Raises
        ------
        ServiceUnreachable
        """
        timeout = httpx.Timeout(self._timeout + wait_s, connect=min(self._timeout, CONNECT_TIMEOUT_S))
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            answer = await self._http.request(
                method, path, params=query, content=body, headers=headers, timeout=timeout
            )
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        return Answer(answer.status_code, answer.headers.get("Content-Type", ""), answer.content)

    async def _call(
        self,
        kind: type[T],
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: object = None,
        wait_s: float = 0.0,
    ) -> T:
        """Make a request, with ``body`` as JSON, and return the answer as a ``kind``; raises what went wrong."""
        timeout = httpx.Timeout(self._timeout + wait_s, connect=min(self._timeout, CONNECT_TIMEOUT_S))
        try:
            answer = await self._http.request(method, path, params=query, json=body, timeout=timeout)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        except UnicodeEncodeError as error:
            # A file name that is not text in its file system's encoding, perhaps.
            raise InvalidRequest(f"{error.object!r} is not valid Unicode.") from error
        if answer.is_error:
            raise refused(answer.status_code, answer.content)
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except msgspec.MsgspecError as error:
            raise self._not_understood(path, error) from error

    async def _text(self, path: str, *, query: Mapping[str, Any], follow: bool = False) -> AsyncGenerator[str, None]:
        """Text as it comes; with ``follow`` it may come at any time."""
        timeout = httpx.Timeout(self._timeout, read=None if follow else self._timeout)
        request = self._http.build_request("GET", path, params=query, timeout=timeout)
        try:
            answer = await self._http.send(request, stream=True)
            try:
                if answer.is_error:
                    raise refused(answer.status_code, await answer.aread())
                async for piece in answer.aiter_text():
                    yield piece
            finally:
                await answer.aclose()
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    async def _stream(self, kind: type[T], path: str) -> AsyncGenerator[T, None]:
        """What a WebSocket brings, until it is closed in good order."""
        from websockets.asyncio.client import connect
        from websockets.exceptions import ConnectionClosedOK, InvalidStatus, WebSocketException

        decoder = msgspec.json.Decoder(kind)
        try:
            async with connect(
                f"{websocket_url(self.url)}{path}",
                additional_headers={"Authorization": f"Bearer {self.token}"},
                proxy=None if is_loopback(self.url) else True,
                compression=None,
                ssl=self._tls,
            ) as socket:
                while True:
                    yield decoder.decode(await socket.recv())
        except ConnectionClosedOK:
            return
        except InvalidStatus as error:
            raise refused(error.response.status_code, error.response.body) from error
        except msgspec.MsgspecError as error:
            raise self._not_understood(path, error) from error
        except (OSError, WebSocketException, TimeoutError, asyncio.TimeoutError) as error:
            raise self._unreachable(error) from error

    def _not_understood(self, path: str, error: Exception) -> RemoteProtocolError:
        return RemoteProtocolError(
            f"{self.url}{path} answered with something that is not of this version: {error}.",
            hint="Are client and service of the same version?",
        )

    def _unreachable(self, error: Exception) -> ServiceUnreachable:
        trouble = explain(error, urlsplit(self.url).netloc, self.ca)
        if trouble is not None:
            return ServiceUnreachable(f"the service at {self.url} is not trusted: {trouble.says}.", hint=trouble.do)
        reason = str(error) or type(error).__name__
        hint = "`jupyter gpuaas status` tells whether it runs."
        if self._tls is None and isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
            hint = PLAIN_HINT  # it ends a connection that begins otherwise, without a word
        return ServiceUnreachable(f"no service answers at {self.url} ({reason}).", hint=hint)


def websocket_url(url: str) -> str:
    """The same address for a WebSocket."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(scheme="wss" if parts.scheme == "https" else "ws"))


def is_loopback(url: str) -> bool:
    """Whether the address is of this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refused(status: int, content: bytes | bytearray | None) -> GpuaasError:
    """The error that an answer of this status tells of."""
    try:
        body: object = json.loads(bytes(content or b""))
    except ValueError:
        body = None
    return from_wire(body, status=status)
