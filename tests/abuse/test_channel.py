"""Hostile clients of a session's channel: each is told why, and the session does not notice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sqlite3
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from jupyter_gpuaas.client.embedded import find_running
from jupyter_gpuaas.client.service import ServiceClient
from jupyter_gpuaas.model import ChannelInfo
from jupyter_gpuaas.wire import ticket
from jupyter_gpuaas.wire.jupyter import make_parts
from jupyter_gpuaas.wire.record import HEAD, Kind, encode
from tests.conftest import GpuaasHome, _new_home, _use, close_home
from tests.fault.session import ProxyRun

TIMEOUT_S = 20.0


class Victim:
    """A session with a well-behaved client, and what an attacker may know of it."""

    def __init__(self, home: GpuaasHome, folder: Path) -> None:
        self.home = home
        self.run = ProxyRun(folder, "victim").ready()
        self.counter = 0

    def info(self, session: str = "victim") -> ChannelInfo:
        async def ask() -> ChannelInfo:
            endpoint = await find_running(self.home.path)
            assert endpoint is not None
            async with ServiceClient(endpoint.url, endpoint.token) as service:
                return await service.ticket(session)

        return asyncio.run(ask())

    def attack(self, *, query: str = "?client=attacker", token: str | None = None) -> ClientConnection:
        info = self.info()
        headers = {"Authorization": f"Bearer {info.ticket if token is None else token}"}
        return connect(info.direct_url + query, additional_headers=headers, compression=None, proxy=None, max_size=None)

    def still_well(self) -> None:
        """The session answers its client, on the link that it had, and every cell ran once."""
        self.counter += 1
        self.run.run(f"count = globals().get('count', 0) + 1; assert count == {self.counter}, count")
        reply = self.run.run("1")
        assert reply["content"]["status"] == "ok"
        assert "no link" not in self.run.log.read_text()


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    home = _new_home()
    with pytest.MonkeyPatch.context() as patch:
        _use(patch, home)
        patch.setenv("GPUAAS_LOG", "WARNING")
        (home.path / "settings.toml").write_text('devices = "cpu:2"\n')
        victim = Victim(home, tmp_path_factory.mktemp("victim"))
        victim.run.run("pass")  # a proxy says that it is ready before it has a session
        yield victim
        victim.run.close()
        close_home(home)


def closed_because(link: ClientConnection) -> tuple[int, str]:
    """Read until the other side closes; code and reason."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            link.recv(timeout=TIMEOUT_S)
        except ConnectionClosed as closed:
            assert closed.rcvd is not None, "closed without a reason"
            return closed.rcvd.code, closed.rcvd.reason
    raise AssertionError("not closed")


def record(
    number: int, kind: int = Kind.SHELL, parts: list[Any] | None = None, msg_type: str = "execute_request"
) -> bytes:
    content = {"code": "attacked = globals().get('attacked', 0) + 1", "silent": False}
    return b"".join(encode(kind, number, 0, parts or make_parts(b"me", msg_type, b"{}", content)))  # type: ignore[arg-type]


MALFORMED = {
    "not a record": b"GET / HTTP/1.1\r\n\r\n" + b"x" * 100,
    "unknown kind": HEAD.pack(b"GPR1", 77, 0, 0, 1, 0, 0, 0),
    "checksum": record(1)[:-1] + b"!",
    "announces": HEAD.pack(b"GPR1", 1, 0, 1, 1, 0, 1 << 40, 0),
    "records are missing": record(7),
    "is no request": record(1, Kind.IOPUB),
    "header": record(1, parts=[b"me", b"not json", b"{}", b"{}", b"{}"]),
    "no msg_id": record(1, parts=[b"me", b"{}", b"{}", b"{}", b"{}"]),
    "is no request ": record(1, parts=[b"me", b"{}"]),
}


@pytest.mark.parametrize("why", MALFORMED)
def test_malformed_record_is_refused_with_its_reason(victim: Victim, why: str) -> None:
    with victim.attack(query=f"?client={os.urandom(8).hex()}") as link:
        link.send(MALFORMED[why])
        code, reason = closed_because(link)
    assert code == 1008 and why.strip() in reason
    victim.still_well()


@pytest.mark.parametrize(
    ("op", "why"),
    [
        ("no json", "not JSON"),
        ("[]", "must be an object"),
        ('{"op": 5}', "must be an object"),
        ('{"op": "format_disk"}', "unknown"),
        ('{"op": "ack"}', "lacks"),
        ('{"op": "ack", "number": 99999999}', "acknowledged"),
    ],
)
def test_malformed_op_is_refused_with_its_reason(victim: Victim, op: str, why: str) -> None:
    with victim.attack() as link:
        link.send(op)
        code, reason = closed_because(link)
    assert code in (1007, 1008) and why in reason
    victim.still_well()


def test_frame_of_2_gib_announced_is_refused_before_memory_is_taken(victim: Victim) -> None:
    info = victim.info()
    before = memory_of_hosts(victim)
    with raw_link(info) as link:
        link.sendall(b"\x82\xff" + struct.pack(">Q", 2 * 1024**3) + b"mask" + b"x" * 1000)
        link.settimeout(TIMEOUT_S)
        answer = b""
        while data := link.recv(1 << 16):
            answer += data
    assert struct.pack(">H", 1009) in answer  # close frame: message too big
    assert memory_of_hosts(victim) - before < 64 * 1024**2
    victim.still_well()


def test_replayed_numbers_and_replayed_requests_run_once(victim: Victim) -> None:
    victim.run.run("attacked = 0")
    first, second = record(1), record(2)
    with victim.attack(query="?client=replayer") as link:
        link.send(first + first + first)
        link.send(second)
        link.send(second + first)
    with victim.attack(query="?client=replayer") as link:  # numbers go on, over links
        link.send(first + second)
    with victim.attack(query="?client=somebody-else") as link:  # the same requests by another client
        link.send(first + second)
        wait_for_ack(link, 2)
    assert victim.run.value("attacked") == "2"
    victim.still_well()


def test_unknown_message_type_passes_and_does_no_harm(victim: Victim) -> None:
    with victim.attack(query="?client=curious") as link:
        link.send(record(1, msg_type="make_coffee_request") + record(2, Kind.CONTROL, msg_type="x" * 10_000))
        wait_for_ack(link, 2)
    victim.still_well()


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("", "client"),
        ("?client=", "client"),
        ("?client=a/b", "client"),
        ("?client=" + "a" * 65, "client"),
        ("?client=a&after=-1", "after"),
        ("?client=a&after=x", "after"),
        ("?client=a&after=99999999", "after"),
    ],
)
def test_malformed_query_is_refused_with_the_field(victim: Victim, query: str, why: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        victim.attack(query=query)
    assert refused.value.response.status_code == 400
    assert why.encode() in (refused.value.response.body or b"")
    victim.still_well()


def tickets(info: ChannelInfo) -> dict[str, str]:
    session_id, epoch, expires, user, mac = info.ticket.split(".")
    forged = ticket.issue("guess", session_id=session_id, epoch=int(epoch), user="root", expires_s=time.time() + 99)
    return {
        "none": "",
        "garbage": "....",
        "forged": forged,
        "later end": f"{session_id}.{epoch}.{int(expires) + 9999}.{user}.{mac}",
        "other epoch": f"{session_id}.{int(epoch) + 1}.{expires}.{user}.{mac}",
        "other user": f"{session_id}.{epoch}.{expires}.{user}x.{mac}",
    }


@pytest.mark.parametrize("kind", ["none", "garbage", "forged", "later end", "other epoch", "other user"])
@pytest.mark.parametrize("way", ["channel", "bundle"])
def test_ticket_that_is_not_genuine_is_refused(victim: Victim, kind: str, way: str) -> None:
    info = victim.info()
    assert refusal(info, tickets(info)[kind], way) == 401
    victim.still_well()


@pytest.mark.sqlite
@pytest.mark.parametrize("way", ["channel", "bundle"])
def test_ticket_that_has_expired_or_is_of_another_session_or_epoch_is_refused(victim: Victim, way: str) -> None:
    info, secret = victim.info(), secret_of(victim, "victim")
    session_id = info.ticket.split(".")[0]

    def made(**changes: Any) -> str:
        claims = {"session_id": session_id, "epoch": info.epoch, "user": "root", "expires_s": time.time() + 99}
        return ticket.issue(secret, **(claims | changes))

    assert refusal(info, made(), way) in (101, 404)  # this one is good: the channel opens, the bundle is unknown
    assert refusal(info, made(expires_s=time.time() - 10), way) == 401
    assert refusal(info, made(session_id="f" * 32), way) == 401
    assert refusal(info, made(epoch=info.epoch + 1), way) == 409
    victim.still_well()


def test_agent_refuses_what_is_not_http_and_heads_without_end(victim: Victim) -> None:
    address = urlsplit(victim.info().direct_url)
    for sent in (
        b"\x00" * 64 + b"\r\n\r\n",
        b"GET /v1/node HTTP/1.1\nHost: x\n\n",
        b"GET //[ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/sessions/s/channel?client=c&after=" + b"9" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ):
        with socket.create_connection((address.hostname, address.port), timeout=TIMEOUT_S) as link:
            link.sendall(sent)
            assert link.recv(100).startswith(b"HTTP/1.1 400"), sent[:60]
    with socket.create_connection((address.hostname, address.port), timeout=TIMEOUT_S) as link:
        try:
            link.sendall(b"GET /" + b"a" * 40_000)
            assert link.recv(100).startswith(b"HTTP/1.1 400")
        except ConnectionError:
            pass  # it need not read to the end what it refuses
    for path in ("/v1/hosts", "/v1/stop", "/v1/watch"):
        with socket.create_connection((address.hostname, address.port), timeout=TIMEOUT_S) as link:
            link.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
            assert link.recv(100).startswith(b"HTTP/1.1 401")
    victim.still_well()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_full_disk_under_the_journal_is_said_and_nothing_is_lost(victim: Victim, tmp_path: Path) -> None:
    """A real disk of 8 MB under a node's sessions, filled by a cell."""
    home = _new_home()
    node = home.path / "nodes" / "local-0"
    disk = node / "sessions"
    disk.mkdir(mode=0o700, parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        shutil.rmtree(home.path)
        pytest.skip(f"no mount here: {mounted.stderr.decode()}")
    with pytest.MonkeyPatch.context() as patch:
        _use(patch, home)
        run = ProxyRun(tmp_path, "full", {})
        try:
            run.ready()
            msg_id = run.client.execute("for n in range(20): print(str(n) * 1_000_000, flush=True)")
            assert run.wait_done(msg_id)["content"]["status"] == "ok"
            assert run.text(msg_id) == "".join(str(n) * 1_000_000 + "\n" for n in range(20))
            assert "No space left" in home.cli("events").stdout
            told = [
                m["content"]["text"]
                for m in run.heard
                if m["msg_type"] == "stream" and m["content"]["name"] == "stderr"
            ]
            assert "No space left" in "".join(told)
            assert run.value("1 + 1") == "2"
        finally:
            run.close()
            home.cli("down")
            subprocess.run(["umount", str(disk)], check=True)
            shutil.rmtree(home.path)


# -- what the attacks are made of ------------------------------------------------------------------------------


def wait_for_ack(link: ClientConnection, number: int) -> None:
    """Read until the host says that it has our records up to ``number``."""
    wanted = f'"number":{number}'
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        message = link.recv(timeout=TIMEOUT_S)
        if isinstance(message, str) and '"op":"ack"' in message and wanted in message:
            return
    raise AssertionError("not acknowledged")


def raw_link(info: ChannelInfo) -> socket.socket:
    address = urlsplit(info.direct_url)
    link = socket.create_connection((address.hostname, address.port), timeout=TIMEOUT_S)
    link.sendall(
        f"GET {address.path}?client=raw HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
        f"Authorization: Bearer {info.ticket}\r\n\r\n".encode()
    )
    return link


def refusal(info: ChannelInfo, token: str, way: str) -> int:
    """Status that a channel or a bundle is answered with."""
    if way == "channel":
        try:
            with connect(
                info.direct_url + "?client=a", additional_headers={"Authorization": f"Bearer {token}"}, proxy=None
            ):
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code
    address = urlsplit(f"{info.bundle_url}/nosuchbundle")
    with socket.create_connection((address.hostname, address.port), timeout=TIMEOUT_S) as link:
        link.sendall(f"GET {address.path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        answer = link.recv(1 << 16)
    return int(answer.split()[1])


def secret_of(victim: Victim, name: str) -> str:
    """The session's secret, which only the controller and the host know: read from the database."""
    with contextlib.closing(
        sqlite3.connect(f"file:{victim.home.path / 'controller.db'}?mode=ro", uri=True)
    ) as database:
        ((record,),) = database.execute("select record from sessions where name = ?", (name,)).fetchall()
    return str(msgspec.json.decode(record)["secret"])


def memory_of_hosts(victim: Victim) -> int:
    return sum(
        process.memory_info().rss for process in victim.home.processes() if "node.host" in " ".join(process.cmdline())
    )
