"""What the processes of a jail have open that does not go along, or that the target must have: told by name. Pure, but
for ``look``, which reads /proc.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

import msgspec

from .jail import Process

LISTEN = "LISTEN"
TCP, UDP = "TCP", "UDP"
#: include/net/tcp_states.h
STATES = {
    1: "ESTABLISHED", 2: "SYN_SENT", 3: "SYN_RECV", 4: "FIN_WAIT1", 5: "FIN_WAIT2", 6: "TIME_WAIT", 7: "CLOSE",
    8: "CLOSE_WAIT", 9: "LAST_ACK", 10: LISTEN, 11: "CLOSING",
}  # fmt: skip


class InetSocket(msgspec.Struct, frozen=True):
    """A TCP or UDP socket of one process; addresses as ``address:port``."""

    inner_pid: int
    kind: str
    local: str
    remote: str
    state: str

    @property
    def words(self) -> str:
        if self.state == LISTEN or self.kind == UDP:
            return f"process {self.inner_pid} has port {self.local} ({self.kind})"
        return f"process {self.inner_pid}: {self.local} to {self.remote} ({self.kind}, {self.state})"


class Belongings(msgspec.Struct, frozen=True):
    """What a tree has open."""

    #: TCP connections; they are closed by a dump, and stay closed on the target. On the source they go on when it does.
    connections: tuple[InetSocket, ...] = ()
    #: Ports that must be free on the target: those on which somebody listens, and those of UDP.
    listening: tuple[InetSocket, ...] = ()
    #: Regular files that are open, by their paths inside; the target must have them with the same size.
    files: tuple[str, ...] = ()


#: inode -> kind, local, remote, state.
Table = dict[str, tuple[str, str, str, str]]


def read_table(kind: str, text: str) -> Table:
    """The sockets of /proc/net/tcp, tcp6, udp or udp6."""
    found: Table = {}
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9:
            state = STATES.get(int(fields[3], 16), fields[3])
            found[fields[9]] = (kind, _address(fields[1]), _address(fields[2]), state)
    return found


def sort_out(open_paths: Iterable[tuple[int, str]], table: Table) -> Belongings:
    """Belongings from (inner pid, target of a link in /proc/<pid>/fd) and the sockets of ``read_table``."""
    connections: dict[InetSocket, None] = {}
    listening: dict[InetSocket, None] = {}
    files: dict[str, None] = {}
    for inner_pid, path in open_paths:
        if path.startswith("socket:["):
            known = table.get(path[len("socket:[") : -1])
            if known is not None:
                found = InetSocket(inner_pid, *known)
                if found.state == LISTEN or found.kind == UDP:
                    listening[found] = None
                elif found.state != STATES[7]:
                    connections[found] = None
        elif path.startswith("/") and not path.startswith(("/dev/", "/proc/", "/sys/")):
            if not path.endswith(" (deleted)"):
                files[path] = None
    return Belongings(tuple(connections), tuple(listening), tuple(files))


def look(processes: Iterable[Process]) -> Belongings:
    """Belongings of processes that do not run at the moment."""
    processes = list(processes)
    open_paths: list[tuple[int, str]] = []
    table: Table = {}
    for process in processes:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for name in os.listdir(f"/proc/{process.pid}/fd"):
                with contextlib.suppress(OSError):
                    open_paths.append((process.inner_pid, os.readlink(f"/proc/{process.pid}/fd/{name}")))
    if processes:
        for kind, name in ((TCP, "tcp"), (TCP, "tcp6"), (UDP, "udp"), (UDP, "udp6")):
            with contextlib.suppress(OSError):
                table |= read_table(kind, Path(f"/proc/{processes[0].pid}/net/{name}").read_text())
    return sort_out(open_paths, table)


def _address(text: str) -> str:
    host, port = text.split(":")
    words = [struct.pack("=I", int(host[at : at + 8], 16)) for at in range(0, len(host), 8)]
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    shown = socket.inet_ntop(family, b"".join(words))
    return f"{shown}:{int(port, 16)}" if family == socket.AF_INET else f"[{shown}]:{int(port, 16)}"
