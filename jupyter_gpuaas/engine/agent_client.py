"""Client of one node agent, for the controller and the engine."""

from __future__ import annotations

import asyncio
import functools
import json
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx
import msgspec

from jupyter_gpuaas.engine.base import AgentEndpoint
from jupyter_gpuaas.errors import NoSuchSession, RemoteProtocolError, TransportError, from_wire
from jupyter_gpuaas.model import DeviceSample, HostReport, HostSpec, LeaseGrant, LeaseRenewal, Node
from jupyter_gpuaas.wire.tls import client_context, explain

T = TypeVar("T")

CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0
#: Of an answer that took longer nobody can tell when it was given.
ROUND_TRIP_S = 1.0
#: The agent sends a line every few seconds; silence for this long means that it hangs.
WATCH_SILENCE_S = 30.0
#: The second is not mapped by httpx where it comes after the handshake: our certificate is not accepted.
_FAILURES = (httpx.HTTPError, ssl.SSLError)


@functools.cache
def _tls() -> ssl.SSLContext:
    """One for all agents without TLS: the client wants one, and reading authorities takes some 20 ms each time."""
    return httpx.create_ssl_context(trust_env=False)


class WatchLine(msgspec.Struct, frozen=True):
    """One line of the watch stream; an empty one only says that the agent is there."""

    report: HostReport | None = None
    #: What came before this line is everything that the agent hosts.
    snapshot: bool = False


class AgentClient:
    """Talks to the agent at one endpoint with the agent's token."""

    def __init__(self, endpoint: AgentEndpoint) -> None:
        self.endpoint = endpoint
        #: How far the node's clock is ahead of ours, by its last answer, give or take a second; None before that.
        self.clock_ahead_s: float | None = None
        self._http = httpx.AsyncClient(
            base_url=endpoint.url,
            headers={"Authorization": f"Bearer {endpoint.token}"},
            timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            # Proxies that the environment names are for the internet, not for the pool.
            trust_env=False,
            verify=client_context(endpoint.tls) if endpoint.url.startswith("https:") else _tls(),
        )
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._retired = False

    async def close(self) -> None:
        """Close its connections; calls that wait for an answer fail."""
        self._retired = True
        await self._http.aclose()

    def retire(self) -> Coroutine[Any, Any, None]:
        """Take no more calls from now on; what is returned closes it when those that there are have ended.

        A host answers on connections that its agent has handed to it, also when that agent has gone.
        """
        self._retired = True
        return self._close_when_idle()

    async def _close_when_idle(self) -> None:
        await self._idle.wait()
        await self.close()

    async def node(self) -> Node:
        """What the agent says about its node."""
        return await self._call(Node, "GET", "/v1/node")

    async def devices(self) -> list[DeviceSample]:
        """What the node's devices do now."""
        return await self._call(list[DeviceSample], "GET", "/v1/devices")

    async def hosts(self) -> list[HostReport]:
        """All hosts of the node."""
        return await self._call(list[HostReport], "GET", "/v1/hosts")

    async def renew_lease(self, renewal: LeaseRenewal) -> LeaseGrant:
        """Let the node go on for a while; see ``lifecycle.lease``."""
        return await self._call(LeaseGrant, "POST", "/v1/lease", body=msgspec.json.encode(renewal))

    async def start_host(self, spec: HostSpec) -> HostReport:
        """Start the session's host, or find it started: a repeated call does nothing.

        Raises
        ------
        StaleEpoch
            The agent has seen a newer epoch of this session.
        """
        body = msgspec.json.encode(spec)
        return await self._call(HostReport, "POST", "/v1/hosts", body=body)

    async def stop_host(
        self, session_id: str, *, epoch: int, reason: str, keep: bool = False, moved: bool = False
    ) -> None:
        """End the session's host and every process of it; ``reason`` is told to its clients.

        With ``moved``, clients are told to ask where their session is, instead. With ``keep``, too, and what a
        successor needs of it stays on the node's disk: journal, handover, working folder.

        Raises
        ------
        NoSuchSession
            The agent has no such host.
        """
        query: dict[str, str | int] = {"epoch": epoch, "reason": reason}
        if keep:
            query["keep"] = 1
        if moved:
            query["moved"] = 1
        await self._call(dict[str, Any], "DELETE", f"/v1/hosts/{session_id}", query=query)

    async def has_remains(self, session_id: str, *, epoch: int) -> bool:
        """Whether the node still has what the session's host of this epoch left."""
        try:
            await self._call(dict[str, Any], "GET", f"/v1/hosts/{session_id}/remains", query={"epoch": epoch})
        except NoSuchSession:
            return False
        return True

    async def drop_remains(self, session_id: str, *, epoch: int) -> None:
        """Remove what hosts of the session up to this epoch have left; where there is nothing, this does nothing."""
        await self._call(dict[str, Any], "DELETE", f"/v1/hosts/{session_id}/remains", query={"epoch": epoch})

    async def op(self, session_id: str, epoch: int, op: str, content: dict[str, Any]) -> dict[str, Any]:
        """Let the session's host of this epoch do something that moving a session needs (``docs/migration.md``).

        It answers when that is done, however long it takes.

        Raises
        ------
        StaleEpoch, NoSuchSession, MigrationError
        GpuaasError
            What the host or its kernel answered with.
        """
        path = f"/v1/hosts/{session_id}/ops/{op}"
        timeout = httpx.Timeout(CONNECT_TIMEOUT_S, read=None)
        body = msgspec.json.encode(content)
        return await self._call(dict[str, Any], "POST", path, query={"epoch": epoch}, body=body, timeout=timeout)

    async def interrupt(self, session_id: str) -> None:
        """Interrupt the cell that runs."""
        await self._call(dict[str, Any], "POST", f"/v1/hosts/{session_id}/interrupt")

    async def restart(self, session_id: str) -> None:
        """Replace the kernel by a fresh one."""
        await self._call(dict[str, Any], "POST", f"/v1/hosts/{session_id}/restart")

    async def checkpoints(self, session_id: str, content: dict[str, Any]) -> Any:
        """Let the session's kernel do something with its checkpoints; answers when it has ended the cells before.

        Raises
        ------
        GpuaasError
            What the kernel answered with.
        """
        path = f"/v1/hosts/{session_id}/checkpoints"
        timeout = httpx.Timeout(CONNECT_TIMEOUT_S, read=None)
        reply = await self._call(dict[str, Any], "POST", path, body=msgspec.json.encode(content), timeout=timeout)
        if reply.get("status") != "ok":
            raise from_wire(reply, status=500)
        return reply.get("result")

    async def cells(self, session_id: str, *, after: str, journal: str) -> bytes:
        """What the session's journal has of its notebook's cells: ``CellRuns`` as JSON."""
        query: dict[str, str | int] = {"after": after, "journal": journal}
        found = await self._call(msgspec.Raw, "GET", f"/v1/hosts/{session_id}/cells", query=query)
        return bytes(found)

    async def stop(self) -> None:
        """End all hosts and the agent; answers before that has happened."""
        timeout = httpx.Timeout(CONNECT_TIMEOUT_S, read=STOP_TIMEOUT_S)
        await self._call(dict[str, Any], "POST", "/v1/stop", timeout=timeout)

    @asynccontextmanager
    async def log(self, session_id: str, *, kind: str, tail: int, follow: bool) -> AsyncIterator[AsyncIterator[bytes]]:
        """A session's log, in pieces as they come; ``tail`` 0 means all of it."""
        query: dict[str, str | int] = {"kind": kind, "follow": int(follow)}
        if tail:
            query["tail"] = tail
        timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, read=None if follow else READ_TIMEOUT_S)
        path = f"/v1/hosts/{session_id}/log"
        with self._call_under_way():
            async with self._http.stream("GET", path, params=query, timeout=timeout) as answer:
                await _check(answer)
                yield answer.aiter_bytes()

    async def watch(self) -> AsyncGenerator[WatchLine, None]:
        """All hosts, then every change of one, until the connection breaks."""
        decoder = msgspec.json.Decoder(WatchLine)
        timeout = httpx.Timeout(CONNECT_TIMEOUT_S, read=WATCH_SILENCE_S)
        try:
            with self._call_under_way():
                async with self._http.stream("GET", "/v1/watch", timeout=timeout) as answer:
                    await _check(answer)
                    async for line in answer.aiter_lines():
                        if line.strip():
                            yield decoder.decode(line)
        except msgspec.MsgspecError as error:
            raise RemoteProtocolError(f"agent {self.endpoint.url}: {error}.") from error

    async def _call(
        self,
        kind: type[T],
        method: str,
        path: str,
        *,
        query: dict[str, str | int] | None = None,
        body: bytes | None = None,
        timeout: httpx.Timeout | None = None,
    ) -> T:
        headers = {} if body is None else {"Content-Type": "application/json"}
        request = self._http.build_request(method, path, params=query, content=body, headers=headers)
        if timeout is not None:
            request.extensions["timeout"] = timeout.as_dict()
        try:
            with self._call_under_way():
                began_s = time.time()
                answer = await self._http.send(request)
                self._compare_clocks(answer, began_s)
                await _check(answer)
                return msgspec.json.decode(answer.content, type=kind)
        except msgspec.MsgspecError as error:
            raise RemoteProtocolError(f"agent {self.endpoint.url}{path}: {error}.") from error

    @contextmanager
    def _call_under_way(self) -> Iterator[None]:
        if self._retired:
            raise TransportError(f"the agent at {self.endpoint.url} does not answer (it has gone).")
        self._calls += 1
        self._idle.clear()
        try:
            yield
        except _FAILURES as error:
            raise self._unreachable(error) from error
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    def _compare_clocks(self, answer: httpx.Response, began_s: float) -> None:
        now_s = time.time()
        if "date" in answer.headers and now_s - began_s < ROUND_TRIP_S:
            theirs_s = parsedate_to_datetime(answer.headers["date"]).timestamp()
            self.clock_ahead_s = theirs_s + 0.5 - (began_s + now_s) / 2

    def _unreachable(self, error: Exception) -> TransportError:
        trouble = explain(error, httpx.URL(self.endpoint.url).netloc.decode(), self.endpoint.tls.ca)
        if trouble is not None:
            return TransportError(f"the agent at {self.endpoint.url} is not trusted: {trouble.says}.", hint=trouble.do)
        reason = str(error) or type(error).__name__
        return TransportError(f"the agent at {self.endpoint.url} does not answer ({reason}).")


async def _check(answer: httpx.Response) -> None:
    if not answer.is_error:
        return
    try:
        body: object = json.loads(await answer.aread())
    except ValueError:
        body = None
    raise from_wire(body, status=answer.status_code)
