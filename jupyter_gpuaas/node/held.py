"""Requests that wait at the host for the kernel, in their order."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ..model import Channel, HeldRequest
from ..wire.jupyter import Header, make_parts, read_header, read_subshell
from ..wire.record import Buffer
from ..wire.waiting import memory_bytes

#: File in a session's folder with what its host has handed over.
HANDOVER = "handover"

Told = list[tuple[Channel, list[Buffer]]]


class Held(msgspec.Struct):
    """One request: address, header, parent, metadata, content, *buffers."""

    channel: Channel
    header: Header
    parts: list[Buffer]

    @classmethod
    def of(cls, request: HeldRequest) -> Held:
        """As another host handed it over."""
        return cls(Channel(request.channel), read_header(request.parts[1]), list(request.parts))

    @property
    def subshell(self) -> str | None:
        """The shell of the kernel that it is for; None for the main one."""
        return read_subshell(self.parts[1])

    def aborted(self) -> Told:
        """What a kernel says of a cell that it does not run, because one before it failed."""
        return self._answer({"status": "aborted"}, None)

    def interrupted(self) -> Told:
        """What it says of a cell that was interrupted."""
        return self.failed("KeyboardInterrupt", "cancelled before it began")

    def failed(self, name: str, why: str) -> Told:
        """What it says of a cell that ended with an error, or of another request that did; nothing where none waits."""
        error: dict[str, object] = {
            "ename": name,
            "evalue": why,
            "traceback": [f"\x1b[31m{name}\x1b[0m: {why}"],
        }
        if self.header.msg_type == "execute_request":
            of_cell = {"execution_count": 0, "user_expressions": {}, "payload": []}
            return self._answer({"status": "error", **error, **of_cell}, error)
        return self._answer({"status": "error", **error}, None) if self.header.msg_type.endswith("_request") else []

    def _answer(self, content: dict[str, object], error: dict[str, object] | None) -> Told:
        parent = self.parts[1]

        def status(state: str) -> tuple[Channel, list[Buffer]]:
            return Channel.IOPUB, make_parts(b"status", "status", parent, {"execution_state": state})

        told = [status("busy")]
        if error is not None:
            told.append((Channel.IOPUB, make_parts(b"error", "error", parent, error)))
        metadata = {"status": content["status"]}
        reply = self.header.msg_type.replace("_request", "_reply")
        told.append((self.channel, make_parts(self.parts[0], reply, parent, content, metadata)))
        told.append(status("idle"))
        return told


class HeldRequests:
    """The waiting requests; those that a kernel gave back come before those that it never had.

    Parameters
    ----------
    most_bytes
        Of memory that they may take together.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._held: list[Held] = []
        self._bytes = 0
        self._given_back = 0
        #: Whether the user knows that what nobody answers is dropped, until all have been taken.
        self.told_of_drops = False

    def has_room_for(self, held: Held) -> bool:
        """Whether one more may wait; the only one always may."""
        return not self._held or self._bytes + memory_bytes(held.parts) <= self._most_bytes

    def add(self, held: Held) -> None:
        """A request has come."""
        self._held.append(held)
        self._bytes += memory_bytes(held.parts)

    def put_before(self, held: Held) -> None:
        """The kernel gives a request back."""
        self._held.insert(self._given_back, held)
        self._bytes += memory_bytes(held.parts)
        self._given_back += 1

    def take(self) -> list[Held]:
        """All of them."""
        held, self._held, self._bytes, self._given_back = self._held, [], 0, 0
        self.told_of_drops = False
        return held

    def take_cells(self, *shell: str | None) -> list[Held]:
        """Those that would run a cell; in this shell, if one is given."""
        cells: list[Held] = []
        rest: list[Held] = []
        given_back = self._given_back
        for index, held in enumerate(self._held):
            if held.header.msg_type == "execute_request" and (not shell or held.subshell == shell[0]):
                cells.append(held)
                self._given_back -= index < given_back
            else:
                rest.append(held)
        self._held, self._bytes = rest, sum(memory_bytes(held.parts) for held in rest)
        return cells

    def __iter__(self) -> Iterator[Held]:
        return iter(self._held)
