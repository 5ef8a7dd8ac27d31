"""The proxy's side towards Jupyter clients: five ZMQ sockets, as any kernel has them."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import zmq

from ..model import Channel
from ..wire.jupyter import DELIMITER, make_parts, split_frames
from ..wire.record import Buffer
from ..wire.zmqport import Message, ZmqPort

#: Outputs that a slow subscriber may leave in this process before the journal has to hold them.
IOPUB_HIGH_WATER = 10_000
CHANNELS = {Channel.SHELL: zmq.ROUTER, Channel.CONTROL: zmq.ROUTER, Channel.STDIN: zmq.ROUTER, Channel.IOPUB: zmq.XPUB}
log = logging.getLogger(__name__)


class Connection(msgspec.Struct):
    """A connection file."""

    shell_port: int = 0
    iopub_port: int = 0
    stdin_port: int = 0
    control_port: int = 0
    hb_port: int = 0
    ip: str = "127.0.0.1"
    transport: str = "tcp"
    key: str = ""
    signature_scheme: str = "hmac-sha256"


class Front:
    """Binds the sockets of a connection file and speaks signed Jupyter messages on them.

    Parameters
    ----------
    on_request
        Called with (channel, address of the client, [header, parent, metadata, content, *buffers]).
    on_subscribers
        Called when the number of iopub subscribers has changed.
    """

    def __init__(
        self,
        connection_file: Path,
        on_request: Callable[[Channel, bytes, list[Buffer]], None],
        on_subscribers: Callable[[int], None],
    ) -> None:
        self._on_request = on_request
        self._on_subscribers = on_subscribers
        written = msgspec.json.decode(connection_file.read_bytes()) if connection_file.exists() else {}
        self._connection = msgspec.convert(written, Connection)
        if not written:  # nobody has chosen to do without a key
            self._connection.key = secrets.token_hex(16)
        name = self._connection.signature_scheme.removeprefix("hmac-")
        key = self._connection.key.encode()
        self._auth = hmac.new(key, digestmod=getattr(hashlib, name)) if key else None
        self._context = zmq.Context()
        self._heart = zmq.Context()
        self._ports: dict[Channel, ZmqPort] = {}
        self.subscribers = 0
        for channel, kind in CHANNELS.items():
            sock = self._context.socket(kind)
            if kind == zmq.ROUTER:
                sock.setsockopt(zmq.ROUTER_HANDOVER, 1)
                sock.setsockopt(zmq.ROUTER_MANDATORY, 1)
                sock.setsockopt(zmq.SNDHWM, 0)
            else:
                sock.setsockopt(zmq.XPUB_NODROP, 1)
                sock.setsockopt(zmq.XPUB_VERBOSER, 1)
                sock.setsockopt(zmq.SNDHWM, IOPUB_HIGH_WATER)
            sock.setsockopt(zmq.RCVHWM, 0)
            self._bind(sock, channel.value)
            self._ports[channel] = ZmqPort(sock, lambda batch, channel=channel: self._batch(channel, batch))  # type: ignore[misc]
        self._beat()
        complete = {**written, **msgspec.to_builtins(self._connection)}
        if complete != written:
            descriptor = os.open(connection_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(msgspec.json.encode(complete))
            connection_file.chmod(0o600)

    def publish(self, topic: Buffer, parts: list[Buffer]) -> bool:
        """Send on iopub; False when a subscriber is too slow to take more at the moment."""
        try:
            self._ports[Channel.IOPUB].send([topic, DELIMITER, self._sign(parts), *parts])
        except zmq.Again:
            return False
        return True

    def reply(self, channel: Channel, address: Buffer, parts: list[Buffer]) -> bool:
        """Send to one client; False when it is not connected."""
        try:
            self._ports[channel].send([address, DELIMITER, self._sign(parts), *parts])
        except zmq.ZMQError as error:
            if error.errno in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                return False
            raise
        return True

    def close(self, linger_ms: int) -> None:
        """Close all; what was sent is given ``linger_ms`` to leave."""
        for port in self._ports.values():
            port.close(linger_ms)
        self._context.term()
        self._heart.destroy(linger=0)

    def _bind(self, sock: Any, name: str) -> None:
        connection = self._connection
        port = getattr(connection, f"{name}_port")
        if connection.transport == "ipc":
            if not port:
                port = 1
                while Path(f"{connection.ip}-{port}").exists():
                    port += 1
            sock.bind(f"ipc://{connection.ip}-{port}")
        elif port:
            sock.bind(f"{connection.transport}://{connection.ip}:{port}")
        else:
            port = sock.bind_to_random_port(f"{connection.transport}://{connection.ip}")
        setattr(connection, f"{name}_port", port)

    def _beat(self) -> None:
        """Answer heartbeats in a thread of their own that never needs the interpreter's lock."""
        sock = self._heart.socket(zmq.ROUTER)
        self._bind(sock, "hb")

        def echo() -> None:
            try:
                zmq.proxy(sock, sock)
            except zmq.ZMQError:
                pass  # the context was destroyed

        threading.Thread(target=echo, daemon=True, name="heartbeat").start()

    def _batch(self, channel: Channel, batch: list[Message]) -> None:
        for frames in batch:
            if channel is Channel.IOPUB:
                self._subscription(bytes(frames[0]))
                continue
            try:
                idents, signature, parts = split_frames(frames)
            except ValueError as error:
                log.warning("%s: %s", channel, error)
                continue
            if not hmac.compare_digest(bytes(signature), self._sign(parts)):
                log.warning("%s: a message with a wrong signature was dropped", channel)
                continue
            self._on_request(channel, bytes(idents[0]) if idents else b"", parts)

    def _subscription(self, event: bytes) -> None:
        if event[:1] == b"\x01":
            self.subscribers += 1
            topic = event[1:].decode("utf-8", "replace")
            welcome = make_parts(event[1:], "iopub_welcome", b"{}", {"subscription": topic})
            self.publish(welcome[0], welcome[1:])
        elif event[:1] == b"\x00":
            self.subscribers = max(0, self.subscribers - 1)
        self._on_subscribers(self.subscribers)

    def _sign(self, parts: list[Buffer]) -> bytes:
        if self._auth is None:
            return b""
        auth = self._auth.copy()
        for part in parts[:4]:
            auth.update(part)
        return auth.hexdigest().encode()


def unsent_bytes() -> int:
    """Bytes that this process's stream sockets have not brought to their other end yet; 0 where it cannot be told.

    What lies in such a queue is lost with this process, so it must not be acknowledged.
    """
    import fcntl
    import stat
    import struct

    SIOCOUTQ = 0x5411  # Linux's name and number: how much is not sent, or not acknowledged by TCP
    total = 0
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return 0
    for name in names:
        try:
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                total += struct.unpack("i", fcntl.ioctl(int(name), SIOCOUTQ, b"\0" * 4))[0]
        except OSError:
            continue  # listening, or just closed
    return total


async def settle(seconds: float) -> None:
    """Wait until everything has left this process, at most ``seconds``."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    await asyncio.sleep(0.02)
    while unsent_bytes() and loop.time() < end:
        await asyncio.sleep(0.02)
