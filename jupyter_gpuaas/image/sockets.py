"""What the processes of a jail have open that does not go along, or that the target must have: told by name. Pure, but
for ``look``, which reads /proc.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from .jail import Process

LISTEN = "LISTEN"
#: include/net/tcp_states.h
STATES = {
    1: "ESTABLISHED", 2: "SYN_SENT", 3: "SYN_RECV", 4: "FIN_WAIT1", 5: "FIN_WAIT2", 6: "TIME_WAIT", 7: "CLOSE",
    8: "CLOSE_WAIT", 9: "LAST_ACK", 10: LISTEN, 11: "CLOSING",
}  # fmt: skip


class TcpSocket(msgspec.Struct, frozen=True):
    """A TCP socket of one process, as ``address:port``."""

    inner_pid: int
    local: str
    remote: str
    state: str

    @property
    def words(self) -> str:
        if self.state == LISTEN:
            return f"process {self.inner_pid} listens on {self.local}"
        return f"process {self.inner_pid}: {self.local} to {self.remote} ({self.state})"


class Belongings(msgspec.Struct, frozen=True):
    """What a tree has open."""

    #: Connections; they are closed by a dump, and stay closed on the target. On the source they go on when it does.
    connections: tuple[TcpSocket, ...] = ()
    #: Ports that must be free on the target.
    listening: tuple[TcpSocket, ...] = ()
    #: Regular files that are open, by their paths inside; the target must have them with the same size.
    files: tuple[str, ...] = ()


def read_table(text: str) -> dict[str, tuple[str, str, str]]:
    """/proc/net/tcp or tcp6: inode -> local, remote, state."""
    found = {}
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9:
            state = STATES.get(int(fields[3], 16), fields[3])
            found[fields[9]] = (_address(fields[1]), _address(fields[2]), state)
    return found


def sort_out(open_paths: Iterable[tuple[int, str]], table: Mapping[str, tuple[str, str, str]]) -> Belongings:
    """Belongings from (inner pid, target of a link in /proc/<pid>/fd) and the sockets of ``read_table``."""
    connections: dict[TcpSocket, None] = {}
    listening: dict[TcpSocket, None] = {}
    files: dict[str, None] = {}
    for inner_pid, path in open_paths:
        if path.startswith("socket:["):
            known = table.get(path[len("socket:[") : -1])
            if known is not None:
                found = TcpSocket(inner_pid, *known)
                if found.state == LISTEN:
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
    table: dict[str, tuple[str, str, str]] = {}
    for process in processes:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for name in os.listdir(f"/proc/{process.pid}/fd"):
                with contextlib.suppress(OSError):
                    open_paths.append((process.inner_pid, os.readlink(f"/proc/{process.pid}/fd/{name}")))
    if processes:
        for kind in ("tcp", "tcp6"):
            with contextlib.suppress(OSError):
                table |= read_table(Path(f"/proc/{processes[0].pid}/net/{kind}").read_text())
    return sort_out(open_paths, table)


def _address(text: str) -> str:
    host, port = text.split(":")
    words = [struct.pack("=I", int(host[at : at + 8], 16)) for at in range(0, len(host), 8)]
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    shown = socket.inet_ntop(family, b"".join(words))
    return f"{shown}:{int(port, 16)}" if family == socket.AF_INET else f"[{shown}]:{int(port, 16)}"
