"""The node agent: one process a node, one port; starts and stops hosts, measures devices, lets clients through.

It keeps nothing in memory that it cannot find again: killed and started anew on the same folder, it connects to the
hosts that run. Clients are handed to their session's host by descriptor, so that a channel survives the agent too.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import os
import platform
import re
import secrets
import signal
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import click
import msgspec
import psutil

from .. import __version__
from ..config import Settings, load
from ..errors import (
    AllocationError,
    Forbidden,
    GpuaasError,
    ImageUnavailable,
    NoSuchSession,
    RemoteProtocolError,
    SettingError,
    StaleEpoch,
    TransportError,
    Unauthorized,
)
from ..image.criu import find_criu
from ..logs import formatter, log_to_stderr
from ..model import Device, HostReport, HostSpec, LeaseRenewal, Node, NodeState
from ..wire import ticket
from ..wire.machine import machine_id
from ..wire.tls import name_for, of_node
from ..wire.unreadable import UNREADABLE, is_count
from . import http
from .devices import find_devices, sample
from .fronted import Fronted
from .hosts import SPARE_LATER_S, HostHandle, Hosts
from .kernel_launch import check_reachable, find_user, is_plain, known_ahead, top_of
from .lease import NodeLease
from .only_one import hold
from .threads import in_thread

log = logging.getLogger(__name__)

WATCH_PAUSE_S = 3.0
TIDY_PAUSE_S = 60.0
ACCEPT_PAUSE_S = 0.1
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Agent:
    """One node's agent."""

    def __init__(self, node_id: str, folder: Path, settings: Settings) -> None:
        self._folder = folder
        self._settings = settings
        number = node_id.rpartition("-")[2]
        self._devices = find_devices(
            settings.devices,
            settings.device_memory_bytes,
            settings.nodes,
            int(number) if number.isdecimal() else 0,
        )
        self._machine = machine_id()
        self.node = Node(
            node_id,
            NodeState.UP,
            self._devices,
            python=platform.python_version(),
            machine=self._machine,
            version=__version__,
        )
        self._hosts = Hosts(folder, node_id, settings, self._changed)
        self._lease = NodeLease(folder, lambda: self._hosts.sessions)
        self._hosts.before_start = self._lease.hosts_changed
        self._epochs: dict[str, int] = {}
        self._starting: dict[tuple[str, int], asyncio.Future[HostReport]] = {}
        self._watchers: set[asyncio.Queue[HostReport]] = set()
        self._token = _token(folder / "token")
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._unserved = 0

    async def run(self, port: int) -> None:
        """Serve until stopped."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        if self._settings.kernel_user and known_ahead(self._settings):
            # Before anybody waits for a kernel.
            needed: list[str | Path] = [top_of(self._folder, self._settings), sys.executable, __file__]
            check_reachable(find_user(self._settings.kernel_user), needed)
        credentials = of_node(self._settings, self.node.id)
        if credentials.cert:
            # Before anybody waits for it: one that is not good for this address is of no use.
            await asyncio.to_thread(name_for, credentials, [self._settings.host])
        listener = socket.create_server((self._settings.host, port), backlog=256)
        listener.setblocking(False)
        port = listener.getsockname()[1]
        front = Fronted(listener, credentials, self._take) if credentials.cert else None
        if front is not None:
            await front.open()
        scheme = "http" if front is None else "https"
        self.node = msgspec.structs.replace(self.node, url=f"{scheme}://{self._settings.host}:{port}")
        if self._settings.images == "auto" and is_plain(self._settings):
            await self._find_criu()
        elif self._settings.images == "auto":
            why = "kernels that run as another user, or in a container, are not put into images"
            self.node = msgspec.structs.replace(self.node, no_images=why)
        await self._hosts.find()
        for session_id, handle in self._hosts.sessions.items():
            if handle.report is not None:
                self._epochs[session_id] = handle.report.lease.epoch
        # Where sessions were lost, what they left is wanted now.
        loop.call_later(SPARE_LATER_S if self._hosts.lost_some else 0.0, self._hosts.keep_spares)
        state = self._folder / "agent.json"
        temporary = state.with_suffix(".new")
        temporary.write_bytes(
            msgspec.json.encode({"pid": os.getpid(), "port": port, "url": self.node.url, "node": self.node.id})
        )
        temporary.replace(state)
        accepting = self._accept(listener) if front is None else front.run()
        looking_after = [loop.create_task(work) for work in (accepting, self._tidy(), self._hosts.end_hung())]
        await self._stopping.wait()
        for task in looking_after:
            task.cancel()
        listener.close()
        if front is not None:
            front.close()
        if self._starting:
            await asyncio.wait(set(self._starting.values()))
        await self._hosts.close()
        await self._lease.close()
        state.unlink(missing_ok=True)

    async def _find_criu(self) -> None:
        """Whether sessions can come and go as process images."""
        reason = ""
        try:
            self._hosts.criu = await asyncio.to_thread(find_criu)
        except ImageUnavailable as error:
            reason = str(error)
            log.warning("kernels cannot be put into images: %s", reason)
        self.node = msgspec.structs.replace(self.node, no_images=reason)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        deaf = False
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:
                # No descriptors left, mostly: some come back, and until then the backlog holds who waits.
                if not deaf:
                    log.error("no connection can be accepted: %s", error)
                deaf = True
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            deaf = False
            self._take(connection, None)

    def _take(self, connection: socket.socket, passed: http.Passed | None) -> None:
        """Serve a connection; ``passed`` tells of one that came by TLS."""
        if self._unserved >= self._settings.unserved_connections:
            connection.close()
            return
        self._unserved += 1
        task = asyncio.get_running_loop().create_task(self._serve(connection, passed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket, passed: http.Passed | None) -> None:
        loop = asyncio.get_running_loop()
        with connection:
            try:
                try:
                    connection.setblocking(False)
                    if passed is None:
                        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    request = await http.read_request(connection)
                finally:
                    self._unserved -= 1
                if request is None:
                    return
                request.came = passed
                answer = await self._answer(request, connection)
            except GpuaasError as error:
                answer = http.error_response(error)
            except UNREADABLE as error:
                answer = http.error_response(RemoteProtocolError(f"body: {error}."))
            except (asyncio.TimeoutError, ConnectionError):
                return
            with contextlib.suppress(OSError):
                await loop.sock_sendall(connection, answer)

    async def _answer(self, request: http.HttpRequest, connection: socket.socket) -> bytes:
        segments = [unquote(part) for part in request.path.strip("/").split("/")]
        of_a_client = segments[:2] == ["v1", "sessions"] and len(segments) >= 4
        if request.came is not None and not request.came.certified and (not of_a_client or segments[3] == "transfer"):
            raise Forbidden(
                "certificate: this is for the service and for other nodes, which have to show one.",
                hint="Settings tls, tls_cert and node_cert of who asks; docs/tls.md.",
            )
        if of_a_client:
            if segments[3] == "transfer" and await self._give_remains(request, segments[2], segments[4:], connection):
                return b""
            return self._pass(request, segments[2], segments[3:], connection)
        if not secrets.compare_digest(request.bearer.encode(), self._token.encode()):
            raise Unauthorized("token: missing or wrong.")
        match (request.method, *segments[1:]) if segments[0] == "v1" else ():
            case ("GET", "node"):
                return http.response(200, self.node)
            case ("GET", "devices"):
                return http.response(200, await asyncio.to_thread(sample, self._devices, self._used()))
            case ("GET", "hosts"):
                return http.response(200, [h.report for h in self._hosts.sessions.values() if h.report])
            case ("POST", "hosts"):
                body = await http.read_body(connection, request, self._settings.request_body_bytes)
                status, report = await self._start(msgspec.json.decode(body, type=HostSpec))
                return http.response(status, report)
            case ("DELETE", "hosts", session_id):
                epoch, keep = request.query.get("epoch", ""), request.query.get("keep") == "1"
                if keep and session_id not in self._hosts.sessions and self._order_remains(session_id, epoch):
                    return http.response(200)
                await self._no_more_starts(session_id, epoch)
                self._check_epoch(session_id, epoch)
                moved = request.query.get("moved") == "1"
                await self._hosts.stop(session_id, request.query.get("reason", "released"), keep=keep, moved=moved)
                return http.response(200)
            case ("GET", "hosts", session_id, "remains"):
                remains = self._hosts.remains.get(_id(session_id))
                if remains is None or str(remains.epoch) != request.query.get("epoch", ""):
                    raise NoSuchSession(f"session {session_id[:64]!r} has left nothing on this node.")
                return http.response(200)
            case ("DELETE", "hosts", session_id, "remains"):
                epoch = request.query.get("epoch", "")
                up_to = int(epoch) if is_count(epoch) else None
                await asyncio.to_thread(self._hosts.remains.drop, _id(session_id), up_to=up_to)
                return http.response(200)
            case ("POST", "hosts", session_id, ("interrupt" | "restart") as op):
                await self._handle(session_id).ask(op)
                return http.response(200)
            case ("POST", "hosts", session_id, "checkpoints"):
                handle = self._handle(session_id)
                body = await http.read_body(connection, request, self._settings.request_body_bytes)
                content = msgspec.json.decode(body, type=dict[str, Any])
                return http.response(200, (await handle.ask("checkpoints", content=content))["reply"])
            case ("POST", "hosts", session_id, "ops", op):
                self._check_epoch(session_id, request.query.get("epoch", ""))
                body = await http.read_body(connection, request, self._settings.request_body_bytes)
                content = msgspec.json.decode(body or b"{}", type=dict[str, Any])
                if op == "suspend":
                    content |= self._room_to_keep(session_id)
                if op == "live":
                    return http.response(200, await self._hosts.make_live(session_id, content))
                return http.response(200, await self._handle(session_id).move(op, content))
            case ("GET", "hosts", session_id, "log"):
                return self._log(self._handle(session_id), request, connection)
            case ("GET", "hosts", session_id, "cells"):
                after, journal = request.query.get("after", ""), request.query.get("journal", "")
                left = None if session_id in self._hosts.sessions else self._hosts.remains.get(_id(session_id))
                if left is not None:
                    read = self._hosts.remains.cells
                    return http.response(200, await in_thread(read, left, after, journal, name="read-cells"))
                passed = {"kind": "cells", "after": after, "journal": journal}
                return self._hand_over(self._handle(session_id), connection, passed)
            case ("GET", "watch"):
                await self._watch(connection)
                return b""
            case ("POST", "lease"):
                body = await http.read_body(connection, request, self._settings.request_body_bytes)
                return http.response(200, await self._lease.renew(msgspec.json.decode(body, type=LeaseRenewal)))
            case ("POST", "stop"):
                self._stopping.set()
                return http.response(200)
        raise NoSuchSession(f"path: there is no {request.method} {request.path}.")

    # -- sessions ----------------------------------------------------------------------------------------------

    def epoch_of(self, session_id: str) -> int | None:
        """The newest epoch of a session that this agent has seen."""
        return self._epochs.get(session_id)

    async def _start(self, spec: HostSpec) -> tuple[int, HostReport]:
        if not ID.fullmatch(spec.session_id):
            raise RemoteProtocolError("session_id: is not made of letters, digits, '-' and '_'.")
        seen = self._epochs.get(spec.session_id, 0)
        starting = self._starting.get((spec.session_id, spec.lease.epoch))
        if starting is not None:  # asked again before the first asking was answered
            return 200, await asyncio.shield(starting)
        present = self._hosts.sessions.get(spec.session_id)
        if present is not None and present.report is not None and present.report.lease.epoch == spec.lease.epoch:
            return 200, present.report
        if spec.lease.epoch <= seen or present is not None:
            raise StaleEpoch(spec.lease.epoch, max(seen, 1))
        devices = [device for device in self._devices if device.id in spec.lease.device_ids]
        if len(devices) != len(spec.lease.device_ids):
            raise AllocationError(f"lease.device_ids: {spec.lease.device_ids} are not all devices of this node.")
        self._epochs[spec.session_id] = spec.lease.epoch
        key = (spec.session_id, spec.lease.epoch)
        self._starting[key] = asyncio.ensure_future(self._begin(spec, devices, seen))
        try:
            return 201, await asyncio.shield(self._starting[key])
        finally:
            del self._starting[key]

    async def _begin(self, spec: HostSpec, devices: list[Device], seen: int) -> HostReport:
        try:
            return await self._hosts.start(spec, devices, self._machine)
        except BaseException:
            # Nothing of this epoch has run: the same order may be given again.
            self._epochs[spec.session_id] = seen
            raise

    async def _no_more_starts(self, session_id: str, offered: str) -> None:
        """Before a host of this epoch is ended, which its controller may ask for while it is still being started.

        1. The controller orders a host, and changes its mind.  2. Its order to end the host overtakes the first one, or
        meets a host that is half there.  So the start is waited for, and one that comes later is refused.
        """
        epoch = int(offered) if is_count(offered) else 0
        starting = self._starting.get((session_id, epoch))
        if starting is not None:
            await asyncio.wait({starting})
        if ID.fullmatch(session_id) and session_id not in self._hosts.sessions:
            self._epochs[session_id] = max(epoch, self._epochs.get(session_id, 0))

    def _handle(self, session_id: str) -> HostHandle:
        handle = self._hosts.sessions.get(session_id)
        if handle is None:
            raise NoSuchSession(f"session {session_id[:64]!r} is not on this node.")
        return handle

    def _check_epoch(self, session_id: str, offered: str) -> None:
        report = self._handle(session_id).report
        if report is not None and offered != str(report.lease.epoch):
            raise StaleEpoch(int(offered) if is_count(offered) else -1, report.lease.epoch)

    def _changed(self, report: HostReport) -> None:
        for queue in self._watchers:
            queue.put_nowait(report)

    def _used(self) -> dict[str, int]:
        used: dict[str, int] = {}
        for handle in self._hosts.sessions.values():
            if handle.report is not None:
                for device_id in handle.report.lease.device_ids:
                    used[device_id] = used.get(device_id, 0) + handle.report.used_bytes
        return used

    def _room_to_keep(self, session_id: str) -> dict[str, int]:
        """How much memory this session may keep without devices, beside the others that do."""
        most_bytes = self._settings.kept_bytes or psutil.virtual_memory().total // (2 * max(1, self._settings.nodes))
        reports = [handle.report for handle in self._hosts.sessions.values() if handle.report is not None]
        kept_bytes = sum(each.used_bytes for each in reports if each.suspended and each.session_id != session_id)
        return {"most_bytes": most_bytes, "room_bytes": max(0, most_bytes - kept_bytes)}

    async def _watch(self, connection: socket.socket) -> None:
        """Send all reports, then each change, until the reader goes away."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[HostReport] = asyncio.Queue()
        self._watchers.add(queue)
        try:
            reports = [h.report for h in self._hosts.sessions.values() if h.report]
            lines: list[dict[str, Any]] = [{"report": report} for report in reports]
            data = http.head(200, "application/x-ndjson") + _lines([*lines, {"snapshot": True}])
            while not self._stopping.is_set():
                await loop.sock_sendall(connection, data)
                try:
                    first = await asyncio.wait_for(queue.get(), WATCH_PAUSE_S)
                    changes = [first, *(queue.get_nowait() for _ in range(queue.qsize()))]
                    data = _lines([{"report": report} for report in changes])
                except asyncio.TimeoutError:
                    data = _lines([{}])
        except OSError:
            pass
        finally:
            self._watchers.discard(queue)

    # -- clients -----------------------------------------------------------------------------------------------

    def _pass(self, request: http.HttpRequest, session_id: str, rest: list[str], connection: socket.socket) -> bytes:
        """Hand a client's connection to the host of its session, which checks the ticket."""
        passed: dict[str, Any] = {
            "ticket": request.bearer,
            "method": request.method,
            "rest": base64.b64encode(request.rest).decode(),
        }
        match (request.method, *rest):
            case ("GET", "channel"):
                client, after = request.query.get("client", ""), request.query.get("after")
                if not ID.fullmatch(client):
                    raise RemoteProtocolError("client: is not made of letters, digits, '-' and '_'.")
                journal = request.query.get("journal", "")
                if journal and not ID.fullmatch(journal):
                    raise RemoteProtocolError("journal: is not made of letters, digits, '-' and '_'.")
                passed["journal"] = journal
                passed["head"] = base64.b64encode(request.raw).decode()
                passed["epoch"] = _number("epoch", request.query.get("epoch"))
                passed |= {"kind": "channel", "client": client, "after": _number("after", after)}
            case (("PUT" | "GET"), "bundles", bundle) if ID.fullmatch(bundle):
                if request.length > self._settings.bundle_bytes:
                    raise RemoteProtocolError(
                        f"bundle: has {request.length} bytes, at most {self._settings.bundle_bytes} are allowed.",
                        hint="Setting bundle_bytes.",
                    )
                passed |= {"kind": "bundle", "bundle": bundle, "length": request.length}
            case (("GET" | "POST"), "transfer", *what) if what:
                passed |= _transfer(request, what)
            case _:
                raise NoSuchSession(f"path: there is no {request.method} {request.path}.")
        return self._hand_over(self._handle_for_client(session_id), connection, passed)

    async def _give_remains(
        self, request: http.HttpRequest, session_id: str, what: list[str], connection: socket.socket
    ) -> bool:
        """Serve a successor from what a host has left; False when its ticket is for a host that is here."""
        remains = self._hosts.remains.get(session_id) if ID.fullmatch(session_id) else None
        if remains is None:
            return False
        try:
            user = ticket.check(
                request.bearer, remains.secret, session_id=session_id, epoch=remains.epoch, now_s=time.time()
            )
        except StaleEpoch:
            return False
        if user != ticket.TRANSFER_USER:
            raise Unauthorized("ticket: is not for this.")
        serve = self._hosts.remains.serve
        try:
            await in_thread(serve, remains, connection, _transfer(request, what), request.rest, name="serve-remains")
        except OSError:
            pass  # the other end went, or does not read
        except GpuaasError:
            connection.setblocking(False)  # for the answer, which the loop sends
            raise
        return True

    def _order_remains(self, session_id: str, epoch: str) -> bool:
        return is_count(epoch) and self._hosts.remains.order(_id(session_id), int(epoch))

    async def _tidy(self) -> None:
        """Give up what nobody has asked for."""
        while True:
            await asyncio.sleep(TIDY_PAUSE_S)
            await asyncio.to_thread(self._hosts.remains.expire, time.time())

    def _handle_for_client(self, session_id: str) -> HostHandle:
        handle = self._hosts.sessions.get(session_id)
        if handle is None:
            # Without a ticket that verifies, nobody learns which sessions exist.
            raise Unauthorized("ticket: missing or not genuine.", hint="Ask the service for a new one.")
        return handle

    def _log(self, handle: HostHandle, request: http.HttpRequest, connection: socket.socket) -> bytes:
        tail, follow = _number("tail", request.query.get("tail")), request.query.get("follow") == "1"
        if request.query.get("kind", "output") == "system":
            with handle.path.with_suffix(".log").open(encoding="utf-8", errors="replace") as log:
                lines = deque(log, maxlen=tail)
            return http.response(200, "".join(lines).encode(), "text/plain; charset=utf-8")
        passed = {"kind": "log", "tail": tail, "follow": follow}
        return self._hand_over(handle, connection, passed)

    def _hand_over(self, handle: HostHandle, connection: socket.socket, passed: dict[str, Any]) -> bytes:
        try:
            handle.pass_client(connection, passed)
        except OSError as error:
            raise TransportError(f"the host of the session does not answer: {error}.") from error
        return b""


def _transfer(request: http.HttpRequest, what: list[str]) -> dict[str, Any]:
    """A successor's request, as it is passed on."""
    path = "/".join(what)
    return {
        "kind": "transfer",
        "method": request.method,
        "path": path,
        "query": request.query,
        "length": request.length,
        "far": None if request.came is None else request.came.far,
    }


def _id(session_id: str) -> str:
    if not ID.fullmatch(session_id):
        raise NoSuchSession(f"session {session_id[:64]!r} is not on this node.")
    return session_id


def _number(field: str, value: str | None) -> int | None:
    if value is not None and not is_count(value):
        raise RemoteProtocolError(f"{field}: is not a number.")
    return None if value is None else int(value)


def _lines(items: list[dict[str, Any]]) -> bytes:
    return b"".join(msgspec.json.encode(item) + b"\n" for item in items)


def _token(path: Path) -> str:
    """The token in this file, made where there is none."""
    token = path.read_text("ascii").strip() if path.exists() else ""
    if not token:
        # An agent that is killed on the way must not leave an empty one, which whoever shows no token would have.
        token, draft = secrets.token_urlsafe(32), path.with_suffix(".new")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            file.write(token)
        draft.replace(path)
    return token


@click.command()
@click.option("--node", required=True, help="Id of the node.")
@click.option("--folder", required=True, type=click.Path(path_type=Path), help="Folder of the node's data.")
@click.option("--port", default=0, show_default=True, help="Port to listen on; 0 picks a free one.")
@click.option("--devices", default=None, help="Devices to offer: auto, or like cpu:2.")
def main(node: str, folder: Path, port: int, devices: str | None) -> None:
    """Serve one node; started by an engine."""
    if not ID.fullmatch(node):
        raise SettingError("node: is not made of letters, digits, '-' and '_'.")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings = load(devices=devices)
    if settings.kernel_user:
        os.umask(0o077)  # its folders are open for others to pass through
    log_to_stderr(settings.log_format)

    async def serve() -> None:
        agent = Agent(node, folder, settings)
        formatter.about, formatter.epoch_of = {"node": node}, agent.epoch_of
        await agent.run(port)

    try:
        with hold(folder):
            asyncio.run(serve())
    except GpuaasError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
